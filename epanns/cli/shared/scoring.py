"""Options of the commands that score clips: packs, protocol, batches, intervals."""

import functools
from collections.abc import Callable
from dataclasses import dataclass, fields
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from epanns.cli.shared.options import EXISTING, EXISTING_FILE, SEED, bounded_option, device_option
from epanns.cli.shared.packs import log_unknown_lengths, open_packs, pack_options
from epanns.cli.shared.terminal import log

if TYPE_CHECKING:
    from epanns.data.batches.dataset import PackDataset
    from epanns.evaluation.protocol import EvaluationProtocol
    from epanns.evaluation.zero_shot import ZeroShot

MAP_OPTION = click.option(
    "--map",
    "class_map",
    type=EXISTING_FILE,
    help="Class map, CSV category,mid,display_name: classes of the packs, and those of the network with the same "
    "meaning. Scores the network on the packs' classes without training; a class with several rows has the highest of "
    "their scores.",
)


@dataclass(frozen=True)
class Scoring:
    """The values of `scoring_options`, which have the names of the fields."""

    packs: tuple[Path, ...]
    window: float | None
    hop: float | None
    aggregate: str
    own_length: bool
    labels_file: Path | None
    mp3_seconds: float
    batch_size: int
    workers: int
    bootstrap: int
    group_pattern: str
    seed: int

    def protocol(self) -> "EvaluationProtocol":
        """Return the protocol, whose values are checked."""
        from epanns.evaluation.protocol import EvaluationProtocol

        return EvaluationProtocol(self.window, self.hop, self.aggregate, self.own_length)

    def open_packs(self, sample_rate: int) -> "PackDataset":
        """Open the packs for a network of a sample rate in Hz; raise if clips have no group, before any work."""
        from epanns.data.datasets.splits import groups_to_draw

        dataset = open_packs(
            self.packs, labels_file=self.labels_file, mp3_seconds=self.mp3_seconds, sample_rate=sample_rate
        )
        if self.group_pattern:
            groups_to_draw(self.group_pattern, [clip_id.decode() for clip_id in dataset.clip_ids])
        if self.window is not None:
            log_unknown_lengths(dataset, "windows")
        return dataset

    @property
    def intervals(self) -> dict[str, Any]:
        """The settings of the intervals, as arguments of `epanns.evaluate`."""
        return {"bootstrap": self.bootstrap, "seed": self.seed, "group_pattern": self.group_pattern}


_OPTIONS = (
    click.option(
        "--data", "packs", type=EXISTING, multiple=True, required=True, help="Pack of clips to score; may be repeated."
    ),
    click.option("--window", type=float, help="Length in seconds of the scored windows.  [default: whole clips]"),
    click.option("--hop", type=float, help="Seconds between window starts, with --window.  [default: --window]"),
    click.option(
        "--aggregate",
        default="mean_prob",
        show_default=True,
        help="Score of a clip from those of its windows, with --window: mean_prob, mean_logit or max_prob.",
    ),
    click.option("--own-length", is_flag=True, help="Score each clip at its own length, without the zeros after it."),
    pack_options,
    click.option(
        "--batch-size", type=click.IntRange(1), default=32, show_default=True, help="Number of clips per forward pass."
    ),
    bounded_option("--workers", "Number of processes that read clips", least=0),
    click.option(
        "--bootstrap",
        type=click.IntRange(0),
        default=1000,
        show_default=True,
        help="Number of resamples of the clips for the 95 % intervals; 0 for none.",
    ),
    click.option(
        "--group-pattern",
        default="",
        help="Regular expression with one capturing group that finds each clip's recording, speaker or place in its "
        "file name, or else in its whole clip id: '^[0-9]-([0-9]+)-' for ESC-50. Adds intervals whose resamples draw "
        "groups.",
    ),
    click.option("--seed", type=SEED, default=0, show_default=True, help="Seed of the resampling."),
    device_option,
)


def scoring_options(function: Callable[..., Any]) -> Callable[..., Any]:
    """Add the options of `Scoring`, which the command receives as `scoring`, and ``--device``."""

    @functools.wraps(function)
    def run(**options: Any) -> Any:
        values = {field.name: options.pop(field.name) for field in fields(Scoring)}
        return function(scoring=Scoring(**values), **options)

    for option in reversed(_OPTIONS):
        run = option(run)
    return run


def log_left_out(found: "ZeroShot") -> None:
    """Log the classes and clips that a zero-shot evaluation leaves out."""
    for remark in found.remarks():
        log(remark)


def interval_in_words(interval: tuple[float, float] | None, by_group: tuple[float, float] | None) -> str:
    """Return an interval, and that by group, in brackets; empty without one."""
    if interval is None:
        return ""
    groups = f", by group {by_group[0]:.4f} to {by_group[1]:.4f}" if by_group else ""
    return f"  (95 % interval {interval[0]:.4f} to {interval[1]:.4f}{groups})"


def number_in_words(value: float | None) -> str:
    """Return a score with four decimals, or ``undefined``."""
    return "undefined" if value is None else f"{value:.4f}"
