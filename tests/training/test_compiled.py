"""Training with torch.compile: the same network, and runs that resume."""

import sys
from dataclasses import replace
from functools import partial

import pytest
import torch

from epanns.errors import ConfigError
from epanns.models.spec import conv_widths
from epanns.training import learner as learner_module
from epanns.training.config import TrainingConfig
from epanns.training.finetune import finetune
from epanns.training.learner import Learner
from epanns.training.loop import RunOptions
from epanns.training.validation import Validation

CONFIG = TrainingConfig(iterations=4, batch_size=4, learning_rate=5e-3, validate_every=4, compile=True)
# torch's own; pytest would make errors of them.
pytestmark = [
    pytest.mark.filterwarnings("ignore::UserWarning", "ignore::DeprecationWarning", "ignore::FutureWarning"),
    pytest.mark.skipif(sys.version_info[:3] == (3, 13, 0), reason="torch asks for Python 3.13.1 to compile"),
]
LAST = Validation(lambda model: {"mAP": 0.5}, {})


class Killed(BaseException):
    """What nothing catches."""


@pytest.fixture(params=["eager", pytest.param("inductor", marks=pytest.mark.slow)])
def backend(request, monkeypatch) -> str:
    """Let the graph be run as it is, or compiled, which takes minutes."""
    monkeypatch.setattr(torch, "compile", partial(torch.compile, backend=request.param))
    torch.compiler.reset()
    return request.param


@pytest.fixture
def make_model(make_model):
    return partial(make_model, 1, widths=conv_widths(4, 6))  # two blocks: compiled in less than a minute


def test_without_chance_a_compiled_network_has_the_gradient_of_the_plain_one(backend, make_model, train, monkeypatch):
    monkeypatch.setattr(learner_module, "set_learning_mode", lambda model, spec_augment: model.eval())
    gradients = []
    for config in (CONFIG, replace(CONFIG, compile=False)):
        learner = Learner(make_model(), config)
        learner.step(train.__getitems__(range(config.drawn_clips)), 3)
        gradients.append(torch.cat([each.grad.flatten() for each in learner.model.parameters()]))
    assert torch.allclose(*gradients, rtol=1e-3, atol=1e-6)


@pytest.mark.slow
def test_a_compiled_run_that_was_killed_ends_with_the_same_bytes(make_model, train, tmp_path):
    config = replace(CONFIG, ema_decay=0.9, head_iterations=1)
    finetune(make_model(), train, config, tmp_path / "whole", validation=LAST)

    def die(state, _loss):
        if state.step == 3:
            raise Killed

    with pytest.raises(Killed):
        finetune(
            make_model(),
            train,
            config,
            tmp_path / "killed",
            validation=LAST,
            options=RunOptions(save_every=2, on_step=die),
        )
    torch.compiler.reset()
    finetune(make_model(), train, config, tmp_path / "killed", validation=LAST)
    whole, killed = ((tmp_path / name / "model.safetensors").read_bytes() for name in ("whole", "killed"))
    assert whole == killed


def test_a_machine_without_a_compiler_gives_an_error(make_model, train, monkeypatch):
    def broken(graph, example):
        raise RuntimeError("no working C++ compiler")

    torch.compiler.reset()
    monkeypatch.setattr(torch, "compile", partial(torch.compile, backend=broken))
    learner = Learner(make_model(), CONFIG)
    with pytest.raises(ConfigError, match=r"compile=True: torch.compile fails here .*leave it out \(--compile\)"):
        learner.step(train.__getitems__(range(CONFIG.drawn_clips)), 0)
