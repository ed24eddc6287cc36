"""All CSV files are read by one set of rules."""

import os
import re
from pathlib import Path

import pytest

from epanns.data.datasets.audioset import read_audioset
from epanns.data.datasets.class_folders import read_folder
from epanns.data.datasets.esc50 import read_esc50
from epanns.data.datasets.fsd50k import read_fsd50k
from epanns.data.manifest import read_manifest
from epanns.errors import DataError, EpannsError
from epanns.labels import LabelSet
from epanns.pruning.budgets.sensitivity_table import read_sensitivity
from epanns.text_files import LONGEST_LINE, SHORT_LIST, csv_rows_of, read_csv_rows, read_csv_table, whole_number

LABELS = "index,mid,display_name\n0,/m/0bt9lr,dog\n"


def read(path, kind=None):
    columns, rows = read_csv_table(path) if kind is None else read_csv_table(path, kind)
    return columns, list(rows)


@pytest.mark.parametrize("end", ["\n", "\r\n", "\r"])
@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig"])
def test_rows_are_read_by_column_with_or_without_a_byte_order_mark(tmp_path, encoding, end):
    text = f'path,labels{end}a.wav,"dog, old"{end}{end}b.wav,cat\r\n'
    (tmp_path / "a.csv").write_text(text, encoding=encoding, newline="")
    rows = [{"path": "a.wav", "labels": "dog, old"}, {"path": "b.wav", "labels": "cat"}]
    assert read(tmp_path / "a.csv") == (["path", "labels"], rows)


def test_an_empty_file_has_neither_columns_nor_rows(tmp_path):
    (tmp_path / "a.csv").touch()
    assert read(tmp_path / "a.csv") == ([], [])


@pytest.mark.parametrize("content", [b"\xff\xfe", b'path\n"open', None])
def test_invalid_csv_files_are_refused(tmp_path, content):
    if content is not None:
        (tmp_path / "a.csv").write_bytes(content)
    with pytest.raises(DataError, match=r"a\.csv: cannot be read as CSV \("):
        read(tmp_path / "a.csv")


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("path,labels\na,b\nc,d,e\n", "a.csv, row 2: has 3 fields, must have 2: path,labels; put a field that holds"),
        ("path,labels\na,b\nc\n", "a.csv, row 2: has 1 fields, must have 2: path,labels"),
        ("path, path ,b\n", "a.csv: its first line names the column 'path' twice; remove or rename one"),
        ("path,labels,\na,dog,cat\n", "a.csv, row 1: has 'cat' in column 3, which the first line does not name"),
    ],
)
def test_rows_of_another_length_and_repeated_columns_are_refused(tmp_path, text, message):
    (tmp_path / "a.csv").write_text(text)
    with pytest.raises(DataError, match=re.escape(message)):
        read(tmp_path / "a.csv")


def test_columns_without_a_name_number_the_rows_or_are_empty(tmp_path):
    (tmp_path / "a.csv").write_text(",path,\n0,a.wav,\n1,b.wav, \n")
    assert [row["path"] for row in read(tmp_path / "a.csv")[1]] == ["a.wav", "b.wav"]


def test_text_is_read_like_a_file():
    assert list(csv_rows_of('a,b\r\n\r\nc,"d\ne"\r\n', "memory")) == [["a", "b"], ["c", "d\ne"]]
    with pytest.raises(DataError, match=r"memory: cannot be read as CSV \(line 1 holds a NUL character\)"):
        list(csv_rows_of("a\0,b", "memory"))


def test_whole_numbers_are_short_and_plain():
    assert [whole_number(text) for text in ("0", "007", "123456789")] == [0, 7, 123_456_789]
    assert {whole_number(text) for text in ("", "-1", "1.0", "\u00b2", "\u0661", "1" * 10, "9" * 5000)} == {None}


# Of every reader: a call, the file it reads, its text with a good first row, a row of one field more and the count.
READERS = {
    "labels": (LabelSet.from_csv, "l.csv", LABELS, "1,,Male speech, man", "has 4 fields, must have 3"),
    "folder": (read_folder, "l.csv", "path,labels\na.wav,dog\n", "b.wav,dog,cat", "has 3 fields, must have 2"),
    "esc50": (
        lambda path: read_esc50(path.parents[1]),
        "esc/meta/esc50.csv",
        "filename,fold,target,category\na.wav,1,0,dog\n",
        "b.wav,1,1,rain, heavy",
        "has 5 fields, must have 4",
    ),
    "manifest": (
        read_manifest,
        "m.csv",
        "clip_id,path,start,duration,labels,split,fold\na,a.wav,,,dog,train,\n",
        "b,b.wav,,,dog,cat,train,",
        "has 8 fields, must have 7",
    ),
    "manifest's missing clips": (
        lambda path: read_manifest(path.with_name("m.csv")),
        "m.missing.csv",
        "clip_id,path,start,duration,labels,split,fold\nc,a.wav,,,dog,train,\n",
        "b,b.wav,,,dog,cat,train,",
        "has 8 fields, must have 7",
    ),
    "fsd50k": (
        lambda path: read_fsd50k(path.parents[1]),
        "fsd/ground_truth/dev.csv",
        "fname,labels,mids,split\n1,dog,/m/0bt9lr,train\n",
        "2,dog,cat,/m/0bt9lr,train",
        "has 5 fields, must have 4",
    ),
    "vocabulary": (
        lambda path: read_fsd50k(path.parents[1]),
        "fsd/ground_truth/vocabulary.csv",
        "0,dog,/m/0bt9lr\n",
        "1,speech, male,/m/1",
        "has 4 fields, must have 3",
    ),
    "audioset": (
        lambda path: read_audioset(path.parent),
        "eval_segments.csv",
        '# Segments\n-_-_-_-_one, 30.0, 40.0, "/m/0bt9lr"\n',
        "-_-_-_-_two, 30.0, 40.0, /m/0bt9lr,/m/1",
        "has 5 fields, must have 4",
    ),
    "sensitivity": (
        read_sensitivity,
        "s.csv",
        "layer,ratio,width,mAP,loss_of_mAP,n_params,backbone_macs,network\n,0,,0.5,0.0,9,9,\n",
        "conv,0.5,1,0.5,0.0,9,9,,",
        "has 9 fields, must have 8",
    ),
}


@pytest.fixture(params=READERS)
def reader(request, tmp_path):
    """A reader, its file, a good beginning of it, a row that is too long, and the count of the fields of that row."""
    call, name, text, row, count = READERS[request.param]
    path = tmp_path / name
    path.parent.mkdir(parents=True, exist_ok=True)
    good = {
        "m.csv": READERS["manifest"][2],
        "m.labels.csv": LABELS,
        "fsd/ground_truth/vocabulary.csv": "0,dog,/m/0bt9lr\n",
    }
    for other, content in good.items():
        if (tmp_path / other).parent.is_dir():
            (tmp_path / other).write_text(content)
    return lambda: call(path), path, text, row, count


def refused(call) -> str:
    """The message of an error of epanns, which must be one line."""
    with pytest.raises(EpannsError) as error:
        call()
    assert "\n" not in str(error.value)
    return str(error.value)


def test_every_reader_refuses_a_row_with_a_field_too_many(reader):
    call, path, text, row, count = reader
    path.write_text(text + row + "\n")
    message = refused(call)
    assert str(path) in message
    assert count in message


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"\xff\xfea,b\n", "'utf-8' codec can't decode"),
        (b"x,\0\n", "holds a NUL character"),
        (b'x,"y\n', "unexpected end of data"),
        (b"x," + b"y" * 140_000 + b"\n", "field larger than field limit"),
        (b"x," + b"y," * LONGEST_LINE + b"\n", "is longer than 1,048,576 characters"),
    ],
    ids=lambda value: str(value)[:20],
)
def test_every_reader_refuses_bytes_that_are_no_csv(reader, content, message):
    call, path, text, _, _ = reader
    path.write_bytes(text.encode() + content)
    assert message in refused(call)


def test_every_reader_refuses_a_special_file_and_a_sparse_one(reader):
    call, path, text, _, _ = reader
    path.write_text(text)
    os.truncate(path, 40 << 30)  # takes no room on disk
    message = refused(call)
    assert "bytes are too many for" in message or "holds a NUL character" in message or "longer than" in message
    path.unlink()
    os.mkfifo(path)
    assert re.search("no regular file|must hold|missing|no audio|no list|no FSD50K", refused(call))


def test_a_file_above_the_limit_is_refused_before_it_is_read(tmp_path):
    path = Path(tmp_path / "a.csv")
    path.write_bytes(b"\xff")
    os.truncate(path, (1 << 24) + 1)
    message = (
        "a.csv: 16,777,217 bytes are too many for CSV; at most 16,777,216 are read, enough for 100,000 rows of 160 "
        "bytes; give the right file"
    )
    with pytest.raises(DataError, match=re.escape(message)):
        read(path, SHORT_LIST)
    with pytest.raises(DataError, match=r"cannot be read as CSV \((open: )?embedded null (byte|character)"):
        list(read_csv_rows(Path("a\0b")))
