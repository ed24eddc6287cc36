"""Calibration packs as commands open them, and what in a command asks for one."""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from epanns.cli.packs import in_order_of, open_packs
from epanns.cli.terminal import progress_bar
from epanns.errors import ConfigError

if TYPE_CHECKING:
    from epanns.data.dataset import PackDataset
    from epanns.models.tagger import Tagger
    from epanns.pruning.ranking.calibration import CalibrationBatch


def open_calibration(
    path: Path | None,
    model: "Tagger",
    *,
    criterion: str,
    recover: str,
    labels_file: Path | None,
    mp3_seconds: float,
) -> "PackDataset | None":
    """Open the pack of ``--calibration``, where ``--criterion`` or ``--recover`` have a use for one.

    Raises:
        ConfigError: If it is given without a use, missing, or of another sample rate than the network's.
    """
    from epanns.pruning.ranking.criteria import NEEDS, criterion_named, needs_clips

    criterion_named(criterion)
    uses = [f"--recover {recover}"] if recover != "none" else []
    uses += [f"--criterion {criterion}"] if needs_clips(criterion) else []
    if path is None:
        if uses:
            raise ConfigError(f"{' and '.join(uses)}: give --calibration PACK, the clips to measure")
        return None
    if not uses:
        measuring = ", ".join(name for name in NEEDS if needs_clips(name))
        raise ConfigError(
            f"--calibration {path}: has no use without --recover or a criterion that measures clips ({measuring})"
        )
    rate = model.spec.front_end.sample_rate
    dataset = open_packs([path], labels_file=labels_file, mp3_seconds=mp3_seconds, sample_rate=rate)
    if dataset.sample_rate != rate:
        raise ConfigError(
            f"the calibration pack holds {dataset.sample_rate} Hz, {model.spec.name} hears {rate} Hz: "
            f"pack the clips with --sample-rate {rate}"
        )
    return in_order_of(model, dataset) if NEEDS[criterion] == "gradients" else dataset


@dataclass(frozen=True)
class MeasuredClips:
    """The batches that a criterion measures, behind a progress bar; they can be gone through again and again."""

    model: "Tagger"
    dataset: "PackDataset"
    criterion: str

    @classmethod
    def of(cls, model: "Tagger", dataset: "PackDataset | None", criterion: str) -> "MeasuredClips | None":
        """Return the batches; None where the criterion measures none."""
        from epanns.pruning.ranking.criteria import needs_clips

        return cls(model, dataset, criterion) if dataset is not None and needs_clips(criterion) else None

    def __iter__(self) -> "Iterator[CalibrationBatch]":
        from epanns.data.sampler import sequential_batches
        from epanns.pruning.ranking.pack_clips import CALIBRATION_BATCH, batches_for

        order = sequential_batches(len(self.dataset), CALIBRATION_BATCH)
        batches = batches_for(self.criterion, self.model, self.dataset, order) or iter(())
        return progress_bar(batches, description="rank", total=len(order), unit="batch")
