"""Packs of encoded sound, as PaSST and EfficientAT make them: one HDF5 file of MP3 files, decoded when they are read.

`audio_name` is a name, `mp3` the bytes of a file, `target` holds eight classes in a byte. There are no checksums, and a
damaged MP3 file usually decodes to something: damage is noticed only if the decoder fails.
"""

import re
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from epanns import atomic
from epanns.audio.resampling import to_int16
from epanns.audio.waveform import load_encoded
from epanns.data.manifests.clip import LONGEST_CLIP_ID
from epanns.data.packs.clip_source import ClipColumns, labels_of_width, refuse_wrong_ids, remark_on_classes
from epanns.data.packs.foreign.foreign_columns import ADVICE, read_packed_targets, read_strings, refuse_shape, rows_of
from epanns.data.packs.foreign.hdf5_strings import read_references, read_string
from epanns.data.packs.open_files import Stamp, close_files
from epanns.data.packs.pack_format import PackSettings
from epanns.data.packs.safe_hdf5 import opened, pack_errors, plain_datasets, refusal
from epanns.errors import DataError, PackError
from epanns.labels import LabelSet

MP3_NAMES = ("audio_name", "mp3", "target")
_KNOWN_WIDTHS = {66: 527, 25: 200}  # bytes of a target -> classes, of AudioSet and FSD50K
# AudioSet's names may have the folder of their split, and lack the Y.
_YOUTUBE_NAME = re.compile(r"(?:.*/)?Y?([A-Za-z0-9_-]{11})\.mp3")


class Mp3Pack:
    """The clips of one MP3 pack, by row.

    The length of a clip is known after decoding, so `columns.n_samples` is the row's; `columns.crc32` is None.

    Attributes:
        path: The file.
        dataset, labels, sample_rate, clip_samples, digest, columns, knows_lengths, remarks: As in `ClipSource`.
    """

    knows_lengths = True

    def __init__(
        self, path: Path, *, labels: LabelSet | None = None, sample_rate: int = 32_000, seconds: float = 10.0
    ) -> None:
        """Check a file and read all columns but the sound.

        Args:
            path: The file.
            labels: Its classes; None for those of AudioSet or FSD50K, identified by the number of bytes of a target,
                which fits up to eight numbers of classes, and by a clip that has the last class.
            sample_rate: Rate to which clips are resampled, in Hz.
            seconds: Length to which clips are cut or padded.

        Raises:
            PackError: If it is not as PaSST's script writes it, or its classes are not known.
        """
        settings = PackSettings(sample_rate=sample_rate, seconds=seconds)
        self.path, self.dataset = path, path.stem
        self.sample_rate, self.clip_samples = settings.sample_rate, settings.clip_samples
        with opened(path, ADVICE) as file:
            self._stamp = Stamp.of(path.stat())
            datasets = plain_datasets(file, path, MP3_NAMES, advice=ADVICE)
            with pack_errors(path, "file", ADVICE):
                rows = rows_of(datasets["audio_name"], path)
                names = read_strings(datasets["audio_name"], path, rows, longest=LONGEST_CLIP_ID)
                width = (datasets["target"].shape or (0,))[-1]
                self.labels = _labels_of(width, labels, path)
                targets = read_packed_targets(datasets["target"], path, rows, len(self.labels))
                if labels is None and not targets.counts()[-1]:
                    raise _unnamed(width, path, f" (no clip has the last of {len(self.labels)})")
            with pack_errors(path, "mp3", ADVICE):
                refuse_shape(datasets["mp3"], path, rows, None)
                self._references = read_references(datasets["mp3"], path)
        refuse_wrong_ids(names, path)
        matches = [(name, _YOUTUBE_NAME.fullmatch(name.decode())) for name in names.tolist()]
        clip_ids = np.array([matched[1].encode() if matched else name for name, matched in matches])
        n_samples = np.full(rows, self.clip_samples, np.int32)
        self.columns = ClipColumns.joined([ClipColumns(clip_ids, n_samples, targets, None)], path)
        content = [self.columns.digest, self.sample_rate, self.labels.digest, self._stamp.size]
        self.digest = atomic.sha256_of_json(content)
        checksums = f"{path}: has no checksums: a damaged MP3 is noticed only if it does not decode"
        guess = () if labels is not None else (remark_on_classes(len(self.labels), path),)
        self.remarks: tuple[str, ...] = (checksums, *guess)

    def __len__(self) -> int:
        return len(self._references)

    def read_into(self, index: int, out: NDArray[np.int16]) -> int:
        """Decode a clip into ``(clip_samples,)``, with zeros after it, and return its number of samples.

        Raises:
            PackError: If it cannot be read or decoded; the message names clip and file.
        """
        clip = f"clip {self.columns.clip_ids[index].decode()!r}"
        limit = self.clip_samples / self.sample_rate
        try:
            content = read_string(self.path, self._references[index], self._stamp)
            loaded = load_encoded(content, "its mp3", sample_rate=self.sample_rate, limit=limit)
        except DataError as error:
            raise PackError(f"{clip}: {refusal(self.path, f'row {index}', str(error), ADVICE)}") from error
        except PackError as error:
            raise PackError(f"{clip}: {error}") from error
        samples = to_int16(loaded.samples)
        out[: len(samples)], out[len(samples) :] = samples, 0
        return len(samples)

    def close(self) -> None:
        """Close the file, if it is open in this process."""
        close_files([self.path])


def _labels_of(width: int, labels: LabelSet | None, path: Path) -> LabelSet:
    """Return the classes of targets of `width` bytes: `labels`, or those of the known data set of this width."""
    if labels is None:
        if width not in _KNOWN_WIDTHS:
            raise _unnamed(width, path)
        return labels_of_width(_KNOWN_WIDTHS[width], None, path)
    if -(-len(labels) // 8) != width:
        raise PackError(f"{path}: has {_numbers(width)} classes, the labels given are {len(labels)}; give its own")
    return labels


def _unnamed(width: int, path: Path, detail: str = "") -> PackError:
    return PackError(f"{path}: has {_numbers(width)} classes{detail} and does not name them; give --labels FILE.csv")


def _numbers(width: int) -> str:
    """Return the possible numbers of classes of targets of `width` bytes."""
    return f"{max(1, 8 * width - 7)} to {8 * width}"
