import dataclasses
import json
import os
import re
import shutil
import signal
from contextlib import contextmanager
from functools import partial

import pytest
import torch

from epanns.cli import prune as prune_command
from epanns.complexity.macs import profile
from epanns.data.batches.dataset import PackDataset
from epanns.data.batches.loader import make_loader
from epanns.data.batches.sampler import sequential_batches
from epanns.labels import LabelSet
from epanns.models.files.checkpoint import load_checkpoint, save_checkpoint
from epanns.models.files.load import load
from epanns.models.files.released import export_panns
from epanns.models.spec import conv_widths
from epanns.models.zoo import build_model
from epanns.pruning.budgets import latency_budget
from epanns.pruning.budgets.sensitivity_table import Sensitivity, SensitivityRow
from epanns.pruning.prune import apply_plan, plan_pruning
from epanns.pruning.recovery.recover import recover
from tests.builders import make_checkpoint, make_manifest, make_pack, narrow_spec, parameter_clock, same_tensors

SPEC = narrow_spec(widths=conv_widths(4, 6, 8))
SPEC_BLOCK_2 = ("conv_block2.conv1", "conv_block2.conv2")


@pytest.fixture
def prune(epanns):
    """Run `epanns prune`; return exit code, stdout and stderr."""
    return partial(epanns, "prune")


@pytest.fixture
def checkpoint(tmp_path):
    return make_checkpoint(tmp_path / "dense", SPEC)


@pytest.fixture(scope="module")
def packs(tmp_path_factory):
    """Return a pack of a few generated clips per sample rate."""
    manifest = make_manifest(tmp_path_factory.mktemp("packs"))
    return {rate: make_pack(manifest, manifest.parent / f"pack{rate}", sample_rate=rate) for rate in (8_000, 16_000)}


def test_json_holds_exactly_the_promised_keys(prune, checkpoint, tmp_path):
    out = tmp_path / "pruned"
    code, stdout, _ = prune(checkpoint, "--out", out, "--ratio", "0.5", "--json")
    result = json.loads(stdout)
    assert code == 0
    assert list(result) == ["widths", "n_params", "backbone_macs", "param_bytes", "budget", "recovery"]
    assert result["widths"] == {layer: width // 2 for layer, width in SPEC.widths.items()}
    assert result["n_params"] == sum(parameter.numel() for parameter in load(out).parameters())
    assert result["param_bytes"] == 4 * result["n_params"]
    assert result["budget"] is result["recovery"] is None


def test_the_checkpoint_keeps_plan_labels_and_parent(prune, checkpoint, tmp_path):
    out = tmp_path / "pruned"
    prune(checkpoint, "--out", out, "--ratio", "0.5", "--layers", "conv_block3, conv_block1.conv1", "--criterion", "l2")
    dense, pruned = load_checkpoint(checkpoint), load_checkpoint(out)
    plan = pruned.provenance.plan
    assert plan.pruned_layers == ("conv_block1.conv1", "conv_block3.conv1", "conv_block3.conv2")
    assert (plan.base, plan.criterion) == (dense.spec, "l2")
    assert pruned.spec == plan.pruned_spec
    assert pruned.labels == dense.labels
    assert pruned.provenance.parent_sha256 == dense.provenance.sha256
    kept = list(plan.kept_channels["conv_block1.conv1"])
    assert torch.equal(pruned.weights["conv_block1.conv1.weight"], dense.weights["conv_block1.conv1.weight"][kept])


def test_text_lists_the_changes(prune, checkpoint, tmp_path):
    _, stdout, _ = prune(checkpoint, "--out", tmp_path / "pruned", "--ratio", "0.5", "--layers", "conv_block3.conv2")
    assert "pruned: 1 of 6 layers pruned by l1: conv_block3.conv2 8 -> 4\n" in stdout
    assert "backbone MACs for 10 s" in stdout


def test_ratios_come_from_a_file(prune, checkpoint, tmp_path):
    (tmp_path / "ratios.toml").write_text("conv_block2 = 0.5\nconv_block3.conv1 = 0.25\n")
    _, stdout, _ = prune(checkpoint, "--out", tmp_path / "pruned", "--ratios", tmp_path / "ratios.toml", "--json")
    assert list(json.loads(stdout)["widths"].values()) == [4, 4, 3, 3, 6, 8]


def test_widths_are_rounded(prune, checkpoint, tmp_path):
    options = ("--ratio", "0.4", "--round-to", "4", "--layers", "conv_block3", "--json")
    _, stdout, _ = prune(checkpoint, "--out", tmp_path / "pruned", *options, "--criterion", "random", "--seed", "7")
    assert json.loads(stdout)["widths"]["conv_block3.conv1"] == 4  # 8 - 3 = 5 stay


def test_a_target_is_met_and_printed(prune, checkpoint, tmp_path):
    out = tmp_path / "pruned"
    code, stdout, _ = prune(checkpoint, "--out", out, "--target-params", "0.5", "--json")
    assert code == 0
    result, dense = json.loads(stdout), profile(SPEC).n_params
    budget = {"kind": "params", "asked": dense / 2, "unpruned": dense, "allocate": "uniform"}
    assert result["budget"] == {**budget, "reached": result["n_params"]}
    assert 0.99 * dense / 2 <= result["n_params"] <= dense / 2
    assert load_checkpoint(out).provenance.recipe[-1].settings["budget"] == result["budget"]
    assert load(out).spec.widths == result["widths"]
    _, stdout, _ = prune(checkpoint, "--out", tmp_path / "again", "--target-params", "0.5")
    assert f"\nbudget: {result['n_params']} parameters of at most {dense / 2:.0f} parameters (" in stdout


def test_a_latency_is_measured_and_printed(prune, checkpoint, tmp_path, monkeypatch):
    monkeypatch.setattr(latency_budget, "Timing", parameter_clock)
    code, stdout, stderr = prune(checkpoint, "--out", tmp_path / "pruned", "--target-latency", "0.6", "--json")
    assert code == 0
    assert stderr == "timing every layer of narrow on this machine, then the pruned networks themselves\n"
    budget, dense = json.loads(stdout)["budget"], profile(SPEC).n_params
    assert budget["reached"] == profile(load(tmp_path / "pruned")).n_params / 100
    assert 0.9 * 0.006 * dense <= budget["reached"] <= budget["asked"] == pytest.approx(0.006 * dense)
    assert (budget["kind"], budget["spread"], budget["threads"]) == ("latency", 0.0, 2)


def test_bytes_in_int8_and_a_global_ranking_with_a_minimum(prune, checkpoint, tmp_path):
    options = [
        "--target-bytes",
        "2.3kB",
        "--int8",
        "--allocate",
        "global",
        "--minimum",
        "0.5",
        "--layers",
        "conv_block3",
    ]
    code, stdout, stderr = prune(checkpoint, "--out", tmp_path / "pruned", *options, "--json")
    assert code == 0, stderr
    result = json.loads(stdout)
    assert result["budget"]["kind"] == "int8_bytes"
    assert 2277 <= result["budget"]["reached"] <= 2300
    assert all(result["widths"][layer] >= 4 for layer in ("conv_block3.conv1", "conv_block3.conv2"))


def test_a_table_of_sensitivities_decides_the_layers(prune, checkpoint, tmp_path):
    rows = [SensitivityRow(layer, 0.5, width // 2, 0.5, 1, 1) for layer, width in SPEC.widths.items()]
    rows[-2] = dataclasses.replace(rows[-2], mAP=0.9)
    table = Sensitivity(SensitivityRow("", 0.0, None, 0.9, profile(SPEC).n_params, 1), tuple(rows))
    (tmp_path / "sensitivity.csv").write_text(table.to_csv())
    options = ["--ratio", "0.1", "--allocate", "sensitivity", "--sensitivity", tmp_path / "sensitivity.csv", "--json"]
    _, stdout, stderr = prune(checkpoint, "--out", tmp_path / "pruned", *options)
    assert json.loads(stdout)["widths"] == dict(SPEC.widths) | {"conv_block3.conv1": 4}
    assert f"{tmp_path / 'sensitivity.csv'} does not record which weights it was measured on, only how many" in stderr
    (tmp_path / "sensitivity.csv").write_text(dataclasses.replace(table, network="0" * 64).to_csv())
    code, _, stderr = prune(checkpoint, "--out", tmp_path / "other", *options)
    assert code == 1
    assert stderr.startswith("epanns: the table of sensitivities was measured on network 000000000000, this one is ")


def test_the_help_explains_the_options_in_groups(prune):
    code, stdout, _ = prune("--help")
    assert code == 0
    titles = (
        "How much is removed",
        "From which layers",
        "Which filters",
        "Recovery and calibration",
        "Several rounds",
        "Options",
    )
    _, *sections = re.split("|".join(rf"\n{title}\b.*:" for title in titles), stdout)
    assert [re.findall(r"^  (?:-h, )?--([a-z0-9-]+)", section, re.MULTILINE) for section in sections] == [
        ["ratio", "ratios", "target-params", "target-macs", "target-bytes", "target-latency"],
        ["layers", "allocate", "minimum", "sensitivity", "round-to", "int8"],
        ["method", "criterion", "seed"],
        ["recover", "calibration", "fit-to", "mixtures", "rectify", "ridge", "labels", "mp3-seconds"],
        ["steps", "schedule", "between"],
        ["out", "device", "json", "config", "debug", "help"],
    ]


def test_options_come_from_a_configuration_file(prune, checkpoint, tmp_path):
    (tmp_path / "prune.toml").write_text('ratio = 0.5\ncriterion = "l2"\nlayers = "conv_block1"\n')
    code, stdout, _ = prune(checkpoint, "--out", tmp_path / "pruned", "--config", tmp_path / "prune.toml")
    assert code == 0
    assert "2 of 6 layers pruned by l2" in stdout


def test_batch_norm_is_measured_again_on_a_pack(prune, checkpoint, packs, tmp_path):
    options = ("--ratio", "0.5", "--layers", "conv_block2")
    prune(checkpoint, "--out", tmp_path / "plain", *options)
    out = tmp_path / "recovered"
    code, stdout, _ = prune(
        checkpoint, "--out", out, *options, "--recover", "bn", "--calibration", packs[8_000], "--json"
    )
    assert code == 0
    assert json.loads(stdout)["recovery"] == {"method": "bn", "clips": 5}
    assert load_checkpoint(out).provenance.to_dict()["recipe"] == [
        {"step": "prune", "criterion": "l1", "ratios": dict.fromkeys(SPEC_BLOCK_2, 0.5), "seed": 0},
        {"step": "recover", "method": "bn", "clips": 5},
    ]
    plain, recovered = load_checkpoint(tmp_path / "plain").weights, load_checkpoint(out).weights
    changed = {name.rsplit(".", 1)[0] for name, tensor in recovered.items() if not torch.equal(tensor, plain[name])}
    assert changed == {"conv_block2.bn2", "conv_block3.bn1", "conv_block3.bn2"}


def test_batch_norm_statistics_equal_those_of_a_sweep(prune, tiny_spec, tiny_packs, tmp_path):
    dense, out = build_model(tiny_spec), tmp_path / "out"
    save_checkpoint(dense, tmp_path / "tiny")
    prune(tmp_path / "tiny", "--out", out, "--ratio", "0.5", "--recover", "bn", "--calibration", tiny_packs["train"])
    dataset = PackDataset([tiny_packs["train"]])
    batches = make_loader(dataset, sequential_batches(len(dataset), 32))
    pruned = apply_plan(dense, plan_pruning(dense, ratio=0.5))
    recover(pruned, dense, [batch.float_waveform() for batch in batches], "bn")
    assert same_tensors(load(out), pruned)


def test_readers_are_fitted_on_a_pack_and_the_errors_shown(prune, checkpoint, packs, tmp_path):
    options = ("--ratio", "0.5", "--layers", "conv_block2", "--recover", "ls+bn", "--calibration", packs[8_000])
    code, stdout, _ = prune(checkpoint, "--out", tmp_path / "a", *options, "--json")
    assert code == 0
    recovery = json.loads(stdout)["recovery"]
    assert (recovery["method"], recovery["clips"]) == ("ls+bn", 5)
    assert list(recovery["errors"]) == ["conv_block2.conv2", "conv_block3.conv1"]
    code, stdout, _ = prune(checkpoint, "--out", tmp_path / "b", *options, "--fit-to", "dense", "--ridge", "0.001")
    error = recovery["errors"]["conv_block2.conv2"]
    assert f"conv_block2.conv2: error {error['plain']:.1%} plain, {error['refit']:.1%} refitted" in stdout
    steps = load_checkpoint(tmp_path / "b").provenance.to_dict()["recipe"]
    assert [step.get("method") for step in steps] == [None, "ls", "bn"]
    assert (steps[1]["fit_to"], steps[1]["ridge"]) == ("dense", 0.001)
    code, stdout, _ = prune(checkpoint, "--out", tmp_path / "c", *options, "--fit-to", "current", "--json")
    current = json.loads(stdout)["recovery"]
    assert current["fit_to"] == "current"
    assert current["errors"].keys() == recovery["errors"].keys()


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--ratio", "1.5"], "epanns: ratio 1.5 for conv_block1.conv1: must be in [0, 1)"),
        (
            ["--ratio", "0", "--layers", "conv_block2.conv1"],
            "epanns: ratio 0 removes nothing from conv_block2.conv1: give",
        ),
        (
            ["--ratio", "0.05", "--layers", "conv_block1"],
            "epanns: ratio 0.05 removes none of the 4 channels of conv_block1.conv1",
        ),
        (["--ratio", "0.5", "--layers", "fc_audioset"], "epanns: fc_audioset cannot be pruned: it is the classifier"),
        (["--ratio", "0.5", "--layers", "conv_block9"], "epanns: unknown layer 'conv_block9' (did you mean"),
        (
            ["--ratio", "0.5", "--criterion", "rand"],
            "epanns: unknown criterion 'rand' (did you mean 'random'?): choose one of l1",
        ),
        ([], "epanns: give one of --ratio, --ratios FILE, --target-params, --target-macs, --target-bytes"),
        (["--ratio", "0.5", "--target-macs", "1M"], "epanns: give one of --ratio, --ratios FILE, --target-params"),
        (["--target-macs", "1X"], "epanns: '1X' is no budget of macs: give a number above 0 such as 0.25 or 5.02G"),
        (["--target-macs", "0.5", "--int8"], "epanns: --int8 goes with --target-bytes"),
        (["--target-params", "2"], "epanns: a budget of 2 parameters cannot be met: at their narrowest"),
        (["--ratio", "0.5", "--minimum", "0.1"], "epanns: --minimum goes with --allocate global, distortion or"),
        (
            ["--ratio", "0.5", "--allocate", "sensitivity"],
            "epanns: --allocate sensitivity and --sensitivity FILE.csv go",
        ),
        (["--ratio", "0.5", "--recover", "bn"], "epanns: --recover bn: give --calibration PACK, the clips"),
        (
            ["--ratio", "0.5", "--criterion", "taylor", "--recover", "ls"],
            "epanns: --recover ls and --criterion taylor: give --calibration PACK, the clips to measure",
        ),
        (
            ["--ratio", "0.5", "--ridge", "1"],
            "epanns: --ridge: only for --recover ls; --recover none has no use for it",
        ),
    ],
)
def test_what_cannot_be_done_ends_in_one_line_and_writes_nothing(prune, checkpoint, tmp_path, options, message):
    code, stdout, stderr = prune(checkpoint, "--out", tmp_path / "pruned", *options)
    assert (code, stdout) == (1, "")
    assert stderr.startswith(message)
    assert stderr.count("\n") == 1
    assert [path.name for path in tmp_path.iterdir()] == ["dense"]


def test_calibration_at_another_sample_rate_is_refused(prune, checkpoint, packs, tmp_path):
    options = ("--ratio", "0.5", "--recover", "bn", "--calibration", packs[16_000])
    code, _, stderr = prune(checkpoint, "--out", tmp_path / "pruned", *options)
    assert code == 1
    assert "holds 16000 Hz, narrow reads 8000 Hz: pack the clips with --sample-rate 8000" in stderr
    assert not (tmp_path / "pruned").exists()


def test_clips_that_nothing_measures_are_refused(prune, checkpoint, packs, tmp_path):
    code, _, stderr = prune(checkpoint, "--out", tmp_path / "pruned", "--ratio", "0.5", "--calibration", packs[8_000])
    assert code == 1
    assert "without --recover, --allocate distortion or a criterion that measures clips (taylor, activation" in stderr


@pytest.mark.parametrize("criterion", ["activation", "interpolative"])
def test_criteria_measure_the_clips_of_a_pack(prune, checkpoint, packs, tmp_path, criterion):
    options = ("--ratio", "0.5", "--criterion", criterion, "--calibration", packs[8_000], "--json")
    code, stdout, _ = prune(checkpoint, "--out", tmp_path / "pruned", *options)
    assert (code, json.loads(stdout)["recovery"]) == (0, None)
    dense, dataset = load(checkpoint), PackDataset([packs[8_000]])
    batch = dataset.__getitems__(range(len(dataset)))
    plan = plan_pruning(dense, criterion=criterion, ratio=0.5, calibration=[batch.float_waveform()])
    assert load(tmp_path / "pruned").provenance.plan == plan


def test_taylor_needs_the_models_classes_and_takes_them_in_any_order(prune, checkpoint, packs, tmp_path):
    options = ("--ratio", "0.5", "--criterion", "taylor", "--calibration", packs[8_000])
    code, _, stderr = prune(checkpoint, "--out", tmp_path / "pruned", *options)
    assert code == 1
    assert "have different classes (5 classes in the model, 2 in the pack)" in stderr
    dataset = PackDataset([packs[8_000]])
    torch.manual_seed(0)
    model = build_model(SPEC, labels=LabelSet.of(dataset.labels.names[::-1]), num_classes=2)
    save_checkpoint(model, tmp_path / "two")
    code, _, stderr = prune(tmp_path / "two", "--out", tmp_path / "pruned", *options)
    assert code == 0
    assert "the classes of synthetic are put into the order of narrow's" in stderr
    batch = dataset.__getitems__(range(len(dataset)))
    clips = [(batch.float_waveform(), batch.float_target().flip(1))]
    plan = plan_pruning(load(tmp_path / "two"), criterion="taylor", ratio=0.5, calibration=clips)
    assert load(tmp_path / "pruned").provenance.plan == plan


def test_an_existing_out_is_refused_before_anything_is_read(prune, tmp_path):
    (tmp_path / "no-checkpoint").mkdir()
    (tmp_path / "pruned").mkdir()
    (tmp_path / "pruned" / "precious").write_text("")
    code, _, stderr = prune(tmp_path / "no-checkpoint", "--out", tmp_path / "pruned", "--ratio", "0.5")
    assert code == 1
    assert "pruned exists already: choose another --out or delete it first" in stderr
    assert (tmp_path / "pruned" / "precious").exists()


def test_a_released_file_is_pruned_as_it_is(prune, tmp_path):
    export_panns(build_model("Cnn6", width=0.125), tmp_path / "Cnn6.pth")
    code, stdout, _ = prune(tmp_path / "Cnn6.pth", "--out", tmp_path / "pruned", "--ratio", "0.5", "--json")
    assert code == 0
    assert list(json.loads(stdout)["widths"].values()) == [4, 8, 16, 32]


def test_the_network_is_ranked_recovered_and_trained_on_the_given_device(
    prune, checkpoint, packs, tmp_path, monkeypatch
):
    """Every network of the command stems from the one that is moved: the others are made from it."""
    moved = []
    monkeypatch.setattr("epanns.cli.prune.torch_device", lambda name: {"cuda:1": "cpu"}[name])
    to = torch.nn.Module.to
    monkeypatch.setattr(
        torch.nn.Module, "to", lambda model, *device, **how: (moved.append(device), to(model, *device))[1]
    )
    code, _, err = prune(checkpoint, "--out", tmp_path / "pruned", "--ratio", "0.5", "--device", "cuda:1")
    asked_for = [device for device in moved if isinstance(device[0], str)]  # copies on the meta device are beside it
    assert (code, err, asked_for) == (0, "", [("cpu",)])


@pytest.mark.gpu
@pytest.mark.parametrize("criterion", ["l1", "activation", "interpolative"])
@pytest.mark.parametrize("recover", ["bn", "ls", "distil:2"])
def test_a_gpu_gives_the_network_that_a_cpu_gives(prune, checkpoint, packs, tmp_path, criterion, recover):
    asked = ["--ratio", "0.5", "--criterion", criterion, "--recover", recover, "--calibration", packs[8_000]]
    for device in ("cpu", "cuda"):
        assert prune(checkpoint, "--out", tmp_path / device, *asked, "--device", device)[0] == 0
    cpu, gpu = (load(tmp_path / device).state_dict() for device in ("cpu", "cuda"))
    for name, value in cpu.items():
        torch.testing.assert_close(gpu[name], value, rtol=1e-2, atol=1e-3)


def test_stopped_gradient_steps_resume_with_the_same_bytes(prune, checkpoint, packs, monkeypatch, tmp_path):
    asked = ["--ratio", "0.5", "--recover", "ls+align:6", "--calibration", packs[8_000], "--seed", 3]
    code, _, stderr = prune(checkpoint, "--out", tmp_path / "whole", *asked)
    assert code == 0, stderr
    assert "step 6 of 6: loss " in stderr
    out, show = tmp_path / "out", prune_command.progress_counter
    shown = []

    @contextmanager
    def stopping(description, unit):
        def count(done, total):
            shown.append((description, unit, done, total))
            if done == 4:
                os.kill(os.getpid(), signal.SIGTERM)

        yield count

    monkeypatch.setattr(prune_command, "progress_counter", stopping)
    code, _, stderr = prune(checkpoint, "--out", out, *asked)
    assert (code, out.exists()) == (143, False)
    assert "stopped by signal 15 at step 4 of 6 of the recovery; the same command resumes it from " in stderr
    assert shown == [("align", "step", step, 6) for step in range(1, 5)]
    monkeypatch.setattr(prune_command, "progress_counter", show)
    code, _, stderr = prune(checkpoint, "--out", out, "--criterion", "l2", *asked)  # another plan: a folder beside
    assert code == 0, stderr
    shutil.rmtree(out)
    code, stdout, stderr = prune(checkpoint, "--out", out, *asked)
    assert code == 0, stderr
    assert "resume the recovery at step 4 of 6" in stderr
    assert re.search(r"6 steps of alignment: loss \d+\.\d{4} before, \d+\.\d{4} after, on held-out clips; ", stdout)
    assert not (tmp_path / "out.recovery").exists()
    weights = [(tmp_path / name / "model.safetensors").read_bytes() for name in ("whole", "out")]
    assert weights[0] == weights[1]


def test_settings_of_ls_are_refused_where_ls_is_not_run(prune, checkpoint, packs, tmp_path):
    options = ("--ratio", "0.5", "--recover", "align:3", "--calibration", packs[8_000], "--mixtures", 1)
    code, _, stderr = prune(checkpoint, "--out", tmp_path / "out", *options)
    assert (code, stderr) == (1, "epanns: --mixtures: only for --recover ls; --recover align:3 has no use for it\n")


def test_method_auto_gives_the_defaults_that_are_not_given(prune, checkpoint, packs, tmp_path):
    options = ("--ratio", "0.5", "--calibration", packs[8_000], "--recover", "ls")
    code, _, stderr = prune(checkpoint, "--out", tmp_path / "auto", "--method", "auto", *options)
    assert code == 0
    assert "--method auto: --criterion activation --allocate uniform --recover ls --mixtures 2 --rectify 8\n" in stderr
    by_hand = ("--criterion", "activation", "--mixtures", "2", "--rectify", "8")
    prune(checkpoint, "--out", tmp_path / "by hand", *by_hand, *options)
    assert same_tensors(load(tmp_path / "auto"), load(tmp_path / "by hand"))


def test_options_take_precedence_over_the_method(prune, checkpoint, packs, tmp_path):
    (tmp_path / "prune.toml").write_text('criterion = "l2"\n')
    given = ("--config", tmp_path / "prune.toml", "--recover", "bn", "--calibration", packs[8_000])
    code, _, stderr = prune(checkpoint, "--out", tmp_path / "a", "--method", "auto", "--ratio", "0.5", *given)
    assert code == 0
    assert "--method auto: --criterion l2 --allocate uniform --recover bn\n" in stderr


def test_method_auto_without_clips_is_refused(prune, checkpoint, tmp_path):
    code, _, stderr = prune(checkpoint, "--out", tmp_path / "a", "--method", "auto", "--target-params", "0.5")
    assert code == 1
    assert (
        "--recover align:1500 and --criterion activation and --allocate distortion: give --calibration PACK" in stderr
    )
