"""Transfer: the classifier first, a slower backbone, single-label networks."""

import csv
import json
import re
from dataclasses import replace

import pytest
import torch

from epanns.data.batches.dataset import PackDataset
from epanns.errors import ConfigError, OutputError
from epanns.models.files.checkpoint import save_checkpoint
from epanns.models.files.load import load
from epanns.models.spec import HEADS
from epanns.models.tagger import Tagger
from epanns.models.warm_start import use_labels
from epanns.pruning.prune import prune
from epanns.stages.finetune import validation_on
from epanns.training.config import TrainingConfig
from epanns.training.finetune import finetune
from epanns.training.learner import Learner
from epanns.training.validation import Validation
from tests.builders import tensors_of

CONFIG = TrainingConfig(iterations=6, batch_size=4, validate_every=3, learning_rate=5e-3)


@pytest.fixture
def packs(single_label_packs) -> dict[str, PackDataset]:
    return {part: PackDataset([path]) for part, path in single_label_packs.items()}


@pytest.fixture
def model(make_model) -> Tagger:
    return make_model(2)


def steps(model: Tagger, data: PackDataset, config: TrainingConfig, n_steps: int) -> list[dict[str, torch.Tensor]]:
    """Return the state dict before and after each step, on the same clips each."""
    learner = Learner(model, config)
    values = [tensors_of(model)]
    for step in range(n_steps):
        learner.step(data.__getitems__(range(config.drawn_clips)), step)
        values.append(tensors_of(model))
    return values


def moved(before, after, names) -> set[str]:
    return {name for name in names if not torch.equal(before[name], after[name])}


@pytest.mark.parametrize("head", HEADS)
def test_the_classifier_alone_learns_first_as_with_a_frozen_backbone(make_model, train, head):
    phases = steps(make_model(2, head=head), train, replace(CONFIG, head_iterations=2), 3)
    frozen = steps(make_model(2, head=head), train, replace(CONFIG, freeze_backbone=True), 2)
    assert all(torch.equal(phases[2][name], frozen[2][name]) for name in phases[2])
    names = {name for name in phases[0] if not name.startswith(make_model(2, head=head).classifier_names)}
    assert not moved(phases[0], phases[2], names)
    learning = {name for name in names if "num_batches" not in name}
    assert len(moved(phases[2], phases[3], learning)) > 0.9 * len(learning)


def test_requires_grad_is_restored_after_a_step_of_the_classifier_alone(model, tiny_packs):
    model.conv_block1.requires_grad_(False)  # the caller's choice
    may_learn = {name for name, parameter in model.named_parameters() if parameter.requires_grad}
    before, *_, after = steps(model, PackDataset([tiny_packs["train"]]), replace(CONFIG, head_iterations=1), 2)
    assert {name for name, parameter in model.named_parameters() if parameter.requires_grad} == may_learn
    assert "conv_block2.conv1.weight" in moved(before, after, may_learn)
    assert not [name for name in moved(before, after, before) if name.startswith("conv_block1.")]


def test_the_backbone_has_its_own_learning_rate(model, tiny_packs):
    """Adam's first step is the rate wherever the gradient is not next to nothing, whatever its size."""
    data = PackDataset([tiny_packs["train"]])
    rate = CONFIG.learning_rate
    for phase in (0, 1):  # also where the backbone's first step is not the first step
        config = replace(CONFIG, backbone_rate=0.125, head_iterations=phase)
        *_, before, after = steps(model, data, config, phase + 1)
        largest = {name: float((after[name] - before[name]).abs().max()) for name, _ in model.named_parameters()}
        assert largest["conv_block1.conv1.weight"] == pytest.approx(rate / 8, rel=0.02)
        assert largest["fc1.weight"] == pytest.approx(rate / 8, rel=0.02)
        assert largest["fc_audioset.weight"] <= rate * 1.02
    assert largest["fc_audioset.weight"] > rate / 8


def test_a_pruned_network_learns_single_labels_of_other_classes(model, packs, tmp_path):
    """Transfer as in the README: prune, new classes, train, score."""
    pruned, _ = prune(model, criterion="l1", ratio=0.5, layers=["conv_block6"])
    told = use_labels(pruned, packs["train"].labels)
    assert (set(told.kept), told.new) == ({"noise_band", "Tone"}, ("mouse click",))
    plain = TrainingConfig(batch_size=16, learning_rate=1e-2, mixup_alpha=0.0, spec_augment=False)
    config = replace(plain, iterations=60, validate_every=30, task="single-label", head_iterations=5, seed=1)
    validation = validation_on(packs["val"])
    result = finetune(pruned, packs["train"], config, tmp_path / "run", validation=validation)
    rows = list(csv.DictReader((tmp_path / "run" / "metrics.csv").read_text().splitlines()))
    by_step = {int(row["step"]): (float(row["accuracy"]), float(row["mAP"])) for row in rows}
    assert result.chosen_by == "accuracy"
    assert result.best_score == pytest.approx(max(accuracy for accuracy, _ in by_step.values()), abs=1e-6)
    assert result.best_score > 0.6
    saved = load(tmp_path / "run")
    assert (saved.spec.task, saved.spec.widths["conv_block6.conv1"]) == ("single-label", 6)
    assert validation.score(saved)["accuracy"] == pytest.approx(result.best_score, abs=1e-9)
    *_, transfer, tuned = saved.provenance.recipe
    assert (transfer.kind, transfer.settings["new"]) == ("transfer", ["mouse click"])
    assert (tuned.kind, tuned.settings["validation_accuracy"]) == ("finetune", result.best_score)
    assert json.loads((tmp_path / "run" / "training.json").read_text())["result"]["chosen_by"] == "accuracy"


def test_a_frozen_backbone_keeps_weights_and_statistics_with_other_classes(model, packs, tmp_path):
    before = tensors_of(model)
    use_labels(model, packs["train"].labels)
    config = replace(CONFIG, freeze_backbone=True, task="single-label")
    finetune(model, packs["train"], config, tmp_path / "run", validation=validation_on(packs["val"]))
    names = {name for name in before if not name.startswith(model.classifier_names)}
    assert not moved(before, model.state_dict(), names)
    assert model.fc_audioset.out_features == 3


def test_a_fresh_classifier_in_the_same_folder_is_another_run(model, packs, tmp_path):
    save_checkpoint(model, tmp_path / "base")
    validation = Validation(lambda model: {"mAP": 0.5}, {})
    for fresh in (False, True):
        network = load(tmp_path / "base")
        use_labels(network, packs["train"].labels, fresh=fresh)
        if fresh:
            with pytest.raises(OutputError, match="holds a run with since.1-transfer.kept.*=.*, not left out"):
                finetune(network, packs["train"], CONFIG, tmp_path / "run", validation=validation)
        else:
            finetune(network, packs["train"], CONFIG, tmp_path / "run", validation=validation)


def test_a_single_label_run_refuses_clips_of_several_classes(model, tiny_packs, tmp_path):
    data = PackDataset([tiny_packs["train"]])
    others = int((data.targets.counts_by_clip() != 1).sum())
    message = re.escape(f"{others} of 60 clips of synthetic have no class or several, first 'clip-") + ".*--task multi"
    config = replace(CONFIG, task="single-label")
    with pytest.raises(ConfigError, match=message):
        finetune(model, data, config, tmp_path / "run", validation=Validation(lambda model: {"accuracy": 0}, {}))
    assert not (tmp_path / "run").exists()


def test_a_validation_without_the_deciding_score_is_refused(model, packs, tmp_path):
    use_labels(model, packs["train"].labels)
    validation = Validation(lambda model: {"mAP": 0.5}, {})
    message = "the validation gives mAP: a single-label network is chosen by accuracy, return it too"
    with pytest.raises(ConfigError, match=message):
        finetune(model, packs["train"], replace(CONFIG, task="single-label"), tmp_path / "run", validation=validation)
