import csv
import re
import string

import numpy as np
import pytest
import soundfile
from hypothesis import assume, given
from hypothesis import strategies as st

from epanns.data.clip import Clip
from epanns.data.datasets.audioset import (
    LIST_COLUMNS,
    OTHER_SEGMENT,
    Segment,
    read_audioset,
    read_lists,
    segment_of_name,
)
from epanns.data.manifest import ManifestFile, write_manifest
from epanns.data.packing.packer import pack_manifest
from epanns.data.packs.pack_format import PackSettings
from epanns.errors import DataError
from epanns.labels import LabelSet, audioset

SPEECH, MUSIC, DOG = "/m/09x0r", "/m/04rlf", "/m/0bt9lr"
EVAL = [("--PJHxphWEs", "30.000", "40.000", f"{SPEECH},{MUSIC}"), ("Y_-Y_-Y_-Y_", "0.000", "9.500", DOG)]
TRAIN = [("Yabcdefgh_0", "239.800", "249.800", SPEECH)]


def plain(rows):
    return "".join(f'{line[0]},{line[1]},{line[2]},"{line[3]}"\n' for line in [LIST_COLUMNS, *rows]).replace(
        '"positive_labels"', "positive_labels"
    )


def official(rows):
    lines = [f'{video}, {start}, {end}, "{labels}"' for video, start, end, labels in rows]
    head = ["# Segments csv created Sun Mar  5 10:54:31 2017", f"# num_ytids={len(rows)}, num_segs={len(rows)}"]
    return "\r\n".join([*head, f"# {', '.join(LIST_COLUMNS)}", *lines, ""])


@pytest.fixture
def made(tmp_path):
    """Make lists of segments and empty audio files; return the folder."""

    def run(*files, form=official, folder=".", **lists):
        root = tmp_path / "root"
        (root / folder).mkdir(parents=True, exist_ok=True)
        for name, rows in (lists or {"eval": EVAL, "balanced_train": TRAIN}).items():
            (root / folder / f"{name}_segments.csv").write_text(rows if isinstance(rows, str) else form(rows))
        for file in files:
            (root / file).parent.mkdir(parents=True, exist_ok=True)
            (root / file).touch()
        return root

    return run


@pytest.mark.parametrize("folder", [".", "metadata"])
@pytest.mark.parametrize("form", [official, plain, lambda rows: plain(rows).partition("\n")[2]])
def test_both_forms_of_the_lists_give_the_same_clips(made, form, folder):
    root = made("eval/Y--PJHxphWEs.wav", "a/b/Yabcdefgh_0_239.8_249.8.flac", form=form, folder=folder)
    manifest = read_audioset(root)
    assert manifest.dataset == "AudioSet"
    assert manifest.labels == audioset()
    assert manifest.clips == (
        Clip("Yabcdefgh_0", f"{root}/a/b/Yabcdefgh_0_239.8_249.8.flac", ("Speech",), "balanced_train"),
        Clip("--PJHxphWEs", f"{root}/eval/Y--PJHxphWEs.wav", ("Speech", "Music"), "eval"),
    )
    assert manifest.missing == (Clip("Y_-Y_-Y_-Y_", f"{root}/Y_-Y_-Y_-Y_.wav", ("Dog",), "eval"),)
    assert (manifest.ignored, manifest.notes) == (0, ())
    assert manifest.splits == {"balanced_train": 1, "eval": 2}


def test_lists_may_be_named_and_give_the_splits_their_names(made, tmp_path):
    root = made("--PJHxphWEs.wav")
    (tmp_path / "mine.csv").write_text(plain(EVAL))
    manifest = read_audioset(root, segments=[tmp_path / "mine.csv"], name="part")
    assert (manifest.dataset, manifest.splits) == ("part", {"mine": 2})


def test_whole_videos_have_a_start_and_a_duration(made):
    root = made("Y--PJHxphWEs.webm", "Yabcdefgh_0.m4a", "Y_-Y_-Y_-Y__0.wav")
    manifest = read_audioset(root, whole_videos=True)
    times = {clip.clip_id: (clip.start, clip.duration) for clip in (*manifest.clips, *manifest.missing)}
    assert times == {"--PJHxphWEs": (30.0, 10.0), "Yabcdefgh_0": (239.8, 10.0), "Y_-Y_-Y_-Y_": (0.0, 9.5)}
    assert [clip.clip_id for clip in manifest.missing] == ["Y_-Y_-Y_-Y_"]
    assert manifest.notes == ("1 files have times in their names, so they are no whole videos",)


def test_the_file_with_the_most_exact_name_is_used_and_others_are_counted(made):
    root = made(
        "a/--PJHxphWEs.wav",
        "b/--PJHxphWEs_30.000_40.000.wav",
        "c/--PJHxphWEs_30000-40000.flac",
        "d/--PJHxphWEs_30.wav",
        "e/--PJHxphWEs_50.000_60.000.wav",
        "Y_-Y_-Y_-Y_.ogg",
        "Y_-Y_-Y_-Y_.wav",
        "unknown.wav",
        "notes.txt",
    )
    manifest = read_audioset(root)
    assert [clip.path for clip in manifest.clips] == [
        f"{root}/b/--PJHxphWEs_30.000_40.000.wav",
        f"{root}/Y_-Y_-Y_-Y_.ogg",
    ]
    assert manifest.ignored == 6
    assert manifest.notes == (
        "1 audio files have a name that is no segment of the lists",
        "1 files are, by the times in their names, of other segments than the lists'",
        "4 files are of segments that have another file; the file with the most exact name is used, or else the first",
    )


def test_repeated_rows_count_once_and_are_noted(made):
    rows = [*EVAL, EVAL[0], (EVAL[1][0], "0.0", "9.50", f"{DOG}, {DOG}")]
    manifest = read_audioset(made(eval=rows))
    assert manifest.splits == {"eval": 2}
    assert manifest.notes == (
        "eval_segments.csv: 2 rows repeat an earlier row; each segment counts once",
        "eval_segments.csv: 1 rows name a label twice; it counts once",
    )


def test_a_list_with_fewer_rows_than_stated_is_noted(made):
    text = official(EVAL).rstrip().rpartition("\r\n")[0]
    assert read_audioset(made(eval=text)).notes == (
        "eval_segments.csv: its beginning promises 2 segments, it has 1; it may be cut off",
    )


def test_classes_can_be_given(made):
    labels = LabelSet(("Dog", "Speech", "Music"), (DOG, SPEECH, MUSIC))
    manifest = read_audioset(made(), labels=labels)
    assert manifest.labels == labels
    with pytest.raises(
        DataError, match=rf"row 1: label '{SPEECH}' is not among the mids of the 1 classes; see --labels"
    ):
        read_audioset(made(), labels=LabelSet(("Dog", "Bark"), (DOG, "")))


@pytest.mark.parametrize(
    ("row", "message"),
    [
        ('--PJHxphWEs, 1, 2, "/m/x"', "label '/m/x' is not among the mids of the 527 classes; see --labels"),
        ("--PJHxphWEs, 1, 2, /m/09x0r,/m/04rlf", "has 5 fields, must have 4: YTID,start_seconds,end_seconds,positive"),
        ('--PJHxphWE, 1, 2, "/m/09x0r"', "'--PJHxphWE' is no id of YouTube: those are 11 letters, digits, - or _"),
        ('--PJHxphWEs, 2, 1, "/m/09x0r"', "start '2' and end '1' of --PJHxphWEs must be seconds, the end after"),
        ('--PJHxphWEs, -1, 1, "/m/09x0r"', "start '-1' and end '1' of --PJHxphWEs must be seconds"),
        ('--PJHxphWEs, nan, 1, "/m/09x0r"', "start 'nan' and end '1' of --PJHxphWEs must be seconds"),
        ('--PJHxphWEs, x, 1, "/m/09x0r"', "start 'x' and end '1' of --PJHxphWEs must be seconds"),
        ('--PJHxphWEs, 1, 2, ""', "label '' is not among the mids"),
    ],
)
def test_a_wrong_row_is_named(made, row, message):
    root = made(eval=official(EVAL[1:]) + row)
    with pytest.raises(DataError, match=re.escape(f"{root}/eval_segments.csv, row 2: {message}")):
        read_audioset(root)


def test_a_video_in_two_lists_is_refused_as_a_leak(made):
    root = made(eval=EVAL, balanced_train=[*TRAIN, EVAL[1]])
    message = (
        f"{root}/balanced_train_segments.csv, row 2 and {root}/eval_segments.csv, row 2: Y_-Y_-Y_-Y_ is in the splits "
        "'balanced_train' and 'eval': a leak; keep it in one"
    )
    with pytest.raises(DataError, match=re.escape(message)):
        read_audioset(root)


def test_two_segments_of_one_video_are_refused(made):
    root = made(eval=[*EVAL, (EVAL[0][0], "50", "60", DOG)])
    message = f"{root}/eval_segments.csv, row 1 and {root}/eval_segments.csv, row 3: two different segments of --PJH"
    with pytest.raises(DataError, match=re.escape(message)):
        read_audioset(root)


def test_two_lists_of_one_split_and_no_list_are_refused(made, tmp_path):
    with pytest.raises(DataError, match=r"no list of segments such as eval_segments\.csv .* with --segments"):
        read_audioset(tmp_path)
    root = made(eval=EVAL, folder="metadata")
    made(eval=EVAL)
    with pytest.raises(DataError, match=r"root/eval_segments\.csv and .*metadata.* are both lists of eval; name one"):
        read_audioset(root)


def test_a_file_that_is_no_list_is_reported(tmp_path):
    (tmp_path / "a.csv").write_bytes(b"\xff\xfe")
    with pytest.raises(DataError, match=r"a\.csv: cannot be read as a list of segments \("):
        read_lists([tmp_path / "a.csv"], audioset())


def test_progress_counts_files(made):
    root = made(*(f"{number}.wav" for number in range(4096)))
    calls = []
    read_audioset(root, progress=lambda done, total: calls.append((done, total)))
    assert calls == [(4096, None)]


def test_the_published_lists_are_read_whole_and_pack(shared, tmp_path):
    lists = shared / "data" / "meta" / "audioset"
    root = tmp_path / "audioset"
    for number in range(10):
        (root / f"part{number % 3}").mkdir(parents=True, exist_ok=True)
    with (lists / "eval_segments.csv").open() as file:
        rows = list(csv.DictReader(file))
    for number, row in enumerate(rows[::2000]):
        forms = (
            "Y{YTID}.wav",
            "{YTID}.flac",
            "{YTID}_{start_seconds}.wav",
            "{YTID}_{start_seconds}_{end_seconds}.flac",
        )
        name = forms[number % len(forms)].format(**row)
        soundfile.write(root / f"part{number % 3}" / name, 0.1 * np.sin(np.arange(8000) / 10), 8_000)
    both = [lists / "balanced_train_segments.csv", lists / "eval_segments.csv"]
    manifest = read_audioset(root, segments=both)
    assert manifest.splits == {"balanced_train": 22_160, "eval": 20_371}
    assert [clip.clip_id for clip in manifest.clips] == [row["YTID"] for row in rows[::2000]]
    assert (len(manifest.missing), manifest.ignored, manifest.notes) == (42_531 - 11, 0, ())

    official_lists = [tmp_path / path.name for path in both]
    for path, out in zip(both, official_lists, strict=True):
        with path.open() as file:
            out.write_text(official([list(row.values()) for row in csv.DictReader(file)]))
    assert read_audioset(root, segments=official_lists) == manifest

    write_manifest(manifest, tmp_path / "m.csv")
    assert ManifestFile(tmp_path / "m.csv").splits["eval"].missing == 20_371 - 11
    settings = PackSettings(splits=("eval",), sample_rate=8_000, seconds=1.0)
    counts = pack_manifest(tmp_path / "m.csv", tmp_path / "pack", settings).counts
    assert (counts.expected, counts.found, counts.clips) == (20_371, 11, 11)


video_ids = st.text(string.ascii_letters + string.digits + "-_", min_size=11, max_size=11)
tricky_ids = st.one_of(
    video_ids, video_ids.map(lambda text: "Y" + text[1:]), video_ids.map(lambda text: text[:8] + "_30")
)
starts = st.one_of(st.integers(0, 3000).map(float), st.integers(0, 30_000).map(lambda tenths: tenths / 10))


def segment(start=30.0, end=40.0):
    return Segment(start, end, ("Speech",), "eval")


def times_as_written(start, end):
    """Every way in which names give times, with how exact each is."""
    return [
        ("", 0),
        *((f"_{form(start)}", 1) for form in FORMS),
        *((f"_{form(start)}{between}{form(end)}", 2) for form in FORMS for between in "_-"),
    ]


FORMS = [
    str,  # 30.0
    "{:.3f}".format,  # 30.000
    lambda seconds: str(int(seconds)),  # 30, cut
    lambda seconds: f"{int(seconds):06d}",  # 000030
    "{:.0f}".format,  # 30, rounded
    lambda seconds: str(round(1000 * seconds)),  # milliseconds
]


@given(tricky_ids, starts, st.sampled_from(["", "Y"]), st.sets(tricky_ids, max_size=3))
def test_every_form_of_file_name_denotes_its_segment(video_id, start, prefix, others):
    mine = segment(start, start + 10)
    segments = {other: segment() for other in others} | {video_id: mine}
    for times, exactness in times_as_written(start, start + 10):
        found = segment_of_name(f"{prefix}{video_id}{times}", segments)
        assert found is not None
        assert found[0] is mine
        assert found[1] == exactness


@given(tricky_ids, st.integers(0, 600), st.integers(0, 600), st.sampled_from(["", "Y"]))
def test_other_segments_of_a_video_are_recognised(video_id, listed, other, prefix):
    # 1000 s of one segment and 1 s of another in milliseconds are written alike.
    assume(other not in (listed, 1000 * listed) and listed != 1000 * other)
    segments = {video_id: segment(float(listed), float(listed + 10))}
    for times, exactness in times_as_written(float(other), float(other + 10)):
        found = segment_of_name(f"{prefix}{video_id}{times}", segments)
        assert found == (segments[video_id], OTHER_SEGMENT if exactness else 0)


@given(tricky_ids, tricky_ids, st.sampled_from(["", "Y"]))
def test_a_name_of_an_unlisted_video_denotes_no_segment(video_id, known, prefix):
    for times, _ in times_as_written(30.0, 40.0):
        name = f"{prefix}{video_id}{times}"
        assume(known not in (name[:11], name[1:12]))
        assert segment_of_name(name, {known: segment()}) is None


@pytest.mark.parametrize(
    "stem",
    [
        "--PJHxphWEs_30.000_40.000_50",
        "--PJHxphWEs_",
        "--PJHxphWEs_30_",
        "--PJHxphWEs_-30",
        "--PJHxphWEs_3O",
        "--PJHxphWEs30",
        "--PJHxphWEs (1)",
        "y--PJHxphWEs",
        "YY--PJHxphWEs",
        "--PJHxphWE",
        "",
    ],
)
def test_other_file_names_denote_no_segment(stem):
    assert segment_of_name(stem, {"--PJHxphWEs": segment()}) is None


@pytest.mark.parametrize(
    ("times", "exactness"),
    [
        ("_30_40", 2),
        ("_30_39", OTHER_SEGMENT),
        ("_30_4", OTHER_SEGMENT),
        ("_31", OTHER_SEGMENT),
        ("_29.5", OTHER_SEGMENT),
        ("_30.04", OTHER_SEGMENT),
        ("_30000_40000", 2),
        ("_30000_40", OTHER_SEGMENT),
        ("_30000.0", OTHER_SEGMENT),
        ("_٣٠", None),
    ],
)
def test_times_must_be_the_listed_ones_in_one_unit(times, exactness):
    found = segment_of_name(f"--PJHxphWEs{times}", {"--PJHxphWEs": segment()})
    assert (found and found[1]) == exactness
