"""A teacher by its scores: those of any network, at any sample rate, for the training clips of a student.

The scores are computed once, by ``epanns evaluate``, for whole clips without crop, shift, gain or stripes. Mixup mixes
them as it mixes the labels, so a step costs no pass of the teacher (the stored logits of Schmid et al. 2023, arXiv
2211.04772).
"""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from epanns.atomic import sha256_of
from epanns.clip_scores import read_clip_scores
from epanns.labels import LabelSet


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


def read_teacher_scores(path: Path) -> TeacherScores:
    """Read ``scores.npz`` of ``epanns evaluate``.

    Raises:
        DataError: If it is another or a damaged file, clips or classes repeat, or a score is outside [0, 1].
    """
    found = read_clip_scores(path)
    rows = {clip: row for row, clip in enumerate(found.clip_ids)}
    labels = LabelSet.of(found.class_names)
    return TeacherScores(str(path), labels, rows, torch.from_numpy(found.scores), sha256_of(path))
