import json
from functools import partial

import pytest

from epanns.models.spec import conv_widths
from tests.builders import make_checkpoint, narrow_spec

KEYS = {
    "name",
    "sample_rate",
    "clip_seconds",
    "n_params",
    "n_params_with_front_end",
    "n_params_with_statistics",
    "n_params_folded",
    "param_bytes",
    "backbone_macs",
    "front_end_macs",
    "panns_multiply_adds",
    "layers",
    "uncounted",
}


@pytest.fixture
def profile(epanns):
    """Run `epanns profile`; return exit code, stdout and stderr."""
    return partial(epanns, "profile")


@pytest.fixture
def checkpoint(tmp_path):
    return make_checkpoint(tmp_path / "narrow", narrow_spec(widths=conv_widths(4, 6)))


def test_json_holds_exactly_the_promised_keys(profile):
    code, out, _ = profile("Cnn14", "--json")
    cost = json.loads(out)
    assert code == 0
    assert cost.keys() == KEYS
    assert (cost["n_params"], cost["n_params_with_front_end"]) == (80_753_615, 81_837_071)
    assert (cost["backbone_macs"], cost["param_bytes"]) == (20_041_926_656, 4 * 80_753_615)
    assert cost["front_end_macs"] == 1_084_539_456
    assert round(cost["panns_multiply_adds"] / 1e9, 2) == 42.22
    assert cost["layers"][0] == {"name": "bn0", "width": 64, "n_params": 128, "macs": 0}


def test_text_names_the_conventions_and_the_clip_length(profile):
    code, out, _ = profile("Cnn14")
    assert code == 0
    for line in (
        "Cnn14 at 32000 Hz, for one clip of 10 s",
        "trainable parameters              80,753,615 (308.05 MiB in float32)",
        "  with statistics (Keras' total)  80,769,871",
        "  with batch norms folded         80,745,551",
        "  with PANNs' frozen front end    81,837,071",
        "backbone MACs (layers below)      20.042 G (20,041,926,656)",
        "  with front end (+ STFT + mel)   21.126 G (21,126,466,112)",
        "PANNs multiply-adds (2 per MAC)   42.220 G (42,219,593,359)",
        "conv_block6.conv2      2,048   37,748,736   2,340,421,632",
        "not in backbone MACs: aten.",
    ):
        assert line in out


def test_layers_that_panns_do_not_count_are_reported(profile):
    code, out, _ = profile("LEAN", "--seconds", "1")
    assert code == 0
    assert "PANNs multiply-adds (2 per MAC)   0.190 G (189,887,433); LSTMs and attention left out\n" in out
    assert "left out" not in profile("YAMNet", "--seconds", "1")[1]


def test_a_zoo_name_may_be_narrow_with_other_classes_and_another_clip(profile):
    _, out, _ = profile("Cnn14", "--width", "0.25", "--num-classes", "10", "--seconds", "5", "--json")
    cost = json.loads(out)
    widths = {layer["name"]: layer["width"] for layer in cost["layers"]}
    assert (widths["conv_block1.conv1"], widths["fc_audioset"], cost["clip_seconds"]) == (16, 10, 5)


def test_a_checkpoint_is_profiled(profile, checkpoint):
    code, out, _ = profile(checkpoint, "--json")
    assert code == 0
    assert json.loads(out)["name"] == "narrow"


def test_latency_adds_its_keys(profile, checkpoint):
    code, out, _ = profile(checkpoint, "--latency", "--threads", "1", "--seconds", "0.5", "--json")
    cost = json.loads(out)
    assert code == 0
    assert cost.keys() == KEYS | {"latency_ms", "peak_memory_bytes"}
    assert cost["latency_ms"].keys() == {"median", "min", "max", "threads", "runtime", "dtype"}
    assert cost["latency_ms"]["threads"] == 1


def test_latency_in_text_states_spread_and_threads(profile, checkpoint):
    _, out, _ = profile(checkpoint, "--latency", "--threads", "1", "--seconds", "0.5")
    assert "latency of one 0.5 s clip, waveform in, tags out: median" in out
    assert "threads: 1, torch" in out
    assert "peak memory of the whole process meanwhile: " in out


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (
            ["cnn14"],
            "epanns: 'cnn14' is neither a network of the zoo (did you mean 'Cnn14'?) nor an existing checkpoint",
        ),
        (["Cnn14", "--seconds", "0"], "epanns: seconds=0.0: the clip length to count for must be a positive number"),
        (["Cnn14", "--threads", "1"], "epanns: --threads 1 without --latency: counts do not depend on threads"),
        (["Cnn14", "--width", "0"], "epanns: width=0.0: must be in (0, 8]"),
        (["Cnn6", "--device", "cuda"], "epanns: --device cuda without --latency: counts do not depend on the device"),
    ],
)
def test_wrong_arguments_end_in_one_line(profile, arguments, message):
    code, out, err = profile(*arguments)
    assert (code, out) == (1, "")
    assert err.startswith(message)
    assert err.count("\n") == 1


@pytest.mark.parametrize(("option", "value"), [("--width", "0.5"), ("--num-classes", "3")])
def test_a_checkpoint_has_a_fixed_size(profile, checkpoint, option, value):
    code, _, err = profile(checkpoint, option, value)
    assert code == 1
    assert f"{option} {value}" in err
    assert "is a checkpoint of fixed size" in err


def test_networks_on_the_waveform_are_listed_without_a_front_end(profile):
    _, out, _ = profile("DaiNet19")
    assert "with front end" not in out
    assert "conv_block2.bn_downsample     128" in out
