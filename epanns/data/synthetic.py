"""A multi-label data set that is generated: sound events in noise, for trials and tests without a download."""

import json
from collections.abc import Mapping
from contextlib import ExitStack
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from epanns import atomic
from epanns.audio.waveform import to_int16
from epanns.data.clip import Clip
from epanns.data.events import EVENTS, draw_event
from epanns.data.manifest import Manifest
from epanns.feedback import Progress
from epanns.labels import LabelSet
from epanns.seeding import numpy_generator
from epanns.strict import Rule, check_fields, integer, number
from epanns.workfolder import Work, WorkFolder

_SPLITS = ("train", "train", "train", "val", "test")  # of five clips in a row
_SETTINGS_FILE = "synthetic.json"
_LONGEST_WAIT = 3600.0  # seconds, for another process that generates the same data set
_WORK = Work(
    absent="is no synthetic data set",
    held="holds a synthetic data set with",
    to_choose="choose another ROOT or delete it",
    to_replace="choose another ROOT or delete it",
    place="ROOT or empty it",
)


@dataclass(frozen=True)
class SyntheticSettings:
    """What to generate.

    Attributes:
        clips: How many; three of five are for training, one for validation, one for testing.
        classes: Kinds of events, the first so many of `epanns.data.events.EVENTS`.
        seconds: Length of each clip.
        sample_rate: In Hz.
        seed: Another seed gives other clips.
    """

    clips: int = 1000
    classes: int = 10
    seconds: float = 2.0
    sample_rate: int = 32_000
    seed: int = 0

    def __post_init__(self) -> None:
        check_fields(self, SYNTHETIC_RULES)


SYNTHETIC_RULES: Mapping[str, Rule] = {
    "clips": Rule("at least 5, one for each part of the split", integer(5).holds),
    "classes": Rule(f"between 2 and {len(EVENTS)}", integer(2, len(EVENTS)).holds),
    "seconds": number("between 0.5 and 600", lambda value: 0.5 <= value <= 600),
    "sample_rate": Rule("between 8000 and 192000 Hz", integer(8000, 192_000).holds),
    "seed": Rule("a whole number", lambda value: type(value) is int),
}


def draw_clip(settings: SyntheticSettings, index: int) -> tuple[NDArray[np.int16], tuple[str, ...]]:
    """Draw one clip: a pure function of the settings and `index`, apart from how many clips there are.

    Returns:
        ``(samples,)`` int16, and the labels of the one to three events in it.
    """
    rng = numpy_generator("synthetic clip", settings.seed, index)
    n_samples = round(settings.seconds * settings.sample_rate)
    mixture = _background(rng, n_samples) * 10 ** (rng.uniform(-50, -30) / 20)
    labels = _draw_labels(settings, index, rng)
    for label in labels:
        seconds = min(rng.uniform(0.4, 1.5), settings.seconds)
        event = draw_event(label, rng, seconds, settings.sample_rate) * 10 ** (rng.uniform(-24, -6) / 20)
        start = int(rng.integers(0, n_samples - len(event) + 1))
        mixture[start : start + len(event)] += event
    peak = max(1.0, float(np.abs(mixture).max()))
    return to_int16((mixture / peak).astype(np.float32)), tuple(sorted(labels, key=list(EVENTS).index))


def _draw_labels(settings: SyntheticSettings, index: int, rng: np.random.Generator) -> list[str]:
    """Draw one to three kinds; the first goes round all classes, so that none is without clips."""
    turn, place = divmod(index, settings.classes)
    first = int(numpy_generator("synthetic turn", settings.seed, turn).permutation(settings.classes)[place])
    others = [kind for kind in rng.permutation(settings.classes).tolist() if kind != first]
    n_others = min(int(rng.integers(0, 3)), len(others))
    names = list(EVENTS)
    return [names[kind] for kind in [first, *others[:n_others]]]


def _background(rng: np.random.Generator, n_samples: int) -> NDArray[np.float64]:
    """Draw noise of unit power whose spectrum falls by a random 0 to 6 dB per octave."""
    spectrum = np.fft.rfft(rng.standard_normal(n_samples))
    spectrum *= np.arange(1, len(spectrum) + 1) ** -rng.uniform(0, 1)
    noise: NDArray[np.float64] = np.fft.irfft(spectrum, n_samples)
    return noise / float(np.sqrt(np.mean(noise**2)))


def make_synthetic(root: Path, settings: SyntheticSettings, *, progress: Progress | None = None) -> Manifest:
    """Write the clips as 16-bit WAV files below ``root/audio`` and return their manifest.

    A folder that holds the same data set, whole or in part, is completed.

    Raises:
        OutputError: If `root` holds anything else; nothing in it is touched.
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
        _claim(folder, settings)
        for index, path in enumerate(paths):
            samples, labels = draw_clip(settings, index)
            if not path.exists():
                with atomic.replacing(path) as partial:
                    soundfile.write(partial, samples, settings.sample_rate, subtype="PCM_16", format="WAV")
            clips.append(Clip(path.name, str(path), labels, _SPLITS[index % len(_SPLITS)]))
            if progress is not None:
                progress(index + 1, settings.clips)
    return Manifest("synthetic", LabelSet.of(list(EVENTS)[: settings.classes]), tuple(clips))


def _claim(folder: WorkFolder, settings: SyntheticSettings) -> None:
    """Make the folder ours by writing the settings into it, or find that it is."""
    asked = json.loads(json.dumps(asdict(settings)))
    folder.begin_or_resume(asked, first=asked, read=lambda found: (found, None))
