"""PANNs' original files: what is in them and how they are named. Writing is in `epanns.data.panns_writer`.

A waveform file holds `audio_name`, `waveform` and `target`, contiguous and without checksums; the sample rate is an
attribute of the file. An index file names, for each of its rows, a waveform file and the row in it.
"""

import hashlib
import re
from collections.abc import Sequence
from typing import Any

import numpy as np

WAVEFORM_FOLDER, INDEX_FOLDER = "waveforms", "indexes"
WAVEFORM_NAMES = ("audio_name", "waveform", "target")
INDEX_NAMES = ("audio_name", "target", "hdf5_path", "index_in_hdf5")
SAMPLE_RATE_ATTRIBUTE = "sample_rate"  # of a waveform file, int32, in Hz
DTYPES: dict[str, np.dtype[Any]] = {
    "waveform": np.dtype(np.int16),
    "target": np.dtype(np.bool_),
    "index_in_hdf5": np.dtype(np.int32),
    SAMPLE_RATE_ATTRIBUTE: np.dtype(np.int32),
}
# Bytes of the fixed-length strings as PANNs' scripts write them; longer names and paths get longer strings.
NAME_BYTES, PATH_BYTES = 20, 200

_LONGEST_INDEX_NAME = (
    200  # bytes; file systems take 255, of which the suffix of a file that is being written needs some
)
_YOUTUBE_ID = re.compile(r"[A-Za-z0-9_-]{11}")


def panns_name(clip_id: str) -> str:
    """Return a clip's `audio_name`: ``Y<id>.wav`` of a YouTube id, as PANNs calls AudioSet's; other ids as they are."""
    return f"Y{clip_id}.wav" if _YOUTUBE_ID.fullmatch(clip_id) else clip_id


def clip_id_of(name: str) -> str:
    """Return the id behind an `audio_name`, the inverse of `panns_name`."""
    inner = name[1:-4]
    return inner if name == f"Y{inner}.wav" and _YOUTUBE_ID.fullmatch(inner) else name


def name_bytes(longest_clip_id: int) -> int:
    """Return the length of `audio_name` that holds every clip id of up to so many bytes."""
    return max(NAME_BYTES, longest_clip_id)


def waveform_file(number: int) -> str:
    """Return where a part's waveform file lies in a pack's folder."""
    return f"{WAVEFORM_FOLDER}/part{number:05d}.h5"


def index_file(splits: Sequence[str]) -> str:
    """Return where the index of a pack of these splits lies in its folder; no splits are all of them.

    Whatever the splits are called, it is one file of the folder of indexes.
    """
    name = "+".join(re.sub(r"[^\w-]", "_", split) for split in splits) or "all"
    if len(name.encode()) > _LONGEST_INDEX_NAME:
        name = f"{name[:40]}-{hashlib.sha256(name.encode()).hexdigest()[:16]}"
    return f"{INDEX_FOLDER}/{name}.h5"
