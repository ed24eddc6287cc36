"""Generate a multi-label data set of sound events in noise, for trials and tests without a download.

Twelve kinds of events; an event is ``(samples,)`` float64 with peak 1. Each kind keeps to a register, as natural sounds
do, but registers overlap and some kinds differ in one trait only (a rising and a falling chirp, a steady and a pulsed
tone), so that a tagger learns fast and still makes errors.
"""

import json
from collections import Counter
from collections.abc import Callable, Mapping
from contextlib import ExitStack
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from epanns import atomic
from epanns.audio.resampling import to_int16
from epanns.data.clip import Clip
from epanns.data.manifest import Manifest
from epanns.feedback import Progress
from epanns.labels import LabelSet
from epanns.seeding import numpy_generator
from epanns.strict import Rule, check_fields, integer, number
from epanns.workfolder import Work, WorkFolder

Signal = NDArray[np.float64]

_LOWEST, _HIGHEST = 200.0, 0.35  # in Hz; as a fraction of the sample rate
_SPLITS = ("train", "train", "train", "val", "test")  # of five clips in a row
_SETTINGS_FILE = "synthetic.json"
_LONGEST_WAIT = 3600.0  # seconds, for another process that generates the same data set
_WORK = Work(
    absent="is no synthetic data set",
    held="holds a synthetic data set with",
    to_choose="choose another ROOT or delete it",
    to_replace="choose another ROOT or delete it",
    place="ROOT",
)


@dataclass(frozen=True)
class _Synthesizer:
    """Draws the parts of events.

    Attributes:
        rng: Generator of the draws.
        time: Times of the samples in seconds.
        rate: Sample rate in Hz.
    """

    rng: np.random.Generator
    time: Signal
    rate: float

    def pitch(self, low: float, high: float) -> float:
        """Draw a frequency in Hz from a register on a scale of octaves: 0 is `_LOWEST`, 1 is `_HIGHEST`."""
        octaves = np.log2(_HIGHEST * self.rate / _LOWEST)
        return float(_LOWEST * 2 ** (octaves * self.rng.uniform(low, high)))

    def sine(self, frequency: Signal | float) -> Signal:
        """Return a sine whose frequency in Hz may change over time."""
        phase: Signal = np.cumsum(np.broadcast_to(frequency, self.time.shape)) / self.rate
        return np.sin(2 * np.pi * phase)

    def wave(self, low: float, high: float) -> Signal:
        """Return a slow sine with a frequency of `low` to `high` Hz that starts at phase 0."""
        return np.sin(2 * np.pi * self.rng.uniform(low, high) * self.time)

    def pulses(self) -> Signal:
        """Return on-off pulses between 0 and 1, four to nine per second."""
        return (self.wave(4, 9) > self.rng.uniform(-0.3, 0.5)).astype(float)

    def noise(self, centre: float) -> Signal:
        """Return noise of about an octave around a frequency in Hz."""
        half_width = 2 ** self.rng.uniform(0.2, 0.5)
        spectrum = np.fft.rfft(self.rng.standard_normal(len(self.time)))
        frequencies = np.fft.rfftfreq(len(self.time), 1 / self.rate)
        spectrum[(frequencies < centre / half_width) | (frequencies > centre * half_width)] = 0
        return np.fft.irfft(spectrum, len(self.time))

    def partials(self, *ratios: float) -> Signal:
        """Return a sum of sines with frequencies in the given ratios, without those above `_HIGHEST`."""
        lowest = 120 * 4 ** self.rng.random()  # Hz, two octaves
        audible = [ratio for ratio in ratios if ratio * lowest < _HIGHEST * self.rate]
        stack = np.array([self.sine(lowest * ratio) / ratio**0.7 for ratio in audible])
        mixed: Signal = stack.sum(axis=0)
        return mixed

    def chirp(self) -> Signal:
        """Return a sine with an exponentially rising frequency."""
        low, high = self.pitch(0.1, 0.4), self.pitch(0.6, 0.9)
        return self.sine(low * (high / low) ** (self.time / max(float(self.time[-1]), 1 / self.rate)))

    def clicks(self) -> Signal:
        """Return short decaying bursts of noise at a steady rate."""
        since_click = np.mod(self.time, 1 / self.rng.uniform(4, 12))
        return self.rng.standard_normal(len(self.time)) * np.exp(-since_click * self.rng.uniform(200, 600))

    def tremolo(self) -> Signal:
        """Return a tone whose amplitude oscillates."""
        depth = 1 + self.rng.uniform(0.6, 0.95) * self.wave(4, 9)
        return self.sine(self.pitch(0.35, 0.7)) * depth

    def vibrato(self) -> Signal:
        """Return a tone whose frequency oscillates."""
        swing = self.rng.uniform(0.05, 0.15) * self.wave(4, 9)
        return self.sine(self.pitch(0.6, 0.95) * (1 + swing))

    def siren(self) -> Signal:
        """Return two alternating pitches."""
        interval = np.where(self.wave(2, 4) > 0, 2 ** self.rng.uniform(0.2, 0.6), 1.0)
        return self.sine(self.pitch(0.3, 0.8) * interval)


EVENTS: dict[str, Callable[[_Synthesizer], Signal]] = {
    "tone": lambda draw: draw.sine(draw.pitch(0.0, 0.4)),
    "chirp up": _Synthesizer.chirp,
    "noise band": lambda draw: draw.noise(draw.pitch(0.1, 0.5)),
    "clicks": _Synthesizer.clicks,
    "harmonics": lambda draw: draw.partials(1, 2, 3, 4, 5, 6, 7, 8),
    "tremolo": _Synthesizer.tremolo,
    "chirp down": lambda draw: draw.chirp()[::-1],
    "pulsed noise": lambda draw: draw.noise(draw.pitch(0.4, 0.8)) * draw.pulses(),
    "vibrato": _Synthesizer.vibrato,
    "bell": lambda draw: draw.partials(1, 2.756, 5.404, 8.933) * np.exp(-draw.time * draw.rng.uniform(4, 9)),
    "pulsed tone": lambda draw: draw.sine(draw.pitch(0.1, 0.5)) * draw.pulses(),
    "siren": _Synthesizer.siren,
}
"""Kinds of events. The partials of the bell have the ratios of a struck bar."""


def draw_event(kind: str, rng: np.random.Generator, seconds: float, sample_rate: int) -> Signal:
    """Draw one event: ``(round(seconds * sample_rate),)`` with peak 1, faded in and out.

    Args:
        kind: A key of `EVENTS`.
        rng: Generator of the draw.
        seconds: Length of the event.
        sample_rate: In Hz.
    """
    length = max(2, round(seconds * sample_rate))
    time = np.arange(length) / sample_rate
    fade = np.minimum(1.0, np.minimum(time, time[::-1]) / 0.01)
    event = EVENTS[kind](_Synthesizer(rng, time, float(sample_rate))) * fade
    return event / max(float(np.abs(event).max()), 1e-9)


SYNTHETIC_RULES: Mapping[str, Rule] = {
    "clips": Rule("at least 5, one for each part of the split", integer(5).holds),
    "classes": Rule(f"between 2 and {len(EVENTS)}", integer(2, len(EVENTS)).holds),
    "seconds": number("between 0.5 and 600", lambda value: 0.5 <= value <= 600),
    "sample_rate": Rule("between 8000 and 192000 Hz", integer(8000, 192_000).holds),
    "seed": Rule("a whole number", lambda value: type(value) is int),
}


@dataclass(frozen=True)
class SyntheticSettings:
    """Settings of a generated data set.

    Attributes:
        clips: Number of clips; of five clips three are for training, one for validation, one for testing.
        classes: Number of kinds of events, the first ones of `EVENTS`.
        seconds: Length of each clip.
        sample_rate: In Hz.
        seed: Seed of the clips.
    """

    clips: int = 1000
    classes: int = 10
    seconds: float = 2.0
    sample_rate: int = 32_000
    seed: int = 0

    def __post_init__(self) -> None:
        check_fields(self, SYNTHETIC_RULES)


def draw_clip(settings: SyntheticSettings, index: int) -> tuple[NDArray[np.int16], tuple[str, ...]]:
    """Draw one clip: a pure function of `index` and of the settings except the number of clips.

    Returns:
        ``(samples,)`` int16, and the labels of the one to three events in it.
    """
    rng = numpy_generator("synthetic clip", settings.seed, index)
    n_samples = round(settings.seconds * settings.sample_rate)
    spectrum = np.fft.rfft(rng.standard_normal(n_samples))
    spectrum *= np.arange(1, len(spectrum) + 1) ** -rng.uniform(0, 1)  # falls by 0 to 6 dB per octave
    noise: Signal = np.fft.irfft(spectrum, n_samples)
    mixture = noise / float(np.sqrt(np.mean(noise**2))) * 10 ** (rng.uniform(-50, -30) / 20)
    turn, place = divmod(index, settings.classes)  # the first kind cycles through all classes: each class has clips
    first = int(numpy_generator("synthetic turn", settings.seed, turn).permutation(settings.classes)[place])
    others = [kind for kind in rng.permutation(settings.classes).tolist() if kind != first]
    labels = [list(EVENTS)[kind] for kind in [first, *others[: int(rng.integers(0, 3))]]]
    for label in labels:
        seconds = min(rng.uniform(0.4, 1.5), settings.seconds)
        event = draw_event(label, rng, seconds, settings.sample_rate) * 10 ** (rng.uniform(-24, -6) / 20)
        start = int(rng.integers(0, n_samples - len(event) + 1))
        mixture[start : start + len(event)] += event
    peak = max(1.0, float(np.abs(mixture).max()))
    return to_int16((mixture / peak).astype(np.float32)), tuple(sorted(labels, key=list(EVENTS).index))


def labels_and_splits(settings: SyntheticSettings) -> tuple[LabelSet, dict[str, int]]:
    """Return the classes and the number of clips of each split, without generating sound."""
    splits = (_SPLITS[index % len(_SPLITS)] for index in range(settings.clips))
    return LabelSet.of(list(EVENTS)[: settings.classes]), dict(Counter(splits))


def make_synthetic(root: Path, settings: SyntheticSettings, *, progress: Progress | None = None) -> Manifest:
    """Write the clips as 16-bit WAV files below ``root/audio`` and return their manifest.

    A folder with the same data set, complete or in part, is completed.

    Args:
        root: Folder of the data set.
        settings: What to generate.
        progress: Called with the number of clips written.

    Raises:
        OutputError: If `root` holds anything else; then nothing in it is changed.
    """
    import soundfile

    root = root.resolve()
    folder = WorkFolder(root, _SETTINGS_FILE, _WORK)
    paths = [root / "audio" / f"clip-{index:06d}.wav" for index in range(settings.clips)]
    clips = []
    folder.require_usable()
    with ExitStack() as held:
        if not folder.is_begun or not all(path.exists() for path in paths):
            held.enter_context(folder.locked(wait=_LONGEST_WAIT))
        given = json.loads(json.dumps(asdict(settings)))
        folder.begin_or_resume(given, first=given, read=lambda found: (found, None))
        for index, path in enumerate(paths):
            samples, labels = draw_clip(settings, index)
            if not path.exists():
                with atomic.replacing(path) as partial:
                    soundfile.write(partial, samples, settings.sample_rate, subtype="PCM_16", format="WAV")
            clips.append(Clip(path.name, str(path), labels, _SPLITS[index % len(_SPLITS)]))
            if progress is not None:
                progress(index + 1, settings.clips)
    return Manifest("synthetic", labels_and_splits(settings)[0], tuple(clips))
