"""``epanns export`` as it is typed; what it writes is tested in tests/export."""

from functools import partial

import pytest

import epanns.export as extra
from epanns.cli.export import describe
from epanns.models.zoo import build_model
from tests.builders import make_checkpoint

OF_INT8 = ": used only with --int8: give --int8 and --calibration too"


@pytest.fixture
def run(epanns, tmp_path):
    """Run `epanns export` on a tiny network; return exit code, stdout and stderr."""
    return partial(epanns, "export", make_checkpoint(tmp_path / "tiny"), "--out", tmp_path / "out")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("--int8",), "--int8 and --calibration go together: give both or neither (--calibration is None)"),
        (("--calibration", "."), "--int8 and --calibration go together"),
        (("--evaluate", "."), f"--evaluate .{OF_INT8}, or leave it out"),
        (("--window", "1", "--hop", ".5"), f"--window 1, --hop 0.5{OF_INT8}, or leave them out"),
        (("--portable",), f"--portable{OF_INT8}"),
        (("--no-equalise",), f"--no-equalise{OF_INT8}"),
        (("--equalise",), f"--equalise{OF_INT8}"),
        (("--clips", "200"), f"--clips 200{OF_INT8}"),
        (("--labels", "."), f"--labels .{OF_INT8}"),
        (("--mp3-seconds", "10"), f"--mp3-seconds 10{OF_INT8}"),
        (("--threads", "1"), "--threads 1: used only with --latency: give --latency too, or leave it out"),
        (("--hop", "0.5"), "--hop 0.5 without --window: it is the distance between windows; give --window too"),
    ],
)
def test_options_that_do_not_go_together_end_in_one_line(run, arguments, message):
    code, out, err = run(*arguments)
    assert (code, out) == (1, "")
    assert message in err
    assert err.count("\n") == 1


def test_without_the_extra_the_error_holds_the_install_command(run, monkeypatch, tmp_path):
    monkeypatch.setattr(extra, "is_installed", lambda name: name == "onnx")
    code, out, err = run()
    assert (code, out) == (1, "")
    assert err.startswith('epanns: export needs onnxruntime, onnxscript: pip install -e ".[onnx]"')
    assert err.count("\n") == 1
    assert not (tmp_path / "out").exists()


def test_a_folder_that_exists_is_refused_first(run, tmp_path):
    (tmp_path / "out").mkdir()
    code, _, err = run()
    assert code == 1
    assert "out exists already: choose another --out" in err


def test_a_flag_that_a_file_turns_off_is_not_given(run, tmp_path):
    (tmp_path / "export.toml").write_text("portable = false\nequalise = false\n")
    code, _, err = run("--config", tmp_path / "export.toml")
    assert code == 1
    assert err.startswith(f"epanns: --no-equalise{OF_INT8}")


def test_one_pack_for_calibration_and_comparison_is_refused(run, tmp_path, tiny_packs):
    pytest.importorskip("onnxruntime", reason="the onnx extra is not installed")
    code, _, err = run("--int8", "--calibration", tiny_packs["train"], "--evaluate", tiny_packs["train"])
    assert code == 1
    assert "60 of 60 evaluation clips of" in err
    assert "leave --evaluate out, then every 5th clip of the calibration pack is held out" in err
    assert err.count("\n") == 1
    assert not (tmp_path / "out").exists()


def test_packs_of_another_rate_are_refused(run, tmp_path, tiny_packs, epanns, tiny_spec):
    pytest.importorskip("onnxruntime", reason="the onnx extra is not installed")
    make_checkpoint(tmp_path / "cnn6", "Cnn6", width=0.1)
    given = ["--int8", "--calibration", tiny_packs["train"]]
    code, _, err = epanns("export", tmp_path / "cnn6", "--out", tmp_path / "out", *given)
    assert code == 1
    assert "holds 8000 Hz, Cnn6 reads 32000 Hz: pack the clips with --sample-rate 32000" in err


def test_text_holds_sizes_differences_and_scores_side_by_side(tiny_spec):
    evaluation = {
        "clips": 1200,
        "name": "tones",
        "held_out_of_calibration": True,
        "of_calibration_pack": False,
        "top1": 0.925,
        "mAP": {"float32": 0.8378, "int8": 0.8356},
        "accuracy": None,
    }
    latency = {"median": 1.25, "threads": 1, "runtime": "onnxruntime 1 cpu, without front end"}
    report = {
        "files": {
            "model.onnx": {"bytes": 13_000_000, "latency_ms": {"1 s": latency}},
            "model.int8.onnx": {"bytes": 3_349_000},
        },
        "n_params_folded": 3_246_706,
        "parity": {"largest_difference": {"clipwise_output": 1.5e-6}},
        "int8": {
            "protocol": "whole clip",
            "evaluation": evaluation,
            "float32_activations": {"relu_1": ["conv_block1.conv2"], "relu_9": []},
        },
    }
    text = describe(build_model(tiny_spec), report)
    assert text.splitlines() == [
        "model.onnx 13.00 MB, model.int8.onnx 3.35 MB; Cnn14, 3,246,706 numbers with batch norms folded",
        "float32: scores differ from torch's by at most 1.5e-06",
        "model.onnx: 1.25 ms for 1 s; 1 thread(s), onnxruntime 1 cpu, without front end",
        "int8, host CPU, 1,200 clips (tones): same first class as float32 for 92.5 %, whole clip",
        "mAP: float32 0.8378, int8 0.8356 (-0.22 points)",
        "in float32, where eight bits are too few: the inputs of conv_block1.conv2, relu_9",
    ]
    evaluation["mAP"] = None
    assert "no mAP: the clips have no labels, or other classes than the network" in describe(
        build_model(tiny_spec), report
    )
