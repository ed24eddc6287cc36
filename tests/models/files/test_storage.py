"""Weights stored as float16: what is rounded, what is not, and the round trip."""

import json

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

import epanns
from epanns.errors import CheckpointError, ConfigError
from epanns.labels import LabelSet
from epanns.models.files.checkpoint import WEIGHTS, load_checkpoint, save_checkpoint
from epanns.models.files.storage import from_storage, stored_forms, to_storage
from epanns.models.tensors import forms_of
from tests.builders import make_network, same_tensors, tensors_of

LABELS = LabelSet.of(["dog", "rain", "bell", "sea"])


def stored(folder, network, storage="float16"):
    save_checkpoint(network, folder, storage=storage)
    return load_checkpoint(folder)


def test_matrices_are_rounded_to_float16_and_vectors_are_kept(tmp_path):
    network = make_network(labels=LABELS, seed=0)
    found = stored(tmp_path / "half", network)
    for name, tensor in network.state_dict().items():
        expected = tensor.half().float() if tensor.dim() >= 2 else tensor
        assert found.weights[name].dtype == tensor.dtype
        assert torch.equal(found.weights[name], expected), name
    assert found.storage == found.summary()["storage"] == "float16"


def test_a_second_round_trip_gives_the_same_bytes(tmp_path):
    once = stored(tmp_path / "once", make_network(labels=LABELS, seed=0)).build()
    twice = stored(tmp_path / "twice", once).build()
    assert same_tensors(once, twice)
    assert once.provenance.sha256 == twice.provenance.sha256
    assert (tmp_path / "once" / WEIGHTS).read_bytes() == (tmp_path / "twice" / WEIGHTS).read_bytes()


def test_the_file_takes_half_of_the_bytes(tmp_path):
    network = make_network("Cnn6", labels=LABELS, num_classes=4, width=0.1)
    sizes = []
    for storage in ("float32", "float16"):
        stored(tmp_path / storage, network, storage)
        sizes.append((tmp_path / storage / WEIGHTS).stat().st_size)
    reduced = sum(tensor.numel() for tensor in network.state_dict().values() if tensor.dim() >= 2)
    assert abs(sizes[0] - sizes[1] - 2 * reduced) < 32  # alignment of the header
    assert sizes[1] < 0.55 * sizes[0]


def test_float32_is_the_default_and_leaves_no_trace_in_the_configuration(tmp_path):
    network = make_network(labels=LABELS)
    assert stored(tmp_path / "plain", network, "float32").storage == "float32"
    assert "storage" not in json.loads((tmp_path / "plain" / "config.json").read_text())
    assert same_tensors(tensors_of(network), load_checkpoint(tmp_path / "plain").weights)


def test_a_value_beyond_float16_is_refused_and_nothing_is_written(tmp_path):
    network = make_network(labels=LABELS)
    name, tensor = next((name, tensor) for name, tensor in network.named_parameters() if tensor.dim() >= 2)
    tensor.data.view(-1)[0] = -70_000.0
    with pytest.raises(CheckpointError) as caught:
        save_checkpoint(network, tmp_path / "net", storage="float16")
    assert str(caught.value) == f"{name}: holds 70000, float16 ends at 65504: store the network as float32"
    assert not (tmp_path / "net").exists()


def test_an_unknown_storage_is_refused(tmp_path):
    with pytest.raises(ConfigError) as caught:
        epanns.save(make_network(labels=LABELS), tmp_path / "net", storage="float61")
    assert str(caught.value) == "storage='float61' (did you mean 'float16'?): must be one of float32, float16"


def test_a_file_of_another_storage_than_its_configuration_is_refused(tmp_path):
    stored(tmp_path / "net", make_network(labels=LABELS))
    path = tmp_path / "net" / "config.json"
    path.write_text(path.read_text().replace('"storage": "float16"', '"storage": "float32"'))
    with pytest.raises(CheckpointError, match=r"of another shape or type: .* float16, must be .* float32"):
        load_checkpoint(tmp_path / "net")
    path.write_text(path.read_text().replace('"storage": "float32"', '"storage": "int4"'))
    with pytest.raises(CheckpointError, match="storage='int4'.*: must be one of float32, float16"):
        load_checkpoint(tmp_path / "net")


@given(st.lists(st.floats(-65504, 65504, width=32), min_size=4, max_size=4))
def test_reading_undoes_storing_up_to_rounding(values):
    weights = {"a.weight": torch.tensor(values).reshape(2, 2), "a.bias": torch.tensor(values), "n": torch.tensor(3)}
    held = to_storage(weights, "float16")
    assert forms_of(held) == stored_forms(forms_of(weights), "float16")
    found = from_storage(held)
    assert forms_of(found) == forms_of(weights)
    assert torch.equal(found["a.bias"], weights["a.bias"]) and torch.equal(found["n"], weights["n"])
    # Half a unit in the last place: 2^-11 of the value, and 2^-25 where float16 has no more bits.
    assert torch.all((found["a.weight"] - weights["a.weight"]).abs() <= weights["a.weight"].abs() * 2**-11 + 2**-25)


def test_the_card_states_the_storage_and_the_section(tmp_path):
    save_checkpoint(make_network(labels=LABELS), tmp_path / "net", storage="float16", card="## Scores\n\nmAP 0.5\n")
    card = (tmp_path / "net" / "README.md").read_text()
    assert "bytes of weights, matrices and kernels as float16.\n\n## Scores\n\nmAP 0.5\n\n## Load it" in card
    load_checkpoint(tmp_path / "net")  # without a note: the card is the one whose sha256 is stored
