"""A pack: a folder of HDF5 shards described by ``pack.json``, with the lists ``rejects.csv`` and ``notes.csv``.

Reading of clips is in `epanns.data.packs.pack`, writing in `epanns.data.packing.packer`.
"""

import csv
import re
from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any

from epanns import atomic
from epanns.errors import ConfigError, DataError, PackError
from epanns.labels import LabelSet
from epanns.strict import (
    ANY_TEXT,
    TABLE,
    Rule,
    check_fields,
    from_table,
    integer,
    list_of,
    number,
    one_of,
    table_problems,
)
from epanns.text_files import ANY_LENGTH, read_csv_table, read_json

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
    "sample_rate": integer(1000, 384_000),
    "seconds": number("above 0 and at most 600", lambda value: 0 < value <= 600),
    "clips_per_shard": integer(1, MOST_CLIPS_PER_SHARD),
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
        check_fields(self, _SETTING_RULES)
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
    "file": Rule(
        "a name of a shard",
        lambda value: isinstance(value, str) and any(each.fullmatch(value) for each in SHARD_FILES.values()),
    ),
    "clips": integer(1, MOST_CLIPS_PER_SHARD),
    "sha256": ANY_TEXT,
}
_COUNT_RULES = {field.name: integer(0) for field in fields(PackCounts)}
_TEXTS = Rule("a table of texts", lambda value: isinstance(value, dict) and all(map(ANY_TEXT.holds, value.values())))
_INFO_RULES = {
    "format": ANY_TEXT,
    "dataset": ANY_TEXT,
    "splits": list_of(ANY_TEXT, "names of splits"),
    "sample_rate": integer(1),
    "clip_samples": integer(1),
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
    try:
        info = _info_of(given)
    except (ConfigError, DataError) as error:
        raise PackError(f"{path}: breaks the format {FORMAT} ({error}); pack again") from error
    counts, settings, rows = info.counts, info.settings, sum(shard.clips for shard in info.shards)
    wrong_names = [shard.file for shard in info.shards if not SHARD_FILES[settings.format].fullmatch(shard.file)]
    checks = {
        "labels differ from their digest": given["labels"]["digest"] == info.labels.digest,
        f"clip_samples={info.clip_samples} is not settings.seconds at settings.sample_rate": (
            (info.clip_samples, info.sample_rate) == (settings.clip_samples, settings.sample_rate)
        ),
        f"the shards hold {rows} clips, counts.clips is {counts.clips}": rows == counts.clips,
        "counts do not add up": (counts.expected, counts.found)
        == (counts.found + counts.missing, counts.clips + counts.rejected),
        f"shard file {wrong_names[:1]} is no name of a shard": not wrong_names,
        "a shard is listed twice": len({shard.file for shard in info.shards}) == len(info.shards),
    }
    for problem, holds in checks.items():
        if not holds:
            raise PackError(f"{path}: {problem}; pack again")
    return info


def _info_of(given: Mapping[str, Any]) -> PackInfo:
    if problems := table_problems(given, _INFO_RULES, required=_INFO_RULES):
        raise ConfigError("; ".join(problems))
    labels = given["labels"]
    if problems := table_problems(labels, _LABEL_RULES, required=_LABEL_RULES, prefix="labels."):
        raise ConfigError("; ".join(problems))
    return PackInfo(
        dataset=given["dataset"],
        splits=tuple(given["splits"]),
        sample_rate=given["sample_rate"],
        clip_samples=given["clip_samples"],
        labels=LabelSet(tuple(labels["names"]), tuple(labels["mids"])),
        counts=from_table(PackCounts, given["counts"], _COUNT_RULES, what="counts: "),
        manifest_sha256=given["manifest_sha256"],
        settings=from_table(PackSettings, given["settings"], _SETTING_RULES, what="settings: "),
        resampler=given["resampler"],
        versions=given["versions"],
        shards=tuple(from_table(ShardInfo, shard, SHARD_RULES, what="shards: ") for shard in given["shards"]),
    )


def write_rejects(pack: Path, rejects: Iterable[tuple[str, str, str]]) -> None:
    """Write clip id, path and reason of each reject."""
    _write_list(pack / REJECTS_FILE, _REJECT_COLUMNS, rejects)


def write_notes(pack: Path, notes: Iterable[tuple[str, str, Mapping[str, int]]]) -> None:
    """Write clip id, path and `NOTES` of each row that differs from its clip; a note that does not apply is 0."""
    rows = ((clip_id, path, *(applying.get(name, 0) for name in NOTES)) for clip_id, path, applying in notes)
    _write_list(pack / NOTES_FILE, _NOTE_COLUMNS, rows)


def problem_of_list(pack: Path, name: str, counts: PackCounts) -> str | None:
    """Return why ``rejects.csv`` or ``notes.csv`` cannot be read or contradicts the counts of its pack, or None."""
    file, columns = pack / name, _REJECT_COLUMNS if name == REJECTS_FILE else _NOTE_COLUMNS
    noted = Counter[str]()
    try:
        found, rows = read_csv_table(file, ANY_LENGTH)
        if tuple(found) != columns:
            raise DataError(f"{file}: first line must be {','.join(columns)}")
        for row in rows:
            noted.update(["rows", *(note for note in NOTES if row.get(note, "0") != "0")])
    except DataError as error:
        return str(error)
    if name == REJECTS_FILE and noted["rows"] != counts.rejected:
        return f"{file}: lists {noted['rows']} clips, {PACK_FILE} counts {counts.rejected} rejected"
    for note in NOTES if name == NOTES_FILE else ():
        if noted[note] != getattr(counts, note):
            return f"{file}: lists {noted[note]} clips as {note}, {PACK_FILE} counts {getattr(counts, note)}"
    return None


def _write_list(path: Path, columns: Iterable[str], rows: Iterable[Iterable[object]]) -> None:
    with atomic.replacing(path) as partial, partial.open("w", encoding="utf-8", newline="") as file:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow(columns)
        writer.writerows(rows)
