"""Write panns_tensors.txt: names and shapes of the tensors of PANNs' networks, the Cnn family apart.

Run with a checkout of https://github.com/qiuqiangkong/audioset_tagging_cnn and torchlibrosa installed:
``python tests/golden/make_panns_tensors.py CHECKOUT/pytorch``.
"""

import sys
from collections.abc import Mapping
from pathlib import Path

_NORM = ("weight", "bias", "running_mean", "running_var", "num_batches_tracked")
_FRONT_END = ("spectrogram_extractor.", "logmel_extractor.")
_NETWORKS = {
    "ResNet22": 64,
    "ResNet38": 64,
    "ResNet54": 64,
    "MobileNetV1": 64,
    "MobileNetV2": 64,
    "Wavegram_Cnn14": 64,
    "DaiNet19": 64,
    "LeeNet11": 64,
    "LeeNet24": 64,
    "Res1dNet31": 64,
    "Res1dNet51": 64,
    "Wavegram_Logmel_Cnn14": 64,
    "Wavegram_Logmel128_Cnn14": 128,
}


def condensed(shapes: Mapping[str, tuple[int, ...]]) -> str:
    """Return ``name=shape`` of every tensor, sorted; a batch norm's five tensors as ``name~width``; no front end."""
    parts = set()
    for name, shape in shapes.items():
        module = name.rpartition(".")[0]
        if name.startswith(_FRONT_END):
            continue
        width = shapes[f"{module}.weight"]
        if f"{module}.running_mean" not in shapes:
            parts.add(f"{name}={'x'.join(map(str, shape))}")
        elif [shapes.get(f"{module}.{part}") for part in _NORM] == [*[width] * 4, ()]:
            parts.add(f"{module}~{width[0]}")
        else:
            raise ValueError(f"{module} is no batch norm of five tensors")
    return " ".join(sorted(parts))


def main() -> None:
    """Build each network as PANNs' own code does."""
    sys.path.insert(0, sys.argv[1])
    import models  # the checkout's

    lines = []
    for name, mel_bins in _NETWORKS.items():
        network = getattr(models, name)(32000, 1024, 320, mel_bins, 50, 14000, 527)
        lines.append(f"{name}: {condensed({key: tuple(value.shape) for key, value in network.state_dict().items()})}")
    Path(__file__).with_name("panns_tensors.txt").write_text("\n".join(lines) + "\n")


if __name__ == "__main__":
    main()
