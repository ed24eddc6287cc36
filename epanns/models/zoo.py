"""Every network epanns can build, as data. Add a row to add a model."""

from collections.abc import Callable
from dataclasses import replace

from epanns.audio.frontend import FrontEndSpec
from epanns.errors import ConfigError, did_you_mean
from epanns.labels import LabelSet, audioset
from epanns.models.cnn import Cnn
from epanns.models.layouts import LAYOUTS, RESNETS
from epanns.models.mobilenet import MobileNetV1, MobileNetV2
from epanns.models.resnet import ResNet
from epanns.models.spec import ModelSpec, conv_widths
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


def _resnet(name: str) -> ModelSpec:
    family = name.lower()
    widths = {layer: _resnet_width(layer) for layer in LAYOUTS[family]}
    return replace(_CNN14, name=name, family=family, widths=widths)


def _resnet_width(layer: str) -> int:
    """Return 64 channels in the first layer, twice as many in each that follows, four times those out of a triple."""
    place = layer.split(".")
    if place[0] != "resnet":
        return 64 if place[0] == "conv_block1" else 2048
    width: int = 64 * 2 ** (int(place[1][-1]) - 1)
    return 4 * width if place[-1] == "conv3" else width


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

# Names and settings of Kong et al. 2020, audioset_tagging_cnn `pytorch/models.py`.
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
    )
}

FRONT_ENDS: dict[int, FrontEndSpec] = {spec.sample_rate: spec for spec in (_AT_32K, _AT_16K, _AT_8K)}

# Family of a specification -> what builds it.
BUILDERS: dict[str, Callable[[ModelSpec, LabelSet | None], Tagger]] = {
    "cnn": Cnn,
    **dict.fromkeys(RESNETS, ResNet),
    "mobilenet_v1": MobileNetV1,
    "mobilenet_v2": MobileNetV2,
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
    """Return an untrained network; the provenance of one named keeps `width`.

    Args:
        model: A name of the zoo, or a specification (then `width` must stay 1.0).
        num_classes: Outputs; by default those of the row, 527, or one per label.
        width: Factor on every layer's width; 1.0 is the published network.
        labels: Names of the classes; AudioSet's for 527 classes, else numbered ones, by default.

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
    if labels is None and spec.num_classes == len(audioset()):
        labels = audioset()
    built = BUILDERS[spec.family](spec, labels)
    if isinstance(model, str):
        built.provenance["width"] = float(width)
    return built
