"""Scores that choose nothing are refused with what to do, and the network is left as it was."""

import pytest
import torch

from epanns.data.dataset import PackDataset
from epanns.errors import ConfigError, TrainingError
from epanns.models.cnn import Cnn
from epanns.models.modes import evaluation_mode
from epanns.signals import Stopped, StopRequest
from epanns.sweeps.trial import validation_on
from epanns.training.validation import Validation


@pytest.fixture
def model(tiny_spec, tiny_packs) -> Cnn:
    return Cnn(tiny_spec, PackDataset([tiny_packs["val"]]).labels)


def nothing() -> None:
    pass


@pytest.mark.parametrize(
    ("scores", "error", "message"),
    [
        ({"accuracy": 1.0}, ConfigError, "gives accuracy: a multi-label network is chosen by mAP, return it too"),
        ({"mAP": float("nan")}, TrainingError, "mAP is nan, which chooses no step: give validation clips that have cl"),
    ],
)
def test_a_score_that_chooses_nothing_is_refused(model, scores, error, message):
    with pytest.raises(error, match=message):
        Validation(lambda model: scores, {}).scores_of(model, nothing)


def test_weights_that_diverged_are_told_with_what_to_do(model, tiny_packs):
    torch.nn.init.constant_(model.fc1.weight, float("inf"))
    with pytest.raises(
        TrainingError,
        match="validation: Cnn14 gives scores that are not finite for 20 of 20 clips, .*train again with a lower "
        "learning rate, with --fresh or another --out: the same command stops here again",
    ):
        validation_on(PackDataset([tiny_packs["val"]])).scores_of(model, nothing)


def test_a_signal_is_obeyed_before_the_next_batch(model):
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
        Validation(score, {}).scores_of(model, stop.obey)
    assert len(heard) == 2
    assert model.training and not model._forward_pre_hooks
