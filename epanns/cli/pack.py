"""`epanns pack`: decode the clips of a manifest into an HDF5 pack."""

import os
import signal
import socket
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

import click

from epanns.cli.shared.options import EXISTING, EpannsCommand, bounded_option, json_option, out_option
from epanns.cli.shared.terminal import emit, log, progress_counter, write_message
from epanns.process import STOPPING

if TYPE_CHECKING:
    from epanns.data.packing.packer import PackSummary

DEADLINE_SECONDS = 5.0  # from a signal to the end of the process, even if a file on a hung disk blocks it


@click.command("pack", cls=EpannsCommand)
@click.argument("manifest", type=EXISTING)
@out_option("Folder of the pack.")
@click.option("--split", "splits", multiple=True, help="Split to pack; may be repeated.  [default: all]")
@click.option("--sample-rate", default=32_000, show_default=True, help="Sample rate of the pack in Hz.")
@click.option(
    "--seconds",
    default=10.0,
    show_default=True,
    help="Length of every row in seconds: longer clips are cut, shorter clips padded.",
)
@click.option(
    "--clips-per-shard",
    default=2000,
    show_default=True,
    help="Number of clips in one HDF5 file; a run that is stopped repeats its unfinished files.",
)
@click.option(
    "--min-seconds",
    type=click.FloatRange(0),
    default=0.0,
    show_default=True,
    help="Shortest length in seconds of a clip; shorter clips are rejected.",
)
@click.option(
    "--format",
    "shard_format",
    type=click.Choice(["epanns", "panns"]),
    default="epanns",
    show_default=True,
    help="Format of the HDF5 files: epanns, with checksums; or panns, waveforms and indexes for PANNs' own trainer.",
)
@bounded_option("--jobs", "Number of processes that decode", least=1)
@click.option(
    "--max-bad",
    type=click.FloatRange(0, 1),
    default=0.01,
    show_default=True,
    help="Largest fraction of clips that may be unusable; above it the exit code is 3.",
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

    The same command resumes a run that was stopped. It checks every file of a finished pack, packs damaged files again,
    and retries rejected clips whose file changed, whose decoder was installed since, or at which a process died.

    OUT/rejects.csv lists unusable clips with the reason. OUT/notes.csv lists clips that are padded, cut, silent or
    limited to [-1, 1]. If memory is too short for a clip, the run ends without rejecting it; the same command resumes.
    """
    from epanns.data.packing.packer import pack_manifest
    from epanns.data.packs.pack_format import PackSettings

    settings = PackSettings(splits, sample_rate, seconds, clips_per_shard, min_seconds, shard_format)
    state = f"finished shards stay in {out}, and the same command resumes"
    with progress_counter("packing", "clip") as progress, ends_soon_after_signal(state):
        summary = pack_manifest(
            manifest, out, settings, max_bad=max_bad, jobs=jobs, fresh=fresh, progress=progress, log=log
        )
    emit(summary.to_dict(), describe(summary), as_json)


def describe(summary: "PackSummary") -> str:
    """Return the counts of clips and rejects, and of rows that differ from their clips, as text."""
    from epanns.data.packs.pack_format import NOTES_FILE, REJECTS_FILE

    counts = summary.counts
    lines = [
        f"{summary.path}: {counts.clips} clips in {summary.n_shards} shard{'s' if summary.n_shards != 1 else ''} "
        f"({counts.expected} expected, {counts.missing} missing, {counts.rejected} rejected)"
    ]
    if summary.n_repaired:
        lines.append(f"packed again, since damaged or missing: {summary.n_repaired} of the shards of an earlier run")
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
        notes.append(f"these clips are listed in {summary.path / NOTES_FILE}")
    return "\n".join([*lines, *notes, *summary.remarks])


@contextmanager
def ends_soon_after_signal(state: str) -> Iterator[None]:
    """End this process `DEADLINE_SECONDS` after the first signal of `STOPPING`, unless the block ends before.

    The block ends at its next safe point after a signal, which a file on a hung disk can delay. It must be safe to kill
    at any moment. Does nothing outside the main thread.

    Args:
        state: What the process leaves and how to resume, for the message.
    """
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    ended = threading.Event()
    numbers, wakeup = socket.socketpair()
    wakeup.setblocking(False)
    former = signal.set_wakeup_fd(wakeup.fileno(), warn_on_full_buffer=False)

    def wait_for_signal() -> None:  # the interpreter writes the numbers even while its main thread is blocked
        with numbers:
            number = 0
            while number not in STOPPING:
                received = numbers.recv(1)
                if not received:
                    return  # the block ended
                number = received[0]
        if not ended.wait(DEADLINE_SECONDS):
            write_message(f"epanns: stopped by signal {number}; {state}")
            os._exit(128 + number)

    threading.Thread(target=wait_for_signal, daemon=True).start()
    try:
        yield
    finally:
        ended.set()
        signal.set_wakeup_fd(former)
        wakeup.close()
