"""Open packs of any format for a command, and log changes to their clips and classes."""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from epanns.cli.shared.options import EXISTING
from epanns.cli.shared.terminal import log
from epanns.errors import ConfigError

if TYPE_CHECKING:
    from epanns.data.batches.crop import Crop
    from epanns.data.batches.dataset import PackDataset
    from epanns.models.tagger import Tagger


def pack_options(function: Callable[..., Any]) -> Callable[..., Any]:
    """Add ``--labels`` and ``--mp3-seconds``, for formats of packs that lack this information."""
    labels = "Class list, CSV index,mid,display_name, for packs without class names (PANNs' and MP3 packs)."
    seconds = "Length in seconds at which clips of MP3 packs are read: longer clips are cut, shorter clips padded."
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
    """Open packs of any format as one data set, and log the changes to their rows and classes.

    Packs without class names have those of `labels_file`. MP3 clips are read at `sample_rate`, in Hz, the network's.

    Raises:
        ConfigError: If `mp3_seconds` is out of range.
    """
    from epanns.data.batches.crop import LONGEST_SECONDS, SHORTEST_SECONDS
    from epanns.data.batches.dataset import PackDataset
    from epanns.labels import LabelSet

    if not SHORTEST_SECONDS <= mp3_seconds <= LONGEST_SECONDS:
        rule = f"a length in seconds, {SHORTEST_SECONDS} to {LONGEST_SECONDS}"
        raise ConfigError(f"mp3_seconds={mp3_seconds:g}: must be {rule} (--mp3-seconds)")
    unnamed = None if labels_file is None else LabelSet.from_csv(labels_file)
    dataset = PackDataset(paths, crop=crop, unnamed=unnamed, sample_rate=sample_rate, seconds=mp3_seconds)
    if unnamed is not None and not any(source.labels == unnamed for source in dataset.sources):
        log(f"--labels {labels_file} is not used: these packs have class names")
    for source in dataset.sources:
        for remark in source.remarks:
            log(remark)
    for label_map in dataset.label_maps:
        if label_map.respelled or not label_map.is_identity:
            log(label_map.describe())
    return dataset


def log_unknown_lengths(dataset: "PackDataset", what: str) -> None:
    """Log each pack without clip lengths, where `what` would include the padding of short clips."""
    for source in dataset.sources:
        if not source.knows_lengths:
            log(f"{source.path}: does not store the lengths of its clips: {what} include the zeros after short clips")


def in_order_of(model: "Tagger", dataset: "PackDataset") -> "PackDataset":
    """Return the data set with its classes in the model's order, if they are the same classes, and log a change."""
    from epanns.data.batches.compatibility import in_the_models_order

    ordered = in_the_models_order(model, dataset)
    if ordered is not dataset:
        log(f"the classes of {dataset.dataset_name} are put into the order of {model.spec.name}'s")
    return ordered
