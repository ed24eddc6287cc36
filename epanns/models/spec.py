"""A network as data: front end, width of each layer, head; and the layers of each family."""

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, fields, replace
from types import MappingProxyType
from typing import Any

from epanns.audio.frontend import FrontEndSpec
from epanns.errors import ConfigError, did_you_mean
from epanns.labels import TASKS
from epanns.safe_text import printable

# ResNet family -> residual blocks in each of its four layers, and convolutions in a block.
RESNETS: dict[str, tuple[tuple[int, ...], int]] = {
    "resnet22": ((2, 2, 2, 2), 2),
    "resnet38": ((3, 4, 6, 3), 2),
    "resnet54": ((3, 4, 6, 3), 3),
}

# MobileNetV1: by how much each separable block shrinks time and mel.
SEPARABLE_POOLS = (1, 2, 1, 2, 1, 2, 1, 1, 1, 1, 1, 2, 1)

# MobileNetV2: the inverted residuals that share an output width, how many, and by how much the first one shrinks
# time and mel. The first group alone does not expand its channels.
INVERTED_GROUPS = ((1, 1), (2, 2), (3, 2), (4, 2), (3, 2), (3, 1), (1, 1))

# YAMNet: the stride of the 3x3 convolution of each layer, the first one's over all channels, the others' depthwise.
YAMNET_STRIDES = (2, 1, 2, 1, 2, 1, 2, 1, 1, 1, 1, 1, 2, 1)


def _resnet(depths: tuple[int, ...], convs: int) -> tuple[str, ...]:
    """Name the convolutions inside each block, and of a layer's outputs the first, to which the others are added.

    Where a block has two convolutions, the outputs of layer 1 are added to those of ``conv_block1.conv2``.
    """
    names = ["conv_block1.conv1", "conv_block1.conv2"]
    for layer, depth in enumerate(depths, start=1):
        for block in range(depth):
            leads = block == 0 and (layer, convs) != (1, 2)
            names += [f"resnet.layer{layer}.{block}.conv{conv}" for conv in range(1, convs + leads)]
    return (*names, "conv_block_after1.conv1", "conv_block_after1.conv2")


def _mobilenet_v2() -> tuple[str, ...]:
    """Name each expansion, and of the projections that are added to each other the first."""
    names = ["features.0.0"]
    block = 0
    for group, (depth, _) in enumerate(INVERTED_GROUPS):
        for index in range(depth):
            block += 1
            expansion, projection = [] if group == 0 else ["conv.0"], "conv.4" if group == 0 else "conv.7"
            parts = [*expansion, projection] if index == 0 else expansion
            names += [f"features.{block}.{part}" for part in parts]
    return (*names, f"features.{block + 1}.0")


def _convs(*blocks: str, depth: int) -> tuple[str, ...]:
    return tuple(f"{block}.conv{conv}" for block in blocks for conv in range(1, depth + 1))


def _wavegram(*log_mel: str) -> tuple[str, ...]:
    """Of the wavegram, the channels of ``pre_block3.conv2`` become rows and must stay; then log-mel, then both."""
    waveform = _convs("pre_block1", "pre_block2", depth=2)
    joined = _convs(*(f"conv_block{block}" for block in range(2, 7)), depth=2)
    return ("pre_conv0", *waveform, "pre_block3.conv1", *_convs("pre_block4", *log_mel, depth=2), *joined)


def _dainet19() -> tuple[str, ...]:
    """The first stream is led by ``conv0``, each other one by the last convolution of the block that begins it."""
    return ("conv0", *_convs("conv_block1", depth=3), *_convs("conv_block2", "conv_block3", "conv_block4", depth=4))


def _leenet(*, depth: int) -> tuple[str, ...]:
    return _convs(*(f"conv_block{block}" for block in range(1, 10)), depth=depth)


def _res1dnet(*blocks: int) -> tuple[str, ...]:
    """The first stream is led by ``conv0``, each other one by the last convolution of the block that begins it."""
    layers = ["conv0"]
    for layer, depth in enumerate(blocks, start=1):
        for block in range(depth):
            layers.append(f"resnet.layer{layer}.{block}.conv1")
            if layer > 1 and block == 0:
                layers.append(f"resnet.layer{layer}.{block}.conv2")
    return tuple(layers)


_YAMNET = ("layer1.conv", *(f"layer{layer}.pointwise_conv" for layer in range(2, len(YAMNET_STRIDES) + 1)))

# LEAN's rows all hear windows of 1 s: YAMNet with another classifier, and those that join it to a wave encoder.
FUSION_FAMILIES = ("lean_concat", "lean_affinity", "lean")
LEAN_FAMILIES = ("yamnet_linear", "yamnet_projection", *FUSION_FAMILIES)

# Family -> names of the layers that lead its channel groups, in forward order: the keys of `ModelSpec.widths`.
LAYOUTS: dict[str, tuple[str, ...]] = {
    **{family: _resnet(depths, convs) for family, (depths, convs) in RESNETS.items()},
    "mobilenet_v1": ("features.0.0", *(f"features.{block}.4" for block in range(1, len(SEPARABLE_POOLS) + 1))),
    "mobilenet_v2": _mobilenet_v2(),
    "wavegram_cnn14": _wavegram(),
    "wavegram_logmel_cnn14": _wavegram("conv_block1"),
    "dainet19": _dainet19(),
    "leenet11": _leenet(depth=1),
    "leenet24": _leenet(depth=2),
    "res1dnet31": _res1dnet(2, 2, 2, 2, 2, 2, 2),
    "res1dnet51": _res1dnet(2, 3, 4, 6, 4, 3, 2),
    "yamnet": _YAMNET,
    **dict.fromkeys(LEAN_FAMILIES, _YAMNET),
}

# Families on YAMNet's log-mel, and those of them whose classifier reads the channels of the last layer themselves.
YAMNET_FAMILIES = frozenset({"yamnet", *LEAN_FAMILIES})
WITHOUT_FC1 = frozenset({"yamnet", "yamnet_linear"})

# Families that read the waveform and no log-mel: of their front end, only the sample rate counts.
WAVEFORM_FAMILIES = frozenset({"wavegram_cnn14", "dainet19", "leenet11", "leenet24", "res1dnet31", "res1dnet51"})


def layout_widths(family: str, blocks: Mapping[str, int]) -> dict[str, int]:
    """Return the width of every layer of a family from those of its blocks, ``conv_block1`` for all that it holds."""
    return {
        layer: next(width for block, width in blocks.items() if layer == block or layer.startswith(f"{block}."))
        for layer in LAYOUTS[family]
    }


HEADS = ("clip", "decision_max", "decision_avg", "decision_att")
FAMILIES = ("cnn", *LAYOUTS)

ACTIVATIONS = tuple(TASKS.values())
_LATER = {"activation": "sigmoid"}  # left out of `to_dict` at this value, which is what was before there was a choice

# A width above this is no audio tagger but a damaged or hostile file; checked before anything is allocated.
MAXIMUM_WIDTH = 65_536

_LONGEST_NAME = 100  # characters of the name, which stands in tables and messages


@dataclass(frozen=True)
class ModelSpec:
    """Everything needed to build a network, apart from its weights.

    Attributes:
        name: Row of the zoo it comes from; pruning keeps the name.
        family: Which builder reads the spec (`zoo.BUILDERS`).
        front_end: Log-mel settings; networks on the waveform alone use the sample rate only.
        widths: Output channels of each prunable layer by its module name, in forward order, PANNs' names of the
            convolutions; layers that are added to each other share one width, under the name of the first.
        embedding_size: Size of the classifier's input: PANNs' outputs of ``fc1``; YAMNet's channels of its last layer,
            which it follows when they are pruned; LEAN's scene and context side by side.
        num_classes: Outputs.
        head: How time is pooled: ``clip`` pools before the classifier, ``decision_*`` after it.
        kernel_size: Side of the square convolution kernels.
        activation: How scores are made of logits: ``sigmoid`` for each class by itself, ``softmax`` over the classes.
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
        problems = [
            f"{name}={value!r} must be a whole number in [1, {MAXIMUM_WIDTH}]"
            for name, value in {
                **{f"widths[{layer!r}]": width for layer, width in self.widths.items()},
                "embedding_size": self.embedding_size,
                "num_classes": self.num_classes,
                "kernel_size": self.kernel_size,
            }.items()
            if type(value) is not int or not 1 <= value <= MAXIMUM_WIDTH
        ]
        problems += [
            f"{name}={value!r}{did_you_mean(str(value), choices)}: must be one of {', '.join(choices)}"
            for name, value, choices in (
                ("head", self.head, HEADS),
                ("family", self.family, FAMILIES),
                ("activation", self.activation, ACTIVATIONS),
            )
            if value not in choices
        ]
        if not (isinstance(self.name, str) and self.name.isprintable() and len(self.name) <= _LONGEST_NAME):
            problems.append(f"name must be printable text of at most {_LONGEST_NAME} characters")
        if self.family == "cnn" and not _are_blocks(list(self.widths)):
            problems.append(
                "widths must name conv_block1.conv1 and on, in forward order and without gaps, got "
                + (", ".join(self.widths)[:200] or "none")
            )
        if self.family in LAYOUTS and tuple(self.widths) != LAYOUTS[self.family]:
            problems.append(f"widths must name {', '.join(LAYOUTS[self.family])}, in this order")
        if self.family in LAYOUTS and (self.head, self.kernel_size) != ("clip", 3):
            problems.append(f"head={self.head} and kernel_size={self.kernel_size} must be clip and 3 in {self.family}")
        if self.activation == "softmax":
            problems += _softmax_problems(self.head, self.num_classes)
        problems += [] if problems else self._yamnet_problems()
        if problems:
            raise ConfigError(f"model {printable(str(self.name)[:_LONGEST_NAME])}: " + "; ".join(problems))

    def _yamnet_problems(self) -> list[str]:
        """Return what is wrong between a family on YAMNet's log-mel, its front end and its embedding."""
        if self.front_end.is_yamnet != (self.family in YAMNET_FAMILIES):
            kind = "yamnet" if self.family in YAMNET_FAMILIES else "panns"
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
        """Let a network be deep-copied and sent to another process: the read-only view of the widths cannot be."""
        return ModelSpec.from_dict, (self.to_dict(),)

    @property
    def reads_logmel(self) -> bool:
        """Whether the network starts from the log-mel, alone or beside the waveform."""
        return self.family not in WAVEFORM_FAMILIES

    @property
    def task(self) -> str:
        """What the network is asked: ``multi-label`` or ``single-label``."""
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
        """Return this network for ``multi-label`` or ``single-label`` scores; weights are not touched by it.

        Raises:
            ConfigError: If the task is neither, or the head cannot do it.
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
        """Return the spec as JSON values; those that came later are left out at the value that was before."""
        values = {field.name: getattr(self, field.name) for field in fields(self)}
        values = {name: value for name, value in values.items() if name not in _LATER or value != _LATER[name]}
        return values | {"front_end": self.front_end.to_dict(), "widths": dict(self.widths)}

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> "ModelSpec":
        """Read `to_dict`'s form strictly; every unknown or missing key is named in the `ConfigError`."""
        known = {field.name for field in fields(cls)}
        problems = [f"unknown key {key!r}{did_you_mean(key, known)}" for key in values if key not in known]
        problems += [f"missing key {key!r}" for key in sorted(known - set(values) - set(_LATER))]
        problems += [
            f"{key} must be a table, is {values[key]!r}"
            for key in ("front_end", "widths")
            if key in values and not isinstance(values[key], Mapping)
        ]
        problems += [
            f"{key} must be text, is {values[key]!r}"
            for key in ("name", "family", "head", "activation")
            if key in values and not isinstance(values[key], str)
        ]
        if problems:
            raise ConfigError("model specification: " + "; ".join(problems))
        return cls(**{**values, "front_end": FrontEndSpec.from_dict(values["front_end"])})


def _softmax_problems(head: str, num_classes: int) -> list[str]:
    """Return what keeps scores from being one softmax over the classes of a clip."""
    problems = []
    if head != "clip":
        problems.append(
            f"activation='softmax' with head={head!r}: decision-level heads score every class of every segment by "
            "itself; a single-label network needs head clip"
        )
    if num_classes == 1:
        problems.append("activation='softmax' with num_classes=1: a single class would always score 1; give 2 or more")
    return problems


def _are_blocks(layers: list[str]) -> bool:
    """Return whether layers are ``conv_block1.conv1, ...`` of one block after the other."""
    depths = Counter(layer.split(".")[0] for layer in layers)
    blocks = [(f"conv_block{block}", depths[f"conv_block{block}"]) for block in range(1, len(depths) + 1)]
    return bool(layers) and layers == [f"{name}.conv{conv}" for name, depth in blocks for conv in range(1, depth + 1)]


def conv_widths(*blocks: int, convs_per_block: int = 2) -> dict[str, int]:
    """Return the widths of ``conv_block1.conv1`` and on, each block's convolutions equally wide."""
    return {
        f"conv_block{block}.conv{conv}": width
        for block, width in enumerate(blocks, start=1)
        for conv in range(1, convs_per_block + 1)
    }
