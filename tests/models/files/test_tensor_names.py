"""State dicts as training code saves them give the same weights, or an error of one line."""

import argparse
import datetime
import itertools
from collections import OrderedDict, defaultdict
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from safetensors.torch import save_file
from torch import Tensor

from epanns.cli.import_ import command
from epanns.errors import CheckpointError
from epanns.feedback import Note
from epanns.models.families.cnn_2d import Cnn
from epanns.models.files.load import load
from epanns.models.files.released import read_released, to_panns
from epanns.models.files.tensor_names import unwrapped
from epanns.models.zoo import build_model
from tests.builders import output_of

WHERE = Path("a.pth")
PREFIXES = ("module.", "_orig_mod.", "model.", "base.")


@pytest.fixture(scope="module")
def network() -> Cnn:
    torch.manual_seed(0)
    return build_model("Cnn6", num_classes=3, width=0.1).eval()


@pytest.fixture(scope="module")
def plain(network: Cnn) -> dict[str, Tensor]:
    return to_panns(network)["model"]


def assert_same(path: Path, content: object, network: Cnn) -> None:
    torch.save(content, path)
    found = load(path).state_dict()
    assert all(torch.equal(found[name], tensor) for name, tensor in network.state_dict().items())


@given(st.lists(st.sampled_from([*PREFIXES, "net.", "student."]), max_size=4), st.data())
def test_any_shared_prefixes_and_wrappers_lead_to_the_same_tensors(prefixes: list[str], data: st.DataObject) -> None:
    names = ["conv_block1.conv1.weight", "conv_block1.bn1.bias", "fc1.weight", "bn0.num_batches_tracked"]
    weights = {name: torch.zeros(index) for index, name in enumerate(names)}
    wrappers = data.draw(st.lists(st.sampled_from(["model", "state_dict", "student", "net", "checkpoint"]), max_size=3))
    content: object = {"".join(prefixes) + name: tensor for name, tensor in weights.items()}
    for wrapper in reversed(wrappers):
        content = {
            "epoch": 3,
            "optimizer": {"state": {0: torch.zeros(1)}},
            wrapper: content,
            "best_loss": torch.zeros(()),
        }
    state = unwrapped(content, WHERE)
    assert {name: len(tensor) for name, tensor in state.weights.items()} == {n: i for i, n in enumerate(names)}
    assert state.prefix == "".join(prefix for prefix in prefixes if prefix != "_orig_mod.").removesuffix(".")
    assert state.keys == tuple(wrappers)


@pytest.mark.parametrize(("first", "second"), list(itertools.permutations(PREFIXES, 2)))
def test_nested_prefixes_load_alike(first: str, second: str, network: Cnn, plain: dict[str, Tensor], tmp_path) -> None:
    assert_same(tmp_path / "a.pth", {"state_dict": {first + second + name: plain[name] for name in plain}}, network)


def test_an_averaged_model_is_read(network: Cnn, plain: dict[str, Tensor], tmp_path: Path) -> None:
    torch.save({"n_averaged": torch.tensor(3), **{f"module.{name}": plain[name] for name in plain}}, tmp_path / "a.pth")
    checkpoint = read_released(tmp_path / "a.pth")
    assert checkpoint.notes == ("left out what is no tensor of a network: n_averaged",)
    assert all(torch.equal(checkpoint.weights[name], tensor) for name, tensor in network.state_dict().items())


@pytest.mark.parametrize("average", ["ema", "model_ema", "ema_state_dict", "teacher", "net"])
def test_weights_beside_those_that_are_read_are_named(average: str) -> None:
    own, other = ({"fc1.weight": tensor, "bn0.bias": tensor} for tensor in (torch.zeros(2), torch.ones(2)))
    wrapped = unwrapped({average: other, "optimizer": {"state": {0: torch.ones(1)}}, "model": own}, WHERE)
    assert torch.equal(wrapped.weights["fc1.weight"], own["fc1.weight"])
    assert wrapped.notes == (f"the weights of model are read, and not the other weights in {average}",)
    flat = unwrapped({**own, average: other}, WHERE)
    assert torch.equal(flat.weights["fc1.weight"], own["fc1.weight"])
    assert flat.notes == (f"left out what is no tensor of a network: {average}",)


def test_names_of_any_length_leave_a_message_readable(tmp_path: Path) -> None:
    torch.save({f"fc{number}.{'x' * 10_000}": torch.zeros(2) for number in range(3)}, tmp_path / "a.pth")
    with pytest.raises(CheckpointError, match=r"holds 3 tensors \(fc0\.x{96}\.\.\., ") as refused:
        load(tmp_path / "a.pth")
    assert len(str(refused.value)) < 2_000


def test_modules_that_torch_wraps_around_others_are_left_out_anywhere(plain: dict[str, Tensor]) -> None:
    wrapped = {name.replace("conv1.", "_orig_mod.conv1._fsdp_wrapped_module."): plain[name] for name in plain}
    assert wrapped.keys() != plain.keys()
    assert unwrapped(wrapped, WHERE).weights.keys() == plain.keys()
    with pytest.raises(CheckpointError, match=r"a.pth: fc1.bias appears twice, with and without _orig_mod., "):
        unwrapped({**plain, "_orig_mod.fc1.bias": plain["fc1.bias"]}, WHERE)


def test_a_removed_prefix_is_recorded_in_the_provenance(plain: dict[str, Tensor], tmp_path: Path) -> None:
    torch.save({"student": {f"module.base.{name}": plain[name] for name in plain}}, tmp_path / "a.pth")
    source = read_released(tmp_path / "a.pth").provenance.source
    assert source == "a.pth, tensors of student, names without module.base., not a known released file"
    output_of(command, tmp_path / "a.pth", "--out", tmp_path / "out")
    assert load(tmp_path / "out").provenance.source == source


def metadata() -> dict[str, Any]:
    table: defaultdict[str, list[int]] = defaultdict(list)
    table["loss"].append(3)
    return {
        "best_mAP": np.float64(0.4),
        "iteration": np.int64(4),
        "half": np.float16(1),
        "flag": np.bool_(True),
        "array": np.arange(3),
        "dtype": np.dtype("float32"),
        "args": argparse.Namespace(lr=1e-3, path=Path("x")),
        "when": datetime.datetime(2026, 11, 30, tzinfo=datetime.UTC),
        "took": datetime.timedelta(1),
        "history": table,
        "device": torch.device("cpu"),
        "tensor": torch.zeros(2),
        "config": {"a": [1, None, True, (2.5, "x")], "set": {1, 2}},
    }


@pytest.mark.parametrize("zipped", [True, False], ids=["zip", "before torch 1.6"])
def test_metadata_beside_the_weights_is_not_read(
    zipped: bool, network: Cnn, plain: dict[str, Tensor], tmp_path: Path
) -> None:
    torch.save({**metadata(), "model": plain}, tmp_path / "a.pth", _use_new_zipfile_serialization=zipped)
    found = load(tmp_path / "a.pth").state_dict()
    assert all(torch.equal(found[name], tensor) for name, tensor in network.state_dict().items())


def test_metadata_among_the_weights_is_left_out_and_noted(plain: dict[str, Tensor], tmp_path: Path, runner) -> None:
    torch.save(OrderedDict(epoch=np.int64(3), best="yes", **plain), tmp_path / "a.pth")
    assert read_released(tmp_path / "a.pth").notes == ("left out what is no tensor of a network: epoch, best",)
    result = runner.invoke(command, [str(tmp_path / "a.pth"), "--out", str(tmp_path / "out")], catch_exceptions=False)
    assert f"{tmp_path / 'a.pth'}: left out what is no tensor of a network: epoch, best\n" in result.stderr


def test_loading_a_file_issues_its_notes(plain: dict[str, Tensor], tmp_path: Path) -> None:
    torch.save({"epoch": 3, **plain}, tmp_path / "a.pth")
    with pytest.warns(Note, match="a.pth: left out what is no tensor of a network: epoch$"):
        model = load(tmp_path / "a.pth")
    assert model.provenance.assumed == ()


@pytest.mark.parametrize("left", ["none", "one"])
def test_missing_counters_start_at_one(left: str, network: Cnn, plain: dict[str, Tensor], tmp_path: Path) -> None:
    counters = [name for name in plain if "num_batches" in name][left == "one" :]
    torch.save({name: plain[name] for name in plain if name not in counters}, tmp_path / "a.pth")
    checkpoint = read_released(tmp_path / "a.pth")
    assert checkpoint.notes == (
        f"{len(counters)} counters of batches (num_batches_tracked) are missing and start at 1",
    )
    assert all(checkpoint.weights[name] == 1 for name in counters)
    waveform = torch.rand(1, 32_000) - 0.5
    with torch.no_grad():
        expected, found = network(waveform), checkpoint.build()(waveform)
    assert torch.equal(found["clipwise_logits"], expected["clipwise_logits"])


@pytest.mark.parametrize(("outer", "inner"), [("", ""), ("module.", ""), ("", "module."), ("_orig_mod.", "module.")])
def test_the_classifier_of_a_transfer_network_is_its_own(
    outer: str, inner: str, network: Cnn, plain: dict[str, Tensor], tmp_path: Path
) -> None:
    size = network.spec.embedding_size
    new = {"fc_transfer.weight": torch.rand(7, size), "fc_transfer.bias": torch.rand(7)}
    content = {f"{outer}base.{inner}{name}": plain[name] for name in plain} | {outer + n: t for n, t in new.items()}
    torch.save({"iteration": 1, "model": content}, tmp_path / "a.pth")
    checkpoint = read_released(tmp_path / "a.pth")
    assert checkpoint.spec.num_classes == 7
    assert checkpoint.notes[0].startswith(
        "the classifier is fc_transfer, that of the transfer network; fc_audioset.weight, fc_audioset.bias are left out"
    )
    model, waveform = checkpoint.build(), torch.rand(1, 32_000) - 0.5
    with torch.no_grad():
        hidden = network(waveform)["hidden"]
        expected = hidden @ new["fc_transfer.weight"].T + new["fc_transfer.bias"]
        torch.testing.assert_close(model(waveform)["clipwise_logits"], expected, rtol=1e-5, atol=1e-5)


Change = Callable[[dict[str, Tensor]], dict[str, Any]]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (
            lambda plain: {f"model.{name}": plain[name] for name in plain} | {"loss.weight": torch.zeros(3)},
            " names begin with model., the first without it is loss.weight: give the state_dict() of a network",
        ),
        (
            lambda plain: {f"{of}.{name}": plain[name] for of in ("student", "teacher") for name in plain},
            " names begin with student., the first without it is teacher.spectrogram_extractor.stft.conv_real.weight",
        ),
        (
            lambda plain: {f"net.{n}": t for n, t in plain.items() if n != "fc1.bias"},
            "is not a Cnn6: 1 missing: fc1.bias; all names begin with net., which was removed: give the state_dict()",
        ),
        (
            lambda plain: {n: t for n, t in plain.items() if n != "fc1.bias"} | {"fc1.bias": 3},
            "fc1.bias are no tensors; a PANNs file is {'model': state_dict} or a state_dict",
        ),
        (lambda plain: {"epoch": 3}, "holds epoch and no tensors by name; a PANNs file is"),
    ],
    ids=["more", "two", "missing", "number", "none"],
)
def test_names_that_differ_from_panns_are_explained(
    change: Change, message: str, plain: dict[str, Tensor], tmp_path: Path
) -> None:
    torch.save(change(plain), tmp_path / "a.pth")
    with pytest.raises(CheckpointError) as caught:
        load(tmp_path / "a.pth")
    assert message in str(caught.value)
    assert "download" not in str(caught.value)


def test_a_state_dict_as_safetensors_is_read(network: Cnn, plain: dict[str, Tensor], tmp_path: Path) -> None:
    save_file(plain, tmp_path / "a.safetensors")
    found = load(tmp_path / "a.safetensors").state_dict()
    assert all(torch.equal(found[name], tensor) for name, tensor in network.state_dict().items())
    content = (tmp_path / "a.safetensors").read_bytes()
    (tmp_path / "cut.safetensors").write_bytes(content[:-1])
    with pytest.raises(CheckpointError, match=r"cut.safetensors: damaged, or no file of torch.save \(safetensors"):
        load(tmp_path / "cut.safetensors")


def test_one_number_expanded_to_billions_is_refused(plain: dict[str, Tensor], tmp_path: Path) -> None:
    torch.save({**plain, "fc1.weight": torch.zeros(()).expand(65_536, 65_536)}, tmp_path / "a.pth")
    with pytest.raises(
        CheckpointError, match=r"a.pth: its tensors would take 17,.* bytes, must be at most 1,073,741,82"
    ):
        load(tmp_path / "a.pth")
