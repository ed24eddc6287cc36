"""Packs as commands open them: any format, and what was done to their classes told on stderr."""

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import click

from epanns.cli.options import EXISTING, Decorator, log

if TYPE_CHECKING:
    from epanns.data.crop import Crop
    from epanns.data.dataset import PackDataset
    from epanns.models.cnn import Cnn


def labels_option() -> Decorator:
    """Add ``--labels``, the classes of packs whose format does not name them."""
    text = "CSV index,mid,display_name: classes of packs that do not name them (PANNs' and MP3 packs)."
    return click.option("--labels", "labels_file", type=EXISTING, help=text)


def open_packs(paths: Sequence[Path], labels_file: Path | None, *, crop: "Crop | None" = None) -> "PackDataset":
    """Open packs as one data set and tell what became of their classes."""
    from epanns.data.dataset import PackDataset
    from epanns.labels import LabelSet

    unnamed = None if labels_file is None else LabelSet.from_csv(labels_file)
    dataset = PackDataset(paths, crop=crop, unnamed=unnamed)
    if unnamed is not None and not any(source.labels == unnamed for source in dataset.sources):
        log(f"--labels {labels_file} is not used: these packs name their classes themselves")
    for label_map in dataset.label_maps:
        if not label_map.is_identity:
            log(label_map.describe())
    return dataset


def in_order_of(model: "Cnn", dataset: "PackDataset") -> "PackDataset":
    """Put the classes of a data set into a model's order, where they are the same classes, and tell so."""
    from epanns.data.task import in_the_models_order

    ordered = in_the_models_order(model, dataset)
    if ordered is not dataset:
        log(f"the classes of {dataset.dataset_name} are put into the order of {model.spec.name}'s")
    return ordered
