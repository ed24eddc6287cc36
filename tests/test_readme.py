"""What the README says is what the program does."""

import re
import runpy
import tomllib
from pathlib import Path

import pytest

import epanns
from epanns.cli.finetune import command as finetune
from epanns.cli.main import COMMANDS
from epanns.complexity.macs import profile
from epanns.models.zoo import ZOO, list_models, spec_of
from epanns.pruning.ranking.criteria import NEEDS
from epanns.records import read_records
from epanns.reporting.report import insert_table, write_report
from epanns.training.presets import PRESETS, read_training

ROOT = Path(__file__).parents[1]
README = (ROOT / "README.md").read_text()
RESULTS = sorted(path.parent for path in (ROOT / "results").rglob("records"))


def test_the_two_commands_open_the_readme():
    commands = re.findall(r"```sh\n(.*?)\n```", README, re.DOTALL)[:2]
    assert commands == [
        "pip install -e . && epanns quickstart --out runs/quickstart",
        'pip install -e ".[test]" && pytest',
    ]


def test_every_command_it_names_exists():
    named = set(re.findall(r"^\s*epanns ([a-z]+)", README, re.MULTILINE)) | set(re.findall(r"`epanns ([a-z]+)", README))
    assert named - set(COMMANDS) == set()
    assert {"data", "pack", "train", "prune", "finetune", "evaluate", "report", "sweep"} <= named


def test_the_training_file_it_shows_is_one():
    (text,) = re.findall(r"```toml\n(# epanns finetune .*?)```", README, re.DOTALL)
    given = tomllib.loads(text)
    options = {name.removeprefix("--").replace("-", "_") for item in finetune.params for name in item.opts}
    assert given.keys() <= options
    config = read_training({key: value for key, value in given.items() if key not in ("train", "val")})
    assert (config.iterations, config.schedule) == (given["iterations"], PRESETS["short"].settings["schedule"])


def test_the_presets_it_names_set_what_it_says():
    section = README.split("### The training recipe")[1].split("\n### ")[0]
    steps = {name: f"{preset.settings['iterations']:,} steps" for name, preset in PRESETS.items()}
    assert set(re.findall(r"--preset (\w+)", section)) == set(PRESETS)
    assert re.search(rf"--preset panns`[^`]*{steps['panns']}", section)
    assert re.search(rf"--preset short`[^`]*{steps['short']}", section)
    assert re.search(rf"--preset transfer`[^`]*{steps['transfer']}", README)


def commands_of(text: str) -> list[str]:
    """Return the commands of blocks and of code between words, in order; loops are unrolled, comments gone."""
    found = []
    for kind, block, span in re.findall(r"```(\w+)\n(.*?)```|`([^`\n]+)`", text, re.DOTALL):
        lines = re.sub(r"\\\n", " ", block or span)
        if kind == "console":
            lines = "\n".join(re.findall(r"^\$ (.*)", lines, re.MULTILINE))
        if kind == "toml":
            lines = re.sub(r"^# ", "", lines, flags=re.MULTILINE)
        for name, values, body in re.findall(r"for (\w+) in (.*?); do\n(.*?)\ndone", lines, re.DOTALL):
            unrolled = "\n".join(body.replace(f"${name}", value) for value in values.split())
            lines = lines.replace(f"for {name} in {values}; do\n{body}\ndone", unrolled)
        found += [" ".join(line.split("  #")[0].split()) for line in lines.splitlines()] if kind != "python" else []
    return found


def test_what_its_commands_read_was_written_before_and_nothing_is_written_twice():
    by, reads = {}, 0
    for command in commands_of(README):
        written = re.findall(r"--out (runs/[\w./]+)", command)
        for path in set(re.findall(r"\bruns/[\w./]+", command)) - set(written):
            path, reads = path.rstrip("/"), reads + 1
            known = [known for known in by if f"{path}/".startswith(f"{known}/") or known.startswith(f"{path}/")]
            assert known, f"nobody has made {path}: {command}"
        for path in written:
            assert by.setdefault(path, command) == command, f"{path} is made twice"
    assert reads > 30
    assert {"runs/esc50/val", "runs/esc50_16k/val", "runs/mine/test", "runs/scores/pruned", "runs/together"} <= set(by)


def test_every_name_of_python_it_calls_exists():
    called = set(re.findall(r"\bepanns\.(\w+)\(", README))
    assert called - set(epanns.__all__) == set()
    assert {"load", "prune", "recover", "save", "profile"} <= called
    python = re.search(r"```python\n(.*?)\n```", README, re.DOTALL)
    compile(python[1], "README.md", "exec")


def test_the_three_ways_to_count_are_counted():
    full = spec_of("Cnn14")
    half = full.with_widths({layer: width // 2 for layer, width in list(full.widths.items())[6:]})
    dense, pruned = profile(full), profile(half)
    for name, unit in {
        "n_params": "",
        "n_params_with_front_end": "",
        "backbone_macs": " G",
        "macs_with_front_end": " G",
        "panns_multiply_adds": " G",
    }.items():
        before, after = getattr(dense, name), getattr(pruned, name)
        shown = [f"{value / 1e9:.2f}{unit}" if unit else f"{value:,}" for value in (before, after)]
        assert f"| {shown[0]} | {shown[1]} | {100 * (1 - after / before):.1f} % |" in README


def test_the_table_of_criteria_is_complete():
    rows = re.findall(
        r"^\| `(\w+)` \| .* \| (weights|nothing|clips|clips and labels) \| [^|]*\|$", README, re.MULTILINE
    )
    looks_at = {"weights": "weights", "nothing": "weights", "clips": "activations", "clips and labels": "gradients"}
    assert {name: looks_at[data] for name, data in rows} == NEEDS


@pytest.mark.parametrize("folder", RESULTS, ids=lambda path: path.name)
def test_results_are_made_of_their_records(tmp_path, folder):
    write_report(read_records([folder]), tmp_path, quoted=(folder / "quoted.md").exists())
    for name in sorted({path.name for path in folder.iterdir()} - {"records"}):
        assert (tmp_path / name).read_bytes() == (folder / name).read_bytes(), f"run epanns report {folder} again"


def test_the_table_in_the_readme_is_that_of_the_records(tmp_path):
    copy = tmp_path / "README.md"
    copy.write_text(README)
    insert_table(copy, "esc10", (ROOT / "results" / "esc10" / "table.md").read_text())
    assert copy.read_text() == README


def test_every_folder_of_results_is_explained():
    explained = (ROOT / "results" / "README.md").read_text()
    assert all(f"## {folder.relative_to(ROOT / 'results').parts[0]}\n" in explained for folder in RESULTS)


@pytest.mark.parametrize("document", ["README.md", "results/pruning/README.md"])
def test_the_tables_of_recovery_are_those_of_their_records(tmp_path, document):
    tables_of = runpy.run_path(str(ROOT / "experiments" / "pruning_table.py"))["tables_of"]
    copy = tmp_path / "README.md"
    copy.write_text((ROOT / document).read_text())
    insert_table(copy, "pruning", tables_of(read_records([ROOT / "results" / "pruning"])))
    assert copy.read_text() == (ROOT / document).read_text(), "run python experiments/pruning_table.py"


def test_the_table_of_benchmarks_is_that_of_their_records(tmp_path):
    table_of = runpy.run_path(str(ROOT / "benchmarks" / "table.py"))["table_of"]
    copy = tmp_path / "README.md"
    copy.write_text(README)
    insert_table(copy, "benchmarks", table_of(ROOT / "results" / "benchmarks"))
    assert copy.read_text() == README, "run python benchmarks/table.py"


def test_the_networks_are_counted_as_listed():
    table = README.split("## The networks")[1].split("\n## ")[0]
    listed = set()
    for row in re.findall(r"^\| ([A-Z].*)", table, re.MULTILINE):
        names, _, params, macs, groups = (cell.strip() for cell in row.strip("| ").split("|"))
        known = [name for name in re.findall(r"\w+", names) if name in ZOO]
        for name, size, work, count in zip(known, *(cell.split(", ") for cell in (params, macs, groups)), strict=True):
            cost = profile(spec_of(name))
            assert (size, work) == (f"{cost.n_params / 1e6:.1f}", f"{cost.backbone_macs / 1e9:.1f}"), name
            assert int(count) == len(spec_of(name).widths), name
        listed.update(known)
    assert listed >= {name for name in list_models() if not name.startswith("Cnn14_")}


def test_the_rivals_are_counted_as_listed():
    rows = re.findall(r"^\| (YAMNet|YAMNet_\w+|LEAN\w*) \| .* \|$", README.split("## YAMNet and LEAN")[1], re.MULTILINE)
    assert set(rows) == {name for name, spec in ZOO.items() if spec.front_end.is_yamnet}
    for name in rows:
        cost = profile(spec_of(name), seconds=0.96 if name == "YAMNet" else 1.0)
        sizes = " | ".join(f"{count:,}" for count in (cost.n_params_with_statistics, cost.n_params_folded))
        assert cost.n_params == cost.n_params_folded
        assert f" | {sizes} | {cost.backbone_macs:,} " in README, name
