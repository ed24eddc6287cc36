"""The peer of the training and evaluation benchmarks: Cnn14 and its loops as in PANNs.

A reimplementation of audioset_tagging_cnn `pytorch/models.py`, `main.py` and `pytorch_utils.py`: torchlibrosa's front
end (Fourier transform by convolution), float32, contiguous memory, plain Adam. It requires torchlibrosa::

    pip install --target PLACE --no-deps torchlibrosa librosa numba llvmlite lazy_loader pooch audioread msgpack \\
        decorator platformdirs requests standard-aifc standard-sunau charset_normalizer idna urllib3 certifi
    PYTHONPATH=PLACE python benchmarks/train_step.py
"""

import sys
from collections.abc import Iterable, Iterator
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor, nn

try:
    from torchlibrosa.augmentation import SpecAugmentation
    from torchlibrosa.stft import LogmelFilterBank, Spectrogram
except ImportError as missing:
    sys.exit(f"the peer requires torchlibrosa ({missing}): install it with the command in benchmarks/panns_loop.py")

SAMPLE_RATE, CLASSES = 32_000, 527
WIDTHS = (64, 128, 256, 512, 1024, 2048)
Arrays = dict[str, NDArray[Any]]


class Block(nn.Module):
    """Two convolutions, each with batch norm and ReLU, then average pooling."""

    def __init__(self, channels: int, width: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(channels, width, 3, padding=1, bias=False)
        self.conv2 = nn.Conv2d(width, width, 3, padding=1, bias=False)
        self.bn1, self.bn2 = nn.BatchNorm2d(width), nn.BatchNorm2d(width)

    def forward(self, maps: Tensor, pool: int) -> Tensor:
        maps = F.relu_(self.bn1(self.conv1(maps)))
        maps = F.relu_(self.bn2(self.conv2(maps)))
        return F.avg_pool2d(maps, kernel_size=(pool, pool))


class PannsCnn14(nn.Module):
    """Cnn14 with the tensor names of the released files, which epanns uses too."""

    def __init__(self, classes: int = CLASSES) -> None:
        super().__init__()
        self.spectrogram_extractor = Spectrogram(
            n_fft=1024, hop_length=320, win_length=1024, window="hann", center=True, pad_mode="reflect",
            freeze_parameters=True,
        )  # fmt: skip
        self.logmel_extractor = LogmelFilterBank(
            sr=SAMPLE_RATE, n_fft=1024, n_mels=64, fmin=50, fmax=14_000, ref=1.0, amin=1e-10, top_db=None,
            freeze_parameters=True,
        )  # fmt: skip
        self.spec_augmenter = SpecAugmentation(
            time_drop_width=64, time_stripes_num=2, freq_drop_width=8, freq_stripes_num=2
        )
        self.bn0 = nn.BatchNorm2d(64)
        for number, (channels, width) in enumerate(zip((1, *WIDTHS), WIDTHS, strict=False), start=1):
            self.add_module(f"conv_block{number}", Block(channels, width))
        self.fc1 = nn.Linear(2048, 2048)
        self.fc_audioset = nn.Linear(2048, classes)

    def forward(self, waveform: Tensor, mixup_lambda: Tensor | None = None) -> dict[str, Tensor]:
        maps = self.logmel_extractor(self.spectrogram_extractor(waveform))
        maps = self.bn0(maps.transpose(1, 3)).transpose(1, 3)
        if self.training:
            maps = self.spec_augmenter(maps)
        if self.training and mixup_lambda is not None:
            maps = mixed(maps, mixup_lambda)
        for number in range(1, 7):
            maps = self.get_submodule(f"conv_block{number}")(maps, pool=2 if number < 6 else 1)
            maps = F.dropout(maps, p=0.2, training=self.training)
        over_time = maps.mean(dim=3)
        pooled = over_time.max(dim=2)[0] + over_time.mean(dim=2)
        hidden = F.relu_(self.fc1(F.dropout(pooled, p=0.5, training=self.training)))
        embedding = F.dropout(hidden, p=0.5, training=self.training)
        return {"clipwise_output": torch.sigmoid(self.fc_audioset(hidden)), "embedding": embedding}


def mixed(values: Tensor, mixup_lambda: Tensor) -> Tensor:
    """Mix clip 2i with clip 2i + 1, with one weight per clip."""
    first, second = (values[half::2].transpose(0, -1) * mixup_lambda[half::2] for half in (0, 1))
    return (first + second).transpose(0, -1)


def steps(batches: Iterable[Arrays]) -> Iterator[float]:
    """Train a new network on batches of ``waveform`` and ``target`` float32, and yield the loss of each step."""
    model = PannsCnn14()
    optimizer = torch.optim.Adam(
        model.parameters(), lr=1e-3, betas=(0.9, 0.999), eps=1e-8, weight_decay=0.0, amsgrad=True
    )
    random = np.random.RandomState(1234)
    for batch in batches:
        drawn = random.beta(1.0, 1.0, len(batch["waveform"]) // 2)
        weights = torch.Tensor(np.stack([drawn, 1 - drawn], axis=1).reshape(-1))
        waveform, target = torch.Tensor(batch["waveform"]), torch.Tensor(batch["target"])
        model.train()
        output = model(waveform, weights)
        loss = F.binary_cross_entropy(output["clipwise_output"], mixed(target, weights))
        loss.backward()
        value = float(loss.detach())  # PANNs prints it
        optimizer.step()
        optimizer.zero_grad()
        yield value


def forward(model: nn.Module, batches: Iterable[Arrays]) -> Arrays:
    """Return the scores and targets of all clips as PANNs' evaluator collects them."""
    outputs: dict[str, list[NDArray[Any]]] = {"audio_name": [], "clipwise_output": [], "target": []}
    for batch in batches:
        waveform = torch.Tensor(batch["waveform"])
        with torch.no_grad():
            model.eval()
            output = model(waveform)
        outputs["audio_name"].append(batch["audio_name"])
        outputs["clipwise_output"].append(output["clipwise_output"].data.cpu().numpy())
        outputs["target"].append(batch["target"])
    return {name: np.concatenate(arrays, axis=0) for name, arrays in outputs.items()}
