import copy
import json

import pytest
import torch
import torch.nn.functional as F
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

from epanns.audio.frontend import FrontEndSpec
from epanns.complexity.macs import LayerCost, ModelCost, count_layers, front_end_params, mel_macs, profile, stft_macs
from epanns.errors import ConfigError
from epanns.models.families.cnn_2d import Cnn
from epanns.models.spec import ModelSpec, conv_widths
from epanns.models.tagger import Tagger
from epanns.models.zoo import ZOO, build_model

NARROW = ModelSpec(
    name="narrow",
    family="cnn",
    front_end=FrontEndSpec(8_000, 256, 80, 32, 50, 4_000),
    widths=conv_widths(4, 6, 8),
    embedding_size=9,
    num_classes=5,
)
LAST_SIX = list(ZOO["Cnn14"].widths)[6:]

# Parameters and multiply-adds in G, as printed by PANNs' own counters (audioset_tagging_cnn, `pytorch_utils.py`).
PUBLISHED = {
    "Cnn6": (4_837_455, 21.986),
    "Cnn10": (5_219_279, 28.166),
    "Cnn14": (80_753_615, 42.220),
    "Cnn14_16k": (80_753_615, 40.643),
    "Cnn14_8k": (80_753_615, 40.248),
    "Cnn14_emb512": (76_796_879, 42.212),
    "Cnn14_emb128": (75_807_695, 42.210),
    "Cnn14_emb32": (75_560_399, 42.209),
    "Cnn14_mel32": (80_753_551, 22.167),
    "Cnn14_mel128": (80_753_743, 82.325),
    "Cnn14_DecisionLevelMax": (80_753_615, 42.220),
    "Cnn14_DecisionLevelAvg": (80_753_615, 42.220),
    "Cnn14_DecisionLevelAtt": (81_834_492, 42.351),
    "ResNet22": (63_675_087, 30.081),
    "ResNet38": (73_783_247, 48.962),
    "ResNet54": (104_318_159, 54.563),
    "MobileNetV1": (4_796_303, 3.614),
    "MobileNetV2": (4_075_343, 2.810),
    "Wavegram_Cnn14": (80_991_759, 44.234),
    "Wavegram_Logmel_Cnn14": (81_065_487, 53.510),
    "Wavegram_Logmel128_Cnn14": (81_262_735, 100.065),
    "DaiNet19": (4_385_807, 30.395),
    "LeeNet11": (748_367, 4.741),
    "LeeNet24": (10_003_791, 26.369),
    "Res1dNet31": (80_464_463, 32.688),
    "Res1dNet51": (106_538_063, 61.833),
}


# One second of sound, YAMNet's one patch: arXiv 2305.12712's Table III, worked out from its text layer by layer.
LEAN_MACS = {
    "YAMNet": 69_165_056,
    "YAMNet_linear": 68_836_352,
    "YAMNet_projection": 68_944_896,
    "LEAN_concat": 106_351_616,
    "LEAN_affinity": 106_372_096,
    "LEAN": 107_710_464,
}


def pruned_cnn14(ratio: float) -> ModelSpec:
    spec = ZOO["Cnn14"]
    return spec.with_widths({layer: int(spec.widths[layer] * (1 - ratio)) for layer in LAST_SIX})


def inputs_of(model: Tagger, seconds: float = 1.0) -> tuple[torch.Tensor, ...]:
    samples = round(seconds * model.spec.front_end.sample_rate)
    return tuple(torch.zeros(shape, device="meta") for shape in model.input_shapes(samples))


def meta_network(spec: ModelSpec) -> Tagger:
    with torch.device("meta"):
        return build_model(spec).eval()


# One layer each: what the definition of the layer says.


@pytest.mark.parametrize("batch", [1, 3])
def test_conv2d_macs_equal_the_definition_per_clip(batch):
    conv = nn.Conv2d(3, 8, kernel_size=(5, 3), padding=(2, 1), bias=False)
    counts = count_layers(nn.Sequential(conv), torch.zeros(batch, 3, 10, 12))
    assert counts.macs == {"0": (3 * 5 * 3) * 8 * (10 * 12)}
    assert counts.panns_multiply_adds == 2 * counts.macs["0"]


def test_grouped_strided_conv2d_with_bias():
    conv = nn.Conv2d(4, 8, kernel_size=3, stride=2, padding=1, groups=2)
    counts = count_layers(nn.Sequential(conv), torch.zeros(1, 4, 11, 7))
    assert counts.macs == {"0": (4 // 2 * 3 * 3) * 8 * (6 * 4)}
    assert counts.panns_multiply_adds == 2 * counts.macs["0"] + 8 * 6 * 4


def test_conv1d():
    counts = count_layers(nn.Sequential(nn.Conv1d(3, 5, kernel_size=4, stride=2)), torch.zeros(1, 3, 20))
    assert counts.macs == {"0": (3 * 4) * 5 * 9}
    assert counts.panns_multiply_adds == 2 * counts.macs["0"] + 5 * 9


def test_linear():
    counts = count_layers(nn.Sequential(nn.Linear(6, 4)), torch.zeros(2, 6))
    assert counts.macs == {"0": 6 * 4}
    assert counts.panns_multiply_adds == 2 * 6 * 4 + 4


def test_linear_on_frames_counts_every_frame_but_once_in_panns_convention():
    counts = count_layers(nn.Sequential(nn.Linear(6, 4)), torch.zeros(2, 31, 6))
    assert counts.macs == {"0": 31 * 6 * 4}
    assert counts.panns_multiply_adds == 2 * 6 * 4 + 4


def test_batch_norm_is_counted_only_in_panns_convention():
    counts = count_layers(nn.Sequential(nn.BatchNorm2d(3)).eval(), torch.zeros(2, 3, 5, 7))
    assert counts.macs == {}
    assert counts.panns_multiply_adds == 2 * 3 * 5 * 7
    assert counts.uncounted == {"aten.native_batch_norm": 1}


def test_modules_that_pool_and_rectify_are_work_only_in_panns_convention():
    layers = nn.Sequential(nn.AvgPool2d((2, 3)), nn.AvgPool2d(2), nn.ReLU(), nn.ReLU6())
    counts = count_layers(layers, torch.zeros(2, 3, 8, 12))
    assert counts.macs == {}
    assert counts.panns_multiply_adds == 3 * (4 * 4) * 6 + 3 * (2 * 2) * 4 + 2 * 3 * (2 * 2)
    assert count_layers(nn.Sequential(nn.AvgPool1d(3)), torch.zeros(1, 2, 9)).panns_multiply_adds == 2 * 3 * 3


def test_a_layer_used_twice_counts_twice():
    class Twice(nn.Module):
        def __init__(self):
            super().__init__()
            self.square = nn.Linear(4, 4)

        def forward(self, values):
            return self.square(self.square(values))

    assert count_layers(Twice(), torch.zeros(1, 4)).macs == {"square": 2 * 4 * 4}


def test_operations_outside_layers_are_reported_and_views_are_not():
    class Functional(nn.Module):
        def __init__(self):
            super().__init__()
            self.linear = nn.Linear(4, 4)
            self.kernel = nn.Parameter(torch.zeros(2, 1, 3))

        def forward(self, values):
            waves = F.conv1d(self.linear(values)[:, None], self.kernel)
            return F.relu(F.relu(waves)).transpose(1, 2).reshape(1, -1) @ torch.zeros(4, 1)

    counts = count_layers(Functional(), torch.zeros(1, 4))
    assert counts.macs == {"linear": 16}
    assert {name: counts.uncounted[name] for name in ("aten.convolution", "aten.relu", "aten.mm")} == {
        "aten.convolution": 1,
        "aten.relu": 2,
        "aten.mm": 1,
    }
    assert not {"aten.transpose", "aten.unsqueeze", "aten.addmm", "aten.empty"} & counts.uncounted.keys()


def test_counting_leaves_no_hook_behind_even_after_an_error():
    model = nn.Sequential(nn.Linear(4, 4))
    with pytest.raises(RuntimeError):
        count_layers(model, torch.zeros(1, 5))
    assert not model[0]._forward_hooks
    assert not model[0]._forward_pre_hooks


# Whole networks.


@pytest.mark.parametrize("name", ZOO)
def test_macs_are_half_of_torchs_flops(name):
    model = meta_network(ZOO[name])
    counts = count_layers(model, inputs_of(model), forward=model.forward_inputs)
    with FlopCounterMode(display=False) as flops, torch.no_grad():
        model.forward_inputs(inputs_of(model))
    assert 2 * counts.macs.total() == flops.get_total_flops()


def test_backbone_macs_equal_the_hand_formula():
    """Cnn14: maps halve in time and mel after each of the first five blocks, rounded down."""
    spec, macs, inputs = ZOO["Cnn14"], 0, 1
    for layer, width in spec.widths.items():
        block = int(layer[len("conv_block")])
        macs += (1001 >> (block - 1)) * (64 >> (block - 1)) * inputs * width * 9
        inputs = width
    macs += 2048 * 2048 + 2048 * 527
    assert profile(spec, seconds=10.0).backbone_macs == macs == 20_041_926_656


@pytest.mark.parametrize(("name", "n_params", "multiply_adds"), [(name, *row) for name, row in PUBLISHED.items()])
def test_parameters_and_multiply_adds_are_the_published_ones(name, n_params, multiply_adds):
    cost = profile(ZOO[name], seconds=10.0)
    assert cost.n_params == n_params
    assert round(cost.panns_multiply_adds / 1e9, 3) == multiply_adds


def test_every_network_of_the_zoo_is_compared_with_a_published_one():
    of_efficientat = {name for name in ZOO if name.startswith("mn")}  # tests/models/families/test_mn.py
    assert ZOO.keys() == PUBLISHED.keys() | LEAN_MACS.keys() | of_efficientat


@pytest.mark.parametrize(
    ("ratio", "n_params", "backbone", "with_front_end", "multiply_adds"),
    [
        (0, 80_753_615, 20_041_926_656, 21.126, 42.2196),
        (0.25, 47_408_591, 15_641_970_688, 16.727, 33.4188),
        (0.5, 23_205_839, 12_414_584_832, 13.499, 26.9631),
        (0.75, 8_145_359, 10_359_769_088, 11.444, 22.8526),
    ],
)
def test_the_three_conventions_for_cnn14_and_its_pruned_versions(
    ratio, n_params, backbone, with_front_end, multiply_adds
):
    cost = profile(pruned_cnn14(ratio), seconds=10.0)
    assert (cost.n_params, cost.backbone_macs) == (n_params, backbone)
    assert round(cost.macs_with_front_end / 1e9, 3) == with_front_end
    assert round(cost.panns_multiply_adds / 1e9, 4) == multiply_adds


@pytest.mark.parametrize(
    ("ratio", "n_params", "backbone_gmacs"),
    [(0.25, 46_686_847, 11.282), (0.5, 22_052_655, 5.022), (0.75, 6_851_039, 1.261)],
)
def test_pruning_all_twelve_layers_reaches_the_work_of_the_early_ones(ratio, n_params, backbone_gmacs):
    spec = ZOO["Cnn14"]
    cost = profile(spec.with_widths({layer: int(width * (1 - ratio)) for layer, width in spec.widths.items()}))
    assert cost.n_params == n_params
    assert round(cost.backbone_macs / 1e9, 3) == backbone_gmacs


def test_epanns_published_reductions_come_out_in_the_published_convention():
    """arXiv 2305.18665: 36 % fewer computations (front end counted), 70 % less memory (front end held)."""
    dense, half = profile(pruned_cnn14(0), seconds=10.0), profile(pruned_cnn14(0.5), seconds=10.0)
    assert round(100 * (1 - half.macs_with_front_end / dense.macs_with_front_end)) == 36
    assert round(100 * (1 - half.panns_multiply_adds / dense.panns_multiply_adds)) == 36
    assert round(100 * (1 - half.backbone_macs / dense.backbone_macs)) == 38
    assert round(100 * (1 - half.n_params_with_front_end / dense.n_params_with_front_end)) == 70


def test_front_end_in_closed_form():
    cost, frames = profile(ZOO["Cnn14"], seconds=10.0), 320_000 // 320 + 1
    assert cost.front_end_macs == 2 * 513 * 1024 * frames + 513 * 64 * frames == 1_051_674_624 + 32_864_832
    assert stft_macs(ZOO["Cnn14"].front_end, frames) + mel_macs(ZOO["Cnn14"].front_end, frames) == cost.front_end_macs
    assert cost.n_params_with_front_end - cost.n_params == front_end_params(ZOO["Cnn14"].front_end) == 1_083_456


@pytest.mark.parametrize("name", ["Wavegram_Cnn14", "DaiNet19", "LeeNet24", "Res1dNet31"])
def test_networks_on_the_waveform_have_no_front_end_to_count(name):
    cost = profile(ZOO[name], seconds=2.0)
    assert cost.front_end_macs == 0
    assert cost.macs_with_front_end == cost.backbone_macs
    assert cost.n_params_with_front_end == cost.n_params


@pytest.mark.parametrize(("name", "macs"), LEAN_MACS.items())
def test_networks_on_yamnet_have_the_multiply_adds_of_their_definition(name, macs):
    cost = profile(ZOO[name], seconds=0.96 if name == "YAMNet" else 1.0)
    assert cost.backbone_macs == macs == sum(layer.macs for layer in cost.layers)
    assert cost.front_end_macs == 96 * (2 * 257 * 512 + 257 * 64)
    assert cost.n_params_with_front_end == cost.n_params


def test_lean_costs_what_the_table_of_its_layers_says():
    """Body 96 x 64 -> 1024; two BiLSTMs of 128 on 40 pieces of 400 samples; attention of 128; 512 -> 200 classes."""
    layers = {layer.name: (layer.width, layer.n_params, layer.macs) for layer in profile(ZOO["LEAN"], seconds=1).layers}
    body = {name: layers.pop(name) for name in list(layers) if name.startswith("layer")}
    assert sum(macs for _, _, macs in body.values()) == 68_631_552
    assert sum(n_params for _, n_params, _ in body.values()) == 3_184_512 + 10_944
    assert (body["layer1.conv"], body["layer13.depthwise_conv"]) == ((32, 288, 442_368), (512, 4_608, 27_648))
    assert body["layer14.pointwise_conv"] == (1024, 1_048_576, 6_291_456)
    assert layers == {
        "fc1": (256, 262_400, 262_144),
        "encoder.lstm1": (256, 541_696, 21_626_880),
        "encoder.lstm2": (256, 394_240, 15_728_640),
        "attention.query": (128, 32_896, 32_768),
        "attention.key": (128, 32_896, 1_310_720),
        "attention.score": (1, 129, 5_120),
        "attention.sum": (0, 0, 10_240),
        "fc_audioset": (200, 102_600, 102_400),
    }


@pytest.mark.parametrize(
    ("name", "seconds", "segments"),
    [
        ("YAMNet", 0.1, 1),
        ("YAMNet", 0.975, 1),
        ("YAMNet", 1.0, 2),
        ("YAMNet", 10, 20),
        ("LEAN", 1.1, 2),
        ("LEAN", 10, 19),
    ],
)
def test_work_grows_with_the_segments_of_a_clip(name, seconds, segments):
    cost = profile(ZOO[name], seconds=seconds)
    assert cost.backbone_macs == segments * LEAN_MACS[name]
    frames = 48 * (segments + 1) if name == "YAMNet" else 96 * segments
    assert cost.front_end_macs == frames * (2 * 257 * 512 + 257 * 64)


def test_elementwise_work_of_lean_is_reported_and_not_counted():
    uncounted = profile(ZOO["LEAN"], seconds=1).uncounted
    assert {
        "aten.tanh": 1,
        "aten._softmax": 1,
        "aten.sigmoid": 1,
        "aten.native_batch_norm": 27,
    }.items() <= uncounted.items()
    assert not {"aten.bmm", "aten.lstm", "aten.addmm", "aten.convolution"} & uncounted.keys()


def test_poolings_and_relus_count_in_panns_convention_where_they_are_modules():
    counts = count_layers(nn.Sequential(nn.ReLU(), nn.AvgPool1d(4)), torch.zeros(2, 3, 20))
    assert counts.panns_multiply_adds == 2 * 3 * 20 + 4 * 3 * 5
    assert count_layers(nn.Sequential(nn.AvgPool2d(2)), torch.zeros(1, 3, 8, 6)).panns_multiply_adds == 4 * 3 * 4 * 3


def test_layers_add_up():
    cost = profile(NARROW, seconds=1.0)
    assert sum(layer.n_params for layer in cost.layers) == cost.n_params
    assert sum(layer.macs for layer in cost.layers) == cost.backbone_macs
    assert cost.param_bytes == 4 * cost.n_params
    widths = {layer.name: layer.width for layer in cost.layers}
    assert {name: widths[name] for name in NARROW.widths} == dict(NARROW.widths)
    assert (widths["bn0"], widths["fc1"], widths["fc_audioset"]) == (32, 9, 5)


def test_uncounted_operations_are_data():
    uncounted = profile(NARROW, seconds=1.0).uncounted
    assert uncounted["aten.native_batch_norm"] == 7
    assert uncounted["aten.relu_"] == 6
    assert uncounted["aten.avg_pool2d"] == 3
    assert not {"aten.convolution", "aten.addmm"} & uncounted.keys()


def test_a_network_costs_what_its_specification_does_whatever_its_state():
    model = Cnn(NARROW).train()
    model.freeze_backbone()
    before = copy.deepcopy(model.state_dict())
    assert profile(model, seconds=2.0) == profile(NARROW, seconds=2.0)
    assert model.training
    assert all(torch.equal(tensor, before[name]) for name, tensor in model.state_dict().items())


def test_macs_grow_with_the_clip_and_stop_shrinking_at_the_minimum():
    minimum = Cnn(NARROW).minimum_samples / 8_000
    assert profile(NARROW, seconds=4.0).backbone_macs > profile(NARROW, seconds=2.0).backbone_macs
    assert profile(NARROW, seconds=minimum / 2).backbone_macs == profile(NARROW, seconds=minimum).backbone_macs


@pytest.mark.parametrize("seconds", [0, -1.0, float("nan"), float("inf")])
def test_a_clip_length_that_is_none_is_refused(seconds):
    with pytest.raises(ConfigError, match=rf"seconds={seconds}: the clip length to count for must be a positive"):
        profile(NARROW, seconds=seconds)


def test_a_network_changed_by_hand_is_refused():
    model = Cnn(NARROW)
    model.fc1 = nn.Linear(8, 10)
    with pytest.raises(
        ConfigError,
        match=r"this narrow differs from its spec, which would be counted instead: .*fc1\.weight is \(10, 8\)",
    ):
        profile(model)


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
