"""One way into a pack of any format, told by what a folder or a file holds."""

from pathlib import Path

import h5py

from epanns.data.mp3_pack import MP3_NAMES, Mp3Pack
from epanns.data.pack import Pack
from epanns.data.pack_format import JOURNAL_FILE, PACK_FILE, PackInfo, read_pack_info
from epanns.data.panns_format import INDEX_FOLDER, INDEX_NAMES, WAVEFORM_NAMES
from epanns.data.panns_pack import open_described_panns_pack, open_panns_files, open_panns_index_pack
from epanns.data.plain_hdf5 import opened, pack_errors
from epanns.data.shard_schema import NAMES
from epanns.data.source import ClipSource
from epanns.errors import PackError
from epanns.labels import LabelSet

HDF5_SUFFIXES = (".h5", ".hdf5", ".hdf")
_WHAT_IS_READ = "a folder made by `epanns pack`, a waveform or index file of PANNs, an MP3 pack of PaSST"
_ADVICE = f"epanns reads {_WHAT_IS_READ}"


def open_pack(
    path: Path, *, labels: LabelSet | None = None, sample_rate: int = 32_000, seconds: float = 10.0
) -> ClipSource:
    """Open a pack, whatever made it.

    Args:
        path: A folder made by `epanns pack`; a waveform file of PANNs, a folder of such files, which are joined by
            name, or an index file; an MP3 file of PaSST or EfficientAT.
        labels: Classes of a format that does not name them; None for AudioSet's or FSD50K's, told by their number.
        sample_rate: Rate at which encoded sound is read, in Hz; waveforms keep theirs.
        seconds: Length at which encoded sound is read.

    Raises:
        PackError: If it is no pack, breaks its format, or has classes that are not known.
    """
    if path.is_dir() or not path.exists():
        return _open_folder(path, labels)
    names = _names_in(path)
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
        return open_described_panns_pack(path, info) if is_panns(info) else Pack(path)
    return open_panns_files(path, files, labels=labels)


def is_panns(info: PackInfo) -> bool:
    """Return whether a pack of `epanns pack` is in PANNs' format."""
    return info.settings.format == "panns"


def _names_in(path: Path) -> set[str]:
    """Return what the root of a file holds; a file with more than any pack has is refused."""
    with opened(path, _ADVICE) as file, pack_errors(path, "file", _ADVICE):
        if len(file) > len(NAMES) or not isinstance(file, h5py.File):
            raise PackError(f"{path}: holds {len(file)} objects, which is no pack; {_ADVICE}")
        return {str(name) for name in file}
