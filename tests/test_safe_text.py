"""Text from files is safe to print, to open in a spreadsheet and to use in a path."""

import ast
import json
import re
import unicodedata
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from epanns.errors import DataError, PackError
from epanns.safe_text import (
    LONGEST_NAME,
    is_path_name,
    is_printable,
    path_name,
    printable,
    printable_json,
    spreadsheet_cell,
)

ANY_TEXT = st.text(st.characters(exclude_categories=()))


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("\x1b[2J\x1b]0;owned\x07", r"\x1b[2J\x1b]0;owned\x07"),
        ("a\nb\r\tc", r"a\nb\r\tc"),
        ("\x9b31m", r"\x9b31m"),
        ("abc\u202egpj.exe", r"abc\u202egpj.exe"),
        ("\u2066x\u2069\u200b\ufeff", r"\u2066x\u2069\u200b\ufeff"),
        ("wav\udce9.wav", r"wav\udce9.wav"),
        ("\U000e0001", r"\U000e0001"),
        ("line\u2028end", r"line\u2028end"),
    ],
)
def test_control_characters_are_escaped(text, shown):
    assert printable(text) == shown


@pytest.mark.parametrize(
    "text", ["plain", "Füße × 2 – «é»", "e\u0301", "नमस्ते", "می\u200cخواهم", "👩\u200d🚒 🏳️", "犬の声"]
)
def test_ordinary_text_is_unchanged(text):
    assert printable(text) == text
    assert printable_json(text) == text


# A family, Persian "I go" and "books", Sinhala "Sri", Hindi with a joiner, a flag, a heart with its variation.
NAMES = [
    "👩\u200d👩\u200d👧",
    "می\u200cروم",
    "کتاب\u200cها",
    "ශ්\u200dරී",
    "क्\u200dष",
    "🇫🇷",
    "❤\ufe0f",
    "दिन",
    "한국",
    "เสียง",
]


def test_names_of_any_script_are_printable_and_hidden_characters_are_not():
    assert all(is_printable(name) and printable(name) == name for name in NAMES)
    assert not any(
        is_printable(f"a{hidden}b") for hidden in ("\n", "\x1b", "\u202e", "\u200b", "\u2028", "\udce9", "\0")
    )


def test_line_feeds_and_tabs_stay_in_text_of_several_lines():
    assert printable("a\tb\nc\x1b\r", lines=True) == "a\tb\nc" + r"\x1b\r"


@given(ANY_TEXT)
def test_no_text_keeps_a_control_character_or_fails_to_be_written(text):
    shown = printable(text)
    assert {unicodedata.category(letter) for letter in shown}.isdisjoint({"Cc", "Cs", "Zl", "Zp"})
    assert printable(shown) == shown
    shown.encode()


@given(st.dictionaries(ANY_TEXT, ANY_TEXT))
def test_json_keeps_its_value_and_can_be_written(value):
    shown = printable_json(json.dumps(value, ensure_ascii=False))
    assert json.loads(shown) == value
    assert printable(shown) == shown
    shown.encode()


@pytest.mark.parametrize(
    "cell", ["=1+1", "+cmd", "-2+3", "@SUM(A1)", "\t=1", "\r=1", "\n=1", "＝1", "-", "--5", "+1 b"]
)
def test_a_cell_that_is_a_formula_gets_an_apostrophe(cell):
    assert spreadsheet_cell(cell) == f"'{cell}"


@pytest.mark.parametrize("cell", ["", "-5", "+0.5", "-1e-3", "-.5", "-inf", "a=b", "–", "'=1", "1", "Dog @ home"])
def test_other_cells_are_unchanged(cell):
    assert spreadsheet_cell(cell) == cell


@pytest.mark.parametrize("name", ["a", "test", "fold-1", "2f9a0c", ".hidden", "...", "A_b.c-D", "x" * LONGEST_NAME])
def test_plain_names_are_kept(name):
    assert path_name(name, "split", DataError) == name


@pytest.mark.parametrize(
    "name",
    ["", ".", "..", "../x", "a/b", "/etc", "a\\b", "a b", "a\n", "\n", "C:", "é", "٣", "a\0", "\x1b[2J", "\ud800"]
    + ["x" * (LONGEST_NAME + 1), 5, None, True, ["a"], {"a": 1}],
)
def test_other_names_are_refused_in_one_line_of_the_callers_class(name):
    with pytest.raises(PackError, match="^pack.json: split=") as refused:
        path_name(name, "pack.json: split", PackError)
    message = str(refused.value)
    assert message.isprintable()
    assert len(message) < 400
    assert "must be a name of 1 to 200 of the characters" in message
    assert message.endswith("rename it")


@given(st.text(st.characters(exclude_categories=())))
def test_a_name_that_passes_stays_in_its_folder(tmp_path_factory, name):
    folder = tmp_path_factory.getbasetemp()
    if is_path_name(name):
        assert (folder / name).resolve().parent == folder.resolve()


PACKAGE = Path(__file__).parents[1] / "epanns"
_PATHS = "path|folder|root|out|parent|base|sweep|best|truth|trial|partial|hidden|cache|target|directory"
_IS_PATH = re.compile(rf"Path\(.*\)|resources\.files.*|(.*\.)?({_PATHS})( / .*)?")
_IS_CONSTANT = re.compile(r"(\w+\.)*_?[A-Z][A-Z0-9_]*(\[.*\])?|'.*'")
_CHECKED = re.compile(r"(f[\"'])?{?path_name\(")  # the quotes of `ast.unparse` differ between releases of Python

# Parts of paths that are no constants, in the module where they are joined -> why no file can choose them freely.
REVIEWED = {
    "atomic.py": {"path.name": "of a path", "path.name + '.partial'": "of a path"},
    "cli/prune.py": dict.fromkeys(("f'{out.name}.recovery'", "f'{out.name}.steps'"), "of --out"),
    "cli/sweep.py": {"summary.failed[0]": "a digest made here", "trial_id": "a digest made here"},
    "cli/tag.py": {"name": "of a file that is there and is only read"},
    "data/datasets/clip_table.py": {"path": "audio that is only read"},
    "data/datasets/folds.py": {"usual": "of a fixed list"},
    "data/datasets/fsd50k.py": {
        "f'{part}.csv'": "of a fixed list",
        "name": "of a fixed list",
        "holding": "of a fixed list",
    },
    "data/datasets/hear.py": {
        "str(rate)": "a number",
        **dict.fromkeys(("hear_split", "f'{hear_split}.json'"), "after path_name"),
    },
    "data/datasets/sound_files.py": {"file": "of a fixed list"},
    "data/datasets/speechcommands.py": {"name": "of a fixed list"},
    "data/packs/pack.py": {"shard.file": "compared with a pattern in pack_format"},
    "data/packs/pack_format.py": {"self.file": "compared with a pattern in pack_format"},
    "data/packing/packer.py": {
        "index_file(info.settings.splits)": "other characters replaced",
        "shard.file": "as in pack.py",
    },
    "data/packs/panns_pack.py": {"shard.file": "compared with a pattern in pack_format"},
    "data/packing/shard_packing.py": {"shard_name(number, self.packing.settings.format)": "a number"},
    "data/datasets/synthetic.py": {"f'clip-{index:06d}.wav'": "a number"},
    "data/packs/verification.py": {
        "index_file(info.settings.splits)": "other characters replaced",
        "name": "of a file that is there, for a message",
        "shard.file": "compared with a pattern in pack_format",
    },
    "export/export.py": {"name": "of a fixed list"},
    "labels.py": {"name": "of a fixed list"},
    "locks.py": {"f'{file.name}.taking'": "of a path"},
    "models/files/checkpoint.py": {"name": "of a fixed list", "folder.name + suffix": "of a path"},
    "models/files/included.py": {"self.name": "of a fixed list"},
    "models/files/download.py": {
        "file.name": "of the catalogue",
        **dict.fromkeys(("f'{file.name}.part'", "f'{file.name}.lock'"), "of the catalogue"),
        "self.path.name + '.json'": "of a path",
    },
    "records.py": {"name": "of a file that is there"},
    "reporting/comparison_tables.py": {"name": "of a fixed list"},
    "reporting/figures/style.py": {"f'{stem}{suffix}'": "of a fixed list", "stem": "of a fixed list"},
    "reporting/page/page.py": {"name": "of a fixed list"},
    "reporting/report.py": {"name": "of a fixed list"},
    "stages/search.py": {"trial_id": "a digest made here"},
    "stages/search_space.py": {"f'{journal.name}.lock'": "of a path"},
    "stages/prune.py": {"f'step{number}'": "a number"},
    "state_files.py": {"f'state-{step:08d}-{sha256_of(partial)[:16]}.pt'": "a number and a digest"},
    "sweeps/journal.py": {"str(base)": "after is_path_name"},
    "sweeps/sweep_folder.py": {"trial.trial_id": "a digest made here", "trial_id": "checked where sweep.json is read"},
    "sweeps/outline.py": {"trial.trial_id": "a digest made here"},
    "sweeps/data.py": dict.fromkeys(("path", "split"), "checked where the experiment is read"),
    "sweeps/trial.py": {"base": "after path_name"},
    "training/run_folder.py": {"name": "of a fixed list", "f'best-{step:08d}'": "a number"},
    "workfolder.py": {
        "f'{path.name}.lock'": "of a path",
        **dict.fromkeys(("finished_by", "self.first", "self.lock"), "of a fixed list"),
    },
}


def parts_joined_in(path: Path) -> Iterator[str]:
    """Yield every part that a module joins to a path and that is no constant."""
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.BinOp) and isinstance(node.op, ast.Div):
            left, part = ast.unparse(node.left), ast.unparse(node.right)
        elif isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute) and node.args:
            if node.func.attr not in ("joinpath", "with_name", "with_stem"):
                continue
            left, part = "path", ast.unparse(node.args[0])
        else:
            continue
        if _IS_PATH.fullmatch(left) and not _IS_CONSTANT.fullmatch(part) and not _CHECKED.match(part):
            yield part


def test_every_part_of_a_path_is_a_constant_checked_or_reviewed():
    """A part that is new here must be checked by `path_name` where its file is read, or be one that no file chooses."""
    found = {str(path.relative_to(PACKAGE)): {*parts_joined_in(path)} for path in sorted(PACKAGE.rglob("*.py"))}
    assert {module: parts for module, parts in found.items() if parts} == {
        module: {*parts} for module, parts in REVIEWED.items()
    }
