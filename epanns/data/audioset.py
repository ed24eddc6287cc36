"""AudioSet -> manifest.

Source: Gemmeke et al., "Audio Set: An ontology and human-labeled dataset for audio events", 2017. The lists of segments
are read by `epanns.data.audioset_lists`, file names by `epanns.data.audioset_names`.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from epanns.data.audioset_lists import Segment, find_lists, read_lists
from epanns.data.audioset_names import OTHER_SEGMENT, resolve
from epanns.data.clip import Clip
from epanns.data.manifest import Manifest
from epanns.data.sound_files import sounds_below, stem_of
from epanns.feedback import Progress
from epanns.labels import LabelSet, audioset

_FILES_BETWEEN_REPORTS = 4096


@dataclass
class _Ignored:
    """Files that are no clip of the manifest, counted by reason."""

    unknown: int = 0
    other_segments: int = 0
    second_files: int = 0

    @property
    def total(self) -> int:
        """All of them."""
        return self.unknown + self.other_segments + self.second_files

    def notes(self, whole_videos: bool) -> Iterator[str]:
        """Yield a sentence for every reason that occurred."""
        if self.unknown:
            yield f"{self.unknown} sound files have a name that is no segment of the lists"
        if self.other_segments and whole_videos:
            yield f"{self.other_segments} files have times in their names, so they are no whole videos"
        elif self.other_segments:
            yield f"{self.other_segments} files are, by the times in their names, of other segments than the lists'"
        if self.second_files:
            yield (
                f"{self.second_files} files are of segments that have another file; taken was the one whose name tells "
                "the segment most exactly, or else the first"
            )


def read_audioset(
    root: Path,
    *,
    name: str | None = None,
    segments: Sequence[Path] = (),
    labels: LabelSet | None = None,
    whole_videos: bool = False,
    progress: Progress | None = None,
) -> Manifest:
    """Read AudioSet, or a part of it: lists of segments and whatever audio of them lies below a folder.

    Args:
        root: Folder with the audio, at any depth.
        name: What results will call the data set; AudioSet where not given.
        segments: The lists; where none is given, the ``*_segments.csv`` in `root` and in the folders directly below.
        labels: Classes with their mids; AudioSet's 527 where not given.
        whole_videos: Whether the files hold whole videos, of which a clip is the listed part. Otherwise they hold the
            segments, already cut out.
        progress: Called with the number of files seen.

    Raises:
        DataError: If there is no list, a row breaks a rule, or a video is in two lists.
    """
    root = root.resolve()
    labels = labels or audioset()
    listed, notes = read_lists([path.resolve() for path in segments] or find_lists(root), labels)
    ignored = _locate(root, listed, whole_videos, progress)
    found: list[Clip] = []
    missing: list[Clip] = []
    for video_id, segment in listed.items():
        clip = _clip_of(video_id, segment, root, whole_videos)
        (missing if segment.path is None else found).append(clip)
    notes = (*notes, *ignored.notes(whole_videos))
    return Manifest(name or "AudioSet", labels, tuple(found), tuple(missing), ignored.total, notes)


def _locate(root: Path, listed: dict[str, Segment], whole_videos: bool, progress: Progress | None) -> _Ignored:
    """Give every segment the file that is its own."""
    ignored = _Ignored()
    for number, path in enumerate(sounds_below(root), start=1):
        if progress is not None and number % _FILES_BETWEEN_REPORTS == 0:
            progress(number, None)
        resolved = resolve(stem_of(path), listed)
        if resolved is None:
            ignored.unknown += 1
            continue
        segment, exactness = resolved
        if exactness == OTHER_SEGMENT or (whole_videos and exactness):
            ignored.other_segments += 1
            continue
        if segment.path is not None:
            ignored.second_files += 1
        if exactness > segment.exactness:
            segment.path, segment.exactness = f"{root}/{path}", exactness
    return ignored


def _clip_of(video_id: str, segment: Segment, root: Path, whole_videos: bool) -> Clip:
    path = segment.path or f"{root}/{video_id}.wav"
    if not whole_videos:
        return Clip(video_id, path, segment.labels, segment.split)
    duration = round(segment.end - segment.start, 6)
    return Clip(video_id, path, segment.labels, segment.split, segment.start, duration)
