"""Write mn.npz: what EfficientAT's own code computes, for tests/models/families/test_mn.py.

Run once, in an environment of its own, with a copy of https://github.com/fschmid56/EfficientAT (commit a425fdc) and its
released file ``mn04_as_mAP_432.pt``: ``pip install torch torchaudio torchvision numpy && PYTHONPATH=. python
tests/golden/make_mn_golden.py EFFICIENTAT mn04_as_mAP_432.pt``. Nothing of EfficientAT is copied: its modules are
imported from the path given. epanns itself never needs them, and the tests read only the arrays written here.
"""

import os
import sys
from collections.abc import Mapping
from importlib.metadata import version
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

_OUT = Path(__file__).resolve().with_name("mn.npz")
RATE = 32_000
LOGMEL_SAMPLES = 9_601  # of each waveform, for the golden log-mel: 31 frames
FILLED = {"mn01": 0.1, "mn04": 0.4}  # name -> width multiplier of the networks with weights by formula
CLASSES = 7  # of these networks


def waveforms() -> dict[str, np.ndarray]:
    """Return tones, noise, a chirp, clicks and silence of 1 to 4 s, float32 in [-1, 1] at 32 kHz."""
    rng = np.random.default_rng(20221115)

    def time(seconds: float) -> np.ndarray:
        return np.arange(round(seconds * RATE)) / RATE

    t = time(2.0)
    harmonics = [np.sin(2 * np.pi * 220 * k * t) / k for k in range(1, 9)]
    tones = 0.3 * np.sum(harmonics, axis=0) * (0.6 + 0.4 * np.sin(2 * np.pi * 3 * t))
    t = time(4.0)
    chirp = 0.7 * np.sin(2 * np.pi * (50 + 1_500 * t) * t)
    t = time(3.3)
    clicks = 1e-3 * rng.standard_normal(len(t)) + 0.9 * (np.arange(len(t)) % 6_400 == 100)
    bursts = 0.2 * rng.standard_normal(len(t)) * (np.sin(2 * np.pi * 1.5 * t) > 0)
    waves = {
        "tones": tones,
        "noise": 0.1 * rng.standard_normal(2 * RATE + 17),
        "chirp": chirp,
        "clicks": clicks,
        "bursts": bursts,
        "silence": np.zeros(RATE),
    }
    return {name: np.clip(wave, -1, 1).astype(np.float32) for name, wave in waves.items()}


def filled(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Return a state dict of the same names and shapes with weights by formula, of a size that keeps signals alive."""
    rng = np.random.default_rng(1905)
    values = {}
    for name, tensor in state.items():
        shape = tuple(tensor.shape)
        noise = rng.standard_normal(shape)
        if name.endswith("running_var"):
            value = 0.5 + rng.random(shape)
        elif name.endswith("num_batches_tracked"):
            value = np.array(1)
        elif len(shape) > 1:
            value = noise * (1.2 / np.prod(shape[1:])) ** 0.5
        elif name.endswith(".weight"):
            value = 1 + 0.2 * noise
        else:
            value = 0.1 * noise
        values[name] = torch.from_numpy(np.asarray(value)).to(tensor.dtype)
    return values


def main(upstream: Path, weights: Path) -> None:
    """Compute and write the golden values."""
    arrays: dict[str, np.ndarray] = {}
    released = torch.load(weights, weights_only=True)
    sys.path.insert(0, str(upstream))
    os.chdir(upstream)  # its helpers read the class names from there
    from models.mn.model import get_model
    from models.preprocess import AugmentMelSTFT

    front_end = AugmentMelSTFT(freqm=0, timem=0).eval()
    networks = {"released": get_model(width_mult=0.4)}
    networks["released"].load_state_dict(released)
    for name, multiplier in FILLED.items():
        networks[name] = get_model(num_classes=CLASSES, width_mult=multiplier)
        networks[name].load_state_dict(filled(networks[name].state_dict()))
    with torch.no_grad():
        for name, wave in waveforms().items():
            waveform = torch.from_numpy(wave)[None]
            arrays[f"logmel/{name}"] = front_end(waveform[:, :LOGMEL_SAMPLES])[0].T.numpy().astype(np.float32)
            for network, model in networks.items():
                logits, pooled = model.eval()(front_end(waveform)[:, None])
                arrays[f"{network}/{name}/logits"] = logits[0].numpy()
                arrays[f"{network}/{name}/pooled"] = pooled[0].numpy()
    arrays["versions"] = np.array([f"{name} {version(name)}" for name in ("torch", "torchaudio", "torchvision")])
    np.savez_compressed(_OUT, **arrays)


if __name__ == "__main__":
    main(*(Path(argument).resolve() for argument in sys.argv[1:]))
