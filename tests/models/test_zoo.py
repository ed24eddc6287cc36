"""The zoo: published sizes, any width, and suggestions for wrong names."""

import re

import pytest
import torch

from epanns.complexity.macs import profile
from epanns.errors import ConfigError
from epanns.labels import LabelSet, audioset
from epanns.models import zoo
from epanns.models.families.cnn_2d import Cnn
from epanns.models.files.checkpoint import save_checkpoint
from epanns.models.files.load import load
from epanns.models.provenance import Provenance
from epanns.models.spec import FAMILIES
from epanns.models.tensors import count_params
from epanns.models.zoo import ZOO, build_model, list_models, spec_of
from tests.families import noise, uneven

# Kong et al. 2020 and audioset_tagging_cnn, counted with the repository's own counters.
PUBLISHED_PARAMETERS = {
    "Cnn6": 4_837_455,
    "Cnn10": 5_219_279,
    "Cnn14": 80_753_615,
    "Cnn14_16k": 80_753_615,
    "Cnn14_8k": 80_753_615,
    "Cnn14_emb512": 76_796_879,
    "Cnn14_emb128": 75_807_695,
    "Cnn14_emb32": 75_560_399,
    "Cnn14_mel32": 80_753_551,
    "Cnn14_mel128": 80_753_743,
    "Cnn14_DecisionLevelMax": 80_753_615,
    "Cnn14_DecisionLevelAvg": 80_753_615,
    "Cnn14_DecisionLevelAtt": 81_834_492,
    "ResNet22": 63_675_087,
    "ResNet38": 73_783_247,
    "ResNet54": 104_318_159,
    "MobileNetV1": 4_796_303,
    "MobileNetV2": 4_075_343,
    "Wavegram_Cnn14": 80_991_759,
    "Wavegram_Logmel_Cnn14": 81_065_487,
    "Wavegram_Logmel128_Cnn14": 81_262_735,
    "DaiNet19": 4_385_807,
    "LeeNet11": 748_367,
    "LeeNet24": 10_003_791,
    "Res1dNet31": 80_464_463,
    "Res1dNet51": 106_538_063,
}
# EfficientAT's list of models in millions; the exact numbers, for 527 and for 200 classes, are counts of its code.
PUBLISHED_PARAMETERS |= {
    "mn01": 123_783,
    "mn02": 324_695,
    "mn04": 983_599,
    "mn05": 1_431_239,
    "mn10": 4_876_831,
    "mn20": 17_909_287,
    "mn30": 39_086_367,
    "mn40": 68_427_303,
}
PARAMETERS_OF_200_CLASSES = {"mn01": 81_600, "mn02": 240_656, "mn04": 815_848, "mn05": 1_221_632, "mn10": 4_457_944}
# Plakal and Ellis, and LEAN's Table III as Keras counts (arXiv 2305.12712, cut to .01 M): running statistics too.
KERAS_PARAMETERS = {
    "YAMNet": 3_751_369,
    "YAMNet_linear": 3_422_344,
    "YAMNet_projection": 3_531_144,
    "LEAN_concat": 4_518_280,
    "LEAN_affinity": 4_518_280,
    "LEAN": 4_584_201,
}
_STATISTICS = 21_888  # of the 27 batch norms of YAMNet's body
PUBLISHED_PARAMETERS |= {name: count - _STATISTICS for name, count in KERAS_PARAMETERS.items()}
MINIMUM_SAMPLES = {
    "Cnn6": 4_800,
    "Cnn10": 4_800,
    "Cnn14_16k": 4_960,
    "Cnn14_8k": 2_480,
    "Wavegram_Cnn14": 10_236,
    "Wavegram_Logmel_Cnn14": 10_236,
    "Wavegram_Logmel128_Cnn14": 10_236,
    "DaiNet19": 332,
    "LeeNet11": 1,
    "LeeNet24": 1,
    "Res1dNet31": 20_476,
    "Res1dNet51": 20_476,
    **dict.fromkeys(KERAS_PARAMETERS, 16_000),
    "YAMNet": 1,
    **dict.fromkeys(("mn01", "mn02", "mn04", "mn05", "mn10", "mn20", "mn30", "mn40"), 514),
}
# Tensors that PANNs hold and never use.
IDLE = {
    "Cnn14_DecisionLevelAtt": ("att_block.bn_att",),
    "Wavegram_Cnn14": ("bn0", "conv_block1"),
    "DaiNet19": ("conv_block1.downsample", "conv_block1.bn_downsample"),
}


@pytest.mark.parametrize("name", list_models())
def test_parameters_are_the_published_number(name):
    with torch.device("meta"):
        model = build_model(name)
    assert sum(parameter.numel() for parameter in model.parameters()) == PUBLISHED_PARAMETERS[name]


@pytest.mark.parametrize("name", PARAMETERS_OF_200_CLASSES)
def test_parameters_for_the_classes_of_fsd50k(name):
    assert count_params(ZOO[name].with_num_classes(200)) == PARAMETERS_OF_200_CLASSES[name]


@pytest.mark.parametrize("name", KERAS_PARAMETERS)
def test_the_rivals_have_three_sizes_by_name(name):
    cost = profile(ZOO[name], seconds=1.0)
    assert cost.n_params_with_statistics == KERAS_PARAMETERS[name]
    assert cost.n_params_folded == cost.n_params == KERAS_PARAMETERS[name] - _STATISTICS


def test_cnn14_has_three_sizes_by_name():
    """Folded, a batch norm leaves its convolution a bias; the one of the mel bins follows none and keeps its scale."""
    cost, channels = profile(ZOO["Cnn14"], seconds=1.0), 2 * (64 + 128 + 256 + 512 + 1024 + 2048)
    assert cost.n_params_with_statistics == cost.n_params + 2 * (channels + 64)
    assert cost.n_params_folded == cost.n_params - channels


@pytest.mark.parametrize("name", list_models())
def test_narrow_version_tags_clips_of_any_length(name):
    model = build_model(name, num_classes=3, width=1 / 32).eval()
    assert model.minimum_samples == MINIMUM_SAMPLES.get(name, 9_920)
    for samples in (1, max(1, model.minimum_samples - 1), model.minimum_samples, 12_345, 26_000):
        with torch.no_grad():
            output = model(torch.rand(2, samples) - 0.5)
        assert output["clipwise_output"].shape == (2, 3)
        assert output["embedding"].shape == (2, model.spec.embedding_size)
        assert torch.allclose(output["clipwise_logits"].sigmoid(), output["clipwise_output"], atol=1e-6)
        assert output["clipwise_output"].isfinite().all()
        assert ("framewise_output" in output) == ("DecisionLevel" in name)


@pytest.mark.parametrize("name", [name for name in list_models() if name not in KERAS_PARAMETERS])
def test_no_shorter_clip_passes_without_being_repeated(name):
    model = build_model(name, num_classes=3, width=1 / 32).eval()
    with torch.no_grad(), pytest.raises(RuntimeError, match=r"output size|Kernel size|Padding size"):
        model.forward_inputs(model.inputs_of(torch.rand(1, model.minimum_samples - 1)))


@pytest.mark.parametrize("name", list_models())
def test_every_parameter_but_the_unused_ones_gets_a_gradient(name):
    model = build_model(name, num_classes=3, width=1 / 32)
    model(torch.rand(4, 10_000) - 0.5, torch.tensor([0.3, 0.6]))["clipwise_logits"].square().sum().backward()
    idle = {parameter for parameter, value in model.named_parameters() if value.grad is None}
    parts = tuple(f"{part}." for part in IDLE.get(name, ()))
    assert idle == {parameter for parameter, _ in model.named_parameters() if parts and parameter.startswith(parts)}


def test_audioset_names_come_with_527_classes():
    assert build_model("Cnn6", width=0.02).labels is audioset()
    assert build_model("Cnn6", width=0.02, num_classes=2).labels.names == ("class_0", "class_1")
    assert build_model("Cnn6", width=0.02, labels=LabelSet.of(["a", "b", "c"])).spec.num_classes == 3


def test_width_scales_every_layer_and_the_embedding():
    spec = spec_of("Cnn14", width=0.25)
    assert list(spec.widths.values()) == [16, 16, 32, 32, 64, 64, 128, 128, 256, 256, 512, 512]
    assert spec.embedding_size == 512


@pytest.mark.parametrize("width", [0, -1, 9, float("nan")])
def test_impossible_width_is_refused(width):
    with pytest.raises(ConfigError, match=re.escape(f"width={width}: must be in (0, 8]")):
        spec_of("Cnn14", width=width)


def test_every_family_has_its_builder(monkeypatch):
    assert tuple(zoo.BUILDERS) == FAMILIES
    spec = spec_of("Cnn6", num_classes=2, width=0.02)
    seen = []

    def build(spec, labels):
        seen.append(spec)
        return Cnn(spec, labels)

    monkeypatch.setitem(zoo.BUILDERS, "cnn", build)
    build_model(spec)
    profile(spec)
    assert seen == [spec, spec]


def test_the_requested_width_is_recorded(tmp_path):
    model = build_model("Cnn6", num_classes=2, width=0.05)
    assert model.provenance == Provenance(width=0.05)
    save_checkpoint(model, tmp_path / "saved")
    assert load(tmp_path / "saved").provenance.width == 0.05
    assert build_model(ZOO["Cnn6"].scaled(0.05)).provenance == Provenance()


@pytest.mark.parametrize("classes", [{"num_classes": 0}, {"num_classes": -1}, {"labels": LabelSet.of([])}], ids=str)
@pytest.mark.parametrize("model", ["Cnn6", ZOO["Cnn6"]], ids=["name", "specification"])
def test_a_network_without_classes_is_refused(model, classes):
    with pytest.raises(ConfigError, match=r"num_classes=(0|-1): must be a whole number in \[1, "):
        build_model(model, **classes)


def test_unknown_model_offers_the_nearest():
    with pytest.raises(ConfigError, match=r"unknown model 'Cnn41' \(did you mean 'Cnn14'\?\); `epanns models`"):
        build_model("Cnn41")


def test_width_of_a_specification_is_refused():
    with pytest.raises(ConfigError, match=re.escape("use specification.scaled(0.5)")):
        build_model(ZOO["Cnn6"], width=0.5)


def test_labels_and_classes_must_be_equal_in_number():
    with pytest.raises(ConfigError, match="2 labels for num_classes=3: give one label per class"):
        build_model("Cnn6", width=0.02, num_classes=3, labels=LabelSet.of(["a", "b"]))


@pytest.mark.parametrize(("name", "bins"), [("Cnn14_mel32", 4), ("Cnn14", 8), ("Wavegram_Logmel128_Cnn14", 16)])
def test_specaugment_masks_up_to_an_eighth_of_the_mel_bins(name, bins):
    with torch.device("meta"):
        assert build_model(name).spec_augmenter.mel_width == bins


@pytest.mark.parametrize("name", {(spec.family, spec.head): name for name, spec in ZOO.items()}.values())
def test_idle_layers_are_those_that_no_gradient_reaches(name):
    model = uneven(name).train()
    model.forward_inputs(noise(model))["clipwise_logits"].sum().backward()
    reached = {each for each, parameter in model.named_parameters() if parameter.grad is not None}
    idle = tuple(f"{layer}." for layer in model.idle_layers)
    assert {each for each, _ in model.named_parameters() if not each.startswith(idle)} == reached
