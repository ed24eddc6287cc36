"""Read Speech Commands, versions 0.01 and 0.02, into a manifest.

Each word is a folder, ``bed/026290a7_nohash_0.wav``. ``validation_list.txt`` and ``testing_list.txt`` name the clips of
the splits ``val`` and ``test``; all other clips are ``train``. A file name begins with its speaker and ``_nohash_``.
``_background_noise_`` holds recordings of about a minute that are to be mixed into clips; it is no class.

Source: Warden, "Speech Commands: A Dataset for Limited-Vocabulary Speech Recognition", 2018, and the README.md of the
data set.
"""

from collections import Counter
from dataclasses import replace
from pathlib import Path

from epanns.data.clip import Clip
from epanns.data.datasets.sound_files import files_below, folders_holding, is_sound, stem_of
from epanns.data.datasets.splits import TEST, TRAIN, VAL, notes_on_groups
from epanns.data.manifest import Manifest
from epanns.errors import DataError
from epanns.labels import LabelSet, composed, in_label_order
from epanns.strict import shown
from epanns.text_files import read_text

PUBLISHED = {
    "0.01": {TRAIN: 51_088, VAL: 6_798, TEST: 6_835},
    "0.02": {TRAIN: 84_843, VAL: 9_981, TEST: 11_005},
}
"""Clips of each split, by version of the data set."""

NOISE = "_background_noise_"
"""Folder of recordings that are no clips."""

_LISTS = {VAL: "validation_list.txt", TEST: "testing_list.txt"}
_LONGEST_LIST = 1 << 26  # bytes; the longest published list has 350,000
_REMEDY = "extract it from the archive again"
_SPEAKER_END = "_nohash_"


def read_speechcommands(root: Path, *, name: str | None = None) -> Manifest:
    """Read Speech Commands or another data set in its layout: the splits ``train``, ``val`` and ``test``.

    Classes are the words in alphabetical order. Re-encoded audio is found by its stem. Clip ids are paths, and
    ``^(.+)_nohash_`` finds the speakers in their file names.

    Args:
        root: The folder with the words and both lists, or a folder at most two levels above it.
        name: Name of the data set in results; default: the folder's name.

    Raises:
        DataError: If the lists are not found, a line is invalid, or a clip is in two splits.
    """
    found = folders_holding(root.resolve(), *_LISTS.values())
    if len(found) != 1:
        several = f"{' and '.join(map(str, found))} both hold them; name one of these" if found else ""
        remedy = several or "name the folder with the words and these lists; `epanns data folder` needs no lists"
        raise DataError(f"{root}: {' and '.join(_LISTS.values())} must be in it, or in one folder below it: {remedy}")
    folder = found[0]
    listed = _read_lists(folder)
    clips: list[Clip] = []
    missing: list[Clip] = []
    place_of: dict[str, str] = {}  # clip without its suffix -> path
    n_ignored = n_noise = 0
    for path, is_there in files_below(folder):
        word, _, file = path.partition("/")
        if not is_sound(path) or not file or "/" in file or word == NOISE:
            n_ignored += is_sound(path)
            n_noise += is_sound(path) and word == NOISE
            continue
        key = f"{word}/{stem_of(path)}"
        if place_of.setdefault(key, path) != path:
            raise DataError(f"{folder}: {place_of[key]} and {path} are one clip in two encodings; keep one")
        _, split, _ = listed.get(key, ("", TRAIN, ""))
        clip = Clip(path, f"{folder}/{path}", (composed(word),), split)
        (clips if is_there else missing).append(clip)
    for key, (path, split, _) in listed.items():
        if key not in place_of:
            missing.append(Clip(path, f"{folder}/{path}", (composed(path.partition("/")[0]),), split))
    if not clips:
        raise DataError(f"{folder}: no sound file in a folder of a word, such as bed/026290a7_nohash_0.wav")
    labels = LabelSet.of(in_label_order(clip.labels[0] for clip in (*clips, *missing)))
    manifest = Manifest(name or folder.name, labels, tuple(clips), tuple(missing), n_ignored)
    noise = f"{n_noise} recordings in {NOISE} are no clips and are among the ignored files"
    return replace(manifest, notes=(*([noise] if n_noise else []), *_notes(manifest)))


def _read_lists(folder: Path) -> dict[str, tuple[str, str, str]]:
    """Return the path, the split, and the list and line of each listed clip, by its path without suffix."""
    listed: dict[str, tuple[str, str, str]] = {}
    for split, name in _LISTS.items():
        text = read_text(folder / name, error=DataError, limit=_LONGEST_LIST, remedy=_REMEDY)
        for number, line in enumerate(text.splitlines(), start=1):
            path = line.strip()
            if not path:
                continue
            where = f"{folder / name}, line {number}"
            word, _, file = path.partition("/")
            if not word or not file or "/" in file or word == NOISE:
                raise DataError(f"{where}: {shown(path)} must be <word>/<file>, such as bed/026290a7_nohash_0.wav")
            _, other, first = listed.setdefault(f"{word}/{stem_of(path)}", (path, split, where))
            if first != where:
                twice = "is listed twice; remove one line"
                if other != split:
                    twice = f"is in the splits {shown(other)} and {shown(split)}: a leak; keep it in one"
                raise DataError(f"{first} and {where}: {shown(path)} {twice}")
    return listed


def _notes(manifest: Manifest) -> list[str]:
    """Return notes on numbers of clips other than the published, and on speakers."""
    notes = []
    clips = (*manifest.clips, *manifest.missing)
    counts = Counter(clip.split for clip in clips)
    if counts not in PUBLISHED.values():
        versions = " or ".join(
            f"{', '.join(f'{split} {count}' for split, count in of_split.items())} ({version})"
            for version, of_split in PUBLISHED.items()
        )
        given = ", ".join(f"{split} {counts[split]}" for split in (TRAIN, VAL, TEST))
        notes.append(f"clips: {given}; Speech Commands as published has {versions}")
    speakers = {
        clip.clip_id: stem.partition(_SPEAKER_END)[0]
        for clip in clips
        if _SPEAKER_END in (stem := stem_of(clip.clip_id))
    }
    if nameless := [clip.clip_id for clip in clips if clip.clip_id not in speakers]:
        notes.append(f"{len(nameless)} names have no speaker before {_SPEAKER_END}, first {nameless[0]}")
    return [*notes, *notes_on_groups(manifest, speakers, "speaker")]
