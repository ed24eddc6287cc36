"""Names that a file gives become parts of paths only after one check, in every module."""

import ast
import re
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from epanns.errors import DataError, PackError
from epanns.names import LONGEST, is_path_name, path_name


@pytest.mark.parametrize("name", ["a", "test", "fold-1", "2f9a0c", ".hidden", "...", "A_b.c-D", "x" * LONGEST])
def test_plain_names_are_kept(name):
    assert path_name(name, "split", DataError) == name


@pytest.mark.parametrize(
    "name",
    ["", ".", "..", "../x", "a/b", "/etc", "a\\b", "a b", "a\n", "\n", "C:", "é", "٣", "a\0", "\x1b[2J", "\ud800"]
    + ["x" * (LONGEST + 1), 5, None, True, ["a"], {"a": 1}],
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
    "cli/prune.py": {"f'{out.name}.steps'": "of --out"},
    "cli/steps.py": {"f'step{step}'": "a number"},
    "cli/sweep.py": {"summary.failed[0]": "a digest made here", "trial_id": "a digest made here"},
    "cli/tag.py": {"name": "of a file that is there and is only read"},
    "data/folder.py": {"path": "audio that is only read"},
    "data/fsd50k.py": {"f'{part}.csv'": "of a fixed list", "place": "of a fixed list"},
    "data/pack.py": {"shard.file": "compared with a pattern in pack_format"},
    "data/pack_format.py": {"self.file": "compared with a pattern in pack_format"},
    "data/packer.py": {"index_file(info.settings.splits)": "other characters replaced", "shard.file": "as in pack.py"},
    "data/panns_pack.py": {"shard.file": "compared with a pattern in pack_format"},
    "data/parts.py": {"shard_name(number, self.packing.settings.format)": "a number"},
    "data/synthetic.py": {"f'clip-{index:06d}.wav'": "a number"},
    "data/verification.py": {
        "index_file(info.settings.splits)": "other characters replaced",
        "name": "of a file that is there, for a message",
        "shard.file": "compared with a pattern in pack_format",
    },
    "export/export.py": {"name": "of a fixed list"},
    "labels.py": {"name": "of a fixed list"},
    "locks.py": {"f'{file.name}.taking'": "of a path"},
    "models/checkpoint.py": {"name": "of a fixed list", "folder.name + suffix": "of a path"},
    "models/checksums.py": {"name": "of a fixed list"},
    "models/download.py": {
        "file.name": "of the catalogue",
        "f'{file.name}.{secrets.token_hex(4)}.part'": "of the catalogue",
        "self.path.name + '.json'": "of a path",
    },
    "reporting/figure.py": {"f'{stem}{suffix}'": "of a fixed list", "stem": "of a fixed list"},
    "reporting/report.py": {"name": "of a fixed list"},
    "sweeps/failures.py": {"str(base)": "after is_path_name"},
    "sweeps/journal.py": {"trial.trial_id": "a digest made here", "trial_id": "checked where sweep.json is read"},
    "sweeps/packs.py": {"split": "checked where the experiment is read"},
    "sweeps/records.py": {"name": "of a file that is there"},
    "sweeps/trial.py": {"base": "after path_name"},
    "training/between.py": {"f'step{step}'": "a number"},
    "training/folder.py": {"name": "of a fixed list", "f'best-{step:08d}'": "a number"},
    "training/state.py": {"f'state-{state.step:08d}-{sha256_of(partial)[:16]}.pt'": "a number and a digest"},
    "workfolder.py": {
        "f'{path.name}.lock'": "of a path",
        **dict.fromkeys(("finished_by", "name", "self.first", "self.lock"), "of a fixed list"),
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
