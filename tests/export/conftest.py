"""What tests of export share: they skip themselves without the extra, and one network is exported for all of them."""

import importlib.util
from pathlib import Path

import pytest
import torch
from torch import nn

from epanns.audio.frontend import FrontEndSpec
from epanns.data.batches.dataset import PackDataset
from epanns.labels import LabelSet
from epanns.models.files.checkpoint import save_checkpoint
from epanns.models.spec import ModelSpec, conv_widths
from epanns.models.tagger import Tagger
from epanns.models.zoo import build_model
from tests.builders import output_of

MISSING = [name for name in ("onnx", "onnxruntime", "onnxscript") if importlib.util.find_spec(name) is None]
collect_ignore_glob = ["test_*.py"] if MISSING else []


def small_network(labels: LabelSet | None = None) -> Tagger:
    """Cnn6 with 6 to 12 channels for `tiny_packs`: 8 kHz and 4 classes, batch norms and biases that matter."""
    spec = ModelSpec(
        name="small",
        family="cnn",
        front_end=FrontEndSpec(8_000, 256, 80, 32, 50, 4_000),
        widths=conv_widths(6, 8, 10, 12, convs_per_block=1),
        embedding_size=9,
        num_classes=4,
    )
    torch.manual_seed(3)
    model = build_model(spec, labels=labels)
    for module in model.modules():
        if isinstance(module, nn.modules.batchnorm._BatchNorm):
            nn.init.uniform_(module.running_mean, -0.3, 0.3)
            nn.init.uniform_(module.running_var, 0.5, 1.5)
            nn.init.uniform_(module.weight, 0.3, 1.0)
            nn.init.normal_(module.bias, 0, 0.3)
    for layer in (model.fc1, model.fc_audioset):
        nn.init.normal_(layer.bias, 0, 0.1)
    nn.init.constant_(model.bn0.running_mean, -40.0)
    nn.init.constant_(model.bn0.running_var, 400.0)
    return model.eval()


@pytest.fixture
def model(tiny_packs: dict[str, Path]) -> Tagger:
    return small_network(PackDataset([tiny_packs["train"]]).labels)


@pytest.fixture(scope="session")
def checkpoint(tmp_path_factory: pytest.TempPathFactory, tiny_packs: dict[str, Path]) -> Path:
    """The small network as a checkpoint."""
    folder = tmp_path_factory.mktemp("checkpoint") / "small"
    save_checkpoint(small_network(PackDataset([tiny_packs["train"]]).labels), folder)
    return folder


@pytest.fixture(scope="session")
def said(tmp_path_factory: pytest.TempPathFactory, checkpoint: Path, tiny_packs: dict[str, Path]) -> tuple[Path, str]:
    """Folder and stdout of ``epanns export --int8``: calibrated on 48 clips, compared on 12 that were held out."""
    from epanns.cli.export import command

    out = tmp_path_factory.mktemp("export") / "folder"
    options = ["--int8", "--calibration", tiny_packs["train"], "--latency", "--json"]
    return out, output_of(command, checkpoint, "--out", out, *options)


@pytest.fixture
def folder(said: tuple[Path, str]) -> Path:
    """The small network exported."""
    return said[0]
