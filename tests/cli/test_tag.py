"""`epanns tag`: many files, folders, files that cannot be read, and what is counted of the others."""

import csv
import io
import json

import numpy as np
import pytest
import soundfile
import torch

from epanns.audio.waveform import load_waveform
from epanns.cli.tag import tag_file
from epanns.evaluation.protocol import EvaluationProtocol
from epanns.labels import LabelSet
from epanns.models.files.load import load
from tests.builders import make_checkpoint

RATE = 8_000
NOISE = np.random.default_rng(0).uniform(-0.5, 0.5, 40 * RATE).astype(np.float32)


@pytest.fixture(scope="module")
def network(tmp_path_factory):
    folder = tmp_path_factory.mktemp("network") / "net"
    names = ["dog", "=rain()", "\x1b[31mbell"]
    return make_checkpoint(folder, "Cnn14_8k", LabelSet.of(names), width=0.03)


@pytest.fixture
def write(tmp_path):
    def run(name, seconds=0.5, rate=RATE, **how):
        path = tmp_path / name
        path.parent.mkdir(exist_ok=True)
        soundfile.write(path, NOISE[: round(seconds * rate)], rate, **how)
        return path

    return run


def bad_file(tmp_path, name="bad.wav"):
    (tmp_path / name).write_bytes(b"")
    return tmp_path / name


@pytest.mark.parametrize("place", [0, 1, 2])
def test_a_bad_file_is_named_and_the_others_are_tagged(epanns, tmp_path, write, network, place):
    files = [write("a.wav"), write("b.wav")]
    files.insert(place, bad_file(tmp_path))
    code, out, err = epanns("tag", network, *files, "--csv", tmp_path / "tags.csv")
    assert code == 1
    assert [line.split("  ")[0] for line in out.splitlines()] == [str(tmp_path / "a.wav"), str(tmp_path / "b.wav")]
    first, last = err.splitlines()
    assert first.startswith(f"epanns: {tmp_path}/bad.wav: is empty, must hold sound")
    assert last == "epanns: 1 of 3 files could not be tagged, for the reasons above; the rest were"
    rows = list(csv.DictReader((tmp_path / "tags.csv").read_text().splitlines()))
    assert [row["file"] for row in rows] == [str(tmp_path / "a.wav"), str(tmp_path / "b.wav")]


def test_json_lists_the_files_that_failed_too(epanns, tmp_path, write, network):
    code, out, _ = epanns("tag", network, write("a.wav"), tmp_path / "gone.wav", "--json")
    answer = json.loads(out)
    assert code == 1
    assert [window["file"] for window in answer["windows"]] == [str(tmp_path / "a.wav")]
    counts = {"seconds": 0.5, "clipped": 0, "beyond_header": 0.0, "states_length": True}
    assert answer["files"] == [{"file": str(tmp_path / "a.wav"), **counts}]
    (failed,) = answer["failed"]
    assert failed["file"] == str(tmp_path / "gone.wav")
    assert "no such audio file; correct the path" in failed["reason"]


def test_where_no_file_can_be_read_nothing_is_written(epanns, tmp_path, network):
    one, other = bad_file(tmp_path), bad_file(tmp_path, "other.wav")
    code, out, err = epanns("tag", network, one, other, "--csv", tmp_path / "tags.csv")
    assert (code, out) == (1, "")
    assert err.splitlines()[-1] == "epanns: 2 of 2 files could not be tagged, for the reasons above"
    code, out, err = epanns("tag", network, one)
    assert (code, out, len(err.splitlines())) == (1, "", 1)
    assert {path.name for path in tmp_path.iterdir()} == {"bad.wav", "other.wav"}


def test_a_file_that_fails_at_its_end_leaves_no_row(epanns, tmp_path, write, network):
    samples = NOISE[: 3 * RATE].copy()
    samples[-1] = np.nan
    soundfile.write(tmp_path / "nan.wav", samples, RATE, subtype="FLOAT")
    files = write("a.wav", 2), tmp_path / "nan.wav", write("b.wav", 2)
    code, out, err = epanns("tag", network, *files, "--window", 1, "--csv", tmp_path / "tags.csv")
    assert code == 1
    assert "nan.wav: 1 of 24000 samples are NaN or infinite" in err
    assert "nan.wav" not in out + (tmp_path / "tags.csv").read_text()
    alone = epanns("tag", network, files[0], files[2], "--window", 1, "--csv", tmp_path / "alone.csv")
    assert alone[:2] == (0, out)
    assert (tmp_path / "alone.csv").read_bytes() == (tmp_path / "tags.csv").read_bytes()


def test_every_sound_file_of_a_folder_is_tagged(epanns, tmp_path, write, network):
    for name in ("set/b.flac", "set/a.wav", "set/._a.wav", "set/deep/c.ogg"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        write(name)
    (tmp_path / "set" / "notes.txt").write_text("no sound")
    code, out, err = epanns("tag", network, tmp_path / "set", write("d.wav"))
    assert code == 0
    found = [line.split("  ")[0].removeprefix(f"{tmp_path}/") for line in out.splitlines()]
    assert found == ["set/a.wav", "set/b.flac", "set/deep/c.ogg", "d.wav"]
    assert err == f"{tmp_path}/set: 3 sound files; 2 other files are left out\n"


def test_a_folder_without_sound_is_named(epanns, tmp_path, network):
    (tmp_path / "set").mkdir()
    (tmp_path / "set" / "notes.txt").write_text("no sound")
    code, _, err = epanns("tag", network, tmp_path / "set")
    assert code == 1
    assert err == f"epanns: {tmp_path}/set: holds no sound file (1 other files); name a folder of sound\n"


def test_what_was_limited_or_lies_beyond_the_header_is_counted(epanns, tmp_path, write, network):
    loud = NOISE[:RATE].copy()
    loud[:3] = [1.5, -2.0, 1.0]
    soundfile.write(tmp_path / "loud.wav", loud, RATE, subtype="FLOAT")
    long = bytearray(write("long.wav", 2).read_bytes())
    long[40:44] = RATE.to_bytes(4, "little")  # half a second
    (tmp_path / "long.wav").write_bytes(long)
    pipe = bytearray(write("pipe.wav").read_bytes())
    pipe[40:44] = b"\xff" * 4
    (tmp_path / "pipe.wav").write_bytes(pipe)
    files = [tmp_path / name for name in ("loud.wav", "long.wav", "pipe.wav")]
    code, out, err = epanns("tag", network, *files)
    assert (code, len(out.splitlines())) == (0, 3)
    assert err.splitlines() == [
        f"2 samples beyond [-1, 1] were limited: {files[0]} 2",
        f"sound beyond the length that the header states was tagged too: {files[1]} 1.5 s",
        f"length not stated by the file, so that a cut may not show: {files[2]}",
    ]
    assert "0.00-2.00 s" in out


def test_a_note_names_three_files_and_counts_the_rest(epanns, tmp_path, network):
    for number in range(5):
        soundfile.write(tmp_path / f"{number}.wav", np.full(100, 1.5), RATE, subtype="FLOAT")
    _, _, err = epanns("tag", network, tmp_path)
    named = ", ".join(f"{tmp_path}/{number}.wav 100" for number in range(3))
    assert err == f"500 samples beyond [-1, 1] were limited: {named}, 2 more files\n"


def test_names_reach_neither_terminal_nor_spreadsheet_as_commands(epanns, tmp_path, write, network, monkeypatch):
    monkeypatch.chdir(tmp_path)
    write("=1+1\n.wav")
    code, out, _ = epanns("tag", network, "=1+1\n.wav", "--top", 3, "--csv", "tags.csv")
    assert (code, len(out.splitlines())) == (0, 1)
    assert r"=1+1\n.wav" in out
    assert r"\x1b[31mbell" in out
    assert "\x1b" not in out
    header, row = list(csv.reader(io.StringIO((tmp_path / "tags.csv").read_text(), newline="")))
    assert header[:5] == ["file", "start", "end", "dog", "'=rain()"]
    assert row[0] == "'=1+1\n.wav"


@pytest.mark.parametrize(
    ("seconds", "window", "hop"), [(0.3, None, None), (34, None, None), (3.3, 1.0, 0.4), (0.3, 1, 1)]
)
def test_the_windows_are_those_of_the_whole_file(write, network, monkeypatch, seconds, window, hop):
    """The slow twin decodes all of the file, cuts it at once and scores one window at a time."""
    monkeypatch.setattr("epanns.audio.decoders._BLOCK_VALUES", 3_001)
    path, model = write("a.wav", seconds), load(network).eval()
    samples = torch.from_numpy(load_waveform(path, sample_rate=RATE).samples)
    length = len(samples) if window is None else min(len(samples), round(window * RATE))
    length = 10 * RATE if seconds > 30 else length
    step = round((hop or length / RATE) * RATE)
    starts = list(range(0, len(samples) - length + 1, step))
    starts += [len(samples) - length] if starts[-1] + length < len(samples) else []
    file, windows = tag_file(model, path, EvaluationProtocol(window, hop), 3)
    assert file.seconds == seconds
    assert [(found["start"], found["end"]) for found in windows] == [(s / RATE, (s + length) / RATE) for s in starts]
    for start, found in zip(starts, windows, strict=True):
        with torch.no_grad():
            expected = model(samples[None, start : start + length])["clipwise_output"][0]
        scores = {tag["name"]: tag["score"] for tag in found["tags"]}
        assert [scores[name] for name in model.labels.names] == pytest.approx(expected.tolist(), abs=2e-6)


def test_a_device_that_is_not_there_is_refused(epanns, write, network):
    code, _, err = epanns("tag", network, write("a.wav"), "--device", "cuda:99")
    assert code == 1
    assert err.startswith("epanns: --device 'cuda:99': this machine has")
