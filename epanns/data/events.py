"""Twelve kinds of sound events, each drawn from a generator: what `epanns.data.synthetic` composes clips of.

An event is ``(samples,)`` float64 of unit peak. Each kind keeps to a register, as sounds in nature do, but registers
overlap and some kinds differ in one trait only (a rising and a falling chirp, a steady and a pulsed tone): a tagger
learns soon and is never done.
"""

from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray

Signal = NDArray[np.float64]
Event = Callable[[np.random.Generator, Signal, float], Signal]

_LOWEST, _HIGHEST = 200.0, 0.35  # in Hz; as a fraction of the sample rate


def _pitch(rng: np.random.Generator, sample_rate: float, low: float, high: float) -> float:
    """Draw a frequency in Hz from a register: 0 is `_LOWEST`, 1 is `_HIGHEST`, in between by octaves."""
    octaves = np.log2(_HIGHEST * sample_rate / _LOWEST)
    return float(_LOWEST * 2 ** (octaves * rng.uniform(low, high)))


def _sine(frequency: Signal | float, time: Signal, sample_rate: float) -> Signal:
    """Return a sine whose frequency in Hz may change over time."""
    phase: Signal = np.cumsum(np.broadcast_to(frequency, time.shape)) / sample_rate
    return np.sin(2 * np.pi * phase)


def _noise_band(rng: np.random.Generator, time: Signal, sample_rate: float, centre: float) -> Signal:
    """Return noise of about an octave around a frequency in Hz."""
    half_width = 2 ** rng.uniform(0.2, 0.5)
    spectrum = np.fft.rfft(rng.standard_normal(len(time)))
    frequencies = np.fft.rfftfreq(len(time), 1 / sample_rate)
    spectrum[(frequencies < centre / half_width) | (frequencies > centre * half_width)] = 0
    return np.fft.irfft(spectrum, len(time))


def _pulses(rng: np.random.Generator, time: Signal) -> Signal:
    """Return on-off pulses between 0 and 1, four to nine a second."""
    return (np.sin(2 * np.pi * rng.uniform(4, 9) * time) > rng.uniform(-0.3, 0.5)).astype(float)


def _tone(rng: np.random.Generator, time: Signal, sample_rate: float) -> Signal:
    return _sine(_pitch(rng, sample_rate, 0.0, 0.4), time, sample_rate)


def _pulsed_tone(rng: np.random.Generator, time: Signal, sample_rate: float) -> Signal:
    return _sine(_pitch(rng, sample_rate, 0.1, 0.5), time, sample_rate) * _pulses(rng, time)


def _tremolo(rng: np.random.Generator, time: Signal, sample_rate: float) -> Signal:
    depth = 1 + rng.uniform(0.6, 0.95) * np.sin(2 * np.pi * rng.uniform(4, 9) * time)
    return _sine(_pitch(rng, sample_rate, 0.35, 0.7), time, sample_rate) * depth


def _vibrato(rng: np.random.Generator, time: Signal, sample_rate: float) -> Signal:
    swing = rng.uniform(0.05, 0.15) * np.sin(2 * np.pi * rng.uniform(4, 9) * time)
    return _sine(_pitch(rng, sample_rate, 0.6, 0.95) * (1 + swing), time, sample_rate)


def _chirp(rng: np.random.Generator, time: Signal, sample_rate: float) -> Signal:
    low, high = _pitch(rng, sample_rate, 0.1, 0.4), _pitch(rng, sample_rate, 0.6, 0.9)
    rise = (high / low) ** (time / max(float(time[-1]), 1 / sample_rate))
    return _sine(low * rise, time, sample_rate)


def _chirp_down(rng: np.random.Generator, time: Signal, sample_rate: float) -> Signal:
    return _chirp(rng, time, sample_rate)[::-1]


def _partials(rng: np.random.Generator, time: Signal, sample_rate: float, ratios: list[float]) -> Signal:
    lowest = 120 * 4 ** rng.random()  # Hz, two octaves
    heard = [ratio for ratio in ratios if ratio * lowest < _HIGHEST * sample_rate]
    stack = np.array([_sine(lowest * ratio, time, sample_rate) / ratio**0.7 for ratio in heard])
    mixed: Signal = stack.sum(axis=0)
    return mixed


def _harmonics(rng: np.random.Generator, time: Signal, sample_rate: float) -> Signal:
    return _partials(rng, time, sample_rate, [1, 2, 3, 4, 5, 6, 7, 8])


def _bell(rng: np.random.Generator, time: Signal, sample_rate: float) -> Signal:
    """Return a decaying stack of inharmonic partials, in the ratios of a struck bar."""
    stack = _partials(rng, time, sample_rate, [1, 2.756, 5.404, 8.933])
    return stack * np.exp(-time * rng.uniform(4, 9))


def _noise(rng: np.random.Generator, time: Signal, sample_rate: float) -> Signal:
    return _noise_band(rng, time, sample_rate, _pitch(rng, sample_rate, 0.1, 0.5))


def _pulsed_noise(rng: np.random.Generator, time: Signal, sample_rate: float) -> Signal:
    return _noise_band(rng, time, sample_rate, _pitch(rng, sample_rate, 0.4, 0.8)) * _pulses(rng, time)


def _clicks(rng: np.random.Generator, time: Signal, sample_rate: float) -> Signal:
    """Return short decaying bursts at a steady rate."""
    since_click = np.mod(time, 1 / rng.uniform(4, 12))
    return rng.standard_normal(len(time)) * np.exp(-since_click * rng.uniform(200, 600))


def _two_tones(rng: np.random.Generator, time: Signal, sample_rate: float) -> Signal:
    """Return a siren: two pitches in turn."""
    interval = np.where(np.sin(2 * np.pi * rng.uniform(2, 4) * time) > 0, 2 ** rng.uniform(0.2, 0.6), 1.0)
    return _sine(_pitch(rng, sample_rate, 0.3, 0.8) * interval, time, sample_rate)


EVENTS: dict[str, Event] = {
    "tone": _tone,
    "chirp up": _chirp,
    "noise band": _noise,
    "clicks": _clicks,
    "harmonics": _harmonics,
    "tremolo": _tremolo,
    "chirp down": _chirp_down,
    "pulsed noise": _pulsed_noise,
    "vibrato": _vibrato,
    "bell": _bell,
    "pulsed tone": _pulsed_tone,
    "siren": _two_tones,
}


def draw_event(kind: str, rng: np.random.Generator, seconds: float, sample_rate: int) -> Signal:
    """Draw one event of a kind of `EVENTS`: ``(round(seconds * sample_rate),)``, peak 1, faded in and out."""
    length = max(2, round(seconds * sample_rate))
    time = np.arange(length) / sample_rate
    fade = np.minimum(1.0, np.minimum(time, time[::-1]) / 0.01)
    event = EVENTS[kind](rng, time, float(sample_rate)) * fade
    return event / max(float(np.abs(event).max()), 1e-9)
