"""Files in the layout of PANNs' packing scripts, written row by row as by them, with h5py alone."""

from pathlib import Path

import h5py
import numpy as np

CLASSES, SAMPLES = 6, 50


def clip_names(count, first=0):
    return [f"Yclip-{number:06d}.wav" for number in range(first, first + count)]


def waveform_of(name):
    """Samples of a clip, a function of its name."""
    return np.random.default_rng(list(name.encode())).integers(-32_768, 32_767, SAMPLES).astype(np.int16)


def target_of(name):
    target = np.random.default_rng(list(name.encode())).random(CLASSES) < 0.3
    target[len(name) % CLASSES] = True
    return target


def write_waveforms(path: Path, names, *, missing=(), sample_rate=32_000, **how) -> Path:
    """Write a waveform file; the rows of `missing` names are never written."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with h5py.File(path, "w") as file:
        file.create_dataset("audio_name", shape=(len(names),), dtype="S20")
        file.create_dataset("waveform", shape=(len(names), SAMPLES), dtype=np.int16, **how)
        file.create_dataset("target", shape=(len(names), CLASSES), dtype=np.bool_)
        if sample_rate is not None:
            file.attrs.create("sample_rate", data=sample_rate, dtype=np.int32)
        for row, name in enumerate(names):
            if name not in missing:
                file["audio_name"][row] = name.encode()
                file["waveform"][row] = waveform_of(name)
                file["target"][row] = target_of(name)
    return path


def write_index(path: Path, waveform_files, *, prefix="/elsewhere/workspace/hdf5s/waveforms/") -> Path:
    """Write an index of whole waveform files, growing as PANNs' `full_train` does."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with h5py.File(path, "w") as index:
        for name, width, dtype in (
            ("audio_name", (), "S20"),
            ("target", (CLASSES,), np.bool_),
            ("hdf5_path", (), "S200"),
            ("index_in_hdf5", (), np.int32),
        ):
            index.create_dataset(name, shape=(0, *width), maxshape=(None, *width), dtype=dtype)
        for waveform_file in waveform_files:
            with h5py.File(waveform_file) as file:
                rows = len(file["audio_name"])
                columns = {
                    "audio_name": file["audio_name"][...],
                    "target": file["target"][...],
                    "hdf5_path": np.full(rows, (prefix + waveform_file.name).encode()),
                    "index_in_hdf5": np.arange(rows),
                }
            for name, values in columns.items():
                there = len(index[name])
                index[name].resize(there + rows, axis=0)
                index[name][there:] = values
    return path
