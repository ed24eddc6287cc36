"""The clips of packs, as criteria measure them."""

from collections.abc import Iterable, Iterator

from epanns.data.compatibility import require_same_task
from epanns.data.dataset import PackDataset
from epanns.data.loader import Draws, make_loader
from epanns.models.tagger import Tagger
from epanns.pruning.ranking.calibration import CalibrationBatch
from epanns.pruning.ranking.criteria import NEEDS

# Clips in a calibration batch, wherever a pack is read: ``bn`` averages statistics within each batch, and mixtures are
# drawn within each, so commands and sweeps only agree where they agree on this.
CALIBRATION_BATCH = 32


def batches_for(
    criterion: str, model: Tagger, dataset: PackDataset, order: Iterable[Draws]
) -> Iterator[CalibrationBatch] | None:
    """Return what a criterion measures of a pack, batch by batch; None for criteria that look at weights alone.

    Args:
        criterion: Name in `pruning.ranking.criteria.CRITERIA`.
        model: The network to be pruned.
        dataset: Clips at its sample rate; where targets are measured, with its classes.
        order: Clips of each batch.

    Raises:
        ConfigError: If targets are measured and the classes are not the model's.
    """
    needs = NEEDS[criterion]
    if needs == "weights":
        return None
    if needs == "gradients":
        require_same_task(model, dataset)
        return ((batch.float_waveform(), batch.float_target()) for batch in make_loader(dataset, order))
    return (batch.float_waveform() for batch in make_loader(dataset, order))
