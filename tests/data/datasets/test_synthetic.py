from pathlib import Path

import numpy as np
import pytest
import soundfile

from epanns.data.datasets.synthetic import EVENTS, SyntheticSettings, draw_clip, draw_event, make_synthetic
from epanns.errors import ConfigError, OutputError

SMALL = SyntheticSettings(clips=15, classes=5, seconds=0.5, sample_rate=8_000)


@pytest.mark.parametrize("kind", EVENTS)
@pytest.mark.parametrize("sample_rate", [8_000, 32_000])
def test_every_event_is_finite_faded_and_of_unit_peak(kind, sample_rate):
    event = draw_event(kind, np.random.default_rng(1), 0.4, sample_rate)
    assert event.shape == (round(0.4 * sample_rate),)
    assert np.abs(event).max() == pytest.approx(1)
    assert event[0] == event[-1] == 0


def test_a_chirp_rises_and_its_twin_falls():
    def pitch(signal):
        return np.argmax(np.abs(np.fft.rfft(signal)))

    for kind, rises in (("chirp up", True), ("chirp down", False)):
        event = draw_event(kind, np.random.default_rng(2), 1.0, 16_000)
        assert (pitch(event[-4_000:]) > pitch(event[:4_000])) == rises


def test_a_clip_depends_on_its_index_and_the_seed_alone():
    samples, labels = draw_clip(SMALL, 3)
    again, same_labels = draw_clip(SyntheticSettings(clips=99, classes=5, seconds=0.5, sample_rate=8_000), 3)
    np.testing.assert_array_equal(samples, again)
    assert labels == same_labels
    other, _ = draw_clip(SyntheticSettings(clips=15, classes=5, seconds=0.5, sample_rate=8_000, seed=1), 3)
    assert not np.array_equal(samples, other)


def test_every_class_occurs_and_clips_have_one_to_three_labels():
    labels = [draw_clip(SMALL, index)[1] for index in range(10)]
    assert {name for names in labels for name in names} == set(list(EVENTS)[:5])
    assert {len(names) for names in labels} == {1, 2, 3}


def test_the_set_is_written_as_16_bit_wav_with_three_splits(tmp_path):
    manifest = make_synthetic(tmp_path / "set", SMALL)
    assert manifest.splits == {"train": 9, "val": 3, "test": 3}
    for index, clip in enumerate(manifest.clips):
        samples, rate = soundfile.read(clip.path, dtype="int16")
        np.testing.assert_array_equal(samples, draw_clip(SMALL, index)[0])
        assert (rate, soundfile.info(clip.path).subtype) == (8_000, "PCM_16")


def test_a_stopped_generation_is_completed(tmp_path):
    manifest = make_synthetic(tmp_path / "set", SMALL)
    path = Path(manifest.clips[2].path)
    whole = path.read_bytes()
    path.unlink()
    assert make_synthetic(tmp_path / "set", SMALL) == manifest
    assert path.read_bytes() == whole


def test_another_set_in_the_folder_is_refused(tmp_path):
    make_synthetic(tmp_path / "set", SMALL)
    with pytest.raises(OutputError, match="set holds a synthetic data set with .*, not .*: choose another ROOT"):
        make_synthetic(tmp_path / "set", SyntheticSettings(clips=16, classes=5, seconds=0.5, sample_rate=8_000))


def test_a_set_killed_while_its_first_file_was_written_is_made_again(tmp_path):
    (tmp_path / "synthetic.json.partial").write_text("half")
    assert len(make_synthetic(tmp_path, SMALL).clips) == 15


def test_a_folder_with_other_things_is_refused_and_left_alone(tmp_path):
    (tmp_path / "thesis.txt").write_text("mine")
    with pytest.raises(OutputError, match="exists already and is no synthetic data set: choose another ROOT$"):
        make_synthetic(tmp_path, SMALL)
    assert [path.name for path in tmp_path.iterdir()] == ["thesis.txt"]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"clips": 4}, "clips=4: must be at least 5"),
        ({"classes": 13}, "classes=13: must be between 2 and 12"),
        ({"seconds": 0.1}, "seconds=0.1: must be between 0.5 and 600"),
        ({"sample_rate": 100}, "sample_rate=100: must be between 8000"),
    ],
)
def test_settings_out_of_range_are_refused(change, message):
    with pytest.raises(ConfigError, match=message):
        SyntheticSettings(**change)
