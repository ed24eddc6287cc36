"""What a pack is: a folder of HDF5 shards described by ``pack.json``.

Reading is in `epanns.data.pack`, writing in `epanns.data.packer`.
"""

import json
import re
from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any

from epanns import atomic
from epanns.data.panns_format import WAVEFORM_FOLDER, waveform_file
from epanns.errors import ConfigError, DataError, PackError
from epanns.labels import LabelSet

FORMAT = "epanns-pack/1"
PACK_FILE, JOURNAL_FILE, REJECTS_FILE, NOTES_FILE = "pack.json", "journal.jsonl", "rejects.csv", "notes.csv"
# How a row may differ from its clip: counts of the rows, and columns of ``notes.csv``.
NOTES = ("short", "cut", "silent", "clipped", "beyond_header", "unstated_length")
SMALL_CHUNK_ROWS = 4096  # rows of one chunk of every dataset but `waveform`, whose chunk is one clip
MOST_CLIPS_PER_SHARD = 100_000
LARGEST_PACK_FILE = 1 << 26  # bytes of pack.json: 300,000 shards
LONGEST_CLIP_SAMPLES = 1 << 28  # 2.3 h at 32 kHz: beyond this a declared size is a mistake or an attack


# Settings that the first packs of this format do not name, and what held for them.
_LATER_SETTINGS = {"min_seconds": 0.0, "format": "epanns"}

# What the shards are: our own files, or those of PANNs with an index (`epanns.data.panns_format`).
SHARD_FILES = {
    "epanns": re.compile(r"shard-\d{5,}\.h5"),
    "panns": re.compile(rf"{WAVEFORM_FOLDER}/part\d{{5,}}\.h5"),
}


def shard_name(number: int, shard_format: str = "epanns") -> str:
    """Return where a shard lies in its pack's folder."""
    return waveform_file(number) if shard_format == "panns" else f"shard-{number:05d}.h5"


@dataclass(frozen=True)
class PackSettings:
    """How clips become rows; two packs of one manifest with equal settings hold the same.

    Attributes:
        splits: Splits of the manifest to take, put in order and each once; empty for all.
        sample_rate: In Hz.
        seconds: Length of every row; longer clips are cut, shorter ones padded with zeros.
        clips_per_shard: Rows of the manifest that go into one shard.
        min_seconds: Clips that end sooner are rejected.
        format: Of the shards, one of `SHARD_FILES`.
    """

    splits: tuple[str, ...] = ()
    sample_rate: int = 32_000
    seconds: float = 10.0
    clips_per_shard: int = 2000
    min_seconds: float = 0.0
    format: str = "epanns"

    def __post_init__(self) -> None:
        object.__setattr__(self, "splits", tuple(sorted(set(self.splits))))  # rows come in the manifest's order
        problems = [
            f"{name}={value:g}: must be {rule}"
            for name, value, rule, holds in (
                ("sample_rate", self.sample_rate, "between 1000 and 384000 Hz", 1000 <= self.sample_rate <= 384_000),
                ("seconds", self.seconds, "above 0 and at most 600", 0 < self.seconds <= 600),
                (
                    "clips_per_shard",
                    self.clips_per_shard,
                    f"between 1 and {MOST_CLIPS_PER_SHARD}",
                    1 <= self.clips_per_shard <= MOST_CLIPS_PER_SHARD,
                ),
                (
                    "min_seconds",
                    self.min_seconds,
                    f"at least 0 and at most seconds={self.seconds:g}",
                    0 <= self.min_seconds <= self.seconds,
                ),
            )
            if not holds
        ]
        if self.format not in SHARD_FILES:
            problems.append(f"format={self.format!r}: must be one of {', '.join(SHARD_FILES)}")
        if not problems and not 1 <= self.clip_samples <= LONGEST_CLIP_SAMPLES:
            problems.append(f"seconds={self.seconds:g} at {self.sample_rate} Hz: must be at least one sample")
        if problems:
            raise ConfigError("; ".join(problems))

    @property
    def clip_samples(self) -> int:
        """Samples of every row."""
        return round(self.seconds * self.sample_rate)


@dataclass(frozen=True)
class PackCounts:
    """What became of the data set's clips.

    Attributes:
        expected: Clips that the data set's own lists name, in the packed splits.
        found: Those whose file was found when the manifest was made.
        missing: The others.
        rejected: Found clips that could not be packed; `rejects.csv` names them.
        clips: Rows of the pack: ``found - rejected``.
        clipped: Rows with samples beyond [-1, 1], which were limited.
        silent: Rows whose samples are all zero.
        short: Rows that are padded, since the clip ended before the row; None in packs made before it was counted.
        cut: Rows whose clip is longer; None, like the counts below, in packs made before they were counted, which have
            no ``notes.csv``.
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
    short: int | None = None
    cut: int | None = None
    beyond_header: int | None = None
    unstated_length: int | None = None


@dataclass(frozen=True)
class ShardInfo:
    """One HDF5 file of a pack.

    Attributes:
        file: Where it lies in the pack's folder.
        clips: Its rows.
        sha256: Of its bytes.
    """

    file: str
    clips: int
    sha256: str

    def is_whole(self, folder: Path) -> bool:
        """Whether the file is there with the bytes that were written; it is read from end to end."""
        try:
            return atomic.sha256_of(folder / self.file) == self.sha256
        except OSError:
            return False


@dataclass(frozen=True)
class PackInfo:
    """The contents of ``pack.json``, written last: a folder without it is not a finished pack.

    Attributes:
        manifest_sha256: Of the manifest's CSV file.
        versions: Of epanns, of the decoder, the resampler and HDF5.
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
        labels = {"digest": self.labels.digest, "names": list(self.labels.names), "mids": list(self.labels.mids)}
        return {
            "format": FORMAT,
            "dataset": self.dataset,
            "splits": list(self.splits),
            "sample_rate": self.sample_rate,
            "clip_samples": self.clip_samples,
            "counts": asdict(self.counts),
            "manifest_sha256": self.manifest_sha256,
            "settings": settings_to_dict(self.settings),
            "resampler": dict(self.resampler),
            "versions": dict(self.versions),
            "shards": [asdict(shard) for shard in self.shards],
            "labels": labels,
        }


def settings_to_dict(settings: PackSettings) -> dict[str, Any]:
    """Return the settings as JSON."""
    return {**asdict(settings), "splits": list(settings.splits)}


def complete_settings(given: Mapping[str, Any]) -> dict[str, Any]:
    """Return what a pack or a journal says of its settings as today's would say it."""
    return {**_LATER_SETTINGS, **given, "splits": sorted({str(split) for split in given["splits"]})}


def read_pack_info(folder: Path) -> PackInfo:
    """Read and check ``pack.json``.

    Raises:
        PackError: If the folder is no finished pack, or the file breaks the format.
    """
    path = folder / PACK_FILE
    if not path.is_file():
        raise PackError(f"{folder}: {_why_not_a_pack(folder)}")
    if path.stat().st_size > LARGEST_PACK_FILE:
        raise PackError(f"{path}: has {path.stat().st_size} bytes, may have {LARGEST_PACK_FILE}; pack again")
    try:
        given = json.loads(path.read_text(encoding="utf-8"))
        json.dumps(given, ensure_ascii=False).encode()  # or a name could be half a character, which nothing can print
    except (OSError, ValueError, RecursionError) as error:
        raise PackError(f"{path}: cannot be read as JSON ({error}); pack again") from error
    version = given.get("format") if isinstance(given, dict) else None
    if version != FORMAT:
        raise PackError(f"{path}: format is {version!r}, this version of epanns reads {FORMAT!r}; pack again")
    try:
        info = _pack_info_of(given)
    except (KeyError, TypeError, ValueError, AttributeError, DataError, ConfigError) as error:
        detail = f"no {error}" if isinstance(error, KeyError) else str(error)
        raise PackError(f"{path}: breaks the format {FORMAT} ({detail}); pack again") from error
    for problem in _problems_of(info, given):
        raise PackError(f"{path}: {problem}; pack again")
    return info


def _why_not_a_pack(folder: Path) -> str:
    if not folder.exists():
        return "no such pack; make one with `epanns pack`"
    if (folder / JOURNAL_FILE).exists():
        return f"has no {PACK_FILE}, so packing was stopped before its end; run the same `epanns pack` again"
    return f"has no {PACK_FILE}, so it is no pack; make one with `epanns pack`"


def _pack_info_of(given: dict[str, Any]) -> PackInfo:
    labels = LabelSet(tuple(map(str, given["labels"]["names"])), tuple(map(str, given["labels"]["mids"])))
    complete = complete_settings(given["settings"])
    settings = {field.name: complete[field.name] for field in fields(PackSettings)}
    return PackInfo(
        dataset=str(given["dataset"]),
        splits=tuple(map(str, given["splits"])),
        sample_rate=_count(given, "sample_rate"),
        clip_samples=_count(given, "clip_samples"),
        labels=labels,
        counts=_counts_of(given["counts"]),
        manifest_sha256=str(given["manifest_sha256"]),
        settings=PackSettings(**{**settings, "splits": tuple(map(str, settings["splits"]))}),
        resampler={str(key): str(value) for key, value in given["resampler"].items()},
        versions={str(key): str(value) for key, value in given["versions"].items()},
        shards=tuple(
            ShardInfo(str(shard["file"]), _count(shard, "clips"), str(shard["sha256"])) for shard in given["shards"]
        ),
    )


def _counts_of(given: Mapping[str, Any]) -> PackCounts:
    later = [field.name for field in fields(PackCounts) if field.default is None and given.get(field.name) is None]
    names = [field.name for field in fields(PackCounts) if field.name not in later]
    return PackCounts(**{name: _count(given, name) for name in names})


def _count(given: Mapping[str, Any], key: str) -> int:
    value = given[key]
    if not isinstance(value, int) or isinstance(value, bool) or value < 0:
        raise ValueError(f"{key} is {value!r}, must be a whole number")
    return value


def _problems_of(info: PackInfo, given: dict[str, Any]) -> list[str]:
    """Return where the parts of ``pack.json`` contradict each other or ask for what no pack holds."""
    counts, rows = info.counts, sum(shard.clips for shard in info.shards)
    pattern = SHARD_FILES[info.settings.format]
    wrong_names = [shard.file for shard in info.shards if not pattern.fullmatch(shard.file)]
    checks = {
        "labels differ from their digest": given["labels"].get("digest") == info.labels.digest,
        "there are no labels": len(info.labels) > 0,
        f"clip_samples={info.clip_samples} is not settings.seconds at settings.sample_rate": (
            (info.clip_samples, info.sample_rate) == (info.settings.clip_samples, info.settings.sample_rate)
        ),
        f"the shards hold {rows} clips, counts say {counts.clips}": rows == counts.clips,
        "counts do not add up": (counts.expected, counts.found)
        == (counts.found + counts.missing, counts.clips + counts.rejected),
        f"shard file {wrong_names[:1]} is no name of a shard": not wrong_names,
        "a shard is listed twice": len({shard.file for shard in info.shards}) == len(info.shards),
        "a shard has no clips or too many": all(0 < shard.clips <= MOST_CLIPS_PER_SHARD for shard in info.shards),
    }
    return [problem for problem, holds in checks.items() if not holds]
