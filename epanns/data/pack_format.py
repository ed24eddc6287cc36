"""A pack: a folder of HDF5 shards described by ``pack.json``, with the lists ``rejects.csv`` and ``notes.csv``.

Reading of clips is in `epanns.data.pack`, writing in `epanns.data.packer`.
"""

import csv
import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any

from epanns import atomic
from epanns.csv_table import ANY_LENGTH, read_csv_table
from epanns.errors import ConfigError, DataError, PackError
from epanns.json_file import read_json
from epanns.labels import LabelSet
from epanns.strict import ANY_TEXT, TABLE, Reader, Rule, list_of, number, one_of, refuse_breaches, values_of, whole

FORMAT = "epanns-pack/1"
PACK_FILE, JOURNAL_FILE, REJECTS_FILE, NOTES_FILE = "pack.json", "journal.jsonl", "rejects.csv", "notes.csv"
# How a row may differ from its clip: counts of the rows, and columns of ``notes.csv``.
NOTES = ("short", "cut", "silent", "clipped", "beyond_header", "unstated_length")
WAVEFORM_FOLDER, INDEX_FOLDER = "waveforms", "indexes"  # of packs in PANNs' format
SMALL_CHUNK_ROWS = 4096  # rows of one chunk of every dataset but `waveform`, whose chunk is one clip
MOST_CLIPS_PER_SHARD = 100_000
LARGEST_PACK_FILE = 1 << 26  # bytes of pack.json: 300,000 shards
LONGEST_CLIP_SAMPLES = 1 << 28  # 2.3 h at 32 kHz: beyond this a declared size is a mistake or an attack

# Names of the shards of each format: that of epanns, and PANNs' waveform files with an index.
SHARD_FILES = {
    "epanns": re.compile(r"shard-\d{5,}\.h5"),
    "panns": re.compile(rf"{WAVEFORM_FOLDER}/part\d{{5,}}\.h5"),
}
_REJECT_COLUMNS = ("clip_id", "path", "reason")
_NOTE_COLUMNS = ("clip_id", "path", *NOTES)
_SETTING_RULES = {
    "splits": list_of(ANY_TEXT, "names of splits"),
    "sample_rate": whole(1000, 384_000),
    "seconds": number("above 0 and at most 600", lambda value: 0 < value <= 600),
    "clips_per_shard": whole(1, MOST_CLIPS_PER_SHARD),
    "min_seconds": number("a finite number >= 0", lambda value: value >= 0),
    "format": one_of(list(SHARD_FILES)),
}


def shard_name(number: int, shard_format: str = "epanns") -> str:
    """Return the path of a shard in its pack's folder."""
    return f"{WAVEFORM_FOLDER}/part{number:05d}.h5" if shard_format == "panns" else f"shard-{number:05d}.h5"


@dataclass(frozen=True)
class PackSettings:
    """How clips become rows; two packs of one manifest with equal settings hold the same rows.

    Attributes:
        splits: Splits of the manifest to take, sorted and without repetition; empty for all.
        sample_rate: In Hz.
        seconds: Length of every row; longer clips are cut, shorter ones padded with zeros.
        clips_per_shard: Number of the manifest's clips for one shard.
        min_seconds: Shorter clips are rejected.
        format: Format of the shards, one of `SHARD_FILES`.
    """

    splits: tuple[str, ...] = ()
    sample_rate: int = 32_000
    seconds: float = 10.0
    clips_per_shard: int = 2000
    min_seconds: float = 0.0
    format: str = "epanns"

    def __post_init__(self) -> None:
        refuse_breaches(self, _SETTING_RULES)
        object.__setattr__(self, "splits", tuple(sorted(set(self.splits))))  # rows come in the manifest's order
        if self.min_seconds > self.seconds:
            raise ConfigError(f"min_seconds={self.min_seconds:g}: must be at most seconds={self.seconds:g}")
        if not 1 <= self.clip_samples <= LONGEST_CLIP_SAMPLES:
            raise ConfigError(f"seconds={self.seconds:g} at {self.sample_rate} Hz: must be at least one sample")

    @property
    def clip_samples(self) -> int:
        """Samples of every row."""
        return round(self.seconds * self.sample_rate)

    def to_dict(self) -> dict[str, Any]:
        """Return the settings as JSON."""
        return {**asdict(self), "splits": list(self.splits)}


@dataclass(frozen=True)
class PackCounts:
    """Counts of the data set's clips.

    Attributes:
        expected: Clips that the data set's own lists name, in the packed splits.
        found: Clips whose file was found when the manifest was made.
        missing: ``expected - found``.
        rejected: Found clips that cannot be packed; `rejects.csv` names them.
        clips: Rows of the pack: ``found - rejected``.
        clipped: Rows with samples beyond [-1, 1], which were limited.
        silent: Rows whose samples are all zero.
        short: Rows that are padded, since the clip is shorter than the row.
        cut: Rows whose clip is longer than the row.
        beyond_header: Rows with sound beyond the length that the header of the clip's file states.
        unstated_length: Rows of files that do not state their length, of which a part may be missing.
    """

    expected: int
    found: int
    missing: int
    rejected: int
    clips: int
    clipped: int
    silent: int
    short: int
    cut: int
    beyond_header: int
    unstated_length: int


@dataclass(frozen=True)
class ShardInfo:
    """One HDF5 file of a pack.

    Attributes:
        file: Its path in the pack's folder.
        clips: Number of its rows.
        sha256: Of its bytes.
    """

    file: str
    clips: int
    sha256: str

    def is_whole(self, folder: Path) -> bool:
        """Whether the file is there with the bytes that were written; it is read completely."""
        try:
            return atomic.sha256_of(folder / self.file) == self.sha256
        except OSError:
            return False


SHARD_RULES = {
    "file": Rule("a name of a shard", lambda value: isinstance(value, str) and _is_shard_name(value)),
    "clips": whole(1, MOST_CLIPS_PER_SHARD),
    "sha256": ANY_TEXT,
}
_COUNT_RULES = {field.name: whole(0) for field in fields(PackCounts)}
_TEXTS = Rule("a table of texts", lambda value: isinstance(value, dict) and all(map(ANY_TEXT.holds, value.values())))
_INFO_RULES = {
    "format": ANY_TEXT,
    "dataset": ANY_TEXT,
    "splits": list_of(ANY_TEXT, "names of splits"),
    "sample_rate": whole(1),
    "clip_samples": whole(1),
    "counts": TABLE,
    "manifest_sha256": ANY_TEXT,
    "settings": TABLE,
    "resampler": _TEXTS,
    "versions": _TEXTS,
    "shards": list_of(TABLE, "tables"),
    "labels": TABLE,
}
_LABEL_RULES = {
    "digest": ANY_TEXT,
    "names": list_of(ANY_TEXT, "names of classes", least=1),
    "mids": list_of(ANY_TEXT, "AudioSet identifiers"),
}


def _is_shard_name(file: str) -> bool:
    return any(pattern.fullmatch(file) for pattern in SHARD_FILES.values())


@dataclass(frozen=True)
class PackInfo:
    """The contents of ``pack.json``, written last: a folder without it is not a finished pack.

    Attributes:
        manifest_sha256: Of the manifest's CSV file.
        versions: Of epanns, the decoder, the resampler and HDF5.
    """

    dataset: str
    splits: tuple[str, ...]
    sample_rate: int
    clip_samples: int
    labels: LabelSet
    counts: PackCounts
    manifest_sha256: str
    settings: PackSettings
    resampler: Mapping[str, str]
    versions: Mapping[str, str]
    shards: tuple[ShardInfo, ...]

    def to_dict(self) -> dict[str, Any]:
        """Return ``pack.json``."""
        return {
            "format": FORMAT,
            "dataset": self.dataset,
            "splits": list(self.splits),
            "sample_rate": self.sample_rate,
            "clip_samples": self.clip_samples,
            "counts": asdict(self.counts),
            "manifest_sha256": self.manifest_sha256,
            "settings": self.settings.to_dict(),
            "resampler": dict(self.resampler),
            "versions": dict(self.versions),
            "shards": [asdict(shard) for shard in self.shards],
            "labels": {"digest": self.labels.digest, "names": list(self.labels.names), "mids": list(self.labels.mids)},
        }


def read_pack_info(folder: Path) -> PackInfo:
    """Read and check ``pack.json``.

    Raises:
        PackError: If the folder is no finished pack, or the file breaks the format.
    """
    path = folder / PACK_FILE
    if not path.is_file():
        if not folder.exists():
            raise PackError(f"{folder}: no such pack; make one with `epanns pack`")
        is_begun = (folder / JOURNAL_FILE).exists()
        state = "packing was stopped before its end; run the same" if is_begun else "it is no pack; make one with"
        command = "`epanns pack` again" if is_begun else "`epanns pack`"
        raise PackError(f"{folder}: has no {PACK_FILE}, so {state} {command}")
    given = read_json(path, error=PackError, limit=LARGEST_PACK_FILE, remedy="pack again")
    version = given.get("format") if isinstance(given, dict) else None
    if version != FORMAT:
        raise PackError(f"{path}: format is {version!r}, this version of epanns reads {FORMAT!r}; pack again")
    reader = Reader(f"{path}: breaks the format {FORMAT}", error=PackError, remedy="pack again")
    table = reader.table(given, dict, _INFO_RULES, PACK_FILE)
    if table is not None:
        settings = reader.table(given["settings"], PackSettings, _SETTING_RULES, "settings")
        counts = reader.table(given["counts"], PackCounts, _COUNT_RULES, "counts")
        given_labels = reader.table(given["labels"], dict, _LABEL_RULES, "labels")
        shards = reader.tables(given["shards"], ShardInfo, SHARD_RULES, "shards")
