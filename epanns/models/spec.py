"""A network as data: front end, width of each layer, head; and the layers of each family."""

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, fields, replace
from types import MappingProxyType
from typing import Any, NamedTuple

from epanns.audio.frontend import FrontEndSpec
from epanns.errors import ConfigError, did_you_mean
from epanns.labels import TASKS
from epanns.safe_text import printable
from epanns.strict import TABLE, Rule, field_values, integer, one_of, shown, table_problems, value_problems

# ResNet family -> residual blocks in each of its four layers, and convolutions in a block.
RESNETS: dict[str, tuple[tuple[int, ...], int]] = {
    "resnet22": ((2, 2, 2, 2), 2),
    "resnet38": ((3, 4, 6, 3), 2),
    "resnet54": ((3, 4, 6, 3), 3),
}

# MobileNetV1: pooling of time and mel in each separable block.
SEPARABLE_POOLS = (1, 2, 1, 2, 1, 2, 1, 1, 1, 1, 1, 2, 1)

# MobileNetV2: for each group of inverted residuals with one output width, their number and the pooling of time and mel
# in the first of them. Only the first group does not expand its channels.
INVERTED_GROUPS = ((1, 1), (2, 2), (3, 2), (4, 2), (3, 2), (3, 1), (1, 1))

# MobileNetV3 in EfficientAT ("mn"), for each block: kernel size, stride, whether a gate (squeeze and excitation) scales
# the expanded channels, and whether its output starts a residual stream, to which the next blocks' outputs are added.
# The first block adds its output to that of the first convolution and never expands.
MN_BLOCKS = (
    (3, 1, False, False),
    *((3, 2, False, True), (3, 1, False, False)),
    *((5, 2, True, True), (5, 1, True, False), (5, 1, True, False)),
    *((3, 2, False, True), *[(3, 1, False, False)] * 3),
    *((3, 1, True, True), (3, 1, True, False)),
    *((5, 2, True, True), (5, 1, True, False), (5, 1, True, False)),
)
# Family -> the first block that expands its channels; in mn01 rounding to eights leaves nothing to expand before it.
MN_EXPANDS_FROM = {"mn": 2, "mn_narrow": 5}

# YAMNet: stride of the 3x3 convolution of each layer; all but the first are depthwise.
YAMNET_STRIDES = (2, 1, 2, 1, 2, 1, 2, 1, 1, 1, 1, 1, 2, 1)


def _residual(depths: tuple[int, ...], convs: int = 2) -> tuple[str, ...]:
    """Return the convolutions inside each block, and the first output of each layer, to which the others are added.

    In networks with two convolutions per block, the outputs of layer 1 are added to the layer before it.
    """
    names = []
    for layer, depth in enumerate(depths, start=1):
        for block in range(depth):
            leads = block == 0 and (layer, convs) != (1, 2)
            names += [f"resnet.layer{layer}.{block}.conv{conv}" for conv in range(1, convs + leads)]
    return tuple(names)


def _mobilenet_v2() -> tuple[str, ...]:
    """Return each expansion, and the first of the projections that are added to each other."""
    names = ["features.0.0"]
    block = 0
    for group, (depth, _) in enumerate(INVERTED_GROUPS):
        for index in range(depth):
            block += 1
            expansion, projection = [] if group == 0 else ["conv.0"], "conv.4" if group == 0 else "conv.7"
            parts = [*expansion, projection] if index == 0 else expansion
            names += [f"features.{block}.{part}" for part in parts]
    return (*names, f"features.{block + 1}.0")


class MnLayers(NamedTuple):
    """Names of a block's layers; None for a layer that the block does not have."""

    expansion: str | None
    depthwise: str
    squeeze: str | None
    excitation: str | None
    projection: str


def mn_layers(family: str) -> list[MnLayers]:
    """Return the names of the layers of each block of a family of `MN_EXPANDS_FROM`."""
    blocks = []
    for number, (_, _, gated, _) in enumerate(MN_BLOCKS, start=1):
        block, expands = f"features.{number}.block", number >= MN_EXPANDS_FROM[family]
        gate = f"{block}.{1 + expands}.conc_se_layers.0"
        blocks.append(
            MnLayers(
                expansion=f"{block}.0.0" if expands else None,
                depthwise=f"{block}.{int(expands)}.0",
                squeeze=f"{gate}.fc1" if gated else None,
                excitation=f"{gate}.fc2" if gated else None,
                projection=f"{block}.{1 + expands + gated}.0",
            )
        )
    return blocks


def _mn(family: str) -> tuple[str, ...]:
    """Return each expansion, each gate's squeeze, and the first of the projections that are added to each other."""
    blocks = zip(mn_layers(family), MN_BLOCKS, strict=True)
    leads = [
        name
        for layers, (_, _, _, starts) in blocks
        for name in (layers.expansion, layers.squeeze, layers.projection if starts else None)
    ]
    return ("features.0.0", *filter(None, leads), f"features.{len(MN_BLOCKS) + 1}.0")


def _convs(*blocks: str, depth: int) -> tuple[str, ...]:
    return tuple(f"{block}.conv{conv}" for block in blocks for conv in range(1, depth + 1))


def _wavegram(*log_mel: str) -> tuple[str, ...]:
    """Return the layers of waveform, log-mel and both; ``pre_block3.conv2`` is left out: its channels become rows."""
    waveform = _convs("pre_block1", "pre_block2", depth=2)
    joined = _convs(*(f"conv_block{block}" for block in range(2, 7)), depth=2)
    return ("pre_conv0", *waveform, "pre_block3.conv1", *_convs("pre_block4", *log_mel, depth=2), *joined)


_DAINET_STREAMS = ("conv_block2", "conv_block3", "conv_block4")
_LEENET_BLOCKS = tuple(f"conv_block{block}" for block in range(1, 10))
_YAMNET = ("layer1.conv", *(f"layer{layer}.pointwise_conv" for layer in range(2, len(YAMNET_STRIDES) + 1)))

# LEAN: YAMNet with another classifier, or joined to a wave encoder (fusion); all read windows of 1 s.
FUSION_FAMILIES = ("lean_concat", "lean_affinity", "lean")
LEAN_FAMILIES = ("yamnet_linear", "yamnet_projection", *FUSION_FAMILIES)

# Family -> names of the layers that lead its channel groups, in forward order: the keys of `ModelSpec.widths`.
LAYOUTS: dict[str, tuple[str, ...]] = {
    **{
        family: (*_convs("conv_block1", depth=2), *_residual(depths, convs), *_convs("conv_block_after1", depth=2))
        for family, (depths, convs) in RESNETS.items()
    },
    "mobilenet_v1": ("features.0.0", *(f"features.{block}.4" for block in range(1, len(SEPARABLE_POOLS) + 1))),
    "mobilenet_v2": _mobilenet_v2(),
    "wavegram_cnn14": _wavegram(),
    "wavegram_logmel_cnn14": _wavegram("conv_block1"),
    "dainet19": ("conv0", *_convs("conv_block1", depth=3), *_convs(*_DAINET_STREAMS, depth=4)),
    "leenet11": _convs(*_LEENET_BLOCKS, depth=1),
    "leenet24": _convs(*_LEENET_BLOCKS, depth=2),
    "res1dnet31": ("conv0", *_residual((2, 2, 2, 2, 2, 2, 2))),
    "res1dnet51": ("conv0", *_residual((2, 3, 4, 6, 4, 3, 2))),
    **{family: _mn(family) for family in MN_EXPANDS_FROM},
    "yamnet": _YAMNET,
    **dict.fromkeys(LEAN_FAMILIES, _YAMNET),
}

# Family -> kind of its log-mel, where it is not that of PANNs; and the families whose classifier reads the channels of
# the last layer without `fc1`.
FRONT_END_KINDS = {
    **dict.fromkeys(("yamnet", *LEAN_FAMILIES), "yamnet"),
    **dict.fromkeys(MN_EXPANDS_FROM, "efficientat"),
}
WITHOUT_FC1 = frozenset({"yamnet", "yamnet_linear"})

# Families that read the waveform alone: only the sample rate of their front end matters.
WAVEFORM_FAMILIES = frozenset({"wavegram_cnn14", "dainet19", "leenet11", "leenet24", "res1dnet31", "res1dnet51"})


def layout_widths(family: str, blocks: Mapping[str, int]) -> dict[str, int]:
    """Return the width of every layer of a family; ``conv_block1`` gives the width of all layers in that block."""
    return {
        layer: next(width for block, width in blocks.items() if layer == block or layer.startswith(f"{block}."))
        for layer in LAYOUTS[family]
    }


HEADS = ("clip", "decision_max", "decision_avg", "decision_att")
FAMILIES = ("cnn", *LAYOUTS)
ACTIVATIONS = tuple(TASKS.values())
_OMITTED = {"activation": "sigmoid"}  # left out of `to_dict` at this value

# A greater width is that of a damaged or hostile file; checked before anything is allocated.
MAXIMUM_WIDTH = 65_536

_SIZE = integer(1, MAXIMUM_WIDTH)
_RULES: Mapping[str, Rule] = {
    "name": Rule(
        "printable text of at most 100 characters",
        lambda value: isinstance(value, str) and value.isprintable() and len(value) <= 100,
    ),
    "family": one_of(FAMILIES),
    "embedding_size": _SIZE,
    "num_classes": _SIZE,
    "head": one_of(HEADS),
    "kernel_size": _SIZE,
    "activation": one_of(ACTIVATIONS),
}


@dataclass(frozen=True)
class ModelSpec:
    """Everything needed to build a network, apart from its weights.

    Attributes:
        name: Row of the zoo; pruning keeps the name.
        family: Key of `zoo.BUILDERS`.
        front_end: Settings of the log-mel; networks on the waveform use only the sample rate.
        widths: Module name -> output channels of each prunable layer, in forward order; layers that are added to each
            other share the width of the first.
        embedding_size: Size of the classifier's input: the outputs of ``fc1`` in PANNs, the channels of the last layer
            in YAMNet, scene and context together in LEAN.
        num_classes: Number of outputs.
        head: Pooling over time: before the classifier (``clip``) or after it (``decision_*``).
        kernel_size: Side of the square convolution kernels.
        activation: ``sigmoid`` scores each class by itself, ``softmax`` one class out of all.
    """

    name: str
    family: str
    front_end: FrontEndSpec
    widths: Mapping[str, int]
    embedding_size: int
    num_classes: int
    head: str = "clip"
    kernel_size: int = 3
    activation: str = "sigmoid"

    def __post_init__(self) -> None:
        object.__setattr__(self, "widths", MappingProxyType(dict(self.widths)))
        problems = value_problems(field_values(self), _RULES)
        for layer, width in self.widths.items():
            if (problem := _SIZE.problem(f"widths[{layer!r}]", width)) is not None:
                problems.append(problem)
        problems = problems or self._contradictions()
        if problems:
            raise ConfigError(f"model {printable(str(self.name)[:100])}: " + "; ".join(problems))

    def _contradictions(self) -> list[str]:
        """Return the fields that contradict each other, though each alone is valid."""
        problems = []
        layers = list(map(str, self.widths))
        depths = Counter(layer.split(".")[0] for layer in layers)
        blocks = [f"conv_block{block}" for block in range(1, len(depths) + 1)]
        in_order = [f"{block}.conv{conv}" for block in blocks for conv in range(1, depths[block] + 1)]
        if self.family == "cnn" and (not layers or layers != in_order):
            problems.append(
                "widths must name conv_block1.conv1 and on, in forward order and without gaps, got "
                + (", ".join(layers)[:200] or "none")
            )
        if tuple(self.widths) != LAYOUTS.get(self.family, tuple(self.widths)):
            problems.append(f"widths must name {', '.join(LAYOUTS[self.family])}, in this order")
        if self.family in LAYOUTS and (self.head, self.kernel_size) != ("clip", 3):
            problems.append(f"head={self.head} and kernel_size={self.kernel_size} must be clip and 3 in {self.family}")
        if self.activation == "softmax" and self.head != "clip":
            problems.append(
                f"activation='softmax' with head={self.head!r}: decision-level heads score every class of every "
                "segment by itself; a single-label network needs head clip"
            )
        if self.activation == "softmax" and self.num_classes == 1:
            problems.append(
                "activation='softmax' with num_classes=1: a single class would always score 1; give 2 or more"
            )
        return problems or self._contradictions_of_sizes()

    def _contradictions_of_sizes(self) -> list[str]:
        if self.front_end.kind != (kind := FRONT_END_KINDS.get(self.family, "panns")):
            return [f"front_end.kind={self.front_end.kind!r} must be {kind!r} in {self.family}"]
        last = list(self.widths)[-1]
        if self.family in WITHOUT_FC1 and self.embedding_size != self.widths[last]:
            return [f"embedding_size={self.embedding_size} must be the width of {last}, {self.widths[last]}"]
        if self.family in FUSION_FAMILIES and self.embedding_size % 4:
            return [f"embedding_size={self.embedding_size} must be a multiple of 4 in {self.family}: two of two halves"]
        return []

    def __hash__(self) -> int:
        return hash((self.name, self.front_end, tuple(self.widths.items()), self.num_classes, self.head))

    def __reduce__(self) -> tuple[Any, ...]:
        """Copy and pickle the specification as a dictionary: the read-only view of the widths cannot be pickled."""
        return ModelSpec.from_dict, (self.to_dict(),)

    @property
    def reads_logmel(self) -> bool:
        """Whether the network reads the log-mel, alone or beside the waveform."""
        return self.family not in WAVEFORM_FAMILIES

    @property
    def task(self) -> str:
        """The task of the network: ``multi-label`` or ``single-label``."""
        return next(task for task, activation in TASKS.items() if activation == self.activation)

    def with_widths(self, widths: Mapping[str, int]) -> "ModelSpec":
        """Return this network with other widths for the named layers.

        Raises:
            ConfigError: If a layer is unknown; the nearest name is offered.
        """
        for layer in widths:
            if layer not in self.widths:
                raise ConfigError(
                    f"{self.name} has no layer {layer!r}{did_you_mean(layer, self.widths)}; "
                    f"its layers are {', '.join(self.widths)}"
                )
        changed = {**self.widths, **widths}
        follows = self.family in WITHOUT_FC1
        embedding_size = list(changed.values())[-1] if follows else self.embedding_size
        return replace(self, widths=changed, embedding_size=embedding_size)

    def with_num_classes(self, num_classes: int) -> "ModelSpec":
        """Return this network with another number of outputs."""
        return replace(self, num_classes=num_classes)

    def with_task(self, task: str) -> "ModelSpec":
        """Return this network for ``multi-label`` or ``single-label`` scores.

        Raises:
            ConfigError: If the task is unknown, or the head does not support it.
        """
        if task not in TASKS:
            raise ConfigError(f"task={task!r}{did_you_mean(str(task), TASKS)}: must be one of {', '.join(TASKS)}")
        return replace(self, activation=TASKS[task])

    def scaled(self, width: float) -> "ModelSpec":
        """Return a narrow or wide version: every width and the embedding times `width`, rounded, at least 1.

        LEAN's embedding stays a multiple of 4.

        Raises:
            ConfigError: If `width` is not in (0, 8].
        """
        if not 0 < width <= 8:
            raise ConfigError(f"width={width}: must be in (0, 8]; 1.0 is {self.name} as published")
        multiple = 4 if self.family in FUSION_FAMILIES else 1
        return replace(
            self,
            widths={layer: max(1, round(channels * width)) for layer, channels in self.widths.items()},
            embedding_size=multiple * max(1, round(self.embedding_size * width / multiple)),
        )

    def to_dict(self) -> dict[str, Any]:
        """Return the specification as JSON values; ``activation`` is left out for multi-label networks."""
        values = {name: value for name, value in field_values(self).items() if _OMITTED.get(name) != value}
        return values | {"front_end": self.front_end.to_dict(), "widths": dict(self.widths)}

    @classmethod
    def from_dict(cls, values: object) -> "ModelSpec":
        """Read the form of `to_dict`.

        Raises:
            ConfigError: With every problem.
        """
        if not isinstance(values, Mapping):
            raise ConfigError(f"model specification: must be a table, is {shown(values)}")
        rules = {field.name: _RULES.get(field.name, TABLE) for field in fields(cls)}
        if problems := table_problems(values, rules, required=rules.keys() - _OMITTED):
            raise ConfigError("model specification: " + "; ".join(problems))
        return cls(**{**values, "front_end": FrontEndSpec.from_dict(values["front_end"])})


def conv_widths(*blocks: int, convs_per_block: int = 2) -> dict[str, int]:
    """Return the widths of ``conv_block1.conv1`` and on, each block's convolutions equally wide."""
    return {
        f"conv_block{block}.conv{conv}": width
        for block, width in enumerate(blocks, start=1)
        for conv in range(1, convs_per_block + 1)
    }
