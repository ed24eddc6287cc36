"""`epanns verify`: check every clip, file and checksum of a pack."""

from pathlib import Path

import click

from epanns.cli.shared.options import EXISTING, EpannsCommand, json_option
from epanns.cli.shared.terminal import emit, progress_counter


@click.command("verify", cls=EpannsCommand)
@click.argument("pack", type=EXISTING)
@click.option(
    "--labels",
    "labels_file",
    type=EXISTING,
    help="Class list, CSV index,mid,display_name, for a PACK without class names.",
)
@click.option(
    "--memory-limit",
    type=click.FloatRange(0, 1024, min_open=True),
    default=4.0,
    show_default=True,
    help="Memory in GiB that the process which reads the files may use.",
)
@json_option
def command(pack: Path, labels_file: Path | None, memory_limit: float, as_json: bool) -> None:
    """Check every clip, file and checksum of PACK; the exit code is 3 if there is a problem.

    PACK may have any format that `epanns train` reads. Its files are read in a separate process, whose crash is
    reported as a problem.
    """
    from epanns.data.packs.verification import verify_contained
    from epanns.errors import DataProblems
    from epanns.labels import LabelSet

    labels = None if labels_file is None else LabelSet.from_csv(labels_file)
    with progress_counter("verifying", "clip") as progress:
        found = verify_contained(pack, labels=labels, progress=progress, memory_limit=int(memory_limit * 2**30))
    problems = list(found.problems)
    if found.unlisted:
        problems.append(f"and {found.unlisted:,} more problems")
    result = {"problems": problems, "remarks": list(found.remarks), "clips": found.clips}
    held = "every file, rule and checksum holds" if not found.remarks else "every rule that its format has holds"
    whole = f"{pack}: whole; {found.clips:,} clips read, {held}"
    emit(
        {"pack": str(pack), "ok": not found.problems, **result},
        "\n".join([*(problems or [whole]), *found.remarks]),
        as_json,
    )
    if problems:
        number = len(found.problems) + found.unlisted
        counted = f"{pack}: {number:,} {'problem' if number == 1 else 'problems'} found, listed above"
        raise DataProblems(f"{counted}; copy the pack again or pack again" if found.opened else counted)
