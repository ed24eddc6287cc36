"""A report is made of records alone, without torch, and goes into documents between markers."""

import json
import subprocess
import sys

import pytest

from epanns import atomic
from epanns.errors import DataError, OutputError
from epanns.records import read_records
from epanns.reporting.figures import style as figure
from epanns.reporting.report import insert_table, write_report

FILES = {"table.md", "table.csv", "table.tex", "records.csv", "quoted.md", "quoted.csv"}
FILES |= {"figure.svg", "deployment.svg", "quoted.svg", "report.html"}


def files_in(folder):
    return {path.name for path in folder.iterdir() if path.is_file()}


def test_report_writes_tables_and_a_figure(tmp_path, records):
    report = write_report(records, tmp_path / "out")
    assert files_in(tmp_path / "out") >= FILES
    assert set(report.files) == {tmp_path / "out" / name for name in FILES}
    assert (report.n_records, report.n_rows) == (8, 4)


def test_report_without_quoted_rows_has_measured_panels_only(tmp_path, records):
    write_report(records, tmp_path, quoted=False)
    assert not (tmp_path / "quoted.md").exists()
    assert "quoted" not in (tmp_path / "figure.svg").read_text()


def test_report_is_written_again_byte_for_byte(tmp_path, records):
    write_report(records, tmp_path)
    first = {path.name: path.read_bytes() for path in tmp_path.iterdir() if path.is_file()}
    write_report(read_records([tmp_path]), tmp_path)  # from its own copies of the records
    assert {path.name: path.read_bytes() for path in tmp_path.iterdir() if path.is_file()} == first


def test_further_files_of_an_earlier_report_are_removed(tmp_path, records):
    write_report(records, tmp_path)
    for name in ("quoted.png", "quoted.pdf", "quoted.txt", "notes.md"):
        (tmp_path / name).touch()
    write_report(records, tmp_path, quoted=False)
    assert files_in(tmp_path) == FILES - {"quoted.md", "quoted.csv", "quoted.svg"} | {"quoted.txt", "notes.md"}


def test_files_of_no_report_are_not_overwritten(tmp_path, records):
    (tmp_path / "table.md").write_text("mine")
    with pytest.raises(OutputError, match="table.md exists and was not written by a report"):
        write_report(records, tmp_path)
    assert (tmp_path / "table.md").read_text() == "mine"


def test_a_report_killed_after_its_first_file_can_be_made_again(tmp_path, records, monkeypatch):
    def die(texts):
        if tmp_path / "table.md" in texts:
            (tmp_path / "table.md").write_text("half")
            raise KeyboardInterrupt

    monkeypatch.setattr(atomic, "write_texts", die)
    with pytest.raises(KeyboardInterrupt):
        write_report(records, tmp_path)
    monkeypatch.undo()
    write_report(records, tmp_path)
    assert files_in(tmp_path) >= {"table.md"}
    assert (tmp_path / "table.md").read_text() != "half"


def test_records_of_another_report_are_not_mixed_in(tmp_path, records):
    write_report(records, tmp_path)
    with pytest.raises(OutputError, match=r"records/.*.json and 0 more are not in this report: give .* as a DIR too"):
        write_report(records[1:], tmp_path)


def test_report_draws_every_figure_in_three_formats(tmp_path, records, monkeypatch):
    monkeypatch.setattr(figure, "FORMATS", (".svg", ".pdf", ".png"))
    write_report(records, tmp_path)
    stems = ("figure", "deployment", "quoted")
    assert files_in(tmp_path) == FILES | {f"{stem}{suffix}" for stem in stems for suffix in (".png", ".pdf")}


def test_out_that_is_a_file_is_refused(tmp_path, records):
    (tmp_path / "out").write_text("mine")
    with pytest.raises(OutputError, match="out is a file: give --out a folder"):
        write_report(records, tmp_path / "out")
    assert (tmp_path / "out").read_text() == "mine"


def test_table_goes_between_its_markers_and_only_there(tmp_path):
    document = tmp_path / "README.md"
    one = "# Title\n<!-- epanns report: a -->\nold\n<!-- end of epanns report -->\nmiddle\n"
    two = "<!-- epanns report: b -->\nkept\n<!-- end of epanns report -->\nend\n"
    document.write_text(one + two)
    insert_table(document, "a", "| new |\n")
    expected = "# Title\n<!-- epanns report: a -->\n\n| new |\n\n<!-- end of epanns report -->\nmiddle\n" + two
    assert document.read_text() == expected
    insert_table(document, "a", "| new |\n")
    assert document.read_text() == expected


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("nothing here", "<!-- epanns report: a --> occurs 0 times: write it once"),
        ("<!-- epanns report: a -->" * 2, "<!-- epanns report: a --> occurs 2 times: write it once"),
        ("<!-- epanns report: a -->\n", "no <!-- end of epanns report --> after <!-- epanns report: a -->"),
        (
            "<!-- epanns report: a -->\n<!-- epanns report: b -->\n<!-- end of epanns report -->",
            "no <!-- end of epanns report --> after <!-- epanns report: a -->",
        ),
    ],
    ids=["none", "twice", "no end", "another begins"],
)
def test_document_without_clear_markers_is_left_as_it_was(tmp_path, text, message):
    document = tmp_path / "README.md"
    document.write_text(text)
    with pytest.raises(OutputError, match=message):
        insert_table(document, "a", "| new |")
    assert document.read_text() == text


def test_document_that_is_no_text_is_named(tmp_path):
    (tmp_path / "a.bin").write_bytes(b"\xff\xfe\x00")
    with pytest.raises(DataError, match=r"a.bin: cannot be read as text"):
        insert_table(tmp_path / "a.bin", "a", "")


def test_report_needs_neither_torch_nor_h5py_nor_scikit_learn(tmp_path, records):
    folder = tmp_path / "records"
    folder.mkdir()
    for record in records:
        (folder / f"{record.trial_id}.json").write_text(json.dumps(record.to_dict()))
    code = (
        "import sys\n"
        "for name in ('torch', 'torchaudio', 'h5py', 'sklearn', 'torch_pruning', 'matplotlib.pyplot'):\n"
        "    sys.modules[name] = None\n"
        "from epanns.cli.main import main\n"
        "main(sys.argv[1:])\n"
    )
    arguments = ["report", str(folder), "--out", str(tmp_path / "out")]
    done = subprocess.run([sys.executable, "-c", code, *arguments], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert files_in(tmp_path / "out") >= FILES
