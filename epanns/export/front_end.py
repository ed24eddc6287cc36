"""What the exported graph does not compute: from samples to its inputs, as data that another program can follow."""

from typing import Any

from epanns.audio.frontend import PATCH_FRAMES, PATCH_HOP, FrontEndSpec
from epanns.export.network import axis_names, input_names
from epanns.models.tagger import Tagger
from epanns.models.yamnet import Yamnet

_SHAPES = {
    "waveform": "the samples",
    "logmel": "the log-mel of the samples",
    "pieces": "the samples of each window, in pieces that follow each other",
}


def front_end_of(model: Tagger) -> dict[str, Any]:
    """Return how the inputs of a network's graph are made of sound, as JSON values."""
    spec = model.spec.front_end
    shapes = model.input_shapes(model.minimum_samples)
    inputs = [
        {
            "name": name,
            "shape": [axes.get(axis, length) for axis, length in enumerate(shape)],
            "dtype": "float32",
            "holds": _SHAPES[name],
        }
        for name, shape, axes in zip(input_names(model), shapes, axis_names(model), strict=True)
    ]
    described: dict[str, Any] = {
        "sample_rate": spec.sample_rate,
        "channels": 1,
        "samples_between": [-1, 1],
        "minimum_samples": model.minimum_samples,
        "short_clips": _short_clips(model),
        "inputs": inputs,
    }
    if any(
        name == "pieces" or "windows" in axes.values()
        for name, axes in zip(input_names(model), axis_names(model), strict=True)
    ):
        described["windows"] = {
            "samples": spec.sample_rate,
            "hop": spec.sample_rate // 2,
            "last": "shifted back to end with the clip",
            "logmel_of_the_first": spec.patch_samples,
        }
    if "logmel" in input_names(model):
        described["logmel"] = _yamnets(spec) if spec.is_yamnet else _pannss(spec)
    return described


def _short_clips(model: Tagger) -> str:
    if isinstance(model, Yamnet):
        return "followed by zeros until whole patches end with them, as longer clips too"
    return "repeated from their start up to minimum_samples"


def _pannss(spec: FrontEndSpec) -> dict[str, Any]:
    return {
        **_transform(spec, spec.window_size),
        "centred": True,
        "padding": "reflect",
        "spectrum": "squared magnitude",
        "mel_scale": "slaney",
        "mel_triangles": "linear in Hz, of equal area (slaney)",
        "level": "10 * log10(max(mel, 1e-10))",
    }


def _yamnets(spec: FrontEndSpec) -> dict[str, Any]:
    return {
        **_transform(spec, spec.fft_size),
        "centred": False,
        "padding": "none; the window is followed by zeros up to fft_size",
        "spectrum": "magnitude",
        "mel_scale": "htk: 1127 * ln(1 + f / 700)",
        "mel_triangles": "linear in mel, of height 1; the bin of 0 Hz is left out",
        "level": "ln(mel + 0.001)",
        "patch_frames": PATCH_FRAMES,
        "patch_hop": PATCH_HOP,
    }


def _transform(spec: FrontEndSpec, fft_size: int) -> dict[str, Any]:
    return {
        "window": "hann, periodic",
        "window_size": spec.window_size,
        "fft_size": fft_size,
        "hop_size": spec.hop_size,
        "mel_bins": spec.mel_bins,
        "fmin": spec.fmin,
        "fmax": spec.fmax,
    }
