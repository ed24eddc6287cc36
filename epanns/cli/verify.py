"""`epanns verify`: every checksum and rule of a pack."""

from pathlib import Path

import click

from epanns.cli.options import EXISTING, EpannsCommand, emit, json_option, progress_counter


@click.command("verify", cls=EpannsCommand)
@click.argument("pack", type=EXISTING)
@json_option
def command(pack: Path, as_json: bool) -> None:
    """Check every clip and rule of PACK; exit code 3 where something is wrong."""
    from epanns.data.verification import verify_pack
    from epanns.errors import DataProblems

    with progress_counter("verifying", "clip") as progress:
        problems = verify_pack(pack, progress=progress)
    emit(
        {"pack": str(pack), "ok": not problems, "problems": problems},
        "\n".join(problems) or f"{pack}: whole; every file, rule and checksum holds",
        as_json,
    )
    if problems:
        raise DataProblems(f"{pack}: {len(problems)} problem(s) found, listed above; copy the pack again or pack again")
