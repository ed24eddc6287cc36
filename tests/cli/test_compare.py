"""``epanns compare``: the numbers of the library as text, JSON and files."""

import json
import subprocess
import sys

import pytest

from epanns.reporting.comparison import compare
from tests.reporting.test_comparison import CLIP_OF, scores_of, write_run


@pytest.fixture
def pair(tmp_path):
    return [
        write_run(tmp_path / name, scores_of(number, gain))
        for number, (name, gain) in enumerate([("a", 0.2), ("b", 0.8)])
    ]


def test_json_text_and_files_are_those_of_the_library(epanns, pair, tmp_path):
    options = ("--group-pattern", CLIP_OF, "--bootstrap", 100, "--seed", 3, "--per-class", 2)
    code, out, _ = epanns("compare", *pair, *options, "--json")
    expected = compare([str(folder) for folder in pair], group_pattern=CLIP_OF, bootstrap=100, seed=3)
    assert code == 0
    assert json.loads(out) == json.loads(json.dumps(expected.to_dict()))
    code, text, _ = epanns("compare", *pair, *options, "--out", tmp_path / "out")
    assert code == 0
    assert f"| {expected.scores[0].mean:.4f} |" in text
    assert "100 paired resamples of 20 groups of clips" in text
    assert f"in {tmp_path / 'out'}: comparison.json, table.md, differences.csv, per_class.csv" in text
    assert (tmp_path / "out" / "table.md").read_text().rstrip() in text
    assert epanns("compare", *pair, "--out", tmp_path / "out")[0] == 1  # it exists


def test_errors_are_one_line(epanns, pair, tmp_path):
    code, out, err = epanns("compare", pair[0], tmp_path / "missing")
    assert (code, out) == (1, "") and err.count("\n") == 1 and "no such folder" in err
    assert epanns("compare")[0] == 2


def test_torch_is_not_imported(pair):
    script = "import sys; from epanns.reporting.comparison import compare; compare(sys.argv[1:], bootstrap=5); "
    script += "print('torch' in sys.modules)"
    ended = subprocess.run([sys.executable, "-c", script, *map(str, pair)], check=True, capture_output=True, text=True)
    assert ended.stdout == "False\n"
