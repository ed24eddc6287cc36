"""``epanns prune --steps``: without training they are compared with one round; with it, a stopped run resumes."""

import json
import os
import signal
from contextlib import contextmanager
from functools import partial, reduce
from types import SimpleNamespace

import pytest

from epanns.cli.shared.terminal import log
from epanns.data.batches.dataset import PackDataset
from epanns.models.files.checkpoint import load_checkpoint
from epanns.models.files.load import load
from epanns.models.pruning_plan import compose
from epanns.pruning.calibration_clips import CalibrationClips
from epanns.pruning.iterative_pruning import step_widths
from epanns.pruning.prune import apply_plan, plan_pruning
from epanns.pruning.recovery.recover import recover
from epanns.training.config import PRESETS, Preset, TrainingConfig
from epanns.training.loop import RunOptions
from epanns.workfolder import WorkFolder
from tests.builders import make_checkpoint, same_tensors

HALF = ("--ratio", "0.5", "--layers", "conv_block5,conv_block6")


@pytest.fixture
def prune(epanns, tiny_packs, tmp_path):
    """Run `epanns prune` on a small network; return exit code, stdout and stderr."""
    return partial(epanns, "prune", make_checkpoint(tmp_path / "dense", labels=tiny_packs["val"]))


@pytest.fixture
def settings(tiny_packs, tmp_path):
    """Return a ``--between`` file."""
    lines = [f'train = "{tiny_packs["train"]}"', f'val = ["{tiny_packs["val"]}"]']
    lines += ["iterations = 2", "batch_size = 4", "validate-every = 1", "learning_rate = 0.01"]
    (tmp_path / "between.toml").write_text("\n".join(lines))
    return tmp_path / "between.toml"


def test_rounds_without_training_are_compared_with_one_round(prune, tmp_path):
    for criterion in ("bn", "l1", "opnorm"):
        code, stdout, stderr = prune("--out", tmp_path / criterion, *HALF, "--steps", 3, "--criterion", criterion)
        assert code == 0
        kept = load_checkpoint(tmp_path / criterion).provenance.plan.kept_channels
        prune("--out", tmp_path / f"{criterion}-1", *HALF, "--criterion", criterion)
        once = load_checkpoint(tmp_path / f"{criterion}-1").provenance.plan.kept_channels
        others = sum(len(set(kept[layer]) - set(once[layer])) for layer in kept)
        start = "neither training nor recovery between the 3 rounds (--between, --recover): "
        if criterion == "bn":
            assert others == 0
        assert stderr == start + (
            f"{others} of 22 kept channels differ from those of one round, as {criterion} ranks the remaining channels "
            "again\n"
            if others
            else "they keep the same channels as one round\n"
        )
        assert "4 of 12 layers pruned by" in stdout


def test_clips_are_measured_in_each_round(prune, tiny_packs, tmp_path):
    options = ("--criterion", "taylor", "--calibration", tiny_packs["val"])
    code, _, stderr = prune("--out", tmp_path / "out", *HALF, "--steps", 2, *options)
    assert code == 0, stderr
    assert stderr.startswith("neither training nor recovery between the 2 rounds (--between, --recover): ")


def test_one_round_logs_nothing(prune, tmp_path):
    assert prune("--out", tmp_path / "out", *HALF, "--steps", 1)[2] == ""


def test_one_round_with_recovery_equals_pruning_and_recovering(prune, tiny_packs, tmp_path):
    options = ("--steps", 1, "--recover", "ls", "--calibration", tiny_packs["train"])
    assert prune("--out", tmp_path / "out", *HALF, *options)[0] == 0
    dense = load(tmp_path / "dense")
    plan = plan_pruning(dense, ratio=0.5, layers=HALF[3].split(","))
    pruned = apply_plan(dense, plan)
    clips = CalibrationClips.from_pack(PackDataset([tiny_packs["train"]], sample_rate=8_000))
    recover(pruned, dense, clips, "ls", plan=plan)
    assert same_tensors(load(tmp_path / "out"), pruned)


def test_recovery_follows_each_round_toward_the_unpruned_network(prune, tiny_packs, tmp_path):
    options = ("--criterion", "activation", "--recover", "ls", "--calibration", tiny_packs["train"])
    code, stdout, stderr = prune("--out", tmp_path / "out", *HALF, "--steps", 3, *options, "--json")
    assert (code, stderr.splitlines()) == (0, [f"[{number}/3] pruned and recovered" for number in (1, 2, 3)])
    found, dense = load(tmp_path / "out"), load(tmp_path / "dense")
    assert [step.kind for step in found.provenance.recipe] == ["prune", "recover"] * 3
    clips = CalibrationClips.from_pack(PackDataset([tiny_packs["train"]], sample_rate=8_000))
    network, plans = dense, []
    for number in (1, 2, 3):
        layers = HALF[3].split(",")
        ratios = {
            layer: 1 - step_widths(width, width // 2, 3)[number - 1] / network.spec.widths[layer]
            for layer, width in dense.spec.widths.items()
            if layer.split(".")[0] in layers
        }
        plan = plan_pruning(network, criterion="activation", ratios=ratios, calibration=clips)
        plans.append(plan)
        network = apply_plan(network, plan)
        report = recover(network, dense, clips, "ls", plan=reduce(compose, plans))
    assert found.provenance.plan.kept_channels == reduce(compose, plans).kept_channels
    assert same_tensors(found, network)
    assert json.loads(stdout)["recovery"] == report


def test_a_recovery_stopped_in_a_later_round_resumes_and_ends_with_the_same_bytes(
    prune, tiny_packs, monkeypatch, tmp_path
):
    options = (*HALF, "--steps", 2, "--recover", "ls+align:4", "--calibration", tiny_packs["train"])
    code, _, stderr = prune("--out", tmp_path / "whole", *options)
    assert code == 0, stderr
    seen = []

    @contextmanager
    def stopping(description, unit):
        def count(done, total):
            seen.append(done)
            if len(seen) == 7:  # the third step of the second round
                os.kill(os.getpid(), signal.SIGTERM)

        yield count

    monkeypatch.setattr("epanns.cli.prune.progress_counter", stopping)
    assert prune("--out", tmp_path / "out", *options)[0] == 143
    code, _, stderr = prune("--out", tmp_path / "out", *options)
    assert code == 0, stderr
    assert seen[:7] == [1, 2, 3, 4, 1, 2, 3]
    assert seen[-1:] == [4]
    assert "resume the recovery at step 4 of 4" in stderr
    assert "resume the recovery at step 3 of 4" in stderr
    assert not (tmp_path / "out.recovery").exists()
    weights = [(tmp_path / name / "model.safetensors").read_bytes() for name in ("whole", "out")]
    assert weights[0] == weights[1]


def test_it_trains_after_each_cut_but_the_last(prune, settings, tiny_spec, tiny_packs, tmp_path):
    options = ("--steps", 3, "--between", settings, "--recover", "bn", "--calibration", tiny_packs["train"], "--json")
    code, stdout, stderr = prune("--out", tmp_path / "out", *HALF, *options)
    assert code == 0
    assert json.loads(stdout)["recovery"] == {"method": "bn", "clips": 60}
    told = [line for line in stderr.splitlines() if line.startswith("[")]
    starts = [f"[{step}/3] pruned and fine-tuned: validation mAP 0." for step in (1, 2)]
    assert [line.startswith(start) for line, start in zip(told, starts, strict=True)] == [True, True]
    provenance = load(tmp_path / "out").provenance
    assert [step.kind for step in provenance.recipe] == [
        *["prune", "recover", "finetune"] * 2,
        "prune",
        "recover",
    ]
    seeds = {step.settings["training"]["seed"] for step in provenance.recipe if step.kind == "finetune"}
    assert len(seeds) == 2  # or both runs would draw the same clips
    assert provenance.plan.base == tiny_spec
    for step in (1, 2):
        run = load(tmp_path / "out.steps" / f"step{step}")
        assert run.spec.widths["conv_block6.conv1"] == step_widths(12, 6, 3)[step - 1]


def test_a_run_stopped_between_rounds_resumes_and_ends_with_the_same_bytes(prune, settings, monkeypatch, tmp_path):
    options = (*HALF, "--steps", 3, "--between", settings)
    assert prune("--out", tmp_path / "whole", *options)[0] == 0
    out, seen = tmp_path / "out", []

    @contextmanager
    def stopping(config):
        def on_step(state, loss):
            seen.append(state.step)
            if len(seen) == 3:  # the first step of the second run
                os.kill(os.getpid(), signal.SIGTERM)

        yield SimpleNamespace(run_options=lambda **settings: RunOptions(on_step=on_step, **settings), log=log)

    monkeypatch.setattr("epanns.cli.prune.training_progress", stopping)
    code, _, stderr = prune("--out", out, *options)
    assert code == 143
    assert f"stopped by signal 15 at step 1 of 2; the state of step 1 is saved in {out}.steps/step2: run" in stderr
    assert not out.exists()
    monkeypatch.undo()
    code, _, stderr = prune("--out", out, *options)
    assert (code, stderr.splitlines()[0]) == (0, "resume at round 2 of 3")
    assert "resume at step 1 of 2\n" in stderr
    assert seen == [1, 2, 1]
    weights = [(tmp_path / name / "model.safetensors").read_bytes() for name in ("whole", "out")]
    assert weights[0] == weights[1]


def test_a_preset_sets_the_training_and_keys_of_the_file_override_it(prune, settings, monkeypatch, tmp_path):
    quick = {**PRESETS["short"].settings, "iterations": 2, "warmup_iterations": 0}
    monkeypatch.setitem(PRESETS, "short", Preset("quick", quick))
    settings.write_text(settings.read_text().replace("iterations = 2", 'preset = "short"'))
    code, _, stderr = prune("--out", tmp_path / "out", *HALF, "--steps", 2, "--between", settings)
    assert code == 0, stderr
    (run,) = [step.settings["training"] for step in load(tmp_path / "out").provenance.recipe if step.kind == "finetune"]
    file = {"batch_size": 4, "validate_every": 1, "learning_rate": 0.01}
    assert run == {**TrainingConfig.from_dict({**quick, **file}).to_dict(), "seed": run["seed"]}


def test_with_a_weight_the_unpruned_network_teaches_between_rounds(prune, settings, tmp_path):
    settings.write_text(settings.read_text() + "\ndistil_weight = 0.5")
    code, _, stderr = prune("--out", tmp_path / "out", *HALF, "--steps", 3, "--between", settings)
    assert code == 0, stderr
    trained = [step for step in load(tmp_path / "out").provenance.recipe if "training" in step.settings]
    assert [step.settings["teacher_sha256"] for step in trained] == [load(tmp_path / "dense").provenance.sha256] * 2


def test_a_second_process_with_the_same_out_is_refused(prune, settings, tmp_path):
    options = ("--out", tmp_path / "out", *HALF, "--steps", 2, "--between", settings)
    with WorkFolder(tmp_path / "out.steps").locked():
        code, _, stderr = prune(*options)
        assert (code, stderr.count("\n")) == (1, 1)
        assert stderr.startswith(f"epanns: {tmp_path}/out.steps is in use by process {os.getpid()} on ")
        assert [file.name for file in (tmp_path / "out.steps").iterdir()] == ["epanns.lock"]
    assert prune(*options)[0] == 0


def test_runs_of_another_pruning_are_refused(prune, settings, tmp_path):
    options = ("--out", tmp_path / "out", *HALF, "--steps", 2, "--between", settings)
    assert prune(*options)[0] == 0
    (tmp_path / "out").rename(tmp_path / "elsewhere")
    code, _, stderr = prune(*options, "--criterion", "l2")
    assert code == 1
    where = (
        f"epanns: {tmp_path}/out.steps holds runs with criterion='l1', not 'l2': repeat the options to resume, delete"
    )
    assert stderr.startswith(where)
    (tmp_path / "out.steps" / "steps.json").unlink()
    assert "out.steps exists already and holds no runs between rounds: choose another --out" in prune(*options)[2]
    (tmp_path / "out.steps" / "steps.json").write_text("{")
    assert "steps.json: cannot be read as JSON (Expecting" in prune(*options)[2]


@pytest.mark.parametrize(
    ("options", "change", "message"),
    [
        (["--schedule", "geometric"], None, "--steps 1: --schedule and --between go with at least two steps"),
        (
            ["--steps", "9"],
            None,
            "round 2 of 9 would remove nothing, as at most 6 channels of a layer are removed: use fewer",
        ),
        (
            ["--steps", "2"],
            ("iterations", "iteration"),
            "between.toml: iterations missing: packs to train and validate",
        ),
        (
            ["--steps", "2"],
            ("batch_size", "bach_size"),
            "between.toml: training: unknown key 'bach_size' (did you mean",
        ),
        (["--steps", "2"], ("iterations = 2", "iterations = 2.5"), "iterations=2.5: must be a whole number >= 1"),
        (
            ["--steps", "2"],
            ("val = [", "val = 3 # ["),
            "between.toml: val=3: must be the path of a pack, or a list of paths",
        ),
        (["--steps", "2"], ("train =", "train"), "between.toml: cannot be read as TOML"),
        (["--steps", "2"], ("/train", "/val"), "20 of 20 validation clips are training clips too"),
    ],
)
def test_what_cannot_be_done_ends_in_one_line_and_writes_nothing(prune, settings, tmp_path, options, change, message):
    if change is not None:
        assert change[0] in settings.read_text()
        settings.write_text(settings.read_text().replace(*change))
        options = [*options, "--between", settings]
    code, stdout, stderr = prune("--out", tmp_path / "out", *HALF, *options)
    assert (code, stdout) == (1, "")
    assert message in stderr
    assert stderr.count("\n") == 1
    assert not list(tmp_path.glob("out*"))
