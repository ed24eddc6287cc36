"""The zoo: every network that epanns can build, as data; a new row adds a model."""

from collections.abc import Callable
from dataclasses import replace

from epanns.audio.frontend import FrontEndSpec
from epanns.errors import ConfigError, did_you_mean
from epanns.labels import LabelSet, audioset, fsd50k, yamnet
from epanns.models.families.cnn_1d import DaiNet19, LeeNet, Res1dNet
from epanns.models.families.cnn_2d import Cnn, MobileNetV1, MobileNetV2, ResNet
from epanns.models.families.lean import Lean
from epanns.models.families.mn import Mn
from epanns.models.families.wavegram import Wavegram, WavegramLogmel
from epanns.models.families.yamnet import Yamnet
from epanns.models.provenance import Provenance
from epanns.models.spec import (
    LAYOUTS,
    LEAN_FAMILIES,
    MN_EXPANDS_FROM,
    RESNETS,
    ModelSpec,
    conv_widths,
    layout_widths,
    mn_layers,
)
from epanns.models.tagger import Tagger

_AT_32K = FrontEndSpec(sample_rate=32_000, window_size=1024, hop_size=320, mel_bins=64, fmin=50, fmax=14_000)
_AT_16K = FrontEndSpec(sample_rate=16_000, window_size=512, hop_size=160, mel_bins=64, fmin=50, fmax=8_000)
_AT_8K = FrontEndSpec(sample_rate=8_000, window_size=256, hop_size=80, mel_bins=64, fmin=50, fmax=4_000)

_CNN14 = ModelSpec(
    name="Cnn14",
    family="cnn",
    front_end=_AT_32K,
    widths=conv_widths(64, 128, 256, 512, 1024, 2048),
    embedding_size=2048,
    num_classes=527,
)
_CNN10 = replace(_CNN14, name="Cnn10", widths=conv_widths(64, 128, 256, 512), embedding_size=512)
_CNN6 = replace(_CNN10, name="Cnn6", widths=conv_widths(64, 128, 256, 512, convs_per_block=1), kernel_size=5)


_RESNET_LAYERS = {f"resnet.layer{layer}": width for layer, width in enumerate((64, 128, 256, 512), start=1)}
_RESNET = {"conv_block1": 64, **_RESNET_LAYERS, "conv_block_after1": 2048}


def _resnet(name: str) -> ModelSpec:
    """Return a ResNet; the third of three convolutions has four times the channels of the others."""
    family = name.lower()
    widths = layout_widths(family, _RESNET)
    widths |= {layer: 4 * width for layer, width in widths.items() if layer.endswith("conv3")}
    return replace(_CNN14, name=name, family=family, widths=widths)


def _mobilenet(name: str, *widths: int) -> ModelSpec:
    family = name.lower().replace("v", "_v")
    return replace(
        _CNN14,
        name=name,
        family=family,
        widths=dict(zip(LAYOUTS[family], widths, strict=True)),
        embedding_size=1024,
    )


# Each group of inverted residuals: channels expanded and projected in its first block, expanded in each other one.
_INVERTED = (16, 96, 24, 144, 144, 32, *[192] * 3, 64, *[384] * 4, 96, *[576] * 3, 160, *[960] * 3, 320)


def _row(name: str, embedding_size: int, blocks: dict[str, int], *, front_end: FrontEndSpec = _AT_32K) -> ModelSpec:
    """Return the specification of a network that is alone in its family, from the widths of its blocks."""
    family = name.lower()
    return ModelSpec(name, family, front_end, layout_widths(family, blocks), embedding_size, num_classes=527)


_CONV_BLOCKS = {"conv_block2": 128, "conv_block3": 256, "conv_block4": 512, "conv_block5": 1024, "conv_block6": 2048}
_WAVEGRAM = {"pre_conv0": 64, "pre_block1": 64, "pre_block2": 128, "pre_block3": 128, "pre_block4": 64, **_CONV_BLOCKS}
_WAVEGRAM_LOGMEL = _row("Wavegram_Logmel_Cnn14", 2048, {**_WAVEGRAM, "conv_block1": 64})
_DAINET = {"conv0": 64, "conv_block1": 64, "conv_block2": 128, "conv_block3": 256, "conv_block4": 512}
_LEENET11 = dict(zip([f"conv_block{block}" for block in range(1, 10)], [64] * 3 + [128] * 5 + [256], strict=True))
_LEENET24 = dict(zip(_LEENET11, (64, 96, 128, 128, 256, 256, 512, 512, 1024), strict=True))
_RES1DNET_LAYERS = dict(enumerate((64, 128, 256, 512, 1024, 1024, 2048), start=1))
_RES1DNET = {"conv0": 64, **{f"resnet.layer{layer}": width for layer, width in _RES1DNET_LAYERS.items()}}

_YAMNET = ModelSpec(
    name="YAMNet",
    family="yamnet",
    front_end=FrontEndSpec(16_000, 400, 160, 64, 125, 7_500, kind="yamnet"),
    widths=dict(zip(LAYOUTS["yamnet"], (32, 64, 128, 128, 256, 256, *[512] * 6, 1024, 1024), strict=True)),
    embedding_size=1024,
    num_classes=521,
)


def _lean(name: str, embedding_size: int) -> ModelSpec:
    """Return a row of LEAN's Table III, for FSD50K's classes."""
    return replace(_YAMNET, name=name, family=name.lower(), embedding_size=embedding_size, num_classes=200)


# EfficientAT's blocks at multiplier 1 (MobileNetV3-large): channels expanded, and channels of the block's output.
_MN_WIDTHS = (
    *((16, 16), (64, 24), (72, 24), (72, 40), (120, 40), (120, 40)),
    *((240, 80), (200, 80), (184, 80), (184, 80), (480, 112), (672, 112), (672, 160), (960, 160), (960, 160)),
)


def _in_eights(channels: float) -> int:
    """Return the nearest multiple of 8, at least 8, and never less than nine tenths of `channels`."""
    rounded = max(8, int(channels + 4) // 8 * 8)
    return rounded + 8 if rounded < 0.9 * channels else rounded


def _mn(name: str) -> ModelSpec:
    """Return EfficientAT's row of a name; ``mn04`` has a width multiplier of .4."""
    multiplier = int(name.removeprefix("mn")) / 10
    family = "mn_narrow" if name == "mn01" else "mn"
    widths = {"features.0.0": _in_eights(16 * multiplier)}
    for layers, published in zip(mn_layers(family), _MN_WIDTHS, strict=True):
        expanded, out = (_in_eights(channels * multiplier) for channels in published)
        own = {layers.expansion: expanded, layers.squeeze: _in_eights(expanded // 4), layers.projection: out}
        widths |= {layer: width for layer, width in own.items() if layer in LAYOUTS[family]}
    widths[LAYOUTS[family][-1]] = 6 * out
    front_end = FrontEndSpec(32_000, 800, 320, 128, 0, 15_000, kind="efficientat")
    return ModelSpec(name, family, front_end, widths, _in_eights(1280 * multiplier), num_classes=527)


# Names and settings of Kong et al. 2020, audioset_tagging_cnn `pytorch/models.py`; behind them the rivals.
ZOO: dict[str, ModelSpec] = {
    spec.name: spec
    for spec in (
        _CNN6,
        _CNN10,
        _CNN14,
        replace(_CNN14, name="Cnn14_16k", front_end=_AT_16K),
        replace(_CNN14, name="Cnn14_8k", front_end=_AT_8K),
        replace(_CNN14, name="Cnn14_emb512", embedding_size=512),
        replace(_CNN14, name="Cnn14_emb128", embedding_size=128),
        replace(_CNN14, name="Cnn14_emb32", embedding_size=32),
        replace(_CNN14, name="Cnn14_mel32", front_end=replace(_AT_32K, mel_bins=32)),
        replace(_CNN14, name="Cnn14_mel128", front_end=replace(_AT_32K, mel_bins=128)),
        replace(_CNN14, name="Cnn14_DecisionLevelMax", head="decision_max"),
        replace(_CNN14, name="Cnn14_DecisionLevelAvg", head="decision_avg"),
        replace(_CNN14, name="Cnn14_DecisionLevelAtt", head="decision_att"),
        _resnet("ResNet22"),
        _resnet("ResNet38"),
        _resnet("ResNet54"),
        _mobilenet("MobileNetV1", 32, 64, 128, 128, 256, 256, *[512] * 6, 1024, 1024),
        _mobilenet("MobileNetV2", 32, *_INVERTED, 1280),
        _row("Wavegram_Cnn14", 2048, _WAVEGRAM),
        _WAVEGRAM_LOGMEL,
        replace(
            _WAVEGRAM_LOGMEL.with_widths({"pre_block3.conv1": 256}),
            name="Wavegram_Logmel128_Cnn14",
            front_end=replace(_AT_32K, mel_bins=128),
        ),
        _row("DaiNet19", 512, _DAINET),
        _row("LeeNet11", 512, _LEENET11),
        _row("LeeNet24", 1024, _LEENET24),
        _row("Res1dNet31", 2048, _RES1DNET),
        _row("Res1dNet51", 2048, _RES1DNET),
        _YAMNET,
        _lean("YAMNet_linear", 1024),
        _lean("YAMNet_projection", 256),
        _lean("LEAN_concat", 512),
        _lean("LEAN_affinity", 512),
        _lean("LEAN", 512),
        *map(_mn, ("mn01", "mn02", "mn04", "mn05", "mn10", "mn20", "mn30", "mn40")),
    )
}

FRONT_ENDS: dict[int, FrontEndSpec] = {spec.sample_rate: spec for spec in (_AT_32K, _AT_16K, _AT_8K)}

# Family of a specification -> what builds it.
BUILDERS: dict[str, Callable[[ModelSpec, LabelSet | None], Tagger]] = {
    "cnn": Cnn,
    **dict.fromkeys(RESNETS, ResNet),
    "mobilenet_v1": MobileNetV1,
    "mobilenet_v2": MobileNetV2,
    "wavegram_cnn14": Wavegram,
    "wavegram_logmel_cnn14": WavegramLogmel,
    "dainet19": DaiNet19,
    "leenet11": LeeNet,
    "leenet24": LeeNet,
    "res1dnet31": Res1dNet,
    "res1dnet51": Res1dNet,
    **dict.fromkeys(MN_EXPANDS_FROM, Mn),
    "yamnet": Yamnet,
    **dict.fromkeys(LEAN_FAMILIES, Lean),
}


def list_models() -> list[str]:
    """Return the names of the zoo."""
    return list(ZOO)


def spec_of(name: str, *, num_classes: int | None = None, width: float = 1.0) -> ModelSpec:
    """Return a row of the zoo, for another number of classes or at another width.

    Raises:
        ConfigError: If the name is unknown (the nearest is offered), or a value is out of range.
    """
    if name not in ZOO:
        raise ConfigError(f"unknown model {name!r}{did_you_mean(name, ZOO)}; `epanns models` lists the zoo")
    spec = ZOO[name] if width == 1.0 else ZOO[name].scaled(width)
    return spec if num_classes is None else spec.with_num_classes(num_classes)


def build_model(
    model: str | ModelSpec, *, num_classes: int | None = None, width: float = 1.0, labels: LabelSet | None = None
) -> Tagger:
    """Return an untrained network; if `model` is a name, its provenance records `width`.

    Args:
        model: A name of the zoo, or a specification (then `width` must stay 1.0).
        num_classes: Outputs; by default those of the row, or one per label.
        width: Factor on every layer's width; 1.0 is the published network.
        labels: Names of the classes; by default AudioSet's for 527 classes, YAMNet's for its 521 and FSD50K's for the
            200 of LEAN's rows, else numbered ones.

    Raises:
        ConfigError: If the name is unknown, a value is out of range, or labels and classes differ in number.
    """
    if num_classes is None and labels is not None:
        num_classes = len(labels)
    if isinstance(model, str):
        spec = spec_of(model, num_classes=num_classes, width=width)
    elif width != 1.0:
        raise ConfigError(f"width={width} with a specification: use specification.scaled({width})")
    else:
        spec = model if num_classes is None else model.with_num_classes(num_classes)
    if labels is not None and len(labels) != spec.num_classes:
        raise ConfigError(f"{len(labels)} labels for num_classes={spec.num_classes}: give one label per class")
    built = BUILDERS[spec.family](spec, labels or known_labels(spec))
    if isinstance(model, str):
        built.provenance = Provenance(width=float(width))
    return built


def known_labels(spec: ModelSpec) -> LabelSet:
    """Return AudioSet's labels for 527 classes, those of the family if they are as many, else numbered ones."""
    if spec.num_classes == len(audioset()):
        return audioset()
    labels = yamnet() if spec.family == "yamnet" else fsd50k()
    is_own = spec.family in ("yamnet", *LEAN_FAMILIES) and len(labels) == spec.num_classes
    return labels if is_own else LabelSet.numbered(spec.num_classes)
