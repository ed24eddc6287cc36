"""Scores and clips that cannot choose a step are reported with a remedy, and the network is unchanged."""

import math

import numpy as np
import pytest
import torch

from epanns.data.batches.dataset import PackDataset
from epanns.data.packs.any_pack import SparseTargets
from epanns.errors import ConfigError, TrainingError
from epanns.evaluation.metrics import average_precision
from epanns.labels import LabelSet
from epanns.models.modes import evaluation_mode
from epanns.models.provenance import Operation, Provenance
from epanns.models.tagger import Tagger
from epanns.process import Stopped, StopRequest
from epanns.stages.finetune import validation_on
from epanns.training.config import TrainingConfig
from epanns.training.finetune import finetune
from epanns.training.loop import RunOptions
from epanns.training.metrics import read_metrics
from epanns.training.resume import TrainingState
from epanns.training.run_folder import RunFolder
from epanns.training.validation import Validation, constant_map, indistinct, require_positives


@pytest.fixture
def model(make_model) -> Tagger:
    return make_model()


def nothing() -> None:
    pass


@pytest.mark.parametrize(
    ("scores", "error", "message"),
    [
        ({"accuracy": 1.0}, ConfigError, "gives accuracy: a multi-label network is chosen by mAP, return it too"),
        ({"mAP": float("nan")}, TrainingError, "mAP is nan, which chooses no step: give validation clips that have cl"),
    ],
)
def test_a_score_that_is_not_finite_is_refused(model, scores, error, message):
    with pytest.raises(error, match=message):
        Validation(lambda model: scores, {}).scores_of(model, nothing)


def test_diverged_weights_give_an_error_with_a_remedy(model, tiny_packs):
    torch.nn.init.constant_(model.fc1.weight, float("inf"))
    with pytest.raises(
        TrainingError,
        match="validation: Cnn14 gives scores that are not finite for 20 of 20 clips, .*train again with a lower "
        "learning rate, with --fresh or another --out: the same command stops here again",
    ):
        validation_on(PackDataset([tiny_packs["val"]])).scores_of(model, nothing)


def test_a_signal_stops_before_the_next_batch(model):
    stop, heard = StopRequest(), []

    def score(model) -> dict[str, float]:
        with evaluation_mode(model), torch.no_grad():
            for _ in range(5):
                heard.append(model(torch.zeros(1, 1_000)))
                if len(heard) == 2:
                    stop.signal_number = 15
        return {"mAP": 0.5}

    model.train()
    with pytest.raises(Stopped):
        Validation(score, {}).scores_of(model, stop.raise_if_stopped)
    assert len(heard) == 2
    assert model.training and not model._forward_pre_hooks


class Clips:
    """What a note on validation clips looks at: a table of ``(clips, classes)``."""

    def __init__(self, table) -> None:
        self.targets = SparseTargets.from_dense(np.array(table, bool))
        self.labels, self.dataset_name = LabelSet.of([str(index) for index in range(len(table[0]))]), "yard"

    def __len__(self) -> int:
        return len(self.targets)


CONSTANT = "the mAP is 1 at every step and cannot distinguish steps, so the lowest validation loss chooses the step"
MORE = "give validation clips with and without each class (--val)"


@pytest.mark.parametrize(
    ("table", "task", "note"),
    [
        ([[1], [1]], "multi-label", f"class '0' is in every one of the 2 clips of yard: {CONSTANT}; {MORE}"),
        (
            [[1, 1, 0]],
            "multi-label",
            "2 classes, first '0', are in the only clip of yard, and the other",
        ),
        ([[0, 1], [0, 1]], "multi-label", "class '1' is in every one of the 2 clips of yard, and the other"),
        (
            [[1, 0], [1, 1]],
            "multi-label",
            "class '0' is in every one of the 2 clips of yard: their average precision is 1 at every step, "
            f"so 1 of 2 scored classes choose the step; {MORE}",
        ),
        ([[0, 1], [0, 1]], "single-label", "the accuracy is highest for a network that gives every clip this"),
        ([[1, 0], [0, 1]], "multi-label", None),
        ([[1, 0], [0, 1]], "single-label", None),
        ([[1, 0], [0, 0]], "multi-label", None),
    ],
)
def test_validation_clips_that_cannot_distinguish_steps_give_a_note(table, task, note):
    found = indistinct(Clips(table), task)
    assert found is None if note is None else note in found and "\n" not in found


@pytest.mark.parametrize("seed", range(40))
def test_the_note_states_a_constant_map_exactly_if_it_is_constant(seed):
    """The mAP of two opposite rankings, where neither has ties, is the same exactly if every class is constant."""
    rng = np.random.default_rng(seed)
    clips, classes = rng.integers(1, 4), rng.integers(1, 4)
    table = rng.random((clips, classes)) < rng.choice([0.2, 0.5, 0.9])
    if not table.any():
        with pytest.raises(ConfigError, match=r"validation: none of the . clips of yard has any of the . classes"):
            require_positives(Clips(table))
        return
    scores = [np.where(table, 0.9, 0.1), np.where(table, 0.1, 0.9)]  # right, and wrong
    is_constant = len({float(np.nanmean(average_precision(table, each))) for each in scores}) == 1
    assert is_constant == (CONSTANT in (indistinct(Clips(table), "multi-label") or ""))
    assert is_constant == (constant_map(Clips(table)) is not None)


CONFIG = TrainingConfig(iterations=4, batch_size=2, validate_every=1, mixup_alpha=0)
RECIPES = {
    "random": [],
    "new classes": [{"step": "train"}, {"step": "transfer", "kept": {}, "new": ["x"]}],
    "trained": [{"step": "train"}],
    "same classes": [{"step": "train"}, {"step": "transfer", "kept": {"x": "x"}, "new": []}],
}


@pytest.mark.parametrize(
    ("recipe", "scores", "losses", "best"),
    [
        ("random", [1, 1, 1, 1, 1], [0.1, 0.9, 0.5, 0.2, 0.3], 3),  # whatever the loss of step 0
        ("new classes", [1, 1, 1, 1, 1], [0.1, 0.9, 0.5, 0.2, 0.3], 3),
        ("trained", [1, 1, 1, 1, 1], [0.1, 0.9, 0.5, 0.2, 0.3], 0),
        ("same classes", [1, 1, 1, 1, 1], [0.1, 0.9, 0.5, 0.2, 0.3], 0),
        ("trained", [1, 1, 1, 1, 1], [0.4, 0.9, 0.2, 0.2, 0.3], 2),  # of equal scores and losses the first
        ("random", [0.5, 0.4, 0.4, 0.3, 0.2], [9, 1, 1, 1, 1], 0),  # step 0 is better by its score
        ("random", [0.1, 0.5, 0.6, 0.6, 0.5], [1, 1, 5, 4, 1], 3),  # a loss decides between equal scores alone
        ("random", [1, 1, 1, 1, 1], None, 1),  # a validation without a loss
        ("trained", [1, 1, 1, 1, 1], None, 0),
    ],
)
def test_of_equal_scores_the_lower_loss_of_trained_weights_is_best(
    model, tiny_packs, tmp_path, recipe, scores, losses, best
):
    model.provenance = Provenance(recipe=tuple(map(Operation.from_dict, RECIPES[recipe])))
    rows = iter(zip(scores, losses or [None] * 5, strict=True))

    def score(model) -> dict[str, float]:
        found, loss = next(rows)
        return {"mAP": found} if loss is None else {"mAP": found, "validation_loss": loss}

    result = finetune(
        model, PackDataset([tiny_packs["train"]]), CONFIG, tmp_path / "run", validation=Validation(score, {})
    )
    assert (result.best_step, result.best_score) == (best, scores[best])
    found = read_metrics(tmp_path / "run")
    assert found[-1]["best_step"] == best
    assert [row.get("validation_loss") for row in found] == (losses or [None] * 5)


def test_an_equal_score_replaces_no_best_step_without_a_loss(model, tiny_packs, tmp_path, monkeypatch):
    saved = TrainingState(step=2, best_step=1, best_score=0.5)
    assert math.isnan(saved.best_loss)
    monkeypatch.setattr(RunFolder, "resume", lambda folder, *_: (folder.keep_best(model, saved, "mAP"), saved)[1])
    validation = Validation(lambda model: {"mAP": 0.5, "validation_loss": 0.0}, {})
    result = finetune(model, PackDataset([tiny_packs["train"]]), CONFIG, tmp_path / "run", validation=validation)
    assert result.best_step == 1


def test_the_note_comes_before_the_first_step_and_clips_without_classes_are_refused(model, tiny_packs, tmp_path):
    train, said = PackDataset([tiny_packs["train"]]), []
    options = RunOptions(on_validation=lambda state: said.append(state.step), log=said.append)
    score = lambda model: {"mAP": 1.0}  # noqa: E731
    finetune(model, train, CONFIG, tmp_path / "run", validation=Validation(score, {}, Clips([[1]])), options=options)
    assert said[0].startswith("validation: class '0' is in the only clip") and said[1:] == [0, 1, 2, 3, 4]
    with pytest.raises(ConfigError, match="no step can be scored; give labelled clips"):
        finetune(model, train, CONFIG, tmp_path / "none", validation=Validation(score, {}, Clips([[0]])))
    assert not (tmp_path / "none").exists()
