"""The README and the tables of results are what the program and the records give."""

import re
import runpy
from pathlib import Path

import pytest

from epanns.records import read_records
from epanns.reporting.report import insert_table, write_report
from tests.reporting.drawn import assert_drawn_again

ROOT = Path(__file__).parents[1]
README = (ROOT / "README.md").read_text()
RESULTS = sorted(path.parent for path in (ROOT / "results").rglob("records"))
PRUNING_TABLES = runpy.run_path(str(ROOT / "experiments" / "pruning_table.py"))


def test_the_two_commands_open_the_readme():
    commands = re.findall(r"```sh\n(.*?)\n```", README, re.DOTALL)[:2]
    assert commands == [
        "pip install -e . && epanns quickstart --out runs/quickstart",
        'pip install -e ".[test]" && pytest',
    ]


def test_the_readme_is_short():
    assert len(README.encode()) <= 12_000


def test_the_citation_names_this_version():
    import epanns

    citation = (ROOT / "CITATION.cff").read_text()
    assert f"\nversion: {epanns.__version__}\n" in citation


@pytest.mark.parametrize("folder", RESULTS, ids=lambda path: path.name)
def test_results_are_made_of_their_records(tmp_path, folder):
    write_report(read_records([folder]), tmp_path, quoted=(folder / "quoted.md").exists())
    for name in sorted({path.name for path in folder.iterdir()} - {"records"}):
        if name.endswith(".svg"):
            assert_drawn_again(folder / name, tmp_path / name)
        else:
            assert (tmp_path / name).read_bytes() == (folder / name).read_bytes(), f"run epanns report {folder} again"


def test_every_folder_of_results_is_explained():
    explained = (ROOT / "results" / "README.md").read_text()
    assert all(f"## {folder.relative_to(ROOT / 'results').parts[0]}\n" in explained for folder in RESULTS)


def esc10_table() -> str:
    return (ROOT / "results" / "esc10" / "table.md").read_text()


def strong_table() -> str:
    return (ROOT / "results" / "strong" / "pruned" / "table.md").read_text()


def pruning_tables() -> str:
    return PRUNING_TABLES["tables_of"](read_records([ROOT / "results" / "pruning"]))


def headline() -> str:
    return PRUNING_TABLES["headline_of"](read_records([ROOT / "results" / "pruning"]))


def benchmark_table() -> str:
    table_of = runpy.run_path(str(ROOT / "benchmarks" / "table.py"))["table_of"]
    return table_of(ROOT / "results" / "benchmarks")


@pytest.mark.parametrize(
    ("document", "name", "table", "script"),
    [
        ("README.md", "headline", headline, "python experiments/pruning_table.py"),
        ("results/pruning/README.md", "pruning", pruning_tables, "python experiments/pruning_table.py"),
        (
            "results/README.md",
            "esc10",
            esc10_table,
            "epanns report results/esc10 --into results/README.md --name esc10",
        ),
        (
            "results/strong/README.md",
            "pruned",
            strong_table,
            "epanns report results/strong/pruned --into results/strong/README.md --name pruned --out FOLDER",
        ),
        ("docs/benchmarks.md", "benchmarks", benchmark_table, "python benchmarks/table.py"),
    ],
)
def test_a_table_in_a_document_is_that_of_the_records(tmp_path, document, name, table, script):
    copy = tmp_path / "copy.md"
    copy.write_text((ROOT / document).read_text())
    insert_table(copy, name, table())
    assert copy.read_text() == (ROOT / document).read_text(), f"run {script}"
