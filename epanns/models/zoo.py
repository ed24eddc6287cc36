"""Every network epanns can build, as data. Add a row to add a model."""

from collections.abc import Callable
from dataclasses import replace

from epanns.audio.frontend import FrontEndSpec
from epanns.errors import ConfigError, did_you_mean
from epanns.labels import LabelSet, audioset
from epanns.models.cnn import Cnn
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
    )
}

FRONT_ENDS: dict[int, FrontEndSpec] = {spec.sample_rate: spec for spec in (_AT_32K, _AT_16K, _AT_8K)}

# Family of a specification -> what builds it.
BUILDERS: dict[str, Callable[[ModelSpec, LabelSet | None], Tagger]] = {"cnn": Cnn}


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
