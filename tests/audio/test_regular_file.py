"""A path that is no regular file is refused before it is opened."""

import os
import socket
from pathlib import Path

import numpy as np
import pytest
import soundfile

from epanns.audio.waveform import load_waveform, require_regular_file
from epanns.data.packing.conversion import is_readable, is_unchanged, read_source
from epanns.errors import DataError


def make(kind, path):
    if kind == "fifo":
        os.mkfifo(path)
    elif kind == "socket":
        with socket.socket(socket.AF_UNIX) as server:
            server.bind(str(path))
    elif kind == "folder":
        path.mkdir()
    else:
        path.symlink_to(kind)


@pytest.mark.parametrize(
    ("kind", "words"),
    [
        ("fifo", r"a named pipe \(FIFO\)"),
        ("socket", "a socket"),
        ("folder", "a folder"),
        ("/dev/zero", "a character device"),
        ("/dev/null", "a character device"),
    ],
)
@pytest.mark.parametrize("is_linked", [False, True])
def test_every_reader_of_sound_requires_a_regular_file(tmp_path, monkeypatch, kind, words, is_linked):
    monkeypatch.chdir(tmp_path)  # the name of a socket is short
    path = Path("a.wav")
    make(kind, Path("target") if is_linked else path)
    if is_linked:
        path.symlink_to("target")
    message = f"^a.wav: is {words}, must be a regular file; correct the path or remove the clip$"
    for read in (require_regular_file, read_source, lambda path: load_waveform(path, sample_rate=8_000)):
        with pytest.raises(DataError, match=message):
            read(path)
    assert not is_readable(str(path))
    assert is_unchanged(str(path), None)


def test_an_empty_file_is_refused_before_it_is_opened(tmp_path):
    """Files of the kernel have size 0 too; reading some, such as /proc/kmsg, never ends."""
    (tmp_path / "a.wav").touch()
    for path in (tmp_path / "a.wav", Path("/proc/self/status")):
        for read in (read_source, lambda path: load_waveform(path, sample_rate=8_000)):
            with pytest.raises(DataError, match=f"^{path}: is empty, must hold sound; fetch the file again or remove"):
                read(path)
        assert not is_readable(str(path))


def test_links_to_regular_files_are_followed(tmp_path):
    soundfile.write(tmp_path / "target.wav", np.full(80, 0.1), 8_000)
    (tmp_path / "a.wav").symlink_to("target.wav")
    assert require_regular_file(tmp_path / "a.wav").st_size == (tmp_path / "target.wav").stat().st_size
    assert len(load_waveform(tmp_path / "a.wav", sample_rate=8_000).samples) == 80
