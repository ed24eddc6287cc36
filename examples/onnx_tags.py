"""Tag a sound file with an exported network, with NumPy, soundfile and ONNX Runtime, without torch and epanns.

    python examples/onnx_tags.py FOLDER SOUND.wav [--file model.int8.onnx]

FOLDER is the output folder of `epanns export`; its front_end.json defines the front end that is computed here. The
sound file must have the sample rate of the network.
"""

import argparse
import json
import sys
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime
import soundfile
from numpy.typing import NDArray

Array = NDArray[np.float64]


def inputs_of(wave: Array, described: dict[str, Any]) -> dict[str, NDArray[np.float32]]:
    """Return the inputs of the graph for one clip ``(samples,)`` in [-1, 1]; `described` is front_end.json."""
    wave = long_enough(wave, described)
    if "windows" in described:
        made = windowed(wave, described)
    else:
        made = {"waveform": wave}
        if "logmel" in described:
            made["logmel"] = log_mel(wave, described)[None]
    return {given["name"]: made[given["name"]].astype(np.float32)[None] for given in described["inputs"]}


def long_enough(wave: Array, described: dict[str, Any]) -> Array:
    """Repeat a clip that is too short, or pad it with zeros if the network reads whole patches."""
    if described["short_clips"].startswith("repeated"):
        repeats = -(-described["minimum_samples"] // len(wave))
        return np.tile(wave, repeats)[: described["minimum_samples"]] if repeats > 1 else wave
    given = described["logmel"]
    patch = (given["patch_frames"] - 1) * given["hop_size"] + given["window_size"]
    hop = given["patch_hop"] * given["hop_size"]
    hops = max(0, -(-(len(wave) - patch) // hop))
    return np.pad(wave, (0, patch + hops * hop - len(wave)))


def windowed(wave: Array, described: dict[str, Any]) -> dict[str, Array]:
    """Return the log-mel ``(windows, time, mel)`` of overlapping windows and, if the graph reads them, their pieces."""
    given = described["windows"]
    starts = list(range(0, len(wave) - given["samples"] + 1, given["hop"]))
    if starts[-1] + given["samples"] < len(wave):
        starts.append(len(wave) - given["samples"])
    windows = np.stack([wave[start : start + given["samples"]] for start in starts])
    starts_of_windows = windows[:, : given["logmel_of_the_first"]]
    made = {"logmel": np.stack([log_mel(window, described) for window in starts_of_windows])}
    for wanted in described["inputs"]:
        if wanted["name"] == "pieces":
            made["pieces"] = windows.reshape(len(windows), *wanted["shape"][-2:])
    return made


def log_mel(wave: Array, described: dict[str, Any]) -> Array:
    """Return ``(time, mel)``: the log-mel of PANNs (in dB), YAMNet (not centred) or EfficientAT (emphasised)."""
    given = described["logmel"]
    size, length = given["fft_size"], given["window_size"]
    hertz = np.linspace(0, described["sample_rate"] / 2, size // 2 + 1)
    if "pre_emphasis" in given:
        wave = wave[1:] - given["pre_emphasis"] * wave[:-1]
    if given["centred"]:
        wave = np.pad(wave, size // 2, mode="reflect")
    margin = (size - length) // 2 if given["centred"] else 0  # beside a window in the middle of the transform
    window = 0.5 - 0.5 * np.cos(2 * np.pi * np.arange(length) / (length - given["window"].endswith("symmetric")))
    starts = range(margin, len(wave) - length - margin + 1, given["hop_size"])
    magnitude = np.abs(np.fft.rfft([wave[start : start + length] * window for start in starts], size))
    if "pre_emphasis" in given:
        return (np.log(magnitude**2 @ htk_bank(hertz, given) + 1e-5) + 4.5) / 5
    if given["centred"]:
        return 10 * np.log10(np.maximum(magnitude**2 @ slaney_bank(hertz, given), 1e-10))
    return np.log(magnitude @ htk_bank(hertz, given) + 0.001)


def slaney_bank(hertz: Array, given: dict[str, Any]) -> Array:
    """Return Slaney's mel filterbank ``(frequencies, mel)``: triangles linear in Hz, of equal area.

    The mel scale is linear up to 1 kHz, then logarithmic with 27 steps per factor of 6.4.
    """
    ends = np.array([given["fmin"], given["fmax"]], float)
    above = 15 + 27 / np.log(6.4) * np.log(np.maximum(ends, 1e-9) / 1000)
    mel = np.linspace(*np.where(ends >= 1000, above, 3 * ends / 200), given["mel_bins"] + 2)
    edges = np.where(mel >= 15, 1000 * np.exp(np.log(6.4) / 27 * (mel - 15)), 200 * mel / 3)
    return triangles(hertz, edges) * 2 / (edges[2:] - edges[:-2])


def htk_bank(hertz: Array, given: dict[str, Any]) -> Array:
    """Return HTK's mel filterbank ``(frequencies, mel)``: triangles linear in mel, of height 1, without 0 Hz."""
    lowest, highest = (1127 * np.log1p(given[end] / 700) for end in ("fmin", "fmax"))
    bank = triangles(1127 * np.log1p(hertz / 700), np.linspace(lowest, highest, given["mel_bins"] + 2))
    bank[0] = 0
    return bank


def triangles(places: Array, edges: Array) -> Array:
    """Return triangles of height 1, ``(places, edges - 2)``; triangle i spans edges i to i + 2."""
    rising = (places[:, None] - edges[:-2]) / np.diff(edges)[:-1]
    falling = (edges[2:] - places[:, None]) / np.diff(edges)[1:]
    return np.maximum(0, np.minimum(rising, falling))


def main() -> None:
    """Print the five highest scores."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path)
    parser.add_argument("sound", type=Path)
    parser.add_argument("--file", default="model.onnx")
    arguments = parser.parse_args()
    described = json.loads((arguments.folder / "front_end.json").read_text(encoding="utf-8"))
    samples, rate = soundfile.read(arguments.sound, always_2d=True)
    if rate != described["sample_rate"]:
        sys.exit(
            f"{arguments.sound}: {rate} Hz, the network reads {described['sample_rate']} Hz: resample the file first"
        )
    if not len(samples):
        sys.exit(f"{arguments.sound}: holds no samples")
    session = onnxruntime.InferenceSession(arguments.folder / arguments.file, providers=["CPUExecutionProvider"])
    ((scores,),) = session.run(["clipwise_output"], inputs_of(samples.mean(axis=1), described))
    names = json.loads(session.get_modelmeta().custom_metadata_map["labels"])
    for place in np.argsort(-scores)[:5]:
        print(f"{scores[place]:.4f}  {names[place]}")


if __name__ == "__main__":
    main()
