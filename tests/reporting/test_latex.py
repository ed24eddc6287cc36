"""LaTeX tables: any text is escaped, numbers are those of the rows, and pdflatex compiles them."""

import re
import shutil
import subprocess
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from epanns.reporting.latex import latex_escaped, measured_latex, standalone_document
from epanns.reporting.rows import rows_by_block

HOSTILE = r"\input{/etc/passwd} 50 % $x_1$ #2 & ~^ {a} \\ <b> “é ł ∀ 中 –±†"


@pytest.fixture
def latex(records):
    return measured_latex(rows_by_block(records))


@given(st.text())
def test_any_text_is_ascii_without_commands_of_its_own(text):
    found = latex_escaped(text)
    assert found.isascii()
    assert found.isprintable()
    ours = r"\\(text[a-z]+|[a-z]{1,2}|AE|O|OE|L|ldots|ss)\{\}|\\[{}$&#_%]|\\[`'^~=.\"uHvrc]\{[A-Za-z]\}"
    ours += r"|\$(-|\\times|\\pm|\\cdot|\^\\circ|\\dagger|\\mu)\$|\{[-']\}"
    left = re.sub(ours, "", found)
    assert not set(left) & set("\\{}$&#_%^~"), left


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("mean_prob 50 %", r"mean\_prob 50 \%"),
        ("Zürich, Škoda", r"Z\"{u}rich, \v{S}koda"),
        ("中", "U+4E2D"),
        ("\\end{table}", r"\textbackslash{}end\{table\}"),
        ("a\x1b[2J\nb", r"a\textbackslash{}x1b[2J b"),
    ],
)
def test_texts_are_escaped(text, expected):
    assert latex_escaped(text) == expected


def test_rows_are_those_of_the_records(latex):
    rows = [re.split(r" & | \\\\", line) for line in latex.splitlines() if line.endswith(r"\\") and line[0] != "{"]
    cells = [row for row in rows if row[0] in ("unpruned", "unpruned, trained on", "l1")]
    assert [row[0] for row in cells] == ["unpruned", "unpruned, trained on", "l1", "l1"]
    assert cells[0][1:] == ["{--}", "{--}", "5.00", "1.200", "{--}", "0.810(14)", "{--}", ""]
    assert cells[2][1:] == ["0.25", "300", "3.00", "0.900", "25.0", "0.610(14)", "0.830(28)", ""]


def test_columns_are_as_wide_as_their_numbers(latex):
    (kinds,) = re.findall(r"\\begin\{tabular\}\{(.*)\}", latex)
    assert kinds == "l" + "".join(
        f"S[table-format={form}]" for form in ("1.2", "3.0", "1.2", "1.3", "2.1", "1.3(2)", "1.3(2)")
    )


def test_what_rows_share_is_in_the_caption(latex):
    (caption,) = re.findall(r"\\caption\{(.*)\}\\label\{tab:epanns-1\}", latex)
    assert caption.startswith(r"ESC{-}10, test: whole clip, 5 s input; Cnn14 $\times$ 0.25; blocks 4--6; mean and")
    assert "Experiment" not in latex


def test_a_long_table_breaks_across_pages(records):
    base, pruned = records[0], next(record for record in records if record.criterion)
    many = [replace(pruned, trial_id=f"t{n}", finetune_iterations=n) for n in range(60)]
    latex = measured_latex(rows_by_block([base, *many]))
    assert r"\begin{longtable}" in latex
    assert r"\begin{tabular}" not in latex


def test_pdflatex_compiles_hostile_texts(records, tmp_path):
    if shutil.which("pdflatex") is None:
        pytest.skip("pdflatex is not installed")
    hostile = [
        replace(record, dataset=HOSTILE, protocol=HOSTILE, experiment=f"{HOSTILE}{place % 2}", name=HOSTILE + "x" * 60)
        for place, record in enumerate(records)
    ]
    many = [replace(records[3], trial_id=f"t{n}", finetune_iterations=n, dataset="b") for n in range(60)]
    (tmp_path / "table.tex").write_text(measured_latex(rows_by_block([*hostile, *many])))
    (tmp_path / "paper.tex").write_text(standalone_document())
    run = ["pdflatex", "-interaction=nonstopmode", "-halt-on-error", "paper.tex"]
    done = subprocess.run(run, cwd=tmp_path, capture_output=True, text=True, errors="replace", timeout=120)
    if "not found" in done.stdout and "siunitx" in done.stdout:
        pytest.skip("siunitx is not installed")
    assert done.returncode == 0, done.stdout[-3000:]
    assert (tmp_path / "paper.pdf").stat().st_size > 10_000
