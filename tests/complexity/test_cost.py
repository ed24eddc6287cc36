import json
import subprocess
import sys

from epanns.complexity.cost import Latency, LayerCost, ModelCost

COST = ModelCost(
    name="narrow",
    sample_rate=8_000,
    clip_seconds=10.0,
    n_params=100,
    n_params_with_front_end=130,
    n_params_with_statistics=110,
    n_params_folded=96,
    param_bytes=400,
    backbone_macs=7_000,
    front_end_macs=500,
    panns_multiply_adds=15_000,
    layers=(LayerCost("conv_block1.conv1", 4, 36, 7_000),),
    uncounted={"aten.relu_": 2},
)


def test_to_dict_has_the_promised_keys_and_is_json():
    assert list(json.loads(json.dumps(COST.to_dict()))) == [
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
    ]
    assert COST.to_dict()["layers"] == [
        {"name": "conv_block1.conv1", "width": 4, "n_params": 36, "macs": 7_000},
    ]


def test_summary_leaves_the_lists_out():
    assert COST.summary().keys() == COST.to_dict().keys() - {"layers", "uncounted"}


def test_front_end_and_backbone_add_up():
    assert COST.macs_with_front_end == 7_500


def test_spread_is_relative_to_the_median():
    latency = Latency(median=20.0, min=18.0, max=23.0, threads=2, runtime="torch", dtype="float32")
    assert latency.spread == 0.25
    assert list(latency.to_dict()) == ["median", "min", "max", "threads", "runtime", "dtype"]


def test_costs_are_read_without_torch():
    program = "import sys, epanns.complexity.cost; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", program], check=False).returncode == 0
