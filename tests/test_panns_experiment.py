"""experiments/panns: the dry run is the run, unsuitable files are refused, and all of it runs on generated sound."""

import csv
import importlib.util
import json
import re
import runpy
import shlex
import sys
from collections import namedtuple
from pathlib import Path
from statistics import fmean

import click
import pytest
import torch

from epanns.cli.main import cli
from epanns.complexity.macs import profile
from epanns.data.manifest import read_manifest
from epanns.labels import audioset, fsd50k
from epanns.models.zoo import spec_of
from epanns.records import read_records

ROOT = Path(__file__).parents[1]
FOLDER = ROOT / "experiments" / "panns"
sys.path.insert(0, str(FOLDER))  # as when the script is run
import panns_forecast  # noqa: E402
import panns_generated  # noqa: E402
import panns_steps  # noqa: E402

_SPEC = importlib.util.spec_from_file_location("panns_run", FOLDER / "run.py")
run = importlib.util.module_from_spec(_SPEC)
_SPEC.loader.exec_module(run)
sys.path.remove(str(FOLDER))

Disk = namedtuple("Disk", "total used free")


@pytest.fixture
def data(tmp_path, monkeypatch):
    """Make the lists of both data sets, in an empty current folder on a large disk; return the options."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(run.shutil, "disk_usage", lambda path: Disk(10**13, 0, 10**13))
    for name in (
        "as/lists/balanced_train_segments.csv",
        "as/eval_segments.csv",
        "fsd/FSD50K.ground_truth/vocabulary.csv",
    ):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).touch()
    return ["--audioset", "as", "--fsd50k", "fsd", "--out", "out"]


def listed(capsys, arguments):
    """Return the commands that a dry run prints."""
    run.main([*arguments, "--dry-run"])
    lines = capsys.readouterr().out.splitlines()
    return [shlex.split(line.split("  ")[-1]) for line in lines if re.match(r" *\d+  ", line)]


@pytest.mark.parametrize("more", [[], ["--finetune", "500"]])
def test_the_dry_run_lists_exactly_the_steps_that_run(data, capsys, monkeypatch, more):
    ran = []

    def recorded(step, out):
        if stop is not None and len(ran) == stop:
            raise KeyboardInterrupt
        ran.append(list(step.command))
        product = step.product or Path("out/report/table.md")
        product.parent.mkdir(parents=True, exist_ok=True)
        product.touch()

    monkeypatch.setattr(run, "run_step", recorded)
    planned = listed(capsys, [*data, *more])
    stop = 20
    assert len(planned) > stop
    with pytest.raises(KeyboardInterrupt):
        run.main([*data, *more])
    assert ran == planned[:stop]
    capsys.readouterr()
    assert listed(capsys, [*data, *more]) == planned[stop:]  # a run that was stopped continues
    stop = None
    run.main([*data, *more])
    assert ran == planned
    capsys.readouterr()
    assert listed(capsys, [*data, *more]) == []
    run.main([*data, *more])
    assert ran == planned


def test_every_command_has_options_that_exist_and_reads_products_of_earlier_commands(data, capsys):
    written = set()
    for words in listed(capsys, [*data, "--finetune", "500"]):
        out = words[words.index("--out") + 1]
        inputs = {word for word in words if word.startswith("out/")} - {out}
        assert all(any(f"{one}/".startswith(f"{path}/") for path in written) for one in inputs if one != "out/scores")
        assert out not in written
        written.add(out)
        if words[0] == "epanns":
            command = cli.get_command(None, words[1])
            rest = words[2:]
            if words[1] == "data":
                command, rest = command.get_command(None, words[2]), words[3:]
            command.make_parser(click.Context(command)).parse_args(args=rest)  # raises for an unknown option
    assert {f"out/networks/{network.name}" for network in panns_steps.NETWORKS} <= written


def test_one_data_set_is_enough(data, capsys):
    for name, split in (("audioset", "balanced_train"), ("fsd50k", "train")):
        place = data.index(f"--{name}")
        commands = listed(capsys, [*data[place : place + 2], "--out", "out"])
        assert [words[2] for words in commands if words[1] == "data"] == [name]
        (drawn,) = (words for words in commands if words[0].endswith("draw_clips.py"))
        assert drawn[drawn.index("--split") + 1] == split


def refused(arguments):
    with pytest.raises(SystemExit) as caught:
        run.main(arguments)
    return str(caught.value)


def test_missing_data_are_refused_before_anything_is_written(data):
    assert refused(["--out", "out"]) == (
        "error: no data: give --audioset FOLDER, --fsd50k FOLDER, or both; --synthetic is a trial without"
    )
    Path("as/eval_segments.csv").unlink()
    assert refused(data).startswith("error: as: no eval_segments.csv in it or in a folder of it; download it from")
    Path("fsd/FSD50K.ground_truth/vocabulary.csv").unlink()
    assert refused(["--fsd50k", "fsd", "--out", "out"]).startswith("error: fsd: no vocabulary.csv below it; extract")
    assert not Path("out").exists()


def test_another_checkpoint_than_the_released_one_is_refused(data):
    Path("Cnn14_mAP=0.431.pth").write_bytes(b"cut off")
    message = refused(data)
    assert message.startswith("error: Cnn14_mAP=0.431.pth: sha256 ")
    assert "must be 0dc499e40e9761ef5ea061ffc77697697f277f6a960894903df3ada000e34b31" in message
    Path("mine.pth").write_bytes(b"another network")
    message = refused([*data, "--checkpoint", "mine.pth"])
    assert message.startswith("error: mine.pth: sha256 ")
    assert "https://zenodo.org/record/3987831/files/" in message
    assert refused([*data, "--checkpoint", "Cnn10"]).startswith("error: Cnn10: must be Cnn14_mAP=0.431.pth")
    assert not Path("out").exists()


def test_a_full_disk_is_refused(data, monkeypatch):
    monkeypatch.setattr(run.shutil, "disk_usage", lambda path: Disk(10**12, 0, 5 * 10**9))
    assert re.fullmatch(
        r"error: out: 5 GB are free; must be \d+ GB; free space or choose another --out", refused([*data, "--dry-run"])
    )


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--width", "0.5"], "--width 0.5: the released network has width 1; give it with --synthetic"),
        (["--finetune", "-1"], "--finetune -1: must be at least 0"),
        (["--calibration-clips", "0"], "--calibration-clips 0: must be at least 1"),
        (["--synthetic"], "--synthetic generates the data and the weights: leave out the folders and --checkpoint"),
    ],
)
def test_contradicting_options_are_refused(data, options, message):
    assert refused([*data, *options]) == f"error: {message}"


def test_the_class_map_follows_from_the_identifiers():
    with panns_steps.CLASS_MAP.open(encoding="utf-8", newline="") as file:
        rows = [tuple(row.values()) for row in csv.DictReader(file)]
    names = dict(zip(audioset().mids, audioset().names, strict=True))
    assert all(names[mid] == name for _, mid, name in rows)
    of_class = {name: [mid for category, mid, _ in rows if category == name] for name in fsd50k().names}
    direct = {name: mid for name, mid in zip(fsd50k().names, fsd50k().mids, strict=True) if mid in names}
    assert len(direct) == 192
    assert {name: of_class[name] for name in direct} == {name: [mid] for name, mid in direct.items()}
    assert {name for name, mids in of_class.items() if len(mids) > 1} == {
        *("Domestic_sounds_and_home_sounds", "Human_group_actions", "Human_voice", "Respiratory_sounds")
    }
    assert {name for name, mids in of_class.items() if not mids} == {
        *("Crash_cymbal", "Gull_and_seagull", "Packing_tape_and_duct_tape", "Screech")
    }


def test_the_forecast_uses_the_measured_rates_and_the_sizes_of_the_networks():
    def record(name):
        return json.loads((ROOT / "results" / "benchmarks" / f"{name}.json").read_text())["result"]

    dense = profile(spec_of("Cnn14"), seconds=10.0).backbone_macs
    assert pytest.approx(dense / 1e9, abs=0.005) == panns_forecast.MACS
    clips_of_5_s = max(record("evaluate_cpu")["ours_per_second"])
    assert panns_forecast.scoring(1.0, 10.0 * clips_of_5_s / 2).laptop == pytest.approx(1 / 3600, rel=0.01)
    pruned, half = zip(*record("pruned_latency")["milliseconds"], strict=True)
    slope = (fmean(half) - fmean(pruned)) / (12.41 - 5.01)  # milliseconds for 1e9 MACs
    assert fmean(pruned) / slope - 5.01 == pytest.approx(panns_forecast.FRONT_END, abs=0.5)
    for network in panns_steps.NETWORKS:
        if "--ratio" in network.options:
            ratio = float(network.options[1])
            full = spec_of("Cnn14")
            widths = {name: int(width * (1 - ratio)) for name, width in list(full.widths.items())[6:]}
            cost, before = (
                profile(full.with_widths({**full.widths, **widths}), seconds=10.0),
                profile(full, seconds=10.0),
            )
            assert cost.backbone_macs / before.backbone_macs == pytest.approx(network.macs, abs=0.005)
            assert cost.n_params / before.n_params == pytest.approx(network.params, abs=0.001)


def test_the_page_states_the_forecast(data, capsys):
    page = (ROOT / "docs" / "tutorials" / "panns.md").read_text()
    for shown, options in {
        "both | |": data,
        "FSD50K | |": data[2:],
        "both | `--finetune 10000` |": [*data, "--finetune", "10000"],
    }.items():
        run.main([*options, "--dry-run"])
        (text,) = re.findall(r"expected: .*", capsys.readouterr().out)
        laptop, gpu, disk, _ = map(float, re.findall(r"([\d.]+) (?:h|GB)", text))
        hours = [f"{value:.1f} h" if value < 30 else f"{value:.0f} h" for value in (laptop, gpu)]
        assert f"| {shown} {hours[0]} | {hours[1]} | {disk:.0f} GB |" in page


def test_clips_are_drawn_once_and_disjointly(tmp_path):
    draw = runpy.run_path(str(FOLDER / "draw_clips.py"))["draw"]
    panns_generated.generate(tmp_path, panns_generated.Counts(train=7, val=1, test=2), 0.03)
    root = tmp_path / "FSD50K"
    cli.main(["data", "fsd50k", str(root), "--out", str(tmp_path / "all.csv")], standalone_mode=False)
    draw(tmp_path / "all.csv", "train", 3, 2, tmp_path / "drawn.csv")
    drawn = read_manifest(tmp_path / "drawn.csv")
    assert drawn.splits == {"calibration": 3, "validation": 2, "training": 2}
    assert sorted(clip.clip_id for clip in drawn.clips) == [str(index) for index in range(7)]
    draw(tmp_path / "all.csv", "train", 3, 2, tmp_path / "drawn.csv")  # the same clips: the manifest may exist
    with pytest.raises(Exception, match=r"7 clips of the split train have a file; must be at least 10; add clips"):
        draw(tmp_path / "all.csv", "train", 8, 1, tmp_path / "more.csv")


@pytest.mark.slow
def test_the_whole_of_it_runs_on_generated_sound(tmp_path, monkeypatch):
    """Three of the networks, of a narrow Cnn14 on a few clips; each command in this process."""

    def in_process(step, out):
        if step.command[0] == "epanns":
            cli.main(args=list(step.command[1:]), standalone_mode=False)
        else:
            with monkeypatch.context() as patch:
                patch.setattr(sys, "argv", list(step.command))
                runpy.run_path(step.command[0], run_name="__main__")

    chosen = [network for network in panns_steps.NETWORKS if network.name in ("unpruned", "epanns_50_ls", "macs_25")]
    monkeypatch.setattr(panns_steps, "NETWORKS", chosen)
    monkeypatch.setattr(run, "run_step", in_process)
    monkeypatch.setattr(run, "TRIAL", panns_generated.Counts(train=6, val=1, test=3))
    monkeypatch.setattr(run, "TRIAL_CALIBRATION", 5)
    threads = torch.get_num_threads()
    run.main(["--synthetic", "--width", "0.03", "--jobs", "1", "--out", str(tmp_path)])
    assert torch.get_num_threads() == threads
    records = read_records([tmp_path / "scores"])
    assert len(records) == 9
    assert {record.dataset for record in records} == {"AudioSet", "FSD50K"}
    by_ratio = [record for record in records if record.name == "Cnn14, 50 % of C7-C12, ls"]
    assert [(record.criterion, record.recover, record.ratio) for record in by_ratio] == [("l1", "ls", 0.5)] * 3
    table = (tmp_path / "report" / "table.md").read_text()
    assert "zero-shot, 196 of 200 classes" in table and "AudioSet, eval" in table
    assert "| LEAN, GPU | 0.4677 |" in (tmp_path / "report" / "quoted.md").read_text()
