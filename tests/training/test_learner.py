"""One optimisation step: parts of a batch, clipping, the average, and steps that are not finite."""

import itertools
import math
from dataclasses import replace

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from epanns.data.batches.dataset import PackDataset
from epanns.errors import ConfigError, TrainingError
from epanns.models.families.cnn_2d import Cnn
from epanns.training import learner as learner_module
from epanns.training.config import TrainingConfig
from epanns.training.finetune import finetune
from epanns.training.learner import Learner
from epanns.training.loop import RunOptions
from epanns.training.losses import LOSSES
from epanns.training.optimizer import learning_rate_at, take_step
from epanns.training.validation import Validation
from tests.builders import tensors_of

CONFIG = TrainingConfig(iterations=8, batch_size=4, learning_rate=5e-3, validate_every=8)
LAST = Validation(lambda model: {"mAP": 0.5}, {})


@pytest.fixture
def make_learner(make_model):
    return lambda **settings: Learner(make_model(1), replace(CONFIG, **settings))


def batch_of(train: PackDataset, config: TrainingConfig):
    return train.__getitems__(range(config.drawn_clips))


def all_values(learner: Learner) -> dict[str, torch.Tensor]:
    return tensors_of(learner.model)


def gradient(learner: Learner) -> torch.Tensor:
    return torch.cat([parameter.grad.flatten() for parameter in learner.model.parameters()])


def test_parts_of_a_batch_add_up_to_its_gradient(make_learner, train, monkeypatch):
    """With fixed batch norms and no dropout, parts and the whole batch are equal."""
    monkeypatch.setattr(learner_module, "set_learning_mode", lambda model, spec_augment: model.eval())
    whole, parts = make_learner(), make_learner(accumulate=2)
    outcomes = [each.step(batch_of(train, CONFIG), 3) for each in (whole, parts)]
    assert outcomes[0].loss == pytest.approx(outcomes[1].loss, rel=1e-5)
    assert torch.allclose(gradient(whole), gradient(parts), rtol=1e-3, atol=1e-7)


def test_a_gradient_is_clipped_to_the_norm_and_keeps_its_direction(make_learner, train):
    free, clipped = make_learner(), make_learner(clip_norm=0.01)
    outcomes = [each.step(batch_of(train, CONFIG), 0) for each in (free, clipped)]
    assert outcomes[0].gradient_norm == outcomes[1].gradient_norm > 0.01
    assert float(gradient(clipped).norm()) == pytest.approx(0.01, rel=1e-3)
    assert float(torch.cosine_similarity(gradient(free), gradient(clipped), dim=0)) == pytest.approx(1, abs=1e-5)


@pytest.mark.parametrize("dropout", [True, False])
def test_without_dropout_a_step_depends_on_the_clips_alone(make_learner, train, dropout):
    settings = {"dropout": dropout, "mixup_alpha": 0.0, "spec_augment": False}
    learners = [make_learner(**settings), make_learner(**settings)]
    for number, learner in enumerate(learners):
        learner.step(batch_of(train, learner.config), number)
    assert torch.equal(*map(gradient, learners)) == (not dropout)


def test_the_average_is_the_weighted_sum_of_earlier_weights(make_learner, train):
    learner = make_learner(ema_decay=0.3)
    expected = {name: value.double() for name, value in all_values(learner).items()}
    for step in range(4):
        learner.step(batch_of(train, learner.config), step)
        decay = min(0.3, (1 + step) / (10 + step))
        for name, value in all_values(learner).items():
            expected[name] = decay * expected[name] + (1 - decay) * value
    for name, value in learner.network_to_score.state_dict().items():
        if value.is_floating_point():
            assert torch.allclose(value.double(), expected[name], atol=1e-6), name
    assert learner.network_to_score is not learner.model


@pytest.mark.parametrize("broken", ["loss", "gradient"])
def test_a_step_that_is_not_finite_changes_nothing(make_learner, train, monkeypatch, broken):
    learner = make_learner(ema_decay=0.9)
    learner.step(batch_of(train, CONFIG), 0)
    before, average = all_values(learner), {k: v.clone() for k, v in learner.network_to_score.state_dict().items()}
    moments = [value.clone() for state in learner.optimizer.state.values() for value in state.values()]
    true = LOSSES["sigmoid"]
    if broken == "loss":
        monkeypatch.setitem(LOSSES, "sigmoid", lambda *given: true(*given) * math.nan)
    else:
        learner.model.fc1.weight.register_hook(lambda gradient: gradient * math.inf)
    assert learner.step(batch_of(train, CONFIG), 1).skipped
    assert all(torch.equal(before[name], value) for name, value in learner.model.state_dict().items())
    assert all(torch.equal(average[name], value) for name, value in learner.network_to_score.state_dict().items())
    after = [value for state in learner.optimizer.state.values() for value in state.values()]
    assert all(torch.equal(*pair) for pair in zip(moments, after, strict=True))


def test_single_skipped_steps_are_logged_and_several_in_a_row_stop_the_run(tmp_path, tiny_spec, train, monkeypatch):
    true, told, calls = LOSSES["sigmoid"], [], iter(range(100))
    monkeypatch.setitem(LOSSES, "sigmoid", lambda *given: true(*given) * (math.nan if next(calls) % 3 == 1 else 1))
    finetune(
        Cnn(tiny_spec, train.labels), train, CONFIG, tmp_path, validation=LAST, options=RunOptions(log=told.append)
    )
    assert [line.split(":")[0] for line in told] == ["step 2 skipped", "step 5 skipped", "step 8 skipped"]
    header, *rows = [line.split(",") for line in (tmp_path / "metrics.csv").read_text().splitlines()]
    assert [row[header.index("skipped")] for row in rows] == ["0", "3"]
    monkeypatch.setitem(LOSSES, "sigmoid", lambda *given: true(*given) * math.nan)
    with pytest.raises(
        TrainingError,
        match=r"not finite 5 times in a row, in steps 1 to 5: the best checkpoint so far is .*lost/best-00000000; the "
        r"newest state has the weights of step 0, from which no later step was finite; "
        r"the same command stops here again: choose --learning-rate below 0.005 and give --fresh or another --out; "
        r"clips of step 5: clip-\d+.wav, (clip-\d+.wav(, )?){7}$",
    ):
        finetune(Cnn(tiny_spec, train.labels), train, CONFIG, tmp_path / "lost", validation=LAST)
    *_, row = [line.split(",") for line in (tmp_path / "lost" / "metrics.csv").read_text().splitlines()]
    found = dict(zip(header, row, strict=True))
    assert (found["step"], found["skipped"], found["loss"], found["mAP"]) == ("5", "5", "", "")
    assert float(found["learning_rate"]) == pytest.approx(learning_rate_at(4, CONFIG), rel=1e-5)


@given(
    schedule=st.sampled_from(["constant", "cosine", "linear"]),
    warmup=st.integers(0, 20),
    iterations=st.integers(21, 200),
)
def test_rates_rise_over_the_warm_up_and_never_after_it(schedule, warmup, iterations):
    config = TrainingConfig(iterations=iterations, schedule=schedule, warmup_iterations=warmup, learning_rate=2.0)
    rates = [learning_rate_at(step, config) for step in range(iterations)]
    assert all(0 < rate <= 2 for rate in rates)
    assert rates[:warmup] == pytest.approx([2 * (step + 1) / warmup for step in range(warmup)])
    assert all(later <= sooner for sooner, later in zip(rates[warmup:], rates[warmup + 1 :], strict=False))
    end = {"constant": 2.0, "cosine": 0.0, "linear": 0.0}[schedule]
    assert learning_rate_at(iterations, config) == pytest.approx(end)
    middle = warmup + (iterations - warmup) / 2
    assert learning_rate_at(middle, config) == pytest.approx({"constant": 2.0}.get(schedule, 1.0))


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"accumulate": 3}, "accumulate=3: must divide batch_size=4"),
        ({"clip_norm": -1.0}, "clip_norm=-1.0: must be a finite number >= 0; 0 switches clipping off"),
        ({"ema_decay": 1.0}, r"ema_decay=1.0: must be a number in \[0, 1\); 0 switches the average off"),
    ],
)
def test_invalid_settings_are_refused(settings, message):
    with pytest.raises(ConfigError, match=message):
        replace(CONFIG, **settings)


def test_save_every_must_be_at_least_one_step():
    with pytest.raises(ConfigError, match="save_every=0: must be at least 1 step"):
        RunOptions(save_every=0)


@pytest.mark.parametrize(
    "formats", list(itertools.product([torch.contiguous_format, torch.channels_last], repeat=3)), ids=str
)
def test_adam_is_right_for_any_order_in_memory(make_learner, formats):
    """torch's fused Adam alone does not, where weights and gradients are of different memory formats."""
    of_weights, of_gradients, of_moments = formats
    torch.manual_seed(0)
    start, gradients, changed = torch.randn(8, 4, 3, 3), torch.randn(3, 8, 4, 3, 3), []
    for fused in (True, False):
        weight = start.clone(memory_format=of_weights).requires_grad_()
        optimizer = torch.optim.Adam([weight], lr=0.1, amsgrad=True, fused=fused)
        for gradient in gradients:
            weight.grad = gradient.clone(memory_format=of_gradients)
            take_step(optimizer) if fused else optimizer.step()
            for name in ("exp_avg", "exp_avg_sq", "max_exp_avg_sq"):
                moments = optimizer.state[weight]
                moments[name] = moments[name].clone(memory_format=of_moments)
        changed.append(weight.detach())
    torch.testing.assert_close(*changed)
    assert make_learner().optimizer.param_groups[0]["fused"]


def test_a_step_counts_as_writing_to_the_weights(make_learner, train):
    """torch's fused Adam does not count its writes, and a training without writes is refused after pruning."""
    learner = make_learner()
    before = {name: weight._version for name, weight in learner.model.named_parameters()}
    learner.step(batch_of(train, CONFIG), 0)
    trainable = {name: weight for name, weight in learner.model.named_parameters() if weight.requires_grad}
    assert all(weight._version > before[name] for name, weight in trainable.items())


def test_meanwhile_is_called_between_gradients_and_update(make_learner, train):
    """A GPU computes the gradients then; on a CPU they are there."""
    learner, seen = make_learner(), []
    before = learner.model.fc_audioset.weight.detach().clone()

    def meanwhile() -> None:
        weight = learner.model.fc_audioset.weight
        seen.append((weight.grad is not None, torch.equal(weight, before)))

    learner.step(batch_of(train, CONFIG), 0, meanwhile)
    assert seen == [(True, True)]
    assert not torch.equal(learner.model.fc_audioset.weight, before)


def test_weight_decay_shrinks_kernels_by_the_rate_times_the_decay_and_nothing_else(make_learner, train):
    plain, decayed = make_learner(), make_learner(weight_decay=0.5)
    before = {name: value.detach().clone() for name, value in plain.model.named_parameters()}
    for learner in (plain, decayed):
        learner.step(batch_of(train, CONFIG), 0)
    after = dict(decayed.model.named_parameters())
    for name, value in plain.model.named_parameters():
        shrunk = CONFIG.learning_rate * 0.5 * before[name] if value.dim() > 1 else torch.zeros_like(value)
        assert torch.allclose(value - after[name], shrunk, atol=1e-6), name


def test_weight_decay_keeps_the_rate_of_the_backbone(make_learner):
    groups = make_learner(weight_decay=0.5, backbone_rate=0.1).optimizer.param_groups
    found = sorted((group.get("rate_factor", 1), group["weight_decay"]) for group in groups)
    assert found == [(0.1, 0.0), (0.1, 0.5), (1, 0.0), (1, 0.5)]
