import pytest

from epanns.data.csv_table import read_csv_table
from epanns.errors import DataError


def test_rows_are_read_by_column_with_or_without_a_byte_order_mark(tmp_path):
    for encoding in ("utf-8", "utf-8-sig"):
        (tmp_path / "a.csv").write_text('path,labels\na.wav,"dog, old"\n', encoding=encoding)
        assert read_csv_table(tmp_path / "a.csv") == (["path", "labels"], [{"path": "a.wav", "labels": "dog, old"}])


def test_an_empty_file_has_neither_columns_nor_rows(tmp_path):
    (tmp_path / "a.csv").touch()
    assert read_csv_table(tmp_path / "a.csv") == ([], [])


@pytest.mark.parametrize("content", [b"\xff\xfe", b'path\n"open', None])
def test_what_is_no_csv_is_named(tmp_path, content):
    if content is not None:
        (tmp_path / "a.csv").write_bytes(content)
    with pytest.raises(DataError, match=r"a\.csv: cannot be read as CSV \("):
        read_csv_table(tmp_path / "a.csv")
