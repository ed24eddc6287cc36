"""The unpruned network that a checkpoint was made of, where it lies beside it."""

from pathlib import Path

from epanns.errors import CheckpointError
from epanns.models.checkpoint import CONFIG, checkpoint_folder
from epanns.models.checkpoint_config import CheckpointConfig

_PLACES = ("*", "*.steps/*")  # checkpoints, and what `epanns prune --between` leaves beside its result


def find_unpruned(checkpoint: Path) -> Path | None:
    """Return the checkpoint that a pruned one was made of, step by step; None where it cannot be found.

    Looked for among the checkpoints in the folder that `checkpoint` is in, and those between the steps of prunings
    there, by the sha256 of their weights: each tells that of its parent. Weights are not read. What is not pruned, or
    was pruned from a released file, has none.
    """
    checkpoint = checkpoint_folder(checkpoint)
    config = CheckpointConfig.read(checkpoint / CONFIG) if (checkpoint / CONFIG).is_file() else None
    if config is None or config.provenance.plan is None:
        return None
    near = _checkpoints_in(checkpoint.resolve().parent)
    known = set[str]()
    while config.provenance.plan is not None:
        parent = config.provenance.parent_sha256
        if parent is None or parent not in near or parent in known:
            return None
        known.add(parent)
        path, config = near[parent]
    return path


def _checkpoints_in(folder: Path) -> dict[str, tuple[Path, CheckpointConfig]]:
    """Return the checkpoints of a folder by the sha256 of their weights; of equal ones the first by name."""
    found: dict[str, tuple[Path, CheckpointConfig]] = {}
    for file in sorted(file for pattern in _PLACES for file in folder.glob(f"{pattern}/{CONFIG}")):
        try:
            config = CheckpointConfig.read(file)
        except CheckpointError:  # something else's config.json, or a checkpoint that would not load either
            continue
        found.setdefault(config.weights_sha256, (file.parent, config))
    return found
