"""The calibration pack of `epanns prune` and the options that need one."""

from pathlib import Path
from typing import TYPE_CHECKING

from epanns.cli.shared.packs import in_order_of, open_packs
from epanns.cli.shared.terminal import progress_bar
from epanns.errors import ConfigError

if TYPE_CHECKING:
    from epanns.models.tagger import Tagger
    from epanns.pruning.calibration_clips import CalibrationClips


def open_calibration(
    path: Path | None,
    model: "Tagger",
    *,
    criterion: str,
    recover: str,
    labels_file: Path | None,
    mp3_seconds: float,
) -> "CalibrationClips | None":
    """Open the pack of ``--calibration``, if ``--criterion`` or ``--recover`` need one; passes show a progress bar.

    Raises:
        ConfigError: If the pack is given without need, missing, or of another sample rate than the network's.
    """
    from epanns.pruning.calibration_clips import CalibrationClips
    from epanns.pruning.ranking.criteria import NEEDS, needs_clips

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
            f"the calibration pack holds {dataset.sample_rate} Hz, {model.spec.name} reads {rate} Hz: "
            f"pack the clips with --sample-rate {rate}"
        )
    dataset = in_order_of(model, dataset) if NEEDS[criterion] == "gradients" else dataset
    return CalibrationClips.from_pack(
        dataset,
        progress=lambda batches, purpose, total: progress_bar(batches, description=purpose, total=total, unit="batch"),
    )
