"""Load a network: from a checkpoint folder or a released file; find the unpruned network beside a pruned one."""

from pathlib import Path

from epanns.errors import CheckpointError
from epanns.feedback import note
from epanns.models.files.checkpoint import CONFIG, Checkpoint, checkpoint_folder, load_checkpoint
from epanns.models.files.checkpoint_texts import CheckpointConfig
from epanns.models.files.released import read_released
from epanns.models.tagger import Tagger

_PLACES = ("*", "*.steps/*")  # checkpoints, and the rounds that `epanns prune --between` leaves beside its result


def load(path: str | Path, *, sample_rate: int | None = None) -> Tagger:
    """Return the network of a checkpoint folder or of a released ``.pth``/``.pt`` file, in evaluation mode, on the CPU.

    Args:
        path: Folder or file, or the name of a checkpoint that is installed with epanns, such as ``esc50``, if there is
            no file or folder of this name.
        sample_rate: In Hz; needed only for released files that do not hold their front end.

    Raises:
        CheckpointError: If the path cannot be read as either, or was trained at another `sample_rate`.
    """
    return read_checkpoint(path, sample_rate=sample_rate).build()


def read_checkpoint(path: str | Path, *, sample_rate: int | None = None, head: str | None = None) -> Checkpoint:
    """Read a checkpoint folder or a released file; arguments and errors as in `released.read_released`."""
    path = checkpoint_folder(path)
    if path.is_file():
        released = read_released(path, sample_rate=sample_rate, head=head)
        for text in released.notes:
            note(f"{path}: {text}")
        return released
    checkpoint = load_checkpoint(path)
    for name, given, stored in (
        ("sample_rate", sample_rate, checkpoint.spec.front_end.sample_rate),
        ("head", head, checkpoint.spec.head),
    ):
        if given not in (None, stored):
            raise CheckpointError(f"{path}: {name}={given}: the checkpoint has {stored}: leave it out")
    return checkpoint


def find_unpruned(checkpoint: Path) -> Path | None:
    """Return the checkpoint that a pruned checkpoint was made of; None if it cannot be found.

    The parents, by the sha256 of their weights, are searched among the checkpoints in the same folder and the rounds of
    pruning in that folder. Weights are not read. A network that is not pruned, or was pruned from a released file, has
    no such checkpoint.
    """
    checkpoint = checkpoint_folder(checkpoint)
    config = CheckpointConfig.read(checkpoint / CONFIG) if (checkpoint / CONFIG).is_file() else None
    if config is None or config.provenance.plan is None:
        return None
    near: dict[str, tuple[Path, CheckpointConfig]] = {}
    folder = checkpoint.resolve().parent
    for file in sorted(file for pattern in _PLACES for file in folder.glob(f"{pattern}/{CONFIG}")):
        try:
            other = CheckpointConfig.read(file)
        except CheckpointError:  # the config.json of another program, or a damaged checkpoint
            continue
        near.setdefault(other.weights_sha256, (file.parent, other))
    path: Path | None = None
    while config.provenance.plan is not None:
        parent = config.provenance.parent_sha256
        if parent is None or parent not in near:
            return None
        path, config = near.pop(parent)  # popped: a circle of parents ends
    return path
