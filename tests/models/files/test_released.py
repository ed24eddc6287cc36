"""Released PANNs and E-PANNs files, made here with their exact keys, shapes and nesting."""

import math
import os
import re
from collections import OrderedDict
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from epanns.atomic import sha256_of
from epanns.audio.frontend import FrontEndSpec, mel_bank
from epanns.errors import CheckpointError, OutputError
from epanns.labels import LabelSet, audioset
from epanns.models.files import download
from epanns.models.files.checkpoint import save_checkpoint
from epanns.models.files.download import released_files
from epanns.models.files.load import load
from epanns.models.files.released import TORCH_FILES, export_panns, read_released, to_panns
from epanns.models.files.torch_file import Ignored, read_torch_file
from epanns.models.spec import ModelSpec
from epanns.models.tagger import released_front_end
from epanns.models.tensors import expected_forms
from epanns.models.zoo import FRONT_ENDS, ZOO, build_model, spec_of

CNN14 = (64, 64, 128, 128, 256, 256, 512, 512, 1024, 1024, 2048, 2048)
EPANNS = (64, 64, 128, 128, 256, 256, 256, 256, 512, 512, 1024, 1024)
SMALL = (2, 2, 3, 3, 4, 4, 5, 5, 6, 6, 7, 7)


def front_end(sample_rate: int, mel_bins: int = 64) -> dict[str, Tensor]:
    """Return the frozen tensors, the DFT written out anew: torchlibrosa's windowed exp(-2 pi i f t / n)."""
    spec = FRONT_ENDS[sample_rate]
    n = spec.window_size
    time, frequency = np.arange(n), np.arange(n // 2 + 1)[:, None]
    kernels = np.exp(-2j * np.pi * (frequency * time % n) / n) * (0.5 - 0.5 * np.cos(2 * np.pi * time / n))
    mel = FrontEndSpec(sample_rate, n, spec.hop_size, mel_bins, spec.fmin, spec.fmax)
    return {
        "spectrogram_extractor.stft.conv_real.weight": torch.tensor(kernels.real, dtype=torch.float32)[:, None],
        "spectrogram_extractor.stft.conv_imag.weight": torch.tensor(kernels.imag, dtype=torch.float32)[:, None],
        "logmel_extractor.melW": mel_bank(mel),
    }


def batch_norm(name: str, size: int) -> dict[str, Tensor]:
    state = {f"{name}.{key}": torch.rand(size) for key in ("weight", "bias", "running_mean", "running_var")}
    return state | {f"{name}.num_batches_tracked": torch.tensor(600_000)}


def panns_state(
    widths: tuple[int, ...] = SMALL, *, embedding: int = 8, classes: int = 527, mel_bins: int = 64, att: bool = False
) -> dict[str, Tensor]:
    """Return the state dict of a Cnn14 without its front end: twelve convolutions in six blocks."""
    state, channels = batch_norm("bn0", mel_bins), 1
    for index, width in enumerate(widths):
        block, conv = f"conv_block{index // 2 + 1}", index % 2 + 1
        state[f"{block}.conv{conv}.weight"] = zeros(width, channels, 3, 3)
        state |= batch_norm(f"{block}.bn{conv}", width)
        channels = width
    state |= {"fc1.weight": zeros(embedding, channels), "fc1.bias": zeros(embedding)}
    if not att:
        return state | {"fc_audioset.weight": zeros(classes, embedding), "fc_audioset.bias": zeros(classes)}
    for name in ("att", "cla"):
        state |= {f"att_block.{name}.weight": zeros(classes, embedding, 1), f"att_block.{name}.bias": zeros(classes)}
    return state | batch_norm("att_block.bn_att", classes)


def zeros(*shape: int) -> Tensor:
    """Return zeros that share one number, so that a file of Cnn14's size is small."""
    return torch.zeros(()).expand(shape)


def write(path: Path, content: object, *, zipped: bool = True) -> Path:
    torch.save(content, path, _use_new_zipfile_serialization=zipped)
    return path


def sampler_state() -> dict[str, Any]:
    """Return PANNs' BalancedTrainSampler.state_dict: index arrays of several types and plain lists."""
    arrays = [np.arange(3), np.zeros(2, np.int32), np.zeros(2, np.float32), np.zeros(2, bool), np.zeros(2, "S20")]
    return {"indexes_per_class": arrays, "queue": [1, 2], "pointers_of_classes": [0, 3]}


def test_original_cnn14_has_84_tensors_and_is_read_as_cnn14(tmp_path: Path) -> None:
    state = front_end(32_000) | panns_state(CNN14, embedding=2048)
    assert len(state) == 84
    path = write(tmp_path / "Cnn14_mAP=0.43.pth", {"iteration": 600_000, "model": state, "sampler": sampler_state()})
    checkpoint = read_released(path)
    assert checkpoint.spec == ZOO["Cnn14"]
    assert checkpoint.labels == audioset()
    assert checkpoint.summary()["n_params"] == 80_753_615
    assert checkpoint.provenance.source.startswith("Cnn14_mAP=0.43.pth, iteration 600000, not a known released")


def test_flat_epanns_file_gives_halved_widths(tmp_path: Path) -> None:
    state = OrderedDict(front_end(32_000) | panns_state(EPANNS, embedding=2048))
    checkpoint = read_released(write(tmp_path / "checkpoint_closeto_.44.pt", state))
    assert tuple(checkpoint.spec.widths.values()) == EPANNS
    assert checkpoint.spec.name == "Cnn14"
    assert checkpoint.summary()["n_params"] == 23_205_839


@pytest.mark.parametrize("zipped", [True, False], ids=["zip", "before torch 1.6"])
@pytest.mark.parametrize("prefix", ["", "module."])
@pytest.mark.parametrize("nesting", ["model", "state_dict", "flat"])
def test_every_nesting_of_a_state_dict_gives_the_same_weights(
    nesting: str, prefix: str, zipped: bool, tmp_path: Path
) -> None:
    state = front_end(32_000) | panns_state()
    prefixed = {prefix + name: tensor for name, tensor in state.items()}
    content = prefixed if nesting == "flat" else {"iteration": 1, nesting: prefixed, "sampler": sampler_state()}
    model = load(write(tmp_path / "a.pth", content, zipped=zipped))
    assert not model.training
    assert all(torch.equal(tensor, state[name]) for name, tensor in model.state_dict().items())


def test_sampler_written_by_numpy_1_is_read(tmp_path: Path) -> None:
    content = {"model": front_end(32_000) | panns_state(), "sampler": sampler_state()}
    path = write(tmp_path / "a.pth", content, zipped=False)
    old = path.read_bytes().replace(b"cnumpy._core.multiarray\n", b"cnumpy.core.multiarray\n")
    assert b"cnumpy.core.multiarray\n_reconstruct" in old
    path.write_bytes(old)
    assert read_released(path).spec.name == "Cnn14"


@pytest.mark.parametrize(
    ("name", "widths", "embedding"),
    [
        ("Cnn14_16k", CNN14, 2048),
        ("Cnn14_8k", CNN14, 2048),
        ("Cnn14_emb128", CNN14, 128),
        ("Cnn14_mel32", CNN14, 2048),
        ("Cnn14_mel128", CNN14, 2048),
        ("Cnn14_DecisionLevelAtt", CNN14, 2048),
        ("Cnn14_DecisionLevelMax", CNN14, 2048),
        ("Cnn14_DecisionLevelAvg", CNN14, 2048),
        ("Cnn10", CNN14[:8], 512),
    ],
)
def test_variant_is_inferred_from_shapes_and_name(
    name: str, widths: tuple[int, ...], embedding: int, tmp_path: Path
) -> None:
    row = ZOO[name]
    rate, mel_bins = row.front_end.sample_rate, row.front_end.mel_bins
    state = panns_state(widths, embedding=embedding, mel_bins=mel_bins, att=name.endswith("Att"))
    path = write(tmp_path / f"{name}_mAP=0.4.pth", {"model": front_end(rate, mel_bins) | state})
    assert read_released(path).spec == row


def test_cnn6_is_inferred_from_its_5x5_kernels(tmp_path: Path) -> None:
    state, channels = front_end(32_000) | batch_norm("bn0", 64), 1
    for block, width in enumerate((64, 128, 256, 512), start=1):
        state |= {f"conv_block{block}.conv1.weight": zeros(width, channels, 5, 5)}
        state |= batch_norm(f"conv_block{block}.bn1", width)
        channels = width
    state |= {"fc1.weight": zeros(512, 512), "fc1.bias": zeros(512)}
    state |= {"fc_audioset.weight": zeros(527, 512), "fc_audioset.bias": zeros(527)}
    assert read_released(write(tmp_path / "a.pth", state)).spec == ZOO["Cnn6"]


def file_of(spec: ModelSpec, path: Path) -> Path:
    """Write what PANNs' code would save of a network: its tensors, and those of the front end where it has one."""
    forms = expected_forms(spec)
    state = {name: zeros(*form.shape).to(getattr(torch, form.dtype)) for name, form in forms.items()}
    has_front_end = spec.reads_logmel and spec.front_end.kind == "panns"
    return write(path, {"model": released_front_end(spec.front_end) | state if has_front_end else state})


@pytest.mark.parametrize("name", [spec.name for spec in TORCH_FILES])
def test_every_network_of_panns_is_recognised_dense_and_pruned(name: str, tmp_path: Path) -> None:
    assert read_released(file_of(ZOO[name], tmp_path / f"{name}_mAP=0.4.pth")).spec == ZOO[name]
    widths = {layer: 3 + index % 7 for index, layer in enumerate(ZOO[name].widths)}
    pruned = ZOO[name].with_widths(widths).with_num_classes(5)
    assert read_released(file_of(pruned, tmp_path / f"{name}_pruned.pth")).spec == pruned


def test_the_sample_rate_of_a_waveform_network_is_assumed_or_given(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = file_of(ZOO["LeeNet11"], tmp_path / "a.pth")
    (assumption,) = read_released(path).provenance.assumed
    assert assumption.startswith("a sample rate of 32000 Hz is assumed: networks on the waveform hold no front end")
    told = read_released(path, sample_rate=16_000)
    assert (told.spec.front_end.sample_rate, told.provenance.assumed) == (16_000, ())
    row = next(file for file in released_files() if file.network == "LeeNet11")
    monkeypatch.setattr(download, "released_files", lambda: (replace(row, sha256=sha256_of(path)),))
    known = read_released(path)
    assert (known.spec, known.provenance.assumed) == (ZOO["LeeNet11"], ())


def test_front_end_in_a_file_of_a_network_that_has_none_is_refused(tmp_path: Path) -> None:
    content = {name: zeros(*form.shape) for name, form in expected_forms(ZOO["LeeNet11"]).items()}
    path = write(tmp_path / "a.pth", front_end(32_000) | content)
    with pytest.raises(CheckpointError, match="is not a LeeNet11: 3 unexpected: spectrogram_extractor.stft"):
        read_released(path)


@pytest.mark.parametrize(
    ("name", "gone", "message"),
    [
        ("ResNet54", "resnet.layer3.4.conv3.weight", "is not a ResNet54: 1 missing: resnet.layer3.4.conv3.weight"),
        ("ResNet38", "resnet.layer3.0.conv2.weight", "the nearest is ResNet38, of which 1 missing: resnet.layer3.0.c"),
        ("MobileNetV2", "features.9.conv.0.weight", "the nearest is MobileNetV2, of which 1 missing: features.9.conv"),
    ],
)
def test_a_tensor_that_is_missing_is_named(name: str, gone: str, message: str, tmp_path: Path) -> None:
    path = file_of(ZOO[name].scaled(1 / 32), tmp_path / "a.pth")
    content = torch.load(path, weights_only=True)
    del content["model"][gone]
    with pytest.raises(CheckpointError, match=re.escape(message)):
        read_released(write(path, content))


def test_a_stream_of_two_widths_is_refused(tmp_path: Path) -> None:
    path = file_of(ZOO["ResNet22"].scaled(1 / 32), tmp_path / "a.pth")
    content = torch.load(path, weights_only=True)
    content["model"]["resnet.layer1.1.conv2.weight"] = zeros(1, 2, 3, 3)
    with pytest.raises(
        CheckpointError, match=r"resnet.layer1.1.conv2.weight is \(1, 2, 3, 3\) .* must be \(2, 2, 3, 3\)"
    ):
        read_released(write(path, content))


@pytest.mark.parametrize("name", ["ResNet22", "LeeNet24"])
def test_a_head_that_the_network_does_not_have_is_refused(name: str, tmp_path: Path) -> None:
    path = file_of(ZOO[name].scaled(1 / 32), tmp_path / "a.pth")
    with pytest.raises(CheckpointError, match=f"head=decision_max .* must be clip and 3 in {name.lower()}"):
        read_released(path, head="decision_max")


def test_only_networks_of_panns_are_exported_for_the_original_code(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match="LEAN is none of PANNs' networks: save it as a checkpoint folder"):
        export_panns(build_model("LEAN", width=1 / 32), tmp_path / "a.pth")
    assert not (tmp_path / "a.pth").exists()


def test_head_can_be_given_where_the_file_name_has_none(tmp_path: Path) -> None:
    path = write(tmp_path / "renamed.pth", front_end(32_000) | panns_state())
    assert read_released(path).spec.head == "clip"
    assert read_released(path, head="decision_max").spec.name == "Cnn14_DecisionLevelMax"
    with pytest.raises(CheckpointError, match=r"head=decision_att contradicts its tensors, which have no att_block"):
        read_released(path, head="decision_att")
    with pytest.raises(
        CheckpointError, match=r"head=softmax: must be one of clip, decision_max, decision_avg, decision_"
    ):
        read_released(path, head="softmax")


def test_an_assumed_head_is_recorded_in_the_provenance(tmp_path: Path) -> None:
    state = front_end(32_000) | panns_state()
    renamed = write(tmp_path / "renamed.pth", state)
    (assumption,) = read_released(renamed).provenance.assumed
    assert assumption.startswith("head clip is assumed: decision_max and decision_avg have the same tensors")
    assert read_released(renamed, head="clip").provenance.assumed == ()
    (assumption_by_name,) = read_released(write(tmp_path / "DecisionLevelAvg.pth", state)).provenance.assumed
    assert assumption_by_name.startswith("head decision_avg is taken from the file's name: the other heads have")
    attends = write(tmp_path / "att.pth", front_end(32_000) | panns_state(att=True))
    assert read_released(attends).provenance.assumed == ()
    save_checkpoint(load(renamed), tmp_path / "saved")
    assert load(tmp_path / "saved").provenance.assumed == (assumption,)


def test_the_catalogue_gives_the_head_of_a_renamed_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = write(tmp_path / "renamed.pth", front_end(32_000) | panns_state())
    row = next(file for file in released_files() if file.network == "Cnn14_DecisionLevelMax")
    monkeypatch.setattr(download, "released_files", lambda: (replace(row, sha256=sha256_of(path)),))
    checkpoint = read_released(path)
    assert (checkpoint.spec.head, checkpoint.provenance.assumed) == ("decision_max", ())
    assert read_released(path, head="clip").spec.head == "clip"


@pytest.mark.parametrize("is_damaged", [False, True])
def test_a_file_with_the_name_of_a_released_one_and_another_sha256_is_refused(
    is_damaged: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = write(tmp_path / "Cnn14_DecisionLevelMax_mAP=0.385.pth", front_end(32_000) | panns_state(), zipped=False)
    row = next(file for file in released_files() if file.name == "Cnn14_mAP=0.431.pth")
    named = next(file for file in released_files() if file.name == path.name)
    ours = replace(row, sha256=sha256_of(path))
    monkeypatch.setattr(download, "released_files", lambda: (named, ours))
    if is_damaged:
        content = bytearray(path.read_bytes())
        content[-1] ^= 0x40
        path.write_bytes(content)
        with pytest.raises(
            CheckpointError,
            match=rf"mAP=0\.385\.pth: sha256 {sha256_of(path)}, must be {named.sha256} of the released file with this",
        ):
            read_released(path)
    else:
        checkpoint = read_released(path)
        assert (checkpoint.spec.head, checkpoint.provenance.assumed) == ("clip", ())
        assert checkpoint.provenance.source.endswith(f"the released file {row.url}")


def test_head_that_contradicts_an_attention_block_is_refused(tmp_path: Path) -> None:
    path = write(tmp_path / "a.pth", front_end(32_000) | panns_state(att=True))
    with pytest.raises(
        CheckpointError, match=r"head=clip contradicts its tensors, which have an att_block: leave --head"
    ):
        read_released(path, head="clip")


def test_file_without_front_end_needs_a_sample_rate(tmp_path: Path) -> None:
    path = write(tmp_path / "a.pth", panns_state())
    with pytest.raises(
        CheckpointError,
        match=r"its sample rate is unknown: import it first: epanns import FILE --out DIR --sample-rate N, with N the "
        r"one of 32000, 16000, 8000 .* \(in Python: epanns\.load\(path, sample_rate=N\)\)",
    ):
        load(path)
    assert load(path, sample_rate=16_000).spec.front_end == FRONT_ENDS[16_000]
    with pytest.raises(CheckpointError, match=r"sample_rate=44100: released networks are of 32000, 16000, 8000 Hz"):
        load(path, sample_rate=44_100)


def test_a_16_khz_file_gets_a_16_khz_front_end(tmp_path: Path) -> None:
    path = write(tmp_path / "a.pth", front_end(16_000) | panns_state())
    assert load(path).spec.front_end == FRONT_ENDS[16_000]
    with pytest.raises(CheckpointError, match=r"its front end is that of 16000 Hz, not of sample_rate=32000: leave"):
        load(path, sample_rate=32_000)


def test_front_end_of_mixed_rates_is_refused(tmp_path: Path) -> None:
    mixed = front_end(16_000) | {"logmel_extractor.melW": mel_bank(FRONT_ENDS[32_000])}
    with pytest.raises(CheckpointError, match=r"melW of shape \(513, 64\) is not of the front end at 16000 Hz"):
        load(write(tmp_path / "a.pth", mixed | panns_state()))


def test_front_end_with_another_mel_range_is_refused(tmp_path: Path) -> None:
    other = FrontEndSpec(32_000, 1024, 320, 64, 0, 16_000)
    state = front_end(32_000) | {"logmel_extractor.melW": mel_bank(other)} | panns_state()
    with pytest.raises(
        CheckpointError, match=r"melW .* is not of the front end at 32000 Hz .* largest difference 0\.0"
    ):
        load(write(tmp_path / "a.pth", state))


def test_unknown_window_and_half_a_front_end_are_refused(tmp_path: Path) -> None:
    state = front_end(32_000) | panns_state()
    state["spectrogram_extractor.stft.conv_real.weight"] = zeros(1025, 1, 2048)
    with pytest.raises(CheckpointError, match=r"STFT window of 2048 samples is none of PANNs' \(1024 at 32000 Hz, 512"):
        load(write(tmp_path / "a.pth", state))
    del state["logmel_extractor.melW"]
    with pytest.raises(CheckpointError, match=r"of the front end's tensors only .*conv_imag.weight: give all three or"):
        load(write(tmp_path / "a.pth", state))


def test_classes_other_than_527_are_numbered_or_named(tmp_path: Path) -> None:
    path = write(tmp_path / "a.pth", front_end(32_000) | panns_state(classes=200))
    assert read_released(path).labels == LabelSet.numbered(200)
    names = LabelSet.of([f"sound {index}" for index in range(200)])
    assert read_released(path, labels=names).labels == names
    with pytest.raises(CheckpointError, match=r"200 classes, but 2 labels given: give one per class"):
        read_released(path, labels=LabelSet.of(["a", "b"]))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"fc1.bias": None}, "is not a Cnn14: 1 missing: fc1.bias: give the state_dict() of a network that `epanns"),
        ({"pre_conv0.weight": zeros(64, 1, 11)}, "is not a Cnn14: 1 unexpected: pre_conv0.weight"),
        ({"conv_block2.bn1.bias": zeros(9)}, "conv_block2.bn1.bias is (9,) float32, must be (3,) float32"),
        ({"conv_block2.conv1.weight": zeros(3, 2, 5, 5)}, "is (3, 2, 5, 5) float32, must be (3, 2, 3, 3) float32"),
        ({"conv_block6.conv2.weight": None}, "of a network that epanns cannot build; it reads Cnn6, Cnn10, Cnn14,"),
        ({"fc_audioset.weight": None}, "of a network that epanns cannot build"),
        ({"bn0.weight": torch.tensor(1.0)}, "bn0.weight is () float32, must be (64,) float32: give the state_dict()"),
        ({"bn0.weight": None}, "the nearest is Cnn14, of which 1 missing: bn0.weight: give the state_dict()"),
        ({"fc1.bias": torch.zeros(8, dtype=torch.complex64)}, "fc1.bias is (8,) complex64, must be (8,) float32"),
        ({"bn0.weight": torch.zeros(0)}, "mel_bins=0: must be a whole number in [1, 1024]"),
        ({"fc1.weight": zeros(70_000, 7)}, "embedding_size=70000: must be a whole number in [1, 65536]"),
        (
            {"spectrogram_extractor.stft.conv_real.weight": torch.tensor(1.0)},
            "STFT window of 0 samples is none of PANNs'",
        ),
    ],
)
def test_tensors_that_are_no_known_network_are_refused(
    changes: dict[str, Tensor | None], message: str, tmp_path: Path
) -> None:
    state = {**front_end(32_000), **panns_state(), **changes}
    path = write(tmp_path / "a.pth", {name: tensor for name, tensor in state.items() if tensor is not None})
    with pytest.raises(CheckpointError, match=re.escape(message)) as caught:
        load(path)
    assert str(path) in str(caught.value)


@pytest.mark.parametrize("name", ["fc1.bias", "conv_block1.bn1.running_var", "logmel_extractor.melW"])
@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
def test_weights_that_diverged_are_refused(name: str, value: float, tmp_path: Path) -> None:
    state = front_end(32_000) | panns_state()
    state[name] = state[name].clone()
    state[name].view(-1)[-1] = value
    with pytest.raises(
        CheckpointError,
        match=rf"a\.pth: NaN or infinity in {re.escape(name)}: its weights have diverged or are damaged: download",
    ):
        load(write(tmp_path / "a.pth", {"model": state}))


@pytest.mark.filterwarnings("ignore")  # torch calls some of these beta and others deprecated
@pytest.mark.parametrize(
    "convert",
    [
        Tensor.to_sparse,
        Tensor.to_sparse_csr,
        lambda tensor: torch.quantize_per_tensor(tensor, 0.1, 0, torch.qint8),
        lambda tensor: tensor.to("meta"),
    ],
    ids=["sparse", "csr", "quantised", "meta"],
)
def test_tensors_that_are_not_dense_are_refused(convert: Callable[[Tensor], Tensor], tmp_path: Path) -> None:
    state = front_end(32_000) | panns_state() | {"fc1.weight": convert(torch.eye(8))}
    path = write(tmp_path / "a.pth", state)
    with pytest.raises(CheckpointError, match=r"a\.pth: fc1\.weight: sparse, quantised or without values, and epanns"):
        load(path)


def test_names_from_a_file_are_escaped_in_messages(tmp_path: Path) -> None:
    path = write(tmp_path / "a.pth", front_end(32_000) | panns_state() | {"a\n\x1b[2J": torch.zeros(1)})
    with pytest.raises(CheckpointError, match=re.escape(r"1 unexpected: 'a\n\x1b[2J'")):
        load(path)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ([1, 2], r"holds a list and no tensors by name"),
        ({}, r"holds a dict and no tensors by name"),
        ({"model": {"a.b": 1, "b": torch.zeros(1)}}, r"a.b are no tensors; a PANNs file is \{'model': state_dict\}"),
    ],
)
def test_content_that_is_no_state_dict_is_refused(content: object, message: str, tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match=message):
        load(write(tmp_path / "a.pth", content))


class RunsCode:
    def __init__(self, proof: Path) -> None:
        self.proof = proof

    def __reduce__(self) -> tuple[Any, ...]:
        return os.system, (f"touch {self.proof}",)


@pytest.mark.parametrize("zipped", [True, False], ids=["zip", "before torch 1.6"])
def test_pickle_that_would_run_code_is_refused_and_nothing_runs(zipped: bool, tmp_path: Path) -> None:
    proof = tmp_path / "it ran"
    path = write(tmp_path / "evil.pth", {"model": panns_state(), "sampler": RunsCode(proof)}, zipped=zipped)
    with pytest.raises(CheckpointError, match=r"evil.pth: refused without running it, because it names posix.system;"):
        load(path)
    assert not proof.exists()


def test_whole_module_pickle_is_refused_with_every_global(tmp_path: Path) -> None:
    path = write(tmp_path / "a.pth", nn.Sequential(nn.Linear(2, 2)))
    with pytest.raises(
        CheckpointError, match=r"it names torch.nn.modules.container.Sequential, torch.nn.modules.linear.Linear;"
    ):
        load(path)


def test_arrays_beside_the_weights_are_never_built(tmp_path: Path) -> None:
    path = write(tmp_path / "a.pth", {"model": panns_state(), "sampler": sampler_state()})
    sampler = read_torch_file(path).content["sampler"]
    assert {type(array) for array in sampler["indexes_per_class"]} == {Ignored}
    assert sampler["queue"] == [1, 2]


def test_arrays_in_place_of_weights_are_refused(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match=r"a.pth: fc1.bias are no tensors"):
        load(write(tmp_path / "a.pth", panns_state() | {"fc1.bias": np.zeros(8, np.float32)}))


def test_other_names_of_numpy_are_refused(tmp_path: Path) -> None:
    path = write(tmp_path / "a.pth", {"model": panns_state(), "iteration": np.poly1d([1, 2])})
    with pytest.raises(CheckpointError, match=r"refused without running it, because it names numpy.*poly1d"):
        load(path)


@pytest.mark.parametrize("zipped", [True, False], ids=["zip", "before torch 1.6"])
def test_damaged_files_give_one_line_and_no_other_error(zipped: bool, tmp_path: Path) -> None:
    content = {"iteration": 1, "model": panns_state(), "sampler": sampler_state()}
    whole = write(tmp_path / "a.pth", content, zipped=zipped).read_bytes()
    random = np.random.default_rng(0)
    for _ in range(150):
        broken = bytearray(whole)
        for place in random.integers(0, len(whole) if zipped else 2000, size=3):
            broken[place] = random.integers(256)
        cut = len(broken) if random.random() < 0.7 else int(random.integers(len(broken)))
        (tmp_path / "b.pth").write_bytes(broken[:cut])
        try:
            read_released(tmp_path / "b.pth", sample_rate=32_000)
        except CheckpointError as error:
            assert "\n" not in str(error)


def test_missing_file_and_folder_are_named(tmp_path: Path) -> None:
    for path in (tmp_path / "absent.pth", tmp_path):
        with pytest.raises(CheckpointError, match=rf"{path}: no such file; give a .pth or .pt"):
            read_released(path)


@pytest.mark.parametrize("sample_rate", FRONT_ENDS)
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64])
def test_weights_of_other_precisions_become_float32(dtype: torch.dtype, sample_rate: int, tmp_path: Path) -> None:
    state = {
        name: tensor.to(dtype) if tensor.is_floating_point() else tensor
        for name, tensor in (front_end(sample_rate) | panns_state()).items()
    }
    model = load(write(tmp_path / "a.pth", state))
    assert model.spec.front_end == FRONT_ENDS[sample_rate]
    floating = {name: tensor for name, tensor in model.state_dict().items() if tensor.is_floating_point()}
    assert all(tensor.dtype == torch.float32 for tensor in floating.values())
    assert all(torch.equal(tensor, state[name].float()) for name, tensor in floating.items())


def test_half_precision_does_not_hide_another_mel_range(tmp_path: Path) -> None:
    other = FrontEndSpec(32_000, 1024, 320, 64, 0, 16_000)
    state = front_end(32_000) | {"logmel_extractor.melW": mel_bank(other)} | panns_state()
    halves = {name: tensor.half() if tensor.is_floating_point() else tensor for name, tensor in state.items()}
    with pytest.raises(CheckpointError, match=r"melW .* is not of the front end at 32000 Hz"):
        load(write(tmp_path / "a.pth", halves))


@pytest.mark.parametrize(
    "name",
    ["Cnn6", "Cnn10", "Cnn14_16k", "Cnn14_mel32", "Cnn14_DecisionLevelAtt", "ResNet54", "MobileNetV2", "DaiNet19"],
)
def test_an_exported_file_is_read_back_equal(name: str, tmp_path: Path) -> None:
    model = build_model(spec_of(name, num_classes=4).scaled(0.04)).eval()
    export_panns(model, tmp_path / "a.pth")
    again = load(tmp_path / "a.pth")
    assert again.spec.to_dict() | {"name": name} == model.spec.to_dict()
    assert all(torch.equal(tensor, again.state_dict()[key]) for key, tensor in model.state_dict().items())


def test_exported_file_has_the_keys_of_the_original(tmp_path: Path) -> None:
    spec = spec_of("Cnn14").with_widths(dict(zip(ZOO["Cnn14"].widths, SMALL, strict=True)))
    state = to_panns(build_model(spec))["model"]
    original = front_end(32_000) | panns_state(SMALL, embedding=2048)
    assert {name: tensor.shape for name, tensor in state.items()} == {n: t.shape for n, t in original.items()}
    for name, tensor in front_end(32_000).items():
        torch.testing.assert_close(state[name], tensor, rtol=0, atol=1e-6)
    assert torch.load(write(tmp_path / "a.pth", {"model": state}), weights_only=True)["model"].keys() == original.keys()


def test_exported_tensors_are_copies() -> None:
    model = build_model("Cnn6", width=0.05)
    to_panns(model)["model"]["fc1.bias"].fill_(math.pi)
    assert not (model.fc1.bias == math.pi).any()


def test_export_refuses_an_existing_file(tmp_path: Path) -> None:
    (tmp_path / "a.pth").write_text("mine")
    with pytest.raises(OutputError, match=r"a.pth exists already"):
        export_panns(build_model("Cnn6", width=0.05), tmp_path / "a.pth")
    assert (tmp_path / "a.pth").read_text() == "mine"


def test_saved_checkpoint_names_the_released_file_as_parent(tmp_path: Path) -> None:
    model = load(write(tmp_path / "a.pth", front_end(32_000) | panns_state()))
    save_checkpoint(model, tmp_path / "saved")
    provenance = load(tmp_path / "saved").provenance
    assert provenance.parent_sha256 == model.provenance.sha256
    assert provenance.source == "a.pth, not a known released file"
