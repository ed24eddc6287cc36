"""LEAN in the commands: built on a frozen YAMNet, trained, scored, pruned, fine-tuned, and used to tag files."""

import json
import re
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from epanns.audio.frontend import FrontEndSpec
from epanns.complexity.macs import profile
from epanns.data.batches.dataset import PackDataset
from epanns.errors import ConfigError
from epanns.evaluation.metrics import evaluate
from epanns.evaluation.predict import predict
from epanns.evaluation.protocol import EvaluationProtocol
from epanns.models.families.yamnet import ShiftNorm2d
from epanns.models.files.checkpoint import save_checkpoint
from epanns.models.files.load import load
from epanns.models.warm_start import build_on_yamnet
from epanns.models.zoo import ZOO, build_model
from epanns.records import read_records
from epanns.sweeps.experiment import parse_experiment
from epanns.sweeps.runner import run_experiment
from epanns.training.config import TrainingConfig
from epanns.training.learner import Learner, set_learning_mode
from tests.builders import make_checkpoint, narrow_spec, same_tensors, tensors_of

FRONT_END = FrontEndSpec(8_000, 200, 80, 64, 125, 3_750, kind="yamnet")


@pytest.fixture
def rows(monkeypatch):
    """The zoo's rows at 8 kHz, as the generated packs are, and with a narrow encoder."""
    for name, spec in list(ZOO.items()):
        if spec.front_end.is_yamnet:
            small = spec.scaled(1 / 16)
            monkeypatch.setitem(ZOO, name, replace(small, front_end=FRONT_END))


@pytest.fixture
def yamnet(rows, tmp_path) -> Path:
    """A YAMNet pruned to widths of its own, whose batch norms have measured statistics."""
    torch.manual_seed(3)
    model = build_model(ZOO["YAMNet"].with_widths({"layer5.pointwise_conv": 7}), num_classes=521)
    model.train()(torch.rand(4, 8_000) - 0.5)
    save_checkpoint(model.eval(), tmp_path / "yamnet")
    return tmp_path / "yamnet"


def body_of(folder: Path) -> dict[str, torch.Tensor]:
    return {name: value for name, value in load(folder).state_dict().items() if name.startswith("layer")}


def same(one: dict[str, torch.Tensor], other: dict[str, torch.Tensor]) -> bool:
    return one.keys() == other.keys() and all(torch.equal(value, other[name]) for name, value in one.items())


STEPS = ["--iterations", "3", "--validate-every", "3", "--batch-size", "4", "--crop-seconds", "0.5"]


@pytest.mark.slow
def test_lean_goes_through_every_command(epanns, yamnet, tiny_packs, tmp_path):
    packs = ["--train", tiny_packs["train"], "--val", tiny_packs["val"]]
    code, out, err = epanns("train", "LEAN", "--yamnet", yamnet, *packs, *STEPS, "--out", tmp_path / "lean")
    assert code == 0, err
    assert "YAMNet's body stays frozen; --no-freeze-yamnet trains it" in err
    assert same(body_of(tmp_path / "lean"), body_of(yamnet))
    trained = load(tmp_path / "lean")
    assert trained.spec.widths["layer5.pointwise_conv"] == 7
    assert trained.provenance.recipe[0].settings["training"]["freeze_yamnet"] is True
    assert trained.provenance.source.startswith("LEAN on the body of YAMNet, built from random weights")

    code, out, err = epanns(
        "evaluate", tmp_path / "lean", "--data", tiny_packs["test"], "--json", "--out", tmp_path / "e"
    )
    assert (code, json.loads(out)["n_clips"]) == (0, 20), err
    code, out, err = epanns("info", tmp_path / "lean")
    assert "YAMNet's, window 200, hop 80" in out and "with batch-norm statistics (Keras' total)" in out
    code, out, err = epanns("profile", tmp_path / "lean", "--seconds", "1", "--json")
    names = {layer["name"] for layer in json.loads(out)["layers"]}
    assert {"encoder.lstm1", "attention.sum", "layer5.pointwise_conv"} <= names
    audio = next(tiny_packs["train"].parent.glob("audio/**/*.wav"))
    code, out, err = epanns("tag", tmp_path / "lean", audio, "--json")
    assert (code, len(json.loads(out)["windows"])) == (0, 1), err

    pruning = ["--ratio", "0.5", "--recover", "ls+bn", "--calibration", tiny_packs["train"]]
    code, out, err = epanns("prune", tmp_path / "lean", *pruning, "--out", tmp_path / "pruned")
    assert code == 0, err
    code, out, err = epanns("finetune", tmp_path / "pruned", *packs, *STEPS, "--out", tmp_path / "again")
    assert code == 0, err
    assert "stays frozen" in err
    assert same(body_of(tmp_path / "again"), body_of(tmp_path / "pruned"))
    free = ["--no-freeze-yamnet", "--out", tmp_path / "free"]
    code, out, err = epanns("finetune", tmp_path / "lean", *packs, *STEPS, "--learning-rate", "0.01", *free)
    assert code == 0 and "frozen" not in err, err
    assert "freeze_yamnet" not in load(tmp_path / "free").provenance.recipe[-1].settings["training"]
    code, out, err = epanns("report", tmp_path / "e", "--out", tmp_path / "report")
    assert code == 0 and "LEAN" in (tmp_path / "report" / "table.md").read_text(), err


@pytest.mark.parametrize("name", ["LEAN_concat", "YAMNet_linear"])
def test_networks_are_built_on_a_body_and_keep_its_origin(name, yamnet):
    model = build_on_yamnet(name, load(yamnet))
    assert model.provenance.sha256 == load(yamnet).provenance.sha256
    assert same({k: v for k, v in model.state_dict().items() if k.startswith("layer")}, body_of(yamnet))
    assert len(model.labels) == 200
    assert model.spec.embedding_size == ZOO[name].embedding_size


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["Cnn6", "--yamnet", "YAMNET"], "Cnn6 is not built on a YAMNet's body, as YAMNet_linear, YAMNet_projection, "),
        (["Cnn6", "--yamnet", "YAMNET", "--width", "0.5"], "--yamnet and --freeze-yamnet require"),
        (["Cnn6", "--freeze-yamnet"], "--yamnet and --freeze-yamnet require it: leave them out\n"),
        (
            ["YAMNet", "--yamnet", "YAMNET"],
            "-yamnet require it: import and fine-tune it (epanns import, epanns finetune)\n",
        ),
        (["LEAN", "--yamnet", "OTHER"], "narrow is no YAMNet: give yamnet.h5, its .npz or a checkpoint of YAMNet"),
        (["LEAN", "--yamnet", "YAMNET", "--width", "0.5"], "--width 0.5 with --yamnet "),
        (["LEAN", "--freeze-yamnet"], "--freeze-yamnet without --yamnet: a body of random weights must be trained"),
    ],
    ids=["another network", "and a width", "no body", "YAMNet itself", "another body", "a width", "nothing to freeze"],
)
def test_what_cannot_be_built_is_refused(epanns, yamnet, tiny_packs, tmp_path, arguments, message):
    make_checkpoint(tmp_path / "other", narrow_spec())
    places = {"YAMNET": yamnet, "OTHER": tmp_path / "other"}
    given = [places.get(argument, argument) for argument in arguments]
    packs = ["--train", tiny_packs["train"], "--val", tiny_packs["val"]]
    code, _, err = epanns("train", *given, *packs, "--iterations", "1", "--out", tmp_path / "out")
    assert code == 1
    assert message in err
    assert not (tmp_path / "out").exists()


def test_packs_of_another_rate_or_other_classes_are_refused(epanns, tiny_packs, tmp_path, yamnet):
    packs = ["--train", tiny_packs["train"], "--val", tiny_packs["val"], "--iterations", "1"]
    at_16k = replace(ZOO["YAMNet"], front_end=FrontEndSpec(16_000, 400, 160, 64, 125, 7_500, kind="yamnet"))
    make_checkpoint(tmp_path / "at_16k", at_16k, num_classes=4)
    code, _, err = epanns("finetune", tmp_path / "at_16k", *packs, "--out", tmp_path / "out")
    assert code == 1
    assert "8000 Hz" in err and "16000" in err
    code, _, err = epanns("evaluate", yamnet, "--data", tiny_packs["test"], "--out", tmp_path / "out")
    assert code == 1
    assert "521" in err and "4" in err


def test_a_network_without_yamnets_body_cannot_freeze_it(epanns, tiny_packs, tmp_path):
    labels = PackDataset([tiny_packs["train"]]).labels
    make_checkpoint(tmp_path / "narrow", narrow_spec(num_classes=len(labels)), labels)
    packs = ["--train", tiny_packs["train"], "--val", tiny_packs["val"]]
    asked = ["--freeze-yamnet", "--iterations", "1", "--out", tmp_path / "out"]
    code, _, err = epanns("finetune", tmp_path / "narrow", *packs, *asked)
    assert code == 1
    assert "freeze_yamnet: narrow is not built on YAMNet's body (--freeze-yamnet)" in err
    assert not (tmp_path / "out").exists()


def test_a_frozen_backbone_needs_no_frozen_body():
    with pytest.raises(ConfigError, match="freeze_yamnet with freeze_backbone, which freezes it too: give one"):
        TrainingConfig(freeze_yamnet=True, freeze_backbone=True)


def test_statistics_of_folded_batch_norms_are_not_measured(tiny_packs, rows):
    from epanns.errors import PruningError
    from epanns.pruning.recovery.batch_norm_reestimation import recalibrate_batch_norm
    from epanns.pruning.recovery.recover import recover

    model = build_model(ZOO["YAMNet"], num_classes=3)
    clips = [torch.rand(4, 8_000) - 0.5]
    assert recalibrate_batch_norm(build_model(ZOO["YAMNet"], num_classes=3), clips) == 4  # of random weights
    for module in model.modules():
        if isinstance(module, ShiftNorm2d):
            module.running_var.fill_(1 - 1e-4)
    before = tensors_of(model)
    for measure in (lambda: recalibrate_batch_norm(model, clips), lambda: recover(model, model, clips, "ls+bn")):
        with pytest.raises(PruningError, match="this YAMNet came with its batch norms folded into its kernels: .* ls"):
            measure()
    assert same_tensors(model, before)


def test_folded_batch_norms_change_nothing_while_the_network_learns(tiny_packs, rows):
    """With other statistics the body would be another network from the first step on."""
    train = PackDataset([tiny_packs["train"]])
    torch.manual_seed(0)
    model = build_model("YAMNet", labels=train.labels)
    assert all(module.training for module in model.train().modules())
    for module in model.modules():
        if isinstance(module, ShiftNorm2d):
            module.running_var.fill_(1 - 1e-4)
            module.bias.data.uniform_(0.0, 1.0)  # so that something comes through
    clip = torch.rand(1, 8_000) - 0.5
    with torch.no_grad():
        tagged = model.eval()(clip)["clipwise_logits"]
        set_learning_mode(model, spec_augment=False)
        torch.testing.assert_close(model(clip)["clipwise_logits"], tagged, rtol=1e-3, atol=1e-4)
    statistics = {name: value.clone() for name, value in model.named_buffers()}
    before = model.layer5.pointwise_conv.weight.detach().clone()
    learner = Learner(model, TrainingConfig(batch_size=4))
    assert not learner.step(train.__getitems__(range(4)), 0).skipped
    assert all(torch.equal(value, statistics[name]) for name, value in model.named_buffers())
    assert not torch.equal(model.layer5.pointwise_conv.weight, before)


@pytest.fixture
def frozen(yamnet, tiny_packs, tmp_path) -> Path:
    """A network whose body was frozen when it was trained."""
    network = build_on_yamnet("YAMNet_linear", load(yamnet), labels=PackDataset([tiny_packs["train"]]).labels)
    settings = {"iterations": 1, "seed": 0, "freeze_yamnet": True}
    save_checkpoint(network, tmp_path / "frozen", recipe={"step": "train", "training": settings})
    return tmp_path / "frozen"


TUNING = "iterations = 1\nbatch_size = 4\nvalidate_every = 1\ncrop_seconds = 0.5\n"


@pytest.mark.parametrize(("more", "stays"), [("", True), ("freeze_yamnet = false\n", False)])
def test_between_rounds_a_frozen_body_stays_frozen(epanns, frozen, tiny_packs, tmp_path, more, stays):
    file = tmp_path / "between.toml"
    file.write_text(f'train = "{tiny_packs["train"]}"\nval = "{tiny_packs["val"]}"\n{TUNING}{more}')
    cuts = ["--ratio", "0.5", "--layers", "layer14.pointwise_conv", "--steps", 2, "--between", file]
    code, _, err = epanns("prune", frozen, *cuts, "--out", tmp_path / "out")
    assert code == 0, err
    assert (f"YAMNet's body stays frozen; freeze_yamnet = false in {file} trains it" in err) == stays
    (_, _, tuned, _) = load(tmp_path / "out").provenance.recipe
    assert tuned.settings["training"].get("freeze_yamnet", False) == stays


@pytest.mark.parametrize(("more", "stays"), [("", True), ("freeze_yamnet = false\n", False)])
def test_in_sweeps_a_frozen_body_stays_frozen(frozen, tiny_packs, tmp_path, more, stays):
    packs = "\n".join(f'{part} = ["{path}"]' for part, path in tiny_packs.items())
    data = f'name = "t"\n[data]\nkind = "packs"\n{packs}\nsample_rate = 8000\nseconds = 0.5\n'
    text = f'{data}[[base]]\ncheckpoint = "{frozen}"\n[grid]\nratio = [0.0]\n[[finetune]]\n{TUNING}{more}'
    run_experiment(parse_experiment(text, "t.toml"), tmp_path / "out")
    (tuned,) = (tmp_path / "out").glob("**/finetuned/config.json")
    training = load(tuned.parent).provenance.recipe[-1].settings["training"]
    assert training.get("freeze_yamnet", False) == stays


def test_a_sweep_builds_on_a_yamnet_compares_and_scores_windows(yamnet, tiny_packs, tmp_path):
    packs = "\n".join(f'{part} = ["{path}"]' for part, path in tiny_packs.items())
    text = f'name = "t"\n[data]\nkind = "packs"\n{packs}\nsample_rate = 8000\nseconds = 0.5\n'
    text += "[evaluation]\nwindow = 0.4\nhop = 0.2\n"
    training = "training = { iterations = 1, batch_size = 4, validate_every = 1, crop_seconds = 0.5 }\n"
    text += f'[[base]]\nmodel = "YAMNet_linear"\nyamnet = "{yamnet}"\n{training}'
    text += f'[[base]]\nmodel = "YAMNet_linear"\nprune = false\n{training}'
    text += '[grid]\nratio = [0.5]\nlayers = [["layer14.pointwise_conv"]]\n'
    run_experiment(parse_experiment(text, "t.toml"), tmp_path / "out")
    records = {("yamnet_sha256" in r.config, r.ratio): r for r in read_records([tmp_path / "out"])}
    pretrained, scratch = records[True, None], records[False, None]
    assert set(records) == {(True, None), (False, None), (False, 0.5)}
    assert records[False, 0.5].config["base"] == pretrained.config
    assert {(r.clip_seconds, r.protocol) for r in records.values()} == {(0.4, EvaluationProtocol(0.4, 0.2).describe())}
    assert pretrained.cost_before["n_params"] < scratch.cost_before["n_params"]  # the body it took was pruned
    for record in (pretrained, scratch):
        network = load(tmp_path / "out" / "trials" / record.trial_id / "base")
        assert same({k: v for k, v in network.state_dict().items() if k.startswith("layer")}, body_of(yamnet)) == (
            record is pretrained
        )
        assert record.cost_before == profile(network, seconds=0.4).summary()
        clips, protocol = PackDataset([tiny_packs["test"]]), EvaluationProtocol(0.4, 0.2)
        scores = evaluate(predict(network, clips, protocol), clips.labels, protocol)
        assert record.stages[0].scores["test"]["mAP"] == pytest.approx(scores.mAP, abs=1e-9)


def test_a_missing_or_wrong_yamnet_is_refused_before_packing(frozen, tmp_path):
    data = 'name = "t"\n[data]\nkind = "esc50"\nroot = "nowhere"\nsample_rate = 8000\n'
    data += 'train = ["fold1"]\nval = ["fold2"]\ntest = ["fold3"]\n'
    for yamnet, message in (
        (tmp_path / "nothing.npz", "nothing.npz': no such file or folder, seen from"),
        (frozen, "holds a YAMNet_linear, not a YAMNet"),
    ):
        text = f'{data}[[base]]\nmodel = "YAMNet_linear"\nyamnet = "{yamnet}"\n'
        with pytest.raises(ConfigError, match=re.escape(message)):
            run_experiment(parse_experiment(text, "t.toml"), tmp_path / "out")
