"""Packs as commands open them: any format, and what was done to their clips and classes told on stderr."""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from epanns.cli.options import EXISTING, log
from epanns.errors import ConfigError

if TYPE_CHECKING:
    from epanns.data.crop import Crop
    from epanns.data.dataset import PackDataset
    from epanns.models.tagger import Tagger


def pack_options(function: Callable[..., Any]) -> Callable[..., Any]:
    """Add what some formats of packs do not say: ``--labels`` and ``--mp3-seconds``."""
    labels = "CSV index,mid,display_name: classes of packs that do not name them (PANNs' and MP3 packs)."
    seconds = "Length at which clips of MP3 packs are read; longer ones are cut, shorter ones padded."
    function = click.option("--mp3-seconds", default=10.0, show_default=True, help=seconds)(function)
    return click.option("--labels", "labels_file", type=EXISTING, help=labels)(function)


def open_packs(
    paths: Sequence[Path],
    *,
    labels_file: Path | None,
    mp3_seconds: float,
    sample_rate: int,
    crop: "Crop | None" = None,
) -> "PackDataset":
    """Open packs as one data set and tell what became of their rows and classes.

    Args:
        paths: Packs of any format.
        labels_file: Names the classes of packs that do not.
        mp3_seconds: Length at which encoded sound is read.
        sample_rate: Rate at which encoded sound is read, in Hz: the network's.
        crop: What is taken of each clip.

    Raises:
        ConfigError: If `mp3_seconds` is no length of a clip.
    """
    from epanns.data.crop import LONGEST_SECONDS, SHORTEST_SECONDS
    from epanns.data.dataset import PackDataset
    from epanns.labels import LabelSet

    if not SHORTEST_SECONDS <= mp3_seconds <= LONGEST_SECONDS:
        rule = f"a length in seconds, {SHORTEST_SECONDS} to {LONGEST_SECONDS}"
        raise ConfigError(f"mp3_seconds={mp3_seconds:g}: must be {rule} (--mp3-seconds)")
    unnamed = None if labels_file is None else LabelSet.from_csv(labels_file)
    dataset = PackDataset(paths, crop=crop, unnamed=unnamed, sample_rate=sample_rate, seconds=mp3_seconds)
    if unnamed is not None and not any(source.labels == unnamed for source in dataset.sources):
        log(f"--labels {labels_file} is not used: these packs name their classes themselves")
    for source in dataset.sources:
        for remark in source.remarks:
            log(remark)
    for label_map in dataset.label_maps:
        if label_map.respelled or not label_map.is_identity:
            log(label_map.describe())
    return dataset


def tell_unknown_lengths(dataset: "PackDataset", what: str) -> None:
    """Tell where `what` is taken of rows with their padding, since a pack does not say where its clips end."""
    for source in dataset.sources:
        if not source.knows_lengths:
            log(f"{source.path}: does not say how long its clips are: {what} take the zeros after short ones as sound")


def in_order_of(model: "Tagger", dataset: "PackDataset") -> "PackDataset":
    """Put the classes of a data set into a model's order, where they are the same classes, and tell so."""
    from epanns.data.compatibility import in_the_models_order

    ordered = in_the_models_order(model, dataset)
    if ordered is not dataset:
        log(f"the classes of {dataset.dataset_name} are put into the order of {model.spec.name}'s")
    return ordered
