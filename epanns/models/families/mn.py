"""EfficientAT's mn: MobileNetV3-large with squeeze and excitation on the log-mel, at any widths."""

from functools import partial

import torch.nn.functional as F
from torch import Tensor, nn

from epanns.audio.efficientat_logmel import EfficientatLogMel
from epanns.clip_random import dropout
from epanns.labels import LabelSet
from epanns.models.layers.mixup import mix_pairs
from epanns.models.layers.pooling import ModelOutput, probabilities_of
from epanns.models.spec import MN_BLOCKS, ModelSpec, mn_layers
from epanns.models.tagger import Features, Stage, Tagger, on_first

BATCH_NORM_EPSILON, BATCH_NORM_MOMENTUM = 1e-3, 0.01
_RELU_BLOCKS = 6  # the first blocks use ReLU, all other layers hard-swish

Activation = type[nn.ReLU] | type[nn.Hardswish]


def _convolution(
    in_channels: int,
    width: int,
    kernel_size: int,
    activation: Activation | None,
    *,
    stride: int = 1,
    groups: int = 1,
) -> nn.Sequential:
    """Return a convolution, its batch norm and, if there is one, its activation; He initialisation by fan-out."""
    conv = nn.Conv2d(in_channels, width, kernel_size, stride, kernel_size // 2, groups=groups, bias=False)
    nn.init.kaiming_normal_(conv.weight, mode="fan_out")
    norm = nn.BatchNorm2d(width, eps=BATCH_NORM_EPSILON, momentum=BATCH_NORM_MOMENTUM)
    return nn.Sequential(conv, norm, *([] if activation is None else [activation(inplace=True)]))


def _linear(inputs: int, outputs: int) -> nn.Linear:
    """Return a linear layer with upstream's initialisation: normal weights of deviation .01, zero bias."""
    layer = nn.Linear(inputs, outputs)
    nn.init.normal_(layer.weight, 0, 0.01)
    nn.init.zeros_(layer.bias)
    return layer


class Excitation(nn.Module):
    """A factor in (0, 1) for each channel, computed from the means of all channels over mel and time."""

    def __init__(self, channels: int, squeezed: int) -> None:
        super().__init__()
        self.fc1 = _linear(channels, squeezed)
        self.fc2 = _linear(squeezed, channels)

    def forward(self, features: Tensor) -> Tensor:
        """Map ``(batch, channels, mel, time)``."""
        gates: Tensor = self.fc2(self.fc1(features.mean(dim=(2, 3))).relu()).sigmoid()
        return features * gates[:, :, None, None]


class ExcitationSlot(nn.Module):
    """One `Excitation` under the name it has in released files, whose code can hold several side by side."""

    def __init__(self, channels: int, squeezed: int) -> None:
        super().__init__()
        self.conc_se_layers = nn.ModuleList([Excitation(channels, squeezed)])

    def forward(self, features: Tensor) -> Tensor:
        """Map ``(batch, channels, mel, time)``."""
        (excitation,) = self.conc_se_layers
        return excitation(features)  # type: ignore[no-any-return]


class MnBlock(nn.Module):
    """An inverted residual: expansion, depthwise convolution, gate, projection; some parts are left out.

    Args of the constructor:
        in_channels: Input channels.
        widths: Channels of the expansion, width between the gate's two linear layers, and output channels; None for a
            block without an expansion or a gate.
        kernel_size: Of the depthwise convolution.
        stride: Of the depthwise convolution.
        activation: Behind the expansion and the depthwise convolution.
        adds: Whether the input is added to the output.
    """

    def __init__(
        self,
        in_channels: int,
        widths: tuple[int | None, int | None, int],
        *,
        kernel_size: int,
        stride: int,
        activation: Activation,
        adds: bool,
    ) -> None:
        super().__init__()
        self.adds = adds
        expanded, squeezed, width = widths
        inner = in_channels if expanded is None else expanded
        parts: list[nn.Module] = [] if expanded is None else [_convolution(in_channels, inner, 1, activation)]
        parts.append(_convolution(inner, inner, kernel_size, activation, stride=stride, groups=inner))
        parts += [] if squeezed is None else [ExcitationSlot(inner, squeezed)]
        self.block = nn.Sequential(*parts, _convolution(inner, width, 1, None))

    def forward(self, features: Tensor) -> Tensor:
        """Map ``(batch, channels, mel, time)``."""
        projected: Tensor = self.block(features)
        return features + projected if self.adds else projected


class Mn(Tagger):
    """A convolution, fifteen inverted residuals, a pointwise convolution, two linear layers.

    Module names are those of EfficientAT's released files. Their maps have mel before time: `begin` swaps the axes.
    The embedding is the input of the classifier, behind its first linear layer; upstream returns the pooled maps before
    that layer as features.

    Source: Howard et al. 2019 (arXiv 1905.02244), Table 1; Schmid et al. 2023 (arXiv 2211.04772); fschmid56/EfficientAT
    `models/mn`.
    """

    def __init__(self, spec: ModelSpec, labels: LabelSet | None = None) -> None:
        super().__init__(spec, labels)
        self.front_end = EfficientatLogMel(spec.front_end)
        channels = stream = spec.widths["features.0.0"]
        parts: list[nn.Module] = [_convolution(1, channels, 3, nn.Hardswish, stride=2)]
        for (kernel_size, stride, _, starts), layers in zip(MN_BLOCKS, mn_layers(spec.family), strict=True):
            stream = spec.widths[layers.projection] if starts else stream
            expanded, squeezed = (spec.widths.get(name or "") for name in (layers.expansion, layers.squeeze))
            block = MnBlock(
                channels,
                (expanded, squeezed, stream),
                kernel_size=kernel_size,
                stride=stride,
                activation=nn.ReLU if len(parts) <= _RELU_BLOCKS else nn.Hardswish,
                adds=not starts,
            )
            parts.append(block)
            channels = stream
        last = spec.widths[f"features.{len(parts)}.0"]
        self.features = nn.Sequential(*parts, _convolution(channels, last, 1, nn.Hardswish))
        self.classifier = nn.ModuleDict({"2": _linear(last, spec.embedding_size)})
        self.add_classifier(spec)

    @property
    def depthwise_layers(self) -> tuple[str, ...]:
        """See `Tagger`."""
        return tuple(layers.depthwise for layers in mn_layers(self.spec.family))

    @property
    def gate_layers(self) -> tuple[str, ...]:
        """See `Tagger`."""
        return tuple(layers.excitation for layers in mn_layers(self.spec.family) if layers.excitation is not None)

    @property
    def embedding_layer(self) -> str:
        """See `Tagger`."""
        return "classifier.2"

    @property
    def classifier_names(self) -> tuple[str, ...]:
        """See `Tagger`."""
        return ("classifier.5",)

    def add_classifier(self, spec: ModelSpec) -> None:
        """See `Tagger`."""
        device = next(self.parameters()).device
        self.classifier["5"] = _linear(spec.embedding_size, spec.num_classes).to(device).train(self.training)

    @property
    def minimum_samples(self) -> int:
        """Samples of half a transform and two more: the front end reflects half a transform at both ends."""
        return self.spec.front_end.fft_size // 2 + 2

    def inputs_of(self, waveform: Tensor) -> Features:
        """Return the log-mel, ``(batch, 1, time, mel)``."""
        return (self.front_end(waveform),)

    def input_shapes(self, samples: int) -> list[tuple[int, ...]]:
        """Return ``(1, 1, time, mel)``."""
        front_end = self.spec.front_end
        return [(1, 1, front_end.frames(samples), front_end.mel_bins)]

    def begin(self, inputs: Features, mixup_lambda: Tensor | None = None) -> Features:
        """Mask stripes, which are set to 0, about the middle of the values; mix pairs; put mel before time."""
        (logmel,) = inputs
        return (mix_pairs(self.spec_augmenter(logmel), mixup_lambda).transpose(2, 3),)

    def stages(self) -> list[Stage]:
        """Return a stage for the first and the last convolution and for each inverted residual."""
        return [partial(on_first, part) for part in self.features]

    def pooled(self, features: Features) -> Tensor:
        """Return the means over mel and time, ``(batch, channels)``."""
        return features[0].mean(dim=(2, 3))

    def hidden(self, features: Features) -> Tensor:
        """Return the embedding, ``(batch, embedding_size)``."""
        return F.hardswish(self.classifier["2"](self.pooled(features)))

    def head(self, features: Features, inputs: Features) -> ModelOutput:
        """Return the scores of the clips, and their embedding."""
        hidden = self.hidden(features)
        logits = self.classifier["5"](dropout(hidden, 0.2, self.training))
        scores = probabilities_of(logits, self.spec.activation)
        return ModelOutput(clipwise_logits=logits, clipwise_output=scores, embedding=hidden)
