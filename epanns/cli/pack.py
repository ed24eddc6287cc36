"""`epanns pack`: manifest -> HDF5 pack."""

from pathlib import Path

import click

from epanns.cli.options import EXISTING, EpannsCommand, emit, json_option, out_option, progress_counter
from epanns.cli.processes import at_most_cores


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
@click.option(
    "--jobs",
    type=click.IntRange(1),
    default=1,
    show_default=True,
    callback=at_most_cores,
    help="Processes that decode; at most the number of cores.",
)
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

    A run that was stopped goes on when the same command is given again, and a finished pack is read and what is damaged
    of it packed again. Clips that cannot be used are listed with the
    reason in OUT/rejects.csv.
    """
    from epanns.data.pack_format import REJECTS_FILE, PackSettings
    from epanns.data.packer import pack_manifest

    settings = PackSettings(splits, sample_rate, seconds, clips_per_shard, min_seconds, shard_format)
    with progress_counter("packing", "clip") as progress:
        summary = pack_manifest(manifest, out, settings, max_bad=max_bad, jobs=jobs, fresh=fresh, progress=progress)
    counts = summary.counts
    text = (
        f"{out}: {counts.clips} clips in {summary.n_shards} shard{'s' if summary.n_shards != 1 else ''} "
        f"({counts.expected} expected, {counts.missing} missing, {counts.rejected} rejected)"
    )
    if summary.n_repaired:
        text += f"\npacked again, since damaged or gone: {summary.n_repaired} of the shards of an earlier run"
    if counts.rejected:
        text += f"\nthe rejected clips and the reasons are in {out / REJECTS_FILE}"
    if counts.short:
        text += f"\n{counts.short} clips ended before the row, which was padded with zeros"
    if counts.clipped:
        text += f"\n{counts.clipped} clips had samples beyond [-1, 1], which were limited"
    if counts.silent:
        text += f"\n{counts.silent} clips are digital silence"
    emit(summary.to_dict(), text, as_json)
