"""The documentation names commands, options and functions that exist, and its Python code runs."""

import re
import tomllib
from pathlib import Path

import pytest
import soundfile
import torch

import epanns
from epanns.cli.finetune import command as finetune
from epanns.cli.main import COMMANDS, cli
from epanns.complexity.macs import profile
from epanns.models.files.checkpoint import save_checkpoint
from epanns.models.zoo import ZOO, build_model, list_models, spec_of
from epanns.pruning.ranking.criteria import NEEDS
from epanns.sweeps.experiment import parse_experiment
from epanns.training.config import PRESETS, read_training

ROOT = Path(__file__).parents[1]
PAGES = {
    str(path.relative_to(ROOT)): path.read_text()
    for path in [ROOT / "README.md", *sorted((ROOT / "docs").rglob("*.md"))]
}
EVERYTHING = "\n".join(PAGES.values())
# The order in which a reader runs the commands of the pages.
ORDER = ["README.md", *(f"docs/{name}.md" for name in ("tutorials/own_data", "tutorials/transfer", "tutorials/sweep"))]
ORDER += [f"docs/{name}.md" for name in ("guide/networks", "guide/pruning", "guide/training", "guide/distributed")]
ORDER += [f"docs/{name}.md" for name in ("guide/data", "guide/lean", "tutorials/deploy", "reproducing")]


def commands_of(text: str) -> list[str]:
    """Return the commands of code blocks and inline code, in order; loops are unrolled, comments removed."""
    found = []
    for kind, block, span in re.findall(r"```(\w+)\n(.*?)```|`([^`\n]+)`", text, re.DOTALL):
        lines = re.sub(r"\\\n", " ", block or span)
        if kind == "console":
            lines = "\n".join(re.findall(r"^\$ (.*)", lines, re.MULTILINE))
        if kind == "toml":
            lines = "\n".join(re.findall(r"^# (epanns .*)", lines, re.MULTILINE))
        for name, values, body in re.findall(r"for (\w+) in (.*?); do\n(.*?)\ndone", lines, re.DOTALL):
            unrolled = "\n".join(body.replace(f"${name}", value) for value in values.split())
            lines = lines.replace(f"for {name} in {values}; do\n{body}\ndone", unrolled)
        found += [" ".join(line.split("  #")[0].split()) for line in lines.splitlines()] if kind != "python" else []
    return found


@pytest.mark.parametrize("page", PAGES)
def test_links_lead_to_files(page):
    for target in re.findall(r"\]\(([^)#\s]+)[^)]*\)", PAGES[page]):
        if not target.startswith("http"):
            assert (ROOT / page).parent.joinpath(target).exists(), target


@pytest.mark.parametrize("page", PAGES)
def test_commands_and_options_exist(page):
    for line in commands_of(PAGES[page]):
        words = line.split()
        if "epanns" not in words or len(words) < 2 or not line.startswith(("epanns", "torchrun")):
            continue
        words = words[words.index("epanns") + 1 :]
        if words[0].startswith("-") or not words[0].isalpha():
            continue
        command = cli.get_command(None, words[0])
        assert command is not None, line
        if hasattr(command, "get_command") and len(words) > 1 and words[1].isalnum():
            command = command.get_command(None, words[1])
            assert command is not None, line
        known = {name for item in command.params for name in (*item.opts, *item.secondary_opts)} | {"--help"}
        assert {word.split("=")[0] for word in words if word.startswith("--")} <= known, line


def test_every_command_is_shown():
    named = set(re.findall(r"(?:^|`|\s)epanns ([a-z]+)", EVERYTHING, re.MULTILINE))
    assert set(COMMANDS) - named == set()


def test_an_input_is_written_before_it_is_read_and_no_output_twice_on_a_page():
    written, reads = {"runs/docs"}, 0  # sphinx-build writes it
    for page in ORDER:
        on_page = {}
        for command in commands_of(PAGES[page]):
            outputs = {path.rstrip("/") for path in re.findall(r"--out (runs/[\w./-]+)", command)}
            inputs = {path.rstrip("/") for path in re.findall(r"\bruns/[\w./-]+", command)} - outputs
            for path in inputs:
                reads += 1
                related = [one for one in written if f"{path}/".startswith(f"{one}/") or one.startswith(f"{path}/")]
                assert related, f"{page}: {path} is not written before: {command}"
            for path in outputs:
                assert on_page.setdefault(path, command) == command, f"{page}: {path} is written twice"
            written |= outputs
    assert reads > 30


@pytest.mark.parametrize("page", [page for page, text in PAGES.items() if "```python" in text])
def test_python_code_runs(page, tiny_spec, tmp_path, monkeypatch):
    """Each page's blocks run in order in one namespace, on a small checkpoint and a short sound file."""
    monkeypatch.chdir(tmp_path)
    torch.manual_seed(0)
    save_checkpoint(build_model(tiny_spec), tmp_path / "runs" / "base")
    soundfile.write("dog.wav", torch.randn(8_000).clamp(-1, 1).numpy(), tiny_spec.front_end.sample_rate)
    namespace = {}
    for block in re.findall(r"```python\n(.*?)```", PAGES[page], re.DOTALL):
        exec(compile(block, page, "exec"), namespace)
    assert "epanns" in namespace


def test_python_names_exist():
    called = set(re.findall(r"\bepanns\.(\w+)\(", EVERYTHING))
    assert called - set(epanns.__all__) == set()
    assert {"load", "prune", "recover", "save", "profile"} <= called


def test_the_training_file_of_the_documents_is_valid():
    (text,) = re.findall(r"```toml\n(# epanns finetune .*?)```", PAGES["docs/guide/training.md"], re.DOTALL)
    given = tomllib.loads(text)
    options = {name.removeprefix("--").replace("-", "_") for item in finetune.params for name in item.opts}
    assert given.keys() <= options
    config = read_training({key: value for key, value in given.items() if key not in ("train", "val")})
    assert (config.iterations, config.schedule) == (given["iterations"], PRESETS["short"].settings["schedule"])


def test_the_experiment_of_the_documents_is_valid():
    text, rotation = re.findall(r"```toml\n(.*?)```", PAGES["docs/tutorials/sweep.md"], re.DOTALL)
    experiment = parse_experiment(text, "small.toml")
    assert len(experiment.seeds) == 3
    data = text[text.index("[data]") : text.index("[[base]]")]
    assert parse_experiment(text.replace(data, rotation), "small.toml").data.folds == "rotate"


def test_the_page_lists_the_settings_of_the_presets():
    page = PAGES["docs/guide/training.md"]
    assert set(re.findall(r"--preset (\w+)", page)) == set(PRESETS)
    for name, preset in PRESETS.items():
        (row,) = re.findall(rf"^\| `--preset {name}` \|.*$", page, re.MULTILINE)
        assert f"{preset.settings['iterations']:,} steps" in row


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
        row = f"| {shown[0]} | {shown[1]} | {100 * (1 - after / before):.1f} % |"
        assert row in PAGES["docs/guide/counting.md"]


def test_the_table_of_criteria_is_complete():
    pattern = r"^\| `(\w+)` \| .* \| (weights|nothing|clips|clips and labels) \| [^|]*\|$"
    rows = re.findall(pattern, PAGES["docs/guide/criteria.md"], re.MULTILINE)
    measures = {"weights": "weights", "nothing": "weights", "clips": "activations", "clips and labels": "gradients"}
    assert {name: measures[data] for name, data in rows} == NEEDS


def test_the_networks_are_counted_as_listed():
    listed = set()
    for row in re.findall(r"^\| ([A-Zm][^ ]*\d.*|[A-Z].*)", PAGES["docs/guide/networks.md"], re.MULTILINE):
        names, _, params, macs, groups = (cell.strip() for cell in row.strip("| ").split("|"))
        known = [name for name in re.findall(r"\w+", names) if name in ZOO]
        for name, size, work, count in zip(known, *(cell.split(", ") for cell in (params, macs, groups)), strict=True):
            cost = profile(spec_of(name))
            assert (size, work) == (f"{cost.n_params / 1e6:.1f}", f"{cost.backbone_macs / 1e9:.1f}"), name
            assert int(count) == len(spec_of(name).widths), name
        listed.update(known)
    assert listed >= {name for name in list_models() if not name.startswith("Cnn14_")}


def test_the_rivals_are_counted_as_listed():
    page = PAGES["docs/guide/lean.md"]
    rows = re.findall(r"^\| (YAMNet|YAMNet_\w+|LEAN\w*) \| .* \|$", page, re.MULTILINE)
    assert set(rows) == {name for name, spec in ZOO.items() if spec.front_end.is_yamnet}
    for name in rows:
        cost = profile(spec_of(name), seconds=0.96 if name == "YAMNet" else 1.0)
        sizes = " | ".join(f"{count:,}" for count in (cost.n_params_with_statistics, cost.n_params_folded))
        assert cost.n_params == cost.n_params_folded
        assert f" | {sizes} | {cost.backbone_macs:,} " in page, name
