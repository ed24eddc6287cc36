"""YAMNet's files: Google's ``yamnet.h5``, written here data set by data set, and the folded arrays."""

import re
import zipfile
from collections.abc import Callable
from pathlib import Path

import h5py
import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from epanns.errors import CheckpointError
from epanns.labels import LabelSet, yamnet
from epanns.models.files.checkpoint import save_checkpoint
from epanns.models.files.load import load, read_checkpoint
from epanns.models.files.released import read_released
from epanns.models.files.yamnet_file import is_yamnet_file
from epanns.models.zoo import ZOO

Arrays = dict[str, NDArray[np.float32]]
CHANNELS = (32, 64, 128, 128, 256, 256, 512, 512, 512, 512, 512, 512, 1024, 1024)


def keras_arrays() -> Arrays:
    """Return the arrays of `yamnet.h5`, in Keras' order of axes: each number encodes its place."""
    random = np.random.default_rng(0)
    arrays: Arrays = {}

    def layer(name: str, kernel: str, shape: tuple[int, ...], channels: int) -> None:
        arrays[f"{name}/{name}/{kernel}:0"] = random.normal(0, 0.1, shape).astype(np.float32)
        arrays[f"{name}/bn/{name}/bn/beta:0"] = random.normal(0, 0.3, channels).astype(np.float32)
        arrays[f"{name}/bn/{name}/bn/moving_mean:0"] = random.normal(0, 0.3, channels).astype(np.float32)
        arrays[f"{name}/bn/{name}/bn/moving_variance:0"] = random.uniform(0.1, 2, channels).astype(np.float32)

    layer("layer1/conv", "kernel", (3, 3, 1, 32), 32)
    for number, (inputs, outputs) in enumerate(zip(CHANNELS[:-1], CHANNELS[1:], strict=True), start=2):
        layer(f"layer{number}/depthwise_conv", "depthwise_kernel", (3, 3, inputs, 1), inputs)
        layer(f"layer{number}/pointwise_conv", "kernel", (1, 1, inputs, outputs), outputs)
    arrays["logits/logits/kernel:0"] = random.normal(0, 0.1, (1024, 521)).astype(np.float32)
    arrays["logits/logits/bias:0"] = random.normal(0, 0.1, 521).astype(np.float32)
    return arrays


def write_h5(path: Path, arrays: Arrays) -> Path:
    with h5py.File(path, "w") as file:
        for name, values in arrays.items():
            file[name] = values
    return path


def folded(arrays: Arrays) -> Arrays:
    """Fold batch norm by its definition: scale 1 / sqrt(variance + 1e-4), shift beta - mean * scale."""
    result: Arrays = {}
    for name in (name for name in arrays if "kernel" in name and not name.startswith("logits")):
        layer = "/".join(name.split("/")[:2])
        beta, mean, variance = (
            arrays[f"{layer}/bn/{layer}/bn/{part}:0"] for part in ("beta", "moving_mean", "moving_variance")
        )
        scale = 1 / np.sqrt(variance.astype(np.float64) + 1e-4)
        is_depthwise = "depthwise_kernel" in name
        kernel = arrays[name].transpose((2, 3, 0, 1) if is_depthwise else (3, 2, 0, 1))
        ours = layer.replace("/", ".")
        result[f"{ours}.weight"] = (kernel * scale[:, None, None, None]).astype(np.float32)
        result[f"{ours}.bias"] = (beta - mean * scale).astype(np.float32)
    result["classifier.weight"] = arrays["logits/logits/kernel:0"].T
    result["classifier.bias"] = arrays["logits/logits/bias:0"]
    return result


@pytest.fixture(scope="module")
def arrays() -> Arrays:
    return keras_arrays()


@pytest.fixture(scope="module")
def h5(arrays: Arrays, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_h5(tmp_path_factory.mktemp("h5") / "yamnet.h5", arrays)


@pytest.fixture(scope="module")
def npz(arrays: Arrays, tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("npz") / "yamnet.npz"
    np.savez(path, **folded(arrays))
    return path


def test_all_110_data_sets_are_read_into_their_tensors(arrays: Arrays, h5: Path) -> None:
    assert len(arrays) == 110
    checkpoint = read_released(h5)
    assert (checkpoint.spec, checkpoint.labels) == (ZOO["YAMNet"], yamnet())
    state = checkpoint.weights
    floats = [value for value in state.values() if value.is_floating_point()]
    assert len(floats) == 110
    kernel = arrays["layer5/pointwise_conv/layer5/pointwise_conv/kernel:0"]
    assert np.array_equal(state["layer5.pointwise_conv.weight"][:, :, 0, 0].numpy(), kernel[0, 0].T)
    kernel = arrays["layer7/depthwise_conv/layer7/depthwise_conv/depthwise_kernel:0"]
    assert state["layer7.depthwise_conv.weight"][3, 0, 2, 1] == kernel[2, 1, 3, 0]
    assert state["layer1.conv.weight"][4, 0, 2, 1] == arrays["layer1/conv/layer1/conv/kernel:0"][2, 1, 0, 4]
    assert state["fc_audioset.weight"][7, 9] == arrays["logits/logits/kernel:0"][9, 7]
    for ours, theirs in {"bias": "beta", "running_mean": "moving_mean", "running_var": "moving_variance"}.items():
        assert np.array_equal(state[f"layer1.bn.{ours}"].numpy(), arrays[f"layer1/conv/bn/layer1/conv/bn/{theirs}:0"])
    assert sorted(float(value.double().abs().sum()) for value in floats) == pytest.approx(
        sorted(float(np.abs(value.astype(np.float64)).sum()) for value in arrays.values())
    )


def test_folded_arrays_are_the_same_network(h5: Path, npz: Path) -> None:
    waveform = torch.rand(2, 30_000) - 0.5
    whole, fold = load(h5), load(npz)
    with torch.no_grad():
        expected, found = whole(waveform)["clipwise_logits"], fold(waveform)["clipwise_logits"]
    assert expected.std() > 0.01
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-4)
    (unverified,) = read_released(h5).provenance.assumed
    assert unverified.startswith("the file holds no checksums and its sha256 is not that of a released file: damage")
    (assumed,) = read_released(npz).provenance.assumed
    assert assumed.startswith("batch norms are folded into the kernels of this file, so their statistics are not known")


def test_a_yamnet_file_becomes_a_checkpoint(npz: Path, tmp_path: Path) -> None:
    save_checkpoint(load(npz), tmp_path / "yamnet")
    again = read_checkpoint(tmp_path / "yamnet")
    assert again.spec == ZOO["YAMNet"]
    assert all(torch.equal(value, again.weights[name]) for name, value in read_released(npz).weights.items())
    assert again.provenance.assumed == read_released(npz).provenance.assumed
    assert again.provenance.source == "yamnet.npz, YAMNet with batch norm folded"


def test_optional_arrays_may_be_missing(shared: Path) -> None:
    checkpoint = read_released(shared / "weights" / "yamnet_folded.npz")
    assert sum(value.numel() for name, value in checkpoint.weights.items() if "running" not in name) - 27 == 3_729_481
    assert checkpoint.provenance.sha256.startswith("a7b876bcd1a1953d")


Change = Callable[[Arrays], None]
BETA = "layer9/depthwise_conv/bn/layer9/depthwise_conv/bn/beta:0"
KERNEL = "layer3/pointwise_conv/layer3/pointwise_conv/kernel:0"


def set_to(name: str, values: object) -> Change:
    return lambda arrays: arrays.update({name: np.asarray(values)})


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda arrays: arrays.pop(BETA), f"is not a YAMNet: 1 missing: {BETA}: download"),
        (set_to("more", np.zeros(3, np.float32)), "is not a YAMNet: 1 unexpected: more: download"),
        (
            set_to(KERNEL, np.zeros((1, 1, 128, 64), np.float32)),
            f"1 of another shape or type: {KERNEL} is (1, 1, 128, 64) float32, must be (1, 1, 64, 128) float32",
        ),
        (set_to(BETA, np.zeros(512)), f"{BETA} is (512,) float64, must be (512,) float32"),
        (
            set_to(BETA, np.full(512, np.nan, np.float32)),
            "NaN, infinity or a negative variance in layer9.depthwise_bn.bias",
        ),
        (
            set_to(BETA.replace("beta", "moving_variance"), np.full(512, -1, np.float32)),
            "NaN, infinity or a negative variance in layer9.depthwise_bn.running_var",
        ),
    ],
    ids=["missing", "unexpected", "misshapen", "of another type", "not finite", "negative variance"],
)
def test_problems_of_an_h5_file_are_named(arrays: Arrays, change: Change, message: str, tmp_path: Path) -> None:
    changed = dict(arrays)
    change(changed)
    with pytest.raises(CheckpointError, match=re.escape(message)):
        read_released(write_h5(tmp_path / "a.h5", changed))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda arrays: arrays.pop("layer2.depthwise_conv.bias"), "1 missing: layer2.depthwise_conv.bias"),
        (set_to("w|3|conv", np.zeros(3)), "1 unexpected: w|3|conv"),
        (set_to("classifier.bias", np.zeros(527, np.float32)), "classifier.bias is (527,) float32, must be (521,)"),
        (set_to("frontend.mel", np.zeros((257, 64), np.float32)), "frontend.mel of shape (257, 64) is not YAMNet's"),
        (set_to("frontend.window", np.zeros(512, np.float32)), "frontend.window of shape (512,) is not YAMNet's"),
        (set_to("class_mids", np.array(["/m/1"] * 521)), "class_mids are not YAMNet's 521 in AudioSet's order"),
        (set_to("provenance", np.array([{}], object)), "provenance is no plain array"),
    ],
    ids=["missing", "unexpected", "misshapen", "mel", "window", "classes", "objects"],
)
def test_problems_of_an_npz_file_are_named(arrays: Arrays, change: Change, message: str, tmp_path: Path) -> None:
    changed = folded(arrays)
    change(changed)
    np.savez(tmp_path / "a.npz", **changed)
    with pytest.raises(CheckpointError, match=re.escape(message)):
        read_released(tmp_path / "a.npz")


def test_an_array_shorter_than_its_header_states_is_refused(npz: Path, tmp_path: Path) -> None:
    with zipfile.ZipFile(npz) as whole, zipfile.ZipFile(tmp_path / "a.npz", "w") as broken:
        for name in whole.namelist():
            content = whole.read(name)
            if name == "classifier.bias.npy":
                content = content.replace(b"(521,), }     ", b"(521000000,), }")[: len(content)]
            broken.writestr(name, content)
    with pytest.raises(
        CheckpointError, match=re.escape("classifier.bias is no plain array, or shorter than its header states")
    ):
        read_released(tmp_path / "a.npz")


def test_a_flipped_bit_in_an_npz_file_is_found(npz: Path, tmp_path: Path) -> None:
    content = bytearray(npz.read_bytes())
    content[len(content) // 2] ^= 1
    (tmp_path / "a.npz").write_bytes(content)
    with pytest.raises(
        CheckpointError, match=r"a.npz: damaged \(Bad CRC-32 for file '.+'\): download or copy the whole"
    ):
        read_released(tmp_path / "a.npz")


def test_links_to_other_files_are_refused(arrays: Arrays, tmp_path: Path) -> None:
    write_h5(tmp_path / "other.h5", arrays)
    linked = {name: values for name, values in arrays.items() if name != BETA}
    with h5py.File(write_h5(tmp_path / "a.h5", linked), "a") as file:
        file[BETA] = h5py.ExternalLink("other.h5", BETA)
    with pytest.raises(CheckpointError, match=f"1 missing: {BETA}"):
        read_released(tmp_path / "a.h5")
    (tmp_path / "raw").write_bytes(arrays[BETA].tobytes())
    with h5py.File(write_h5(tmp_path / "b.h5", linked), "a") as file:
        file.create_dataset(BETA, (512,), "float32", external=[("raw", 0, 2048)])
    with pytest.raises(CheckpointError, match=f"the data of {BETA} are in other files"):
        read_released(tmp_path / "b.h5")


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["h5", "npz"])
def test_damaged_files_give_one_line_and_no_other_error(kind: str, h5: Path, npz: Path, tmp_path: Path) -> None:
    whole = {"h5": h5, "npz": npz}[kind].read_bytes()
    random = np.random.default_rng(0)
    refused = 0
    for _ in range(40):
        broken = bytearray(whole)
        last = 20_000 if random.random() < 0.5 else len(whole)  # the tables of both are at the ends
        for place in random.integers(8, last, size=4):
            broken[place if random.random() < 0.5 else -place] = random.integers(256)
        cut = len(broken) if random.random() < 0.7 else int(random.integers(9, len(broken)))
        path = tmp_path / f"b.{kind}"
        path.write_bytes(broken[:cut])
        try:
            read_released(path, sample_rate=16_000)
        except CheckpointError as error:
            refused += 1
            assert "\n" not in str(error)
    assert refused > 10


@pytest.mark.parametrize("content", [b"", b"text", b"PK\x03\x04 cut short"])
@pytest.mark.parametrize("suffix", [".npz", ".h5"])
def test_a_file_with_a_yamnet_suffix_is_read_as_one(tmp_path: Path, suffix: str, content: bytes) -> None:
    (tmp_path / f"yamnet{suffix}").write_bytes(content)
    with pytest.raises(CheckpointError, match=r"damaged.* \(.+\): download or copy the whole file"):
        read_released(tmp_path / f"yamnet{suffix}")


def test_yamnet_files_are_recognised_by_first_bytes_or_suffix(h5: Path, npz: Path, tmp_path: Path) -> None:
    torch.save({"model": {}}, tmp_path / "a.pth")
    assert is_yamnet_file(h5)
    assert is_yamnet_file(npz)
    assert not is_yamnet_file(tmp_path / "a.pth")


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"sample_rate": 32_000}, "sample_rate=32000: YAMNet has 16000: leave it out"),
        ({"head": "decision_max"}, "head=decision_max: YAMNet has clip: leave it out"),
        ({"labels": LabelSet.numbered(527)}, "521 classes, but 527 labels given: give one per class"),
    ],
)
def test_arguments_must_be_those_of_yamnet(options: dict[str, object], message: str, npz: Path) -> None:
    with pytest.raises(CheckpointError, match=re.escape(message)):
        read_released(npz, **options)
    own = LabelSet.numbered(521)
    assert read_released(npz, sample_rate=16_000, head="clip", labels=own).labels is own
