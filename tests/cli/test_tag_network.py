"""`epanns tag [CKPT] AUDIO...`: which argument is the network, and what tags the sound where none is given."""

from pathlib import Path

import click
import numpy as np
import pytest
import soundfile

from epanns.cli.tag import network_and_audio
from epanns.labels import LabelSet
from epanns.models.files.included import included_network
from tests.builders import make_checkpoint

ESC50 = included_network("esc50")
NOTICE = (
    "no checkpoint is given: the included network esc50 tags 50 classes of ESC-50 (CC BY-NC 3.0); "
    "see `epanns info esc50`"
)
NO_SOUND = "neither a sound file nor a folder of sound; name sound, behind a checkpoint or without one"


@pytest.fixture
def place(tmp_path, monkeypatch):
    """A folder, the working directory, with a checkpoint, sound, a folder of sound, and other files."""
    monkeypatch.chdir(tmp_path)
    make_checkpoint(Path("net"), labels=LabelSet.of(["dog", "rain", "bell", "sea"]))
    (tmp_path / "sounds" / "deep").mkdir(parents=True)
    waveform = np.sin(np.arange(16_000) / 10).astype(np.float32) / 2
    for name in ("dog.wav", "sounds/deep/b.flac"):
        soundfile.write(name, waveform, 16_000)
    Path("weights.pth").write_bytes(b"PK")
    (tmp_path / "other").mkdir()
    (tmp_path / "other" / "notes.txt").write_text("no sound")
    return tmp_path


def read(*arguments):
    network, audio = network_and_audio(Path(arguments[0]), tuple(map(Path, arguments[1:])))
    return str(network), [str(path) for path in audio]


def test_a_sound_file_or_a_folder_of_sound_comes_first_without_a_network(place, capsys):
    installed = str(ESC50.folder)
    assert read("dog.wav") == (installed, ["dog.wav"])
    assert capsys.readouterr().err == f"{NOTICE}\n"
    assert read("sounds", "dog.wav") == (installed, ["sounds", "dog.wav"])
    assert read("gone.WAV") == (installed, ["gone.WAV"])  # the file is then reported as missing
    assert read("dog.wav", "net") == (installed, ["dog.wav", "net"])


@pytest.mark.parametrize("network", ["net", "net/config.json", "net/model.safetensors", "weights.pth", "other"])
def test_every_other_path_that_exists_is_a_network_if_sound_follows(place, capsys, network):
    assert read(network, "dog.wav") == (network, ["dog.wav"])
    assert capsys.readouterr().err == ""


def test_a_checkpoint_with_sound_beside_it_is_a_network(place):
    (place / "dog.wav").rename("net/dog.wav")
    assert read("net", "net/dog.wav") == ("net", ["net/dog.wav"])
    Path("net/config.json").write_text("{")  # a damaged checkpoint is not silently replaced by the included network
    assert read("net", "net/dog.wav") == ("net", ["net/dog.wav"])


def test_the_name_of_an_included_network_is_a_network_unless_such_a_path_exists(place, capsys):
    assert read("esc50", "dog.wav") == (str(ESC50.folder), ["dog.wav"])
    assert capsys.readouterr().err == ""
    Path("sounds").rename("esc50")
    assert read("esc50") == (str(ESC50.folder), ["esc50"])  # a folder of sound
    Path("net").rename("sounds")
    Path("esc50").rename("net")
    Path("sounds").rename("esc50")
    assert read("esc50", "dog.wav") == ("esc50", ["dog.wav"])


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (
            ["runs/typo", "dog.wav"],
            "runs/typo: neither a checkpoint nor a sound file: no such path, and no included network has this name; "
            "correct it",
        ),
        (["net"], "net: neither a sound file nor a folder of sound; name sound, behind a checkpoint or without one"),
        (
            ["other"],
            "other: neither a sound file nor a folder of sound; name sound, behind a checkpoint or without one",
        ),
        (
            ["esc50"],
            "esc50: neither a sound file nor a folder of sound; name sound, behind a checkpoint or without one",
        ),
    ],
)
def test_wrong_arguments_are_refused(place, epanns, arguments, message):
    with pytest.raises(click.UsageError) as caught:
        read(*arguments)
    assert str(caught.value) == message
    code, out, err = epanns("tag", *arguments)
    assert (code, out) == (2, "") and err.endswith(f"Error: {message}\n")


def test_no_argument_is_wrong_usage(epanns):
    code, _, err = epanns("tag")
    assert code == 2 and err.endswith("Error: no sound: name sound files, or folders of them\n")


def test_sound_is_tagged_by_the_included_network_and_stderr_states_it(place, epanns):
    code, out, err = epanns("tag", "dog.wav", "--top", "50")
    assert code == 0 and err == f"{NOTICE}\n"
    assert out.startswith("dog.wav  0.00-1.00 s  ")
    tags = [tag.strip().rsplit(" ", 1)[0] for tag in out.split("s  ", 1)[1].split(", ")]
    assert len(tags) == 50 and {"dog", "church_bells", "chainsaw"} <= {tag.replace(" ", "_").lower() for tag in tags}
    assert epanns("tag", "esc50", "dog.wav", "--top", "50") == (0, out, "")
