"""Packs of other formats on the command line: the same clips give the same scores in every format."""

import json
from functools import partial

import h5py
import numpy as np
import pytest

from epanns.data.packs.pack import Pack
from tests.builders import make_checkpoint
from tests.data.mp3_file import encoded, write_mp3_file


@pytest.fixture
def labels(tiny_packs, tmp_path):
    """The classes as a file, for packs that do not name them."""
    (tmp_path / "labels.csv").write_text(Pack(tiny_packs["test"]).labels.to_csv())
    return tmp_path / "labels.csv"


@pytest.fixture
def as_panns(tmp_path):
    """Write a pack's clips as PANNs do, with one row more that was never filled."""

    def write(folder):
        pack = Pack(folder)
        path = tmp_path / f"{folder.name}.h5"
        with h5py.File(path, "w") as file:
            rows = len(pack) + 1
            file.attrs.create("sample_rate", data=pack.sample_rate, dtype=np.int32)
            names = file.create_dataset("audio_name", shape=(rows,), dtype="S20")
            waveforms = file.create_dataset("waveform", shape=(rows, pack.clip_samples), dtype=np.int16)
            targets = file.create_dataset("target", shape=(rows, len(pack.labels)), dtype=np.bool_)
            names[1:] = pack.columns.clip_ids
            waveforms[1:] = [pack.read_waveform(index) for index in range(len(pack))]
            targets[1:] = pack.columns.targets.dense()
        return path

    return write


@pytest.fixture
def checkpoint(tmp_path, tiny_packs):
    return make_checkpoint(tmp_path / "checkpoint", "Cnn14_8k", tiny_packs["test"], width=0.03)


def test_the_same_clips_score_the_same_in_pannss_layout(epanns, tiny_packs, as_panns, labels, checkpoint, tmp_path):
    evaluate = partial(epanns, "evaluate", checkpoint, "--bootstrap", 0, "--json")
    _, ours, _ = evaluate("--data", tiny_packs["test"])
    panns = as_panns(tiny_packs["test"])
    code, theirs, err = evaluate("--data", panns, "--labels", labels, "--out", tmp_path / "scores")
    assert (code, json.loads(theirs)) == (0, json.loads(ours))
    assert "test.h5: 1 row holds nothing, the sound was missing when it was packed: left out" in err
    assert "test.h5: has no checksums" in err
    assert "does not store the lengths" not in err
    record = json.loads((tmp_path / "scores" / "result.json").read_text())
    assert (record["dataset"], record["config"]["split"]) == ("test", "test")
    code, _, err = evaluate("--data", panns)
    assert code == 1
    assert "has 4 classes and does not name them; give --labels FILE.csv" in err


def test_packs_of_three_formats_are_learnt_together(epanns, tiny_packs, as_panns, labels, tmp_path):
    sounds = [encoded(seconds, 300 + 40 * index) for index, seconds in enumerate((0.3, 0.5, 2.0))]
    target = np.eye(3, 4, dtype=bool)
    mp3 = write_mp3_file(tmp_path / "tones.hdf", [f"{index}.mp3" for index in range(3)], sounds, target)
    train = ("--train", as_panns(tiny_packs["val"]), "--train", mp3, "--train", tiny_packs["train"])
    steps = ("--iterations", 4, "--validate-every", 2, "--batch-size", 8, "--sampler", "shuffled")
    model = ("train", "Cnn14_8k", "--width", 0.03, "--labels", labels, "--crop-seconds", 0.4, "--mp3-seconds", 1)
    out = ("--out", tmp_path / "run", "--json")
    code, _, err = epanns(*model, *train, "--val", tiny_packs["test"], *steps, "--workers", 2, *out)
    assert code == 0, err
    assert "training on 83 clips of val+tones+synthetic in 4 classes" in err
    asked = json.loads((tmp_path / "run" / "training.json").read_text())["asked"]
    assert asked["data"]["name"] == "val+tones+synthetic"
    # The same clips under the same names would be a leak in any format.
    code, _, err = epanns(*model, *train, "--val", tiny_packs["val"], *steps, "--out", tmp_path / "other")
    assert code == 1
    assert "20 of 20 validation clips are training clips too (equal by their ids alone" in err


def test_unknown_lengths_of_clips_are_refused(epanns, tiny_packs, as_panns, labels, checkpoint, tmp_path):
    panns = as_panns(tiny_packs["test"])
    evaluate = partial(epanns, "evaluate", checkpoint, "--bootstrap", 0, "--data", panns, "--labels", labels)
    code, _, err = evaluate("--own-length")
    assert code == 1
    assert f"own_length: {panns} does not store the lengths of its clips" in err
    code, _, err = evaluate("--window", 0.25)
    assert code == 0
    assert f"{panns}: does not store the lengths of its clips: windows include the zeros after short clips" in err


@pytest.mark.parametrize("options", [("--crop-seconds", 0.4), ("--short-clips", "repeat")])
def test_training_logs_where_padding_counts_as_sound(epanns, tiny_packs, as_panns, labels, tmp_path, options):
    panns = as_panns(tiny_packs["val"])
    steps = ("--iterations", 1, "--validate-every", 1, "--batch-size", 4, *options)
    packs = ("--train", panns, "--labels", labels, "--val", tiny_packs["test"])
    code, _, err = epanns("train", "Cnn14_8k", "--width", 0.03, *packs, *steps, "--out", tmp_path / "run")
    assert code == 0, err
    assert f"{panns}: does not store the lengths of its clips: crops and repetitions include the zeros" in err


def test_the_cost_of_clips_of_an_mp3_pack_is_that_of_their_own_length(epanns, labels, checkpoint, tmp_path):
    sounds = [encoded(seconds, 400) for seconds in (0.5, 1.0, 3.0)]
    mp3 = write_mp3_file(
        tmp_path / "tones.hdf", [f"{index}.mp3" for index in range(3)], sounds, np.eye(3, 4, dtype=bool)
    )
    how = ("--labels", labels, "--mp3-seconds", 2, "--own-length", "--bootstrap", 0, "--out", tmp_path / "scores")
    code, _, err = epanns("evaluate", checkpoint, "--data", mp3, *how)
    assert code == 0, err
    record = json.loads((tmp_path / "scores" / "result.json").read_text())
    assert record["clip_seconds"] == pytest.approx((0.5 + 1.0 + 2.0) / 3, abs=0.01)
