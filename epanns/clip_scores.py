"""The file ``scores.npz``: scores and targets of every clip, written by evaluations and sweeps."""

import io
import zipfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from epanns import atomic
from epanns.errors import DataError

FILE = "scores.npz"
_ARRAYS = {"clip_ids": (1, "U"), "class_names": (1, "U"), "scores": (2, "f"), "target": (2, "b")}  # dimensions, kind
_REMEDY = f"give {FILE} of `epanns evaluate`"


@dataclass(frozen=True)
class ClipScores:
    """Scores and targets of clips.

    Attributes:
        clip_ids: ``(clips,)``, each once.
        class_names: ``(classes,)``.
        scores: ``(clips, classes)`` float32 in [0, 1].
        target: ``(clips, classes)`` bool.
        groups: ``(clips,)``: group of each clip, such as its recording; empty without groups.
    """

    clip_ids: tuple[str, ...]
    class_names: tuple[str, ...]
    scores: NDArray[np.float32]
    target: NDArray[np.bool_]
    groups: tuple[str, ...] = ()


def write_clip_scores(path: Path, found: ClipScores) -> None:
    """Write the fields as arrays of an ``.npz``, compressed, which `numpy.load` reads without pickle."""
    with atomic.replacing(path) as partial, partial.open("wb") as file:
        np.savez_compressed(
            file,
            clip_ids=np.array(found.clip_ids, np.str_),
            class_names=np.array(found.class_names, np.str_),
            groups=np.array(found.groups, np.str_),
            scores=found.scores.astype(np.float32),
            target=found.target,
        )


def holds_scores(path: Path) -> bool:
    """Return whether a path is a file of scores, and no checkpoint; both may end in ``.npz``."""
    if not path.is_file() or not zipfile.is_zipfile(path):
        return False
    with zipfile.ZipFile(path) as file:
        return "clip_ids.npy" in file.namelist()


def read_clip_scores(path: Path) -> ClipScores:
    """Read a file of scores.

    Raises:
        DataError: If it is another or a damaged file, clips repeat, or a score is not a number in [0, 1].
    """
    try:
        with np.load(io.BytesIO(path.read_bytes()), allow_pickle=False) as file:
            arrays: dict[str, Any] = {name: file[name] for name in _ARRAYS}
            groups = file["groups"] if "groups" in file else np.array([], np.str_)
    except (OSError, ValueError, KeyError, EOFError, zipfile.BadZipFile) as error:
        raise DataError(f"{path}: holds no scores of clips ({error}); {_REMEDY}") from error
    ids, names, scores, target = arrays.values()
    fits = scores.shape == target.shape == (len(ids), len(names)) and len(ids) > 0
    if not fits or any((array.ndim, array.dtype.kind) != _ARRAYS[name] for name, array in arrays.items()):
        raise DataError(f"{path}: its arrays are no scores of clips; {_REMEDY}")
    if broken := int((~((scores >= 0) & (scores <= 1)).all(axis=1)).sum()):
        raise DataError(
            f"{path}: scores must be in [0, 1], those of {broken} of {len(ids)} clips are not or are NaN; {_REMEDY}"
        )
    if repeated := len(ids) - len(set(ids.tolist())):
        raise DataError(f"{path}: {repeated} clip ids are repeated; {_REMEDY}")
    if len(groups) not in (0, len(ids)):
        raise DataError(f"{path}: {len(groups)} groups of {len(ids)} clips; {_REMEDY}")
    return ClipScores(
        tuple(ids.tolist()), tuple(names.tolist()), scores.astype(np.float32), target, tuple(map(str, groups.tolist()))
    )
