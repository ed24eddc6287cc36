"""`epanns pack`: manifest -> HDF5 pack."""

from pathlib import Path
from typing import TYPE_CHECKING

import click

from epanns.cli.options import EXISTING, EpannsCommand, emit, json_option, log, out_option, progress_counter
from epanns.cli.processes import bounded_option
from epanns.cli.stop_deadline import ends_soon_after_signal

if TYPE_CHECKING:
    from epanns.data.packer import PackSummary


@click.command("pack", cls=EpannsCommand)
@click.argument("manifest", type=EXISTING)
@out_option("Folder of the pack.")
@click.option("--split", "splits", multiple=True, help="Split to take, may be repeated; all of them by default.")
@click.option("--sample-rate", default=32_000, show_default=True, help="Of the pack, in Hz.")
@click.option("--seconds", default=10.0, show_default=True, help="Length of every row; longer is cut, shorter padded.")
@click.option(
    "--clips-per-shard",
    default=2000,
    show_default=True,
    help="Rows of one HDF5 file; a stopped run loses the one it was writing.",
)
@click.option(
    "--min-seconds", type=click.FloatRange(0), default=0.0, show_default=True, help="Reject clips that end sooner."
)
@click.option(
    "--format",
    "shard_format",
    type=click.Choice(["epanns", "panns"]),
    default="epanns",
    show_default=True,
    help="Of the HDF5 files: our own, checksummed; or PANNs' waveforms and indexes, for other people's trainers.",
)
@bounded_option("--jobs", "Processes that decode", least=1)
@click.option(
    "--max-bad",
    type=click.FloatRange(0, 1),
    default=0.01,
    show_default=True,
    help="Share of the clips that may be unusable; more end the run with exit code 3.",
)
@click.option("--fresh", is_flag=True, help="Delete an earlier pack in --out and start over.")
@json_option
def command(
    manifest: Path,
    out: Path,
    splits: tuple[str, ...],
    sample_rate: int,
    seconds: float,
    clips_per_shard: int,
    min_seconds: float,
    shard_format: str,
    jobs: int,
    max_bad: float,
    fresh: bool,
    as_json: bool,
) -> None:
    """Decode, resample and pack the clips of MANIFEST.

    The same command resumes a run that was stopped. Of a finished pack it reads every file, packs again what is
    damaged, and retries rejected clips whose file changed, whose decoder was installed since, or at which a process
    died. OUT/rejects.csv lists clips that cannot be used, with the reason; OUT/notes.csv lists clips that are padded,
    cut, silent or limited to [-1, 1]. A clip for which memory is wanting is no reject: it ends the run, which the same
    command resumes.
    """
    from epanns.data.pack_format import PackSettings
    from epanns.data.packer import pack_manifest

    settings = PackSettings(splits, sample_rate, seconds, clips_per_shard, min_seconds, shard_format)
    state = f"finished shards stay in {out}, and the same command resumes"
    with progress_counter("packing", "clip") as progress, ends_soon_after_signal(state):
        summary = pack_manifest(
            manifest, out, settings, max_bad=max_bad, jobs=jobs, fresh=fresh, progress=progress, log=log
        )
    emit(summary.to_dict(), described(summary), as_json)


def described(summary: "PackSummary") -> str:
    """Return the text for people: counts of clips and rejects, and of rows that differ from their clips."""
    from epanns.data.pack_format import NOTES_FILE, REJECTS_FILE

    counts = summary.counts
    lines = [
        f"{summary.path}: {counts.clips} clips in {summary.n_shards} shard{'s' if summary.n_shards != 1 else ''} "
        f"({counts.expected} expected, {counts.missing} missing, {counts.rejected} rejected)"
    ]
    if summary.n_repaired:
        lines.append(f"packed again, since damaged or gone: {summary.n_repaired} of the shards of an earlier run")
    if summary.n_retried:
        lines.append(f"retried: {summary.n_retried} of the clips that an earlier run rejected")
    if counts.rejected:
        lines.append(f"the rejected clips and the reasons are in {summary.path / REJECTS_FILE}")
    notes = [
        f"{number} clips {what}"
        for number, what in (
            (counts.short, "ended before the row, which was padded with zeros"),
            (counts.cut, "are longer than the row, which ends before them"),
            (counts.clipped, "had samples beyond [-1, 1], which were limited"),
            (counts.silent, "are digital silence"),
            (counts.beyond_header, "hold sound beyond the length that their file states, which was packed too"),
            (counts.unstated_length, "are of files that do not state their length, whose end may be missing"),
        )
        if number
    ]
    if notes:
        notes.append(f"these clips are named in {summary.path / NOTES_FILE}")
    return "\n".join([*lines, *notes, *summary.remarks])
