"""The training loop: it lowers the loss, resumes to the same bytes, and refuses wrong settings and data."""

import csv
import json
import re
import signal
from dataclasses import replace

import pytest
import torch

from epanns.data.batches.dataset import PackDataset
from epanns.errors import ConfigError, Interrupted, OutputError
from epanns.labels import LabelSet
from epanns.models.families.cnn_2d import Cnn
from epanns.models.files.load import load
from epanns.pruning.prune import prune
from epanns.stages.finetune import validation_on
from epanns.training.config import TrainingConfig
from epanns.training.finetune import finetune
from epanns.training.loop import RunOptions
from epanns.training.run_folder import RunFolder
from epanns.training.validation import Validation
from tests.builders import tensors_of

CONFIG = TrainingConfig(iterations=6, batch_size=4, validate_every=2, learning_rate=5e-3)


def scoring(score, **data) -> Validation:
    return Validation(lambda model: {"mAP": score(model)}, data)


def count_up(**data) -> Validation:
    """A validation whose score rises with each call."""
    calls = iter(range(1, 1000))
    return scoring(lambda model: next(calls) / 1000, **data)


def weights_of(folder) -> bytes:
    return (folder / "model.safetensors").read_bytes()


def test_training_lowers_the_loss_and_raises_the_map(tmp_path, make_model, train, tiny_packs):
    val = PackDataset([tiny_packs["val"]])
    config = TrainingConfig(
        iterations=90, batch_size=16, validate_every=30, learning_rate=1e-2, mixup_alpha=0.0, spec_augment=False
    )
    result = finetune(make_model(), train, config, tmp_path / "run", validation=validation_on(val))
    rows = list(csv.DictReader((tmp_path / "run" / "metrics.csv").read_text().splitlines()))
    assert [row["step"] for row in rows] == ["0", "30", "60", "90"]
    assert rows[0]["loss"] == ""
    assert float(rows[-1]["loss"]) < 0.9 * float(rows[1]["loss"])
    assert result.best_score > float(rows[0]["mAP"]) + 0.1
    assert validation_on(val).score(load(tmp_path / "run"))["mAP"] == pytest.approx(result.best_score, abs=1e-9)


def test_parameters_that_a_run_freezes_are_trainable_in_the_next(tmp_path, make_model, train):
    model = make_model()

    def moved_by(config: TrainingConfig, out: str) -> set[str]:
        before = {name: value.clone() for name, value in model.named_parameters()}
        finetune(model, train, config, tmp_path / out, validation=count_up())
        return {name for name, value in model.named_parameters() if not torch.equal(value, before[name])}

    assert moved_by(replace(CONFIG, freeze_backbone=True), "head") == {"fc_audioset.weight", "fc_audioset.bias"}
    assert moved_by(CONFIG, "all") == {name for name, _ in model.named_parameters()}


def test_parameters_frozen_by_hand_are_part_of_the_run(tmp_path, make_model, train):
    model = make_model()
    model.conv_block1.requires_grad_(False)
    finetune(model, train, CONFIG, tmp_path / "run", validation=count_up())
    with pytest.raises(OutputError, match=r"holds a run with frozen_sha256='\w{64}', not left out"):
        finetune(make_model(), train, CONFIG, tmp_path / "run", validation=count_up())
    frozen = make_model().requires_grad_(False)
    with pytest.raises(ConfigError, match="no parameter of the model may learn"):
        finetune(frozen, train, CONFIG, tmp_path / "none", validation=count_up())
    assert not (tmp_path / "none").exists()


def test_run_folder_becomes_the_checkpoint_of_the_best_step(tmp_path, make_model, train):
    scores = iter([0.1, 0.2, 0.9, 0.3])
    result = finetune(make_model(), train, CONFIG, tmp_path / "run", validation=scoring(lambda model: next(scores)))
    assert (result.best_step, result.best_score, result.steps) == (4, 0.9, 6)
    assert {file.name for file in (tmp_path / "run").iterdir()} == {
        "config.json",
        "model.safetensors",
        "labels.csv",
        "checksums.json",
        "README.md",
        "metrics.csv",
        "metrics.jsonl",
        "training.json",
    }
    (step,) = load(tmp_path / "run").provenance.recipe
    settings = step.settings
    assert (step.kind, settings["best_step"], settings["validation_mAP"]) == ("train", 4, 0.9)
    assert settings["training"] == CONFIG.to_dict()


def test_the_last_step_is_kept_whatever_its_score(tmp_path, make_model, train):
    """No validation chooses: other scores give the same bytes, those of the network after its last step."""
    config, model = replace(CONFIG, keep="last"), make_model()
    falling, rising = (iter([each / 10 for each in order]) for order in ((9, 3, 2, 1), (1, 2, 3, 9)))
    result = finetune(model, train, config, tmp_path / "falls", validation=scoring(lambda model: next(falling)))
    assert (result.best_step, result.best_score, result.steps) == (6, 0.1, 6)
    finetune(make_model(), train, config, tmp_path / "rises", validation=scoring(lambda model: next(rising)))
    assert weights_of(tmp_path / "falls") == weights_of(tmp_path / "rises")
    kept = load(tmp_path / "falls").state_dict()
    assert all(torch.equal(value, kept[name]) for name, value in model.state_dict().items())
    (step,) = load(tmp_path / "falls").provenance.recipe
    assert step.settings["training"]["keep"] == "last"


@pytest.mark.parametrize("last", [1, 3, 5])
def test_a_stopped_run_that_keeps_its_last_step_ends_with_the_same_bytes(tmp_path, make_model, train, last):
    config = replace(CONFIG, keep="last")

    def stop(state, loss):
        if state.step == last:
            signal.raise_signal(signal.SIGTERM)

    with pytest.raises(Interrupted):
        finetune(make_model(), train, config, tmp_path / "run", validation=count_up(), options=RunOptions(on_step=stop))
    assert not list((tmp_path / "run").glob("best-*"))
    for name in ("run", "whole"):
        finetune(make_model(), train, config, tmp_path / name, validation=count_up())
    assert weights_of(tmp_path / "run") == weights_of(tmp_path / "whole")


def test_training_again_is_another_step_of_the_recipe(tmp_path, make_model, train):
    finetune(make_model(), train, CONFIG, tmp_path / "first", validation=count_up())
    first = load(tmp_path / "first")
    finetune(first, train, replace(CONFIG, seed=1), tmp_path / "second", validation=count_up())
    steps = load(tmp_path / "second").provenance.recipe
    assert [(step.kind, step.settings["training"]["seed"]) for step in steps] == [("train", 0), ("finetune", 1)]
    assert steps[:1] == load(tmp_path / "first").provenance.recipe
    assert [step.kind for step in first.provenance.recipe] == ["train", "finetune"]


def test_bfloat16_is_used_in_forward_and_backward_alone(tmp_path, make_model, train):
    """Convolutions compute in it; log-mel, weights and gradients stay float32."""
    config = replace(CONFIG, iterations=1, precision="bfloat16")
    fast, exact, seen = make_model(), make_model(), {}
    fast.conv_block1.conv1.register_forward_hook(lambda _, given, made: seen.update(read=given[0], made=made))
    finetune(fast, train, config, tmp_path / "fast", validation=scoring(lambda model: 0.0))
    finetune(exact, train, replace(config, precision="float32"), tmp_path / "exact", validation=count_up())
    assert (seen["read"].dtype, seen["made"].dtype) == (torch.float32, torch.bfloat16)
    assert {parameter.dtype for parameter in fast.parameters()} == {torch.float32}
    rough, gradient = (torch.cat([p.grad.flatten() for p in model.parameters()]) for model in (fast, exact))
    assert rough.dtype == torch.float32
    assert 0.8 < torch.cosine_similarity(rough, gradient, dim=0) < 1 - 1e-5  # 8 bits, and a network of few channels


def test_starting_over_deletes_an_unfinished_first_file(tmp_path):
    (tmp_path / "training.json.partial").write_text("half")
    RunFolder(tmp_path, {}).start_over()
    assert list(tmp_path.iterdir()) == []


def test_a_finished_run_is_not_run_again(tmp_path, make_model, train):
    first = finetune(make_model(), train, CONFIG, str(tmp_path / "run"), validation=count_up())
    again = finetune(
        make_model(), train, CONFIG, tmp_path / "run", validation=scoring(lambda model: pytest.fail("validated"))
    )
    assert again == first


def test_another_configuration_in_the_same_folder_is_refused(tmp_path, make_model, train):
    finetune(make_model(), train, CONFIG, tmp_path / "run", validation=count_up())
    before = weights_of(tmp_path / "run")
    other = replace(CONFIG, learning_rate=1e-4)
    with pytest.raises(OutputError, match=re.escape("training.learning_rate=0.005, not 0.0001: repeat")):
        finetune(make_model(), train, other, tmp_path / "run", validation=count_up())
    assert weights_of(tmp_path / "run") == before
    RunFolder(tmp_path / "run", {}).start_over()
    finetune(make_model(), train, other, tmp_path / "run", validation=count_up())
    assert weights_of(tmp_path / "run") != before


def test_another_network_in_the_same_folder_is_refused_by_what_differs(tmp_path, make_model, train):
    def run(network, name):
        finetune(network, train, replace(CONFIG, iterations=1), tmp_path / name, validation=count_up())
        return weights_of(tmp_path / name)

    run(make_model(), "random")
    run(make_model(), "random")
    with pytest.raises(OutputError, match="holds a run with weights_sha256='"):
        run(make_model(seed=1), "random")

    def half(criterion):
        return prune(load(tmp_path / "random"), criterion=criterion, ratios={"conv_block5": 0.5})[0]

    pruned = run(half("l1"), "pruned")
    assert run(half("l1"), "pruned") == pruned
    with pytest.raises(OutputError, match="holds a run with since.1-prune.criterion='l1', not 'l2'"):
        run(half("l2"), "pruned")
    asked = json.loads((tmp_path / "pruned" / "training.json").read_text())["asked"]
    assert asked["since"]["1-prune"]["criterion"] == "l1"
    recipe = load(tmp_path / "pruned").provenance.recipe
    assert [step.kind for step in recipe] == ["train", "prune", "finetune"]
    assert not {"since", "since_plan_sha256"} & recipe[-1].settings.keys()  # the steps before say it


def test_a_network_as_it_was_read_is_identified_by_its_file(tmp_path, make_model, train):
    config = replace(CONFIG, iterations=1)
    finetune(make_model(), train, config, tmp_path / "base", validation=count_up())
    finetune(load(tmp_path / "base"), train, config, tmp_path / "tuned", validation=count_up())
    asked = json.loads((tmp_path / "tuned" / "training.json").read_text())["asked"]
    assert asked.keys() == {"training", "data", "validation", "model", "parent_sha256"}


def test_other_validation_clips_are_another_run(tmp_path, make_model, train):
    finetune(make_model(), train, CONFIG, tmp_path / "run", validation=count_up(sha256="a"))
    with pytest.raises(OutputError, match="holds a run with validation.sha256='a', not 'b'"):
        finetune(make_model(), train, CONFIG, tmp_path / "run", validation=count_up(sha256="b"))


def test_starting_over_deletes_nothing_if_there_are_other_files(tmp_path, make_model, train):
    finetune(make_model(), train, CONFIG, tmp_path / "run", validation=count_up())
    (tmp_path / "run" / "notes.txt").write_text("mine")
    before = {path.name for path in (tmp_path / "run").iterdir()}
    with pytest.raises(OutputError, match="holds 'notes.txt', which is no part of a run, so --fresh deletes nothing"):
        RunFolder(tmp_path / "run", {}).start_over()
    assert {path.name for path in (tmp_path / "run").iterdir()} == before


def test_a_signal_in_the_last_step_is_handled_after_the_run_has_finished(tmp_path, make_model, train):
    def stop(state, loss):
        if state.step == CONFIG.iterations:
            signal.raise_signal(signal.SIGTERM)

    with pytest.raises(Interrupted, match="signal 15 came as the run in .* ended; it is whole"):
        finetune(make_model(), train, CONFIG, tmp_path / "run", validation=count_up(), options=RunOptions(on_step=stop))
    assert load(tmp_path / "run").provenance.recipe


def test_an_output_that_is_a_file_is_refused(tmp_path, make_model, train):
    (tmp_path / "run").write_text("mine")
    with pytest.raises(OutputError, match="run is a file, not a folder: choose another --out"):
        finetune(make_model(), train, CONFIG, tmp_path / "run", validation=count_up())
    assert (tmp_path / "run").read_text() == "mine"


def test_a_folder_of_something_else_is_refused_and_left_alone(tmp_path, make_model, train):
    (tmp_path / "thesis.txt").write_text("years of work")
    with pytest.raises(OutputError, match="exists already and is no training run"):
        finetune(make_model(), train, CONFIG, tmp_path, validation=count_up())
    with pytest.raises(OutputError, match="exists already and is no training run"):
        RunFolder(tmp_path, {}).start_over()
    assert (tmp_path / "thesis.txt").read_text() == "years of work"


def test_other_labels_or_rates_are_refused_before_anything_is_written(tmp_path, tiny_spec, train):
    with pytest.raises(ConfigError, match=r"different classes \(class 0 is 'a' in the model, '.*' in the pack\)"):
        other = Cnn(tiny_spec, LabelSet.of(["a", "b", "c", "d"]))
        finetune(other, train, CONFIG, tmp_path / "run", validation=count_up())
    spec = replace(tiny_spec, front_end=replace(tiny_spec.front_end, sample_rate=16_000))
    with pytest.raises(
        ConfigError, match=r"Cnn14 has a sample rate of 16000 Hz, the pack .* 8000 Hz: .* --sample-rate 16000"
    ):
        finetune(Cnn(spec, train.labels), train, CONFIG, tmp_path / "run", validation=count_up())
    assert not (tmp_path / "run").exists()


def test_the_network_reads_the_crop_of_the_settings(tmp_path, make_model, train):
    model, heard = make_model(), []
    model.register_forward_pre_hook(lambda module, arguments: heard.append(arguments[0].shape))
    config = replace(CONFIG, iterations=1, crop_seconds=0.125)
    finetune(model, train, config, tmp_path / "run", validation=count_up())
    assert heard == [(8, 1_000)]
    with pytest.raises(OutputError, match="holds a run with training.crop_seconds=0.125, not left out"):
        finetune(make_model(), train, replace(config, crop_seconds=None), tmp_path / "run", validation=count_up())


def test_freezing_changes_the_classifier_alone(tmp_path, make_model, train):
    model = make_model()
    before = tensors_of(model)
    finetune(model, train, replace(CONFIG, freeze_backbone=True), tmp_path / "run", validation=count_up())
    after = load(tmp_path / "run").state_dict()
    assert [name for name in before if not torch.equal(before[name], after[name])] == [
        "fc_audioset.weight",
        "fc_audioset.bias",
    ]


def test_the_callers_random_numbers_are_left_alone(tmp_path, make_model, train):
    model = make_model()
    before = torch.get_rng_state()
    finetune(model, train, CONFIG, tmp_path / "run", validation=count_up())
    assert torch.equal(torch.get_rng_state(), before)


def test_the_settings_are_written_beside_the_result(tmp_path, make_model, train):
    finetune(make_model(), train, CONFIG, tmp_path / "run", validation=count_up())
    written = json.loads((tmp_path / "run" / "training.json").read_text())
    assert written["asked"]["training"] == CONFIG.to_dict()
    assert written["asked"]["data"]["clips"] == len(train) == 60
    assert written["result"]["steps"] == 6
