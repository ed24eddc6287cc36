"""One waveform file of PANNs: `audio_name`, `waveform` and `target`, as their script writes it.

It has no checksums: a flipped bit gives another sample and no error. What can be told is told: that all rows are in the
file, that they have names, and that the file is still the one that was checked.
"""

from dataclasses import dataclass
from pathlib import Path

import h5py
import numpy as np
from numpy.typing import NDArray

from epanns.data.chunked_rows import ChunkedRows, chunk_problem
from epanns.data.clip import LONGEST_CLIP_ID
from epanns.data.foreign_columns import ADVICE, read_strings, read_targets, refuse_shape, rows_of
from epanns.data.open_files import Stamp, close_files, read_at
from epanns.data.pack_format import LONGEST_CLIP_SAMPLES
from epanns.data.panns_format import DTYPES, SAMPLE_RATE_ATTRIBUTE, WAVEFORM_NAMES
from epanns.data.plain_hdf5 import opened, pack_errors, plain_datasets, refusal, storage_problem
from epanns.data.targets import SparseTargets

DEFAULT_SAMPLE_RATE = 32_000  # of a file without the attribute


@dataclass(frozen=True)
class PannsFile:
    """A waveform file that was checked; what it holds open is opened anew in other processes.

    Attributes:
        path: The file.
        sample_rate: In Hz.
        rows: How many it has.
        clip_samples: Length of each.
        num_classes: Width of its targets.
        stamp: Of the file when it was checked.
        place: Of the first row in the file, in bytes; None where rows are in chunks.
        chunked: Reader of rows in chunks.
    """

    path: Path
    sample_rate: int
    rows: int
    clip_samples: int
    num_classes: int
    stamp: Stamp
    place: int | None
    chunked: ChunkedRows

    def read_into(self, row: int, out: NDArray[np.int16]) -> None:
        """Fill ``(clip_samples,)`` with a row.

        Raises:
            PackError: If the file cannot be read, or is not the one that was checked.
        """
        if self.place is None:
            self.chunked.read_into(row, out)
        else:
            read_at(self.path, self.place + row * 2 * self.clip_samples, out, stamp=self.stamp)

    def close(self) -> None:
        """Close the file, if it is open in this process."""
        close_files([self.path])
        self.chunked.close()


@dataclass(frozen=True, eq=False)
class PannsRows:
    """What rows are, beside their sound.

    Attributes:
        names: ``(rows,)`` dtype ``S``, as they stand; empty where PANNs' packer did not find the sound.
        targets: Classes of each row.
    """

    names: NDArray[np.bytes_]
    targets: SparseTargets


def open_panns_file(path: Path) -> tuple[PannsFile, PannsRows]:
    """Check a waveform file and read all but its waveforms.

    Raises:
        PackError: If it is not as PANNs' script writes it.
    """
    with opened(path, ADVICE) as file:
        stamp = Stamp.of(path.stat())
        datasets = plain_datasets(file, path, WAVEFORM_NAMES, attributes=(SAMPLE_RATE_ATTRIBUTE,), advice=ADVICE)
        with pack_errors(path, "file", ADVICE):
            rows = rows_of(datasets["audio_name"], path)
            names = read_strings(datasets["audio_name"], path, rows, longest=LONGEST_CLIP_ID)
            targets = read_targets(datasets["target"], path, rows)
            sample_rate = _sample_rate_of(file, path)
        with pack_errors(path, "waveform", ADVICE):
            waveform = datasets["waveform"]
            place = _place_of(waveform, path, names != b"", stamp.size)
            clip_samples = int(waveform.shape[1])
    labelled = np.flatnonzero((names == b"") & (np.diff(targets.offsets) > 0))
    if len(labelled):
        raise refusal(path, "audio_name", f"row {labelled[0]} has labels and no name", ADVICE)
    chunked = ChunkedRows(path, "waveform", stamp)
    checked = PannsFile(path, sample_rate, rows, clip_samples, targets.num_classes, stamp, place, chunked)
    return checked, PannsRows(names, targets)


def _place_of(waveform: h5py.Dataset, path: Path, named: NDArray[np.bool_], file_bytes: int) -> int | None:
    """Return where the first row lies, or None where rows are in chunks; raise unless every named row is there."""
    if waveform.dtype != DTYPES["waveform"]:
        raise refusal(path, "waveform", f"has type {waveform.dtype}, must have int16", ADVICE)
    refuse_shape(waveform, path, len(named), LONGEST_CLIP_SAMPLES)
    if waveform.chunks is None:
        problem = storage_problem(waveform, file_bytes)
    else:
        problem = chunk_problem(waveform, file_bytes, named)
    if problem:
        raise refusal(path, "waveform", problem, ADVICE)
    return None if waveform.chunks else int(waveform.id.get_offset())


def _sample_rate_of(file: h5py.File, path: Path) -> int:
    if SAMPLE_RATE_ATTRIBUTE not in file.attrs:
        return DEFAULT_SAMPLE_RATE
    attribute = file.attrs.get_id(SAMPLE_RATE_ATTRIBUTE)
    if attribute.shape not in ((), (1,)) or attribute.dtype.kind not in "iu":
        raise refusal(path, SAMPLE_RATE_ATTRIBUTE, "must be one whole number", ADVICE)
    rate = int(np.asarray(file.attrs[SAMPLE_RATE_ATTRIBUTE]).item())
    if not 1000 <= rate <= 384_000:
        raise refusal(path, SAMPLE_RATE_ATTRIBUTE, f"is {rate}, must be between 1000 and 384000 Hz", ADVICE)
    return rate
