"""``scores.npz`` is read as it was written, and other files are refused."""

from dataclasses import replace

import numpy as np
import pytest

from epanns.clip_scores import ClipScores, holds_scores, read_clip_scores, write_clip_scores
from epanns.errors import DataError

SCORES = ClipScores(
    ("a.wav", "b.wav", "ü.wav"),
    ("Bark", "Näse, der"),
    np.array([[0.0, 1.0], [0.25, 0.1], [1e-7, 0.5]], np.float32),
    np.array([[False, True], [True, False], [False, False]]),
    ("r1", "r1", "r2"),
)


@pytest.mark.parametrize("groups", [(), SCORES.groups])
def test_round_trip(tmp_path, groups):
    given = replace(SCORES, groups=groups)
    write_clip_scores(tmp_path / "scores.npz", given)
    found = read_clip_scores(tmp_path / "scores.npz")
    assert (found.clip_ids, found.class_names, found.groups) == (given.clip_ids, given.class_names, groups)
    assert found.scores.tobytes() == given.scores.tobytes() and found.target.tolist() == given.target.tolist()
    assert holds_scores(tmp_path / "scores.npz")


def test_files_that_hold_no_scores_are_refused(tmp_path):
    write_clip_scores(tmp_path / "scores.npz", SCORES)
    good = dict(np.load(tmp_path / "scores.npz"))
    broken = good["scores"].copy()
    broken[1, 0] = np.nan
    wrong = {
        "holds no scores of clips": {"scores": good["scores"]},
        "its arrays are no scores of clips": {**good, "scores": good["scores"][:, 1:]},
        "are no scores of clips": {**good, "clip_ids": np.arange(3)},
        r"scores must be in \[0, 1\], those of 3 of 3 clips": {**good, "scores": good["scores"] + 1},
        r"scores must be in \[0, 1\], those of 1 of 3 clips are not or are NaN": {**good, "scores": broken},
        "1 clip ids are repeated": {**good, "clip_ids": good["clip_ids"][[1, 1, 2]]},
        "2 groups of 3 clips": {**good, "groups": good["groups"][1:]},
    }
    for message, arrays in wrong.items():
        np.savez(tmp_path / "wrong.npz", **arrays)
        with pytest.raises(DataError, match=f"wrong.npz: .*{message}.*; give scores.npz of `epanns evaluate`"):
            read_clip_scores(tmp_path / "wrong.npz")
    (tmp_path / "text.npz").write_text("no archive")
    assert not holds_scores(tmp_path / "text.npz") and not holds_scores(tmp_path / "missing.npz")
    with pytest.raises(DataError, match="text.npz: holds no scores of clips"):
        read_clip_scores(tmp_path / "text.npz")
