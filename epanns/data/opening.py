"""Open a pack of any format, which is detected from the contents of the folder or file."""

from pathlib import Path

import h5py

from epanns.data.clip_source import ClipSource
from epanns.data.mp3_pack import MP3_NAMES, Mp3Pack
from epanns.data.pack import Pack
from epanns.data.pack_format import INDEX_FOLDER, JOURNAL_FILE, PACK_FILE, read_pack_info
from epanns.data.panns_format import INDEX_NAMES, WAVEFORM_NAMES
from epanns.data.panns_pack import open_described_panns_pack, open_panns_files, open_panns_index_pack
from epanns.data.safe_hdf5 import opened, pack_errors
from epanns.data.shard import NAMES
from epanns.errors import PackError
from epanns.labels import LabelSet

HDF5_SUFFIXES = (".h5", ".hdf5", ".hdf")
_ADVICE = "epanns reads a folder made by `epanns pack`, a waveform or index file of PANNs, an MP3 pack of PaSST"


def open_pack(
    path: Path, *, labels: LabelSet | None = None, sample_rate: int = 32_000, seconds: float = 10.0
) -> ClipSource:
    """Open a pack of epanns, PANNs, PaSST or EfficientAT.

    Args:
        path: A folder made by `epanns pack`; a waveform file of PANNs, a folder of waveform files, which are joined in
            the order of their names, or an index file; an MP3 file of PaSST or EfficientAT.
        labels: Classes of a format that does not name them; None for those of AudioSet or FSD50K, identified by their
            number.
        sample_rate: Rate to which encoded sound is resampled, in Hz; waveforms keep their own.
        seconds: Length to which encoded sound is cut or padded.

    Raises:
        PackError: If it is no pack, breaks its format, or has classes that are not known.
    """
    if path.is_dir() or not path.exists():
        return _open_folder(path, labels)
    with opened(path, _ADVICE) as file, pack_errors(path, "file", _ADVICE):
        if len(file) > len(NAMES) or not isinstance(file, h5py.File):
            raise PackError(f"{path}: holds {len(file)} objects, which is no pack; {_ADVICE}")
        names = {str(name) for name in file}
    if names == set(WAVEFORM_NAMES):
        return open_panns_files(path, [path], labels=labels)
    if names == set(INDEX_NAMES):
        return open_panns_index_pack(path, labels=labels)
    if names == set(MP3_NAMES):
        return Mp3Pack(path, labels=labels, sample_rate=sample_rate, seconds=seconds)
    if names == set(NAMES):
        raise PackError(f"{path}: is one shard of a pack; name its folder {path.parent}")
    held = ", ".join(sorted(repr(name)[:40] for name in names)) or "nothing"
    raise PackError(f"{path}: holds {held}, which is no pack; {_ADVICE}")


def _open_folder(path: Path, labels: LabelSet | None) -> ClipSource:
    files = [file for file in sorted(path.glob("*")) if file.suffix in HDF5_SUFFIXES and file.is_file()]
    if not files and (path / INDEX_FOLDER).is_dir() and not (path / PACK_FILE).exists():
        raise PackError(f"{path}: holds PANNs' folders; name one of the index files in {path / INDEX_FOLDER}")
    if (path / PACK_FILE).exists() or (path / JOURNAL_FILE).exists() or not files:
        info = read_pack_info(path)
        return open_described_panns_pack(path, info) if info.settings.format == "panns" else Pack(path)
    return open_panns_files(path, files, labels=labels)
