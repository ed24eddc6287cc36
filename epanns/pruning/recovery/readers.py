"""The layers that read pruned channels, in the order in which they are fitted, and the rows that they are fitted to."""

from collections.abc import Iterator

import torch
from torch import Tensor, nn

from epanns.errors import PruningError
from epanns.models.pruning_plan import PruningPlan
from epanns.models.tagger import Tagger
from epanns.pruning.engine import channel_groups
from epanns.pruning.groups import ChannelGroup, forward_order
from epanns.pruning.recovery.rows import chosen_places, input_rows, output_rows, places_per_clip
from epanns.pruning.recovery.walk import Walk, steps_of_modules, watched

_MOST_PLACES = 1024  # of a clip that are fitted; neighbours say much the same
_CHUNK_BYTES = 96 << 20  # of rows in float64 at a time


class RefitLayout:
    """Which layers are fitted and which batch norms measured, in what order, and which of their channels are left.

    Attributes:
        names: Readers of pruned channels, and batch norms that change and that none of them stands right before, in
            forward order.
        norms: The latter.
        whole: Whether all channels are there, those that will go included.
        steps: The step of the network in which each runs.
        norm_behind: Layer -> the batch norm right behind it.
        shared_steps: So many first steps are the same in the pruned and in the unpruned network.
        inputs: Reader -> its inputs that are left; None where it has no others.
        outputs: The same of the outputs of layers and norms.
    """

    def __init__(self, dense: Tagger, plan: PruningPlan, *, whole: bool) -> None:
        """Lay out the refit of a network that is pruned, or still `whole`, with every output wanted."""
        self.whole = whole
        self.norm_behind = forward_order(dense).norms
        self.steps = steps_of_modules(dense)
        self.inputs: dict[str, Tensor | None] = {}
        self.outputs: dict[str, Tensor | None] = {}
        groups = [group for group in channel_groups(dense).values() if group.layer in plan.pruned_layers]
        depthwise = {name for group in groups for name in group.depthwise}
        behind_mixers = {norm for layer, norm in self.norm_behind.items() if layer not in depthwise}
        readers = {reader.name for group in groups for reader in group.readers}
        norms = {norm for group in groups for norm in group.norms} - behind_mixers
        order = list(self.steps)
        first = min((order.index(name) for name in readers), default=0)  # before it, nothing is computed differently
        self.norms = {norm for norm in norms if order.index(norm) > first}
        self.names = [name for name in order if name in readers or name in self.norms]
        self.shared_steps = min((self.steps[name] for group in groups for name in group.producers), default=0)
        for group in groups:
            self._note_channels(dense, group, plan.kept_channels[group.layer], whole=whole)

    def _note_channels(self, dense: Tagger, group: ChannelGroup, kept: tuple[int, ...], *, whole: bool) -> None:
        for reader in group.readers if whole else ():
            left = self.inputs.get(reader.name)
            if left is None:
                left = torch.arange(dense.get_submodule(reader.name).get_parameter("weight").shape[1])
            own = left[(left >= reader.offset) & (left < reader.offset + group.width)] - reader.offset
            gone = own[~torch.isin(own, torch.tensor(kept))] + reader.offset
            self.inputs[reader.name] = left[~torch.isin(left, gone)]
        if not whole:
            self.outputs |= dict.fromkeys((*group.producers, *group.norms), torch.tensor(kept))


class FittedReader:
    """A layer that reads pruned channels: the one to be fitted, and the one whose outputs it shall reproduce."""

    def __init__(self, layout: RefitLayout, name: str, student: Tagger, teacher: Tagger) -> None:
        self.name, self.step = name, layout.steps[name]
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
        """Return the weights as they are, ``(inputs, outputs)`` float64 on the CPU, those of inputs that are left."""
        return self._of_inputs_left(self.weight).flatten(1).T.double().cpu()

    def rows(self, walk: Walk) -> Iterator[tuple[Tensor, Tensor]]:
        """Yield inputs ``(rows, inputs)`` and targets ``(rows, outputs)``, float64 on the CPU, a few rows at a time."""
        at_once = max(1, _CHUNK_BYTES // (8 * self._of_inputs_left(self.weight)[0].numel()))
        n_clips = 0
        for ours, theirs in walk.before(self.step):
            values = watched(walk.student, self.step, ours, self.name, "input")
            imitated = (walk.student, ours) if self._whole else (walk.teacher, theirs)
            targets = watched(imitated[0], self.step, imitated[1], self.name, "output")
            values = self._of_inputs_left(values, self.module)
            if self._outputs is not None:
                targets = _channels(self._original, targets, self._outputs)
            n_places = places_per_clip(self._original, targets)
            places = torch.stack(
                [chosen_places(self.name, n_clips + clip, n_places, _MOST_PLACES) for clip in range(len(values))]
            )
            n_clips += len(values)
            for clips in torch.split(torch.arange(len(values)), max(1, at_once // places.shape[1])):
                for some in torch.split(places[clips], at_once, dim=1):
                    p = input_rows(self.module, values[clips], some)
                    yield p.cpu().double(), output_rows(self._original, targets[clips], some).cpu().double()

    def set(self, weights: Tensor, constant: Tensor) -> None:
        """Put in ``(inputs, outputs)`` weights, zero for inputs that go, and the constant that goes with them."""
        new = torch.zeros_like(self.weight)
        shape = (len(new), -1, *new.shape[2:])
        if self._inputs is None:
            new.copy_(weights.T.reshape(shape))
        else:
            new[:, self._inputs] = weights.T.reshape(shape).to(new)
        self.weight.copy_(new)
        if isinstance(self.module.bias, Tensor):
            self.module.bias.copy_(constant)
        else:  # a batch norm that expects so much less says the same
            assert self._norm is not None
            mean = self._norm.get_buffer("running_mean")
            mean.sub_(constant.to(mean))

    def _of_inputs_left(self, values: Tensor, layer: nn.Module | None = None) -> Tensor:
        if self._inputs is None:
            return values
        return values[:, self._inputs] if layer is None else _channels(layer, values, self._inputs)


def _channels(layer: nn.Module, values: Tensor, channels: Tensor) -> Tensor:
    return values[..., channels] if isinstance(layer, nn.Linear) else values[:, channels]
