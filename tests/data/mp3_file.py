"""A file in the layout of PaSST's packing script: MP3 files of generated tones in one HDF5 file."""

import io
from pathlib import Path

import h5py
import numpy as np
import soundfile

CLASSES = 10


def encoded(seconds, pitch, rate=32_000, channels=1, kind="MP3"):
    """The bytes of a sound file that holds one tone."""
    times = np.arange(round(seconds * rate)) / rate
    tone = 0.4 * np.sin(2 * np.pi * pitch * times)
    content = io.BytesIO()
    soundfile.write(content, np.tile(tone[:, None], (1, channels)), rate, format=kind)
    return content.getvalue()


def write_mp3_file(path: Path, names, contents, target) -> Path:
    """Write names, contents and ``(clips, CLASSES)`` targets row by row."""
    packed = np.packbits(np.asarray(target, bool), axis=-1)
    with h5py.File(path, "w") as file:
        audio_name = file.create_dataset("audio_name", shape=(len(names),), dtype="S20")
        mp3 = file.create_dataset("mp3", shape=(len(names),), dtype=h5py.vlen_dtype(np.dtype("uint8")))
        rows = file.create_dataset("target", shape=packed.shape, dtype=packed.dtype)
        for row, (name, content) in enumerate(zip(names, contents, strict=True)):
            audio_name[row] = name.encode()
            mp3[row] = np.frombuffer(content, np.uint8)
            rows[row] = packed[row]
    return path
