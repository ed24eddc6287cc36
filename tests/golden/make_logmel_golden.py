"""Write logmel.npz: what torchlibrosa computes, for tests/audio/test_frontend.py.

Run once, in an environment of its own: ``pip install torch torchlibrosa librosa && python make_logmel_golden.py``.
epanns itself never needs torchlibrosa.
"""

from importlib.metadata import version
from pathlib import Path

import numpy as np
import torch
from torchlibrosa.stft import LogmelFilterBank, Spectrogram

# sample rate -> window, hop, mel bins, fmin, fmax: the settings of Cnn14, Cnn14_16k, Cnn14_8k, and of 128 mel bins.
SETTINGS = {
    "32k": (32_000, 1024, 320, 64, 50, 14_000),
    "16k": (16_000, 512, 160, 64, 50, 8_000),
    "8k": (8_000, 256, 80, 64, 50, 4_000),
    "32k_mel128": (32_000, 1024, 320, 128, 50, 14_000),
}


def signals(sample_rate: int) -> dict[str, np.ndarray]:
    """Return half a second of noise, a chirp, clicks on faint noise, and silence; float32 in [-1, 1]."""
    rng = np.random.default_rng(20230518)
    samples = sample_rate // 2
    time = np.arange(samples) / sample_rate
    clicks = 1e-3 * rng.standard_normal(samples)
    clicks[:: samples // 7] = 0.9
    waves = {
        "noise": 0.3 * rng.standard_normal(samples),
        "chirp": 0.8 * np.sin(2 * np.pi * (100 + 0.4 * sample_rate * time) * time),
        "clicks": clicks,
        "silence": np.zeros(samples),
    }
    return {name: np.clip(wave, -1, 1).astype(np.float32) for name, wave in waves.items()}


def main() -> None:
    """Compute and write the golden values."""
    arrays: dict[str, np.ndarray] = {}
    for setting, (sample_rate, window, hop, mel_bins, fmin, fmax) in SETTINGS.items():
        stft = Spectrogram(n_fft=window, hop_length=hop, win_length=window, freeze_parameters=True)
        mel = LogmelFilterBank(
            sr=sample_rate, n_fft=window, n_mels=mel_bins, fmin=fmin, fmax=fmax, ref=1.0, amin=1e-10, top_db=None
        )
        arrays[f"{setting}/melW"] = mel.melW.detach().numpy()
        for name, wave in signals(sample_rate).items():
            with torch.no_grad():
                logmel = mel(stft(torch.from_numpy(wave)[None]))
            arrays[f"{setting}/{name}/waveform"] = wave
            arrays[f"{setting}/{name}/logmel"] = logmel[0, 0].numpy()
        if setting == "8k":  # one setting's kernels suffice: they follow one formula
            arrays[f"{setting}/conv_real"] = stft.stft.conv_real.weight.detach().numpy()
            arrays[f"{setting}/conv_imag"] = stft.stft.conv_imag.weight.detach().numpy()
    arrays["versions"] = np.array([f"{name} {version(name)}" for name in ("torchlibrosa", "librosa", "torch")])
    np.savez_compressed(Path(__file__).with_name("logmel.npz"), **arrays)


if __name__ == "__main__":
    main()
