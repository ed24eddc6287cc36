"""What every format of pack offers: clips by row. The formats are in `pack`, `panns_pack` and `mp3_pack`."""

from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from epanns.data.targets import SparseTargets
from epanns.labels import LabelSet


@dataclass(frozen=True, eq=False)
class ClipColumns:
    """All that is known of a pack's clips without reading their sound.

    Attributes:
        clip_ids: ``(clips,)`` UTF-8 bytes of fixed length (dtype ``S``): compact, and quick to hand to other processes.
        n_samples: ``(clips,)`` int32, samples of each clip before its padding; the row's length where a format
            does not say.
        targets: Classes of each clip.
        crc32: ``(clips,)`` uint32 of each row's int16 bytes; None where a format has no checksums.
    """

    clip_ids: NDArray[np.bytes_]
    n_samples: NDArray[np.int32]
    targets: SparseTargets
    crc32: NDArray[np.uint32] | None


class ClipSource(Protocol):
    """A pack of any format.

    It may be passed to other processes, by fork or by pickling: whatever it holds open is opened anew there.

    Attributes:
        path: What the user named: a folder or a file.
        dataset: Name of the data set, as results will cite it.
        labels: Classes in the order of the targets.
        sample_rate: In Hz.
        clip_samples: Length of every row.
        digest: Hexadecimal sha256 that tells the pack's content, as far as the format allows without reading it all.
    """

    path: Path
    dataset: str
    labels: LabelSet
    sample_rate: int
    clip_samples: int
    digest: str

    def __len__(self) -> int: ...

    @property
    def columns(self) -> ClipColumns:
        """Ids, lengths, targets and checksums of all clips; read once."""
        ...

    def read_into(self, index: int, out: NDArray[np.int16]) -> int:
        """Fill ``(clip_samples,)`` with a clip, zeros after its own samples, and return how many those are.

        Raises:
            PackError: If it cannot be read or does not match its checksum; clip and file are named.
        """
        ...

    def close(self) -> None:
        """Close what this process holds open."""
        ...
