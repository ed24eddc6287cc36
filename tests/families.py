"""Helpers of the tests of every family: narrow networks with random batch norms, PANNs' layers, silenced channels."""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from functools import cache

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from epanns.audio.frontend import FrontEndSpec
from epanns.models.layers.pooling import ModelOutput
from epanns.models.spec import WITHOUT_FC1, ModelSpec
from epanns.models.tagger import Tagger
from epanns.models.zoo import FRONT_ENDS, build_model, spec_of
from epanns.pruning.surgery import channel_groups

_AT_8K = {
    "panns": FRONT_ENDS[8_000],
    "yamnet": FrontEndSpec(8_000, 200, 80, 64, 125, 3_750, kind="yamnet"),
    "efficientat": FrontEndSpec(8_000, 200, 80, 64, 0, 3_750, kind="efficientat"),
}


def at_8k(spec: ModelSpec) -> ModelSpec:
    """Return a network for the clips of the tiny packs."""
    return replace(spec, front_end=_AT_8K[spec.front_end.kind])


def uneven(name: str, *, least: int = 3) -> Tagger:
    """Return a network of 5 classes whose layers have `least` to `least` + 4 channels, neighbours different ones."""
    spec = spec_of(name, num_classes=5, width=1 / 32)
    return build_model(spec.with_widths({layer: least + index % 5 for index, layer in enumerate(spec.widths)}))


def randomised(name: str) -> Tagger:
    """Return `uneven` with random batch norms whose scales are small enough for sums of many blocks."""
    model = uneven(name)
    for module in model.modules():
        if isinstance(module, _BatchNorm):
            module.running_mean.normal_(0, 0.3)
            module.running_var.uniform_(0.5, 1.5)
            if isinstance(module.weight, nn.Parameter):  # YAMNet's have no scale
                nn.init.uniform_(module.weight, 0.3, 1.0)
            nn.init.normal_(module.bias, 0, 0.3)
    return model.eval()


@cache
def narrow(name: str) -> Tagger:
    """Return a network of 6 to 10 channels per layer whose batch norms have the statistics of its inputs.

    All tests share it: do not change it.
    """
    torch.manual_seed(1)
    model = uneven(name, least=6)
    for module in model.modules():
        if isinstance(module, _BatchNorm):
            if isinstance(module.weight, nn.Parameter):
                nn.init.uniform_(module.weight, 0.5, 1.5)
            nn.init.normal_(module.bias, 0.2, 0.3)
            module.momentum = 1.0  # statistics of the one batch below, so that outputs of different clips differ
        elif isinstance(module, nn.Linear):  # small in new networks of EfficientAT
            nn.init.xavier_normal_(module.weight)
    with torch.no_grad():
        model.forward_inputs(noise(model, clips=8, seed=0))
    return model.eval()


def noise(model: Tagger, *, clips: int = 2, seed: int = 1) -> tuple[Tensor, ...]:
    """Return random inputs of the trainable part of a network, for clips of at least 70 hops."""
    generator = torch.Generator().manual_seed(seed)
    shapes = model.input_shapes(max(model.minimum_samples, 70 * model.spec.front_end.hop_size))
    return tuple(torch.randn(clips, *shape[1:], generator=generator) for shape in shapes)


def silenced(model: Tagger, kept: Mapping[str, Sequence[int]], inputs: tuple[Tensor, ...]) -> ModelOutput:
    """Run an unpruned network with the dropped channels set to zero behind every batch norm of their group.

    Where a group has no batch norm, they are set to zero behind its producers.

    Args:
        model: The unpruned network.
        kept: Layer -> channels that stay; of layers without an entry, all channels stay.
        inputs: Inputs of the trainable part of the network.

    Returns:
        The outputs; of an embedding that consists of the channels of the last layer, the kept channels.
    """
    handles = []
    for layer, group in channel_groups(model).items():
        mask = torch.zeros(group.width)
        mask[list(kept.get(layer, range(group.width)))] = 1

        def silence(module: nn.Module, inputs: object, output: Tensor, mask: Tensor = mask) -> Tensor:
            return output * mask.view(-1, *[1] * (output.dim() - 2))

        handles += [model.get_submodule(norm).register_forward_hook(silence) for norm in group.norms or group.producers]
    with torch.no_grad():
        output = model.forward_inputs(inputs)
    for handle in handles:
        handle.remove()
    last = model.layer_names[-1]
    if model.spec.family in WITHOUT_FC1 and last in kept:
        output["embedding"] = output["embedding"][:, list(kept[last])]
    return output


class SlowLayers:
    """Reference implementation of PANNs' layers in evaluation mode, from a state dict."""

    def __init__(self, state: dict[str, Tensor]) -> None:
        self.state = state

    def norm(self, x: Tensor, name: str, axis: int = 1) -> Tensor:
        shape = [-1 if index == axis else 1 for index in range(x.dim())]
        mean, variance, scale, shift = (
            self.state[f"{name}.{part}"].view(shape) for part in ("running_mean", "running_var", "weight", "bias")
        )
        return (x - mean) / (variance + 1e-5).sqrt() * scale + shift

    def conv(self, x: Tensor, name: str, *, stride: int = 1, dilation: int = 1, padding: int | None = None) -> Tensor:
        weight = self.state[f"{name}.weight"]
        padding = weight.shape[-1] // 2 * dilation if padding is None else padding
        convolve = F.conv1d if weight.dim() == 3 else F.conv2d
        return convolve(x, weight, stride=stride, dilation=dilation, padding=padding)

    def step(self, x: Tensor, block: str, index: int, **how: int) -> Tensor:
        return self.norm(self.conv(x, f"{block}.conv{index}", **how), f"{block}.bn{index}").clamp(min=0)

    def tags(self, x: Tensor) -> Tensor:
        x = x.mean(3) if x.dim() == 4 else x
        x = x.max(2).values + x.mean(2)
        embedding = (x @ self.state["fc1.weight"].T + self.state["fc1.bias"]).clamp(min=0)
        return embedding @ self.state["fc_audioset.weight"].T + self.state["fc_audioset.bias"]
