"""The layers that a least-squares refit changes, in order, and the rows of the regressions.

A layer's input and output give one row for each position of its kernel.
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from epanns.errors import PruningError
from epanns.models.pruning_plan import PruningPlan
from epanns.models.tagger import Tagger
from epanns.pruning.recovery.paired_features import PairedFeatures, capture, stages_of_modules
from epanns.pruning.recovery.rectified_fit import Rectifier
from epanns.pruning.surgery import ChannelGroup, groups_and_order
from epanns.seeding import numpy_generator

_MOST_POSITIONS = 1024  # of a clip that are fitted; neighbours are nearly equal
_CHUNK_BYTES = 96 << 20  # of rows in float64 at a time


@dataclass(frozen=True)
class NetworkStructure:
    """What a refit reads of a network's structure, which takes seconds to trace in a deep network.

    Attributes:
        groups: `channel_groups` of the network.
        norms: Layer -> the batch norm right behind it.
        stages: Name of a layer or batch norm -> stage in which it runs.
    """

    groups: Mapping[str, ChannelGroup]
    norms: Mapping[str, str]
    stages: Mapping[str, int]

    @classmethod
    def of(cls, model: Tagger) -> "NetworkStructure":
        """Trace a network."""
        groups, order = groups_and_order(model)
        return cls(groups, order.norms, stages_of_modules(model))


class RefitLayout:
    """The layers to fit and batch norms to shift, their order, and the channels they keep.

    Attributes:
        names: Readers of pruned channels, and batch norms that change and have no reader right before them, in forward
            order.
        norms: The batch norms among `names`.
        whole: Whether the student still has all channels, those that will be removed included.
        stages: Name -> stage of the network in which it runs.
        norm_behind: Layer -> the batch norm right behind it.
        shared_stages: Number of first stages that are equal in the pruned and in the unpruned network.
        inputs: Reader -> its inputs that are kept, where it still has others.
        outputs: Layer or norm -> its outputs that are kept, where the student has lost others.
    """

    def __init__(
        self, dense: Tagger, plan: PruningPlan, *, whole: bool, structure: NetworkStructure | None = None
    ) -> None:
        """Lay out the refit of a network that is pruned, or, if `whole`, one that will be pruned afterwards.

        `structure` is that of `dense`, traced if None.
        """
        structure = NetworkStructure.of(dense) if structure is None else structure
        self.whole = whole
        self.norm_behind = structure.norms
        self.stages = structure.stages
        self.inputs: dict[str, Tensor | None] = {}
        self.outputs: dict[str, Tensor | None] = {}
        groups = [group for group in structure.groups.values() if group.layer in plan.pruned_layers]
        depthwise = {name for group in groups for name in group.depthwise}
        behind_mixers = {norm for layer, norm in self.norm_behind.items() if layer not in depthwise}
        readers = {reader.name for group in groups for reader in group.readers}
        norms = {norm for group in groups for norm in group.norms} - behind_mixers
        order = list(self.stages)
        first = min((order.index(name) for name in readers), default=0)  # nothing differs before the first reader
        self.norms = {norm for norm in norms if order.index(norm) > first}
        self.names = [name for name in order if name in readers or name in self.norms]
        self.shared_stages = min((self.stages[name] for group in groups for name in group.producers), default=0)
        for group in groups:
            self._note_channels(dense, group, plan.kept_channels[group.layer])

    def _note_channels(self, dense: Tagger, group: ChannelGroup, kept: tuple[int, ...]) -> None:
        if not self.whole:
            self.outputs |= dict.fromkeys((*group.producers, *group.norms, *group.gates), torch.tensor(kept))
            return
        for reader in group.readers:
            left = self.inputs.get(reader.name)
            if left is None:
                left = torch.arange(dense.get_submodule(reader.name).get_parameter("weight").shape[1])
            own = left[(left >= reader.offset) & (left < reader.offset + group.width)] - reader.offset
            removed = own[~torch.isin(own, torch.tensor(kept))] + reader.offset
            self.inputs[reader.name] = left[~torch.isin(left, removed)]


class FittedReader:
    """A layer that reads pruned channels, with the layer whose outputs it is fitted to."""

    def __init__(self, layout: RefitLayout, name: str, student: Tagger, teacher: Tagger) -> None:
        self.name, self.stage = name, layout.stages[name]
        self.module = student.get_submodule(name)
        self._whole = layout.whole
        self._original = self.module if layout.whole else teacher.get_submodule(name)
        self.weight = self.module.get_parameter("weight")
        self._inputs, self._outputs = layout.inputs.get(name), layout.outputs.get(name)
        norm = layout.norm_behind.get(name)
        self._norm = None if norm is None else student.get_submodule(norm)
        if self._norm is None and self.module.bias is None:
            raise PruningError(f"{name} has no bias and no batch norm right behind it: the refit needs one of them")

    def plain(self) -> Tensor:
        """Return the unfitted weights of the kept inputs, ``(inputs, outputs)`` float64 on the CPU."""
        return self._plain_weight().flatten(1).T.double().cpu()

    def rectifier(self) -> Rectifier:
        """Return the rectifier of a ReLU behind the layer and its batch norm; call it before `set`."""
        return Rectifier.behind(self._norm, self.plain().shape[1])

    def rows(self, features: PairedFeatures) -> Iterator[tuple[Tensor, Tensor]]:
        """Yield inputs ``(rows, inputs)`` and targets ``(rows, outputs)``, float64 on the CPU, a few rows at a time."""
        at_once = max(1, _CHUNK_BYTES // (8 * self._plain_weight()[0].numel()))
        n_clips = 0
        for ours, theirs in features.before(self.stage):
            values = capture(features.student, self.stage, ours, self.name, "input")
            target_network, target_features = (features.student, ours) if self._whole else (features.teacher, theirs)
            targets = capture(target_network, self.stage, target_features, self.name, "output")
            if self._inputs is not None:
                values = _channels(self.module, values, self._inputs)
            if self._outputs is not None:
                targets = _channels(self._original, targets, self._outputs)
            n_positions = positions_per_clip(self._original, targets)
            positions = torch.stack(
                [
                    chosen_positions(self.name, n_clips + clip, n_positions, _MOST_POSITIONS)
                    for clip in range(len(values))
                ]
            )
            n_clips += len(values)
            for clips in torch.split(torch.arange(len(values)), max(1, at_once // positions.shape[1])):
                for some in torch.split(positions[clips], at_once, dim=1):
                    p = input_rows(self.module, values[clips], some)
                    yield p.cpu().double(), output_rows(self._original, targets[clips], some).cpu().double()

    def set(self, weights: Tensor, constant: Tensor) -> None:
        """Set ``(inputs, outputs)`` weights, zero for the inputs to be removed, and the constant beside them.

        Without a bias, the running mean of the batch norm behind the layer is lowered by the constant.
        """
        fitted = torch.zeros_like(self.weight)
        shape = (len(fitted), -1, *fitted.shape[2:])
        if self._inputs is None:
            fitted.copy_(weights.T.reshape(shape))
        else:
            fitted[:, self._inputs] = weights.T.reshape(shape).to(fitted)
        self.weight.copy_(fitted)
        if isinstance(self.module.bias, Tensor):
            self.module.bias.copy_(constant)
        else:
            assert self._norm is not None
            mean = self._norm.get_buffer("running_mean")
            mean.sub_(constant.to(mean))

    def _plain_weight(self) -> Tensor:
        return self.weight if self._inputs is None else self.weight[:, self._inputs]


def _channels(layer: nn.Module, values: Tensor, channels: Tensor) -> Tensor:
    return values[..., channels] if isinstance(layer, nn.Linear) else values[:, channels]


def positions_per_clip(layer: nn.Module, output: Tensor) -> int:
    """Return the number of rows of a clip: time steps, pixels of a map, or frames that a linear layer reads."""
    if isinstance(layer, nn.Linear):
        return output[0].numel() // output.shape[-1]
    return output[0, 0].numel()


def chosen_positions(layer: str, clip: int, positions: int, most: int) -> Tensor:
    """Return at most `most` of a clip's positions, ascending, spread evenly over it.

    The positions are cut into `most` equally long stretches, and one is drawn from each with a seed of layer and clip:
    the same for every batch size.

    Args:
        layer: Name of the layer.
        clip: Number of the clip.
        positions: Number of positions.
        most: Largest number to return.
    """
    if positions <= most:
        return torch.arange(positions)
    drawn = numpy_generator("places", layer, clip).random(most)
    return torch.from_numpy(((torch.arange(most).numpy() + drawn) * (positions / most)).astype("int64"))


def input_rows(layer: nn.Module, values: Tensor, positions: Tensor) -> Tensor:
    """Return the factors of the layer's weights, ``(clips * positions, weights per output)``.

    Args:
        layer: Linear layer or convolution with zero padding, in one group.
        values: Its input, ``(clips, channels, ...)``, for a linear layer ``(clips, ..., channels)``.
        positions: ``(clips, positions)``, in the order of the layer's output.

    Returns:
        Rows in the order of ``layer.weight.flatten(1)``.
    """
    clips = torch.arange(len(values), device=values.device)[:, None]
    positions = positions.to(values.device)
    if isinstance(layer, nn.Linear):
        return values.reshape(len(values), -1, values.shape[-1])[clips, positions].flatten(0, 1)
    assert isinstance(layer, nn.Conv1d | nn.Conv2d) and not isinstance(layer.padding, str)
    assert layer.groups == 1 and layer.padding_mode == "zeros"
    if values.dim() == 3:
        values = values.unsqueeze(2)  # (clips, channels, 1, time)
    missing = 2 - len(layer.kernel_size)
    kernel, stride, dilation = ((1,) * missing + size for size in (layer.kernel_size, layer.stride, layer.dilation))
    padding = (0,) * missing + layer.padding
    windows = F.pad(values, (padding[1], padding[1], padding[0], padding[0]))
    for axis in (0, 1):
        span = (kernel[axis] - 1) * dilation[axis] + 1
        windows = windows.unfold(2 + axis, span, stride[axis])[..., :: dilation[axis]]
    # (clips, channels, rows, columns, kernel rows, kernel columns): a view, from which the positions are copied
    columns = windows.shape[3]
    return windows[clips, :, positions // columns, positions % columns].flatten(2).flatten(0, 1)


def output_rows(layer: nn.Module, values: Tensor, positions: Tensor) -> Tensor:
    """Return the layer's output as rows, ``(clips * positions, outputs)``; arguments as in `input_rows`."""
    clips = torch.arange(len(values), device=values.device)[:, None]
    positions = positions.to(values.device)
    if isinstance(layer, nn.Linear):
        return values.reshape(len(values), -1, values.shape[-1])[clips, positions].flatten(0, 1)
    return values.flatten(2)[clips, :, positions].flatten(0, 1)
