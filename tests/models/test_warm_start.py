"""Networks for other classes: known classes keep their weights, in every family and head."""

import re
from dataclasses import replace

import pytest
import torch

from epanns.errors import ConfigError
from epanns.labels import LabelSet
from epanns.models.families.cnn_2d import Cnn
from epanns.models.files.checkpoint import save_checkpoint
from epanns.models.files.load import load
from epanns.models.provenance import Operation
from epanns.models.spec import HEADS
from epanns.models.warm_start import use_labels
from epanns.models.zoo import ZOO, build_model
from epanns.pruning.prune import prune
from tests.families import noise

KNOWN = LabelSet.of(["Dog", "Rain", "Sea waves", "Wind"])
WANTED = LabelSet.of(["cat", "sea_waves", "dog"])


def logits_of(model, inputs):
    with torch.no_grad():
        return model.eval().forward_inputs(inputs)["clipwise_logits"]


def assert_known_rows_stay(model):
    """Classes that are kept are scored as before; others are not, and nothing else has changed."""
    inputs = noise(model)
    before = logits_of(model, inputs)
    weights = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    told = use_labels(model, WANTED)
    after = logits_of(model, inputs)
    assert torch.allclose(after[:, 1:], before[:, [2, 0]], rtol=1e-2, atol=0)
    assert not torch.allclose(after[:, :1], before, rtol=1e-2, atol=0)
    changed = [name for name, tensor in model.state_dict().items() if not torch.equal(tensor, weights[name])]
    assert changed and all(name.startswith(model.classifier_names) for name in changed)
    assert told.kept == {"sea_waves": "Sea waves", "dog": "Dog"}
    assert told.describe() == "2 of 3 classes keep their weights, 1 is new: cat"
    assert (model.labels, model.spec.num_classes) == (WANTED, 3)
    assert model.provenance.recipe[-1] == Operation("transfer", {"kept": dict(told.kept), "new": ["cat"]})


@pytest.mark.parametrize("head", HEADS)
def test_known_classes_keep_their_rows_in_every_head(tiny_spec, head):
    model = Cnn(replace(tiny_spec, head=head), KNOWN)
    pruned, _ = prune(model, criterion="l1", ratio=0.5, layers=["conv_block6"])
    assert_known_rows_stay(pruned)


@pytest.mark.parametrize("name", {spec.family: spec.name for spec in ZOO.values() if spec.family != "cnn"}.values())
def test_known_classes_keep_their_rows_in_every_family(name):
    assert_known_rows_stay(build_model(ZOO[name].scaled(1 / 32), labels=KNOWN))


def test_the_attention_head_keeps_both_outputs_of_a_class(tiny_spec):
    model = Cnn(replace(tiny_spec, head="decision_att"), KNOWN)
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    use_labels(model, WANTED)
    for name in ("att", "cla"):
        after = model.state_dict()[f"att_block.{name}.weight"]
        assert torch.equal(after[1:], before[f"att_block.{name}.weight"][[2, 0]])


def test_a_fresh_classifier_keeps_no_weights_and_the_recipe_records_it(tiny_spec, tmp_path):
    model = Cnn(tiny_spec, KNOWN)
    before = model.fc_audioset.weight.clone()
    told = use_labels(model, KNOWN, fresh=True)
    assert not torch.isclose(model.fc_audioset.weight, before).all(dim=1).any()
    assert told.describe() == "all 4 classes start from random weights"
    assert use_labels(model, KNOWN).describe() == "all 4 classes keep their weights"
    save_checkpoint(model, tmp_path / "saved")
    steps = load(tmp_path / "saved").provenance.recipe
    assert [(step.kind, len(step.settings["kept"])) for step in steps] == [("transfer", 0), ("transfer", 4)]


def test_rows_out_of_range_cannot_be_kept(tiny_spec):
    model = Cnn(tiny_spec, KNOWN)
    before = model.fc_audioset.weight.clone()
    for keep in ({0: 4}, {3: 0}, {-1: 0}):
        message = f"keep={keep}: must be indices below 3 (new classes) -> indices below 4 (old classes)"
        with pytest.raises(ConfigError, match=re.escape(message)):
            model.reset_classifier(3, WANTED, keep=keep)
    assert torch.equal(model.fc_audioset.weight, before)


def test_a_single_label_network_scores_one_class_out_of_all(tiny_spec, tmp_path):
    model = Cnn(tiny_spec, KNOWN).eval()
    inputs = noise(model)
    before = model.forward_inputs(inputs)
    model.set_task("single-label")
    after = model.forward_inputs(inputs)
    assert torch.equal(after["clipwise_logits"], before["clipwise_logits"])
    assert torch.allclose(after["clipwise_output"], torch.softmax(before["clipwise_logits"], 1))
    pruned, _ = prune(model, criterion="l1", ratio=0.25)
    save_checkpoint(pruned, tmp_path / "saved")
    assert load(tmp_path / "saved").spec.task == "single-label"
    assert "a softmax over the classes" in (tmp_path / "saved" / "README.md").read_text()


def test_names_are_accepted_as_labels_also_a_single_one(tiny_spec):
    model = Cnn(tiny_spec, KNOWN)
    assert use_labels(model, list(KNOWN.names)).describe() == "all 4 classes keep their weights"
    assert use_labels(model, ["never heard"]).describe() == "it starts from random weights"
    assert model.labels == LabelSet.of(["never heard"])
    assert use_labels(model, ("never heard",)).describe() == "it keeps its weights"
    for labels in ("ab", [1, 2]):
        with pytest.raises(
            ConfigError, match=rf"labels={re.escape(repr(labels))}: must be a LabelSet or a list of nam"
        ):
            use_labels(model, labels)
