"""A teacher by its scores: those of any network, at any sample rate, for the training clips of a student.

The scores are computed once, by ``epanns evaluate``, for whole clips without crop, shift, gain or stripes. Mixup mixes
them as it mixes the labels, so a step costs no pass of the teacher (the stored logits of Schmid et al. 2023, arXiv
2211.04772).
"""

import hashlib
import io
import zipfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from epanns.errors import DataError
from epanns.labels import LabelSet

_ARRAYS = {"clip_ids": (1, "U"), "class_names": (1, "U"), "scores": (2, "f")}  # name -> dimensions and kind
_REMEDY = "give scores.npz of `epanns evaluate`"


@dataclass(frozen=True)
class TeacherScores:
    """Scores of clips, read from a file.

    Attributes:
        name: The file, for messages.
        labels: Classes of the scores.
        rows: Clip id -> row of `scores`.
        scores: ``(clips, classes)`` float32 in [0, 1].
        sha256: SHA-256 of the file.
    """

    name: str
    labels: LabelSet
    rows: Mapping[str, int]
    scores: Tensor
    sha256: str


def holds_scores(path: Path) -> bool:
    """Return whether a path is a file of scores, and no checkpoint; both may end in ``.npz``."""
    if not path.is_file() or not zipfile.is_zipfile(path):
        return False
    with zipfile.ZipFile(path) as file:
        return "clip_ids.npy" in file.namelist()


def read_teacher_scores(path: Path) -> TeacherScores:
    """Read ``scores.npz`` of ``epanns evaluate``.

    Raises:
        DataError: If it is another or a damaged file, clips or classes repeat, or a score is outside [0, 1].
    """
    content = path.read_bytes()
    try:
        with np.load(io.BytesIO(content), allow_pickle=False) as file:
            arrays: dict[str, Any] = {name: file[name] for name in _ARRAYS}
    except (OSError, ValueError, KeyError, EOFError, zipfile.BadZipFile) as error:
        raise DataError(f"{path}: holds no scores of clips ({error}); {_REMEDY}") from error
    ids, names, scores = arrays.values()
    fits = scores.shape == (len(ids), len(names)) and len(ids) > 0
    if not fits or any((array.ndim, array.dtype.kind) != _ARRAYS[name] for name, array in arrays.items()):
        raise DataError(f"{path}: its arrays are no scores of clips; {_REMEDY}")
    if not bool(((scores >= 0) & (scores <= 1)).all()):
        raise DataError(f"{path}: scores must be in [0, 1]; {_REMEDY}")
    rows = {str(clip): row for row, clip in enumerate(ids)}
    if len(rows) < len(ids):
        raise DataError(f"{path}: {len(ids) - len(rows)} clip ids are repeated; {_REMEDY}")
    sha256 = hashlib.sha256(content).hexdigest()
    labels = LabelSet.of([str(name) for name in names])
    return TeacherScores(str(path), labels, rows, torch.from_numpy(scores.astype(np.float32)), sha256)
