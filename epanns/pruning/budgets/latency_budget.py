"""From a budget of latency to widths: a table of layer times chooses them, and the network is measured.

`LatencyTable` predicts the latency of any widths from the times of single layers on this machine.
"""

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from epanns.complexity.latency import Latency, measure_latency, noise, synchronize
from epanns.complexity.width_cost import WidthCost, Widths
from epanns.errors import PruningError
from epanns.models.families.lean import BiLSTM
from epanns.models.modes import evaluation_mode
from epanns.models.tagger import Tagger
from epanns.models.zoo import build_model
from epanns.pruning.budgets.budget import Budget
from epanns.pruning.budgets.widths_for_budget import Allocation, BudgetResult
from epanns.pruning.surgery import forward_order

TOLERANCE = 0.1  # of the budget: how far from it the measured latency may be
_AIM, _ENOUGH = 0.95, 0.97  # of the budget at which the prediction aims, and of the aim that is enough
_TRIES = 6
_SECONDS = 10.0
_FRACTIONS = (1 / 16, 1 / 8, 1 / 4, 1 / 2, 3 / 4, 1.0)  # of the inputs and of the outputs: every pair is timed
_MOST_PASSES, _ENOUGH_MILLISECONDS = 20, 30.0  # whichever comes first: slow layers need few passes

Layer = nn.Conv1d | nn.Conv2d | nn.Linear
Runs = Callable[[Tensor], object]


def time_runs(run: Runs, example: Tensor) -> float:
    """Return the milliseconds of the fastest of a few runs after a warm-up."""
    passes: list[float] = []
    with torch.inference_mode():
        run(example)
        while not passes or (sum(passes) < _ENOUGH_MILLISECONDS and len(passes) < _MOST_PASSES):
            synchronize(example.device)
            started = time.perf_counter()
            run(example)
            synchronize(example.device)
            passes.append(1000 * (time.perf_counter() - started))
    return min(passes)


@dataclass(frozen=True)
class Timing:
    """The functions that measure times.

    Attributes:
        part: Returns the milliseconds of a layer, or of a front end, on an input.
        network: Returns the latency of a whole network on a clip of 10 s.
    """

    part: Callable[[Runs, Tensor], float] = time_runs
    network: Callable[[Tagger], Latency] = partial(measure_latency, seconds=_SECONDS)


def widths_for_latency(
    model: Tagger,
    budget: Budget,
    allocation: Allocation,
    build: Callable[[Mapping[str, int]], Tagger],
    timing: Timing | None = None,
) -> BudgetResult:
    """Choose widths with which the measured latency is at most a budget, and at least 90 % of it.

    `build` returns the pruned network of given widths. Widths are chosen as for other budgets, by the times of a
    `LatencyTable`. The network of these widths is built and measured; if it is not within the tolerance, the table is
    scaled to the measurement, and this is repeated a few times. If no network was within the budget and near enough,
    the nearest one within 10 % above is taken.

    Raises:
        PruningError: If the network is fast enough as it is, too slow at its narrowest, or no measured network came
            within 10 %; the message has the latencies measured.
    """
    timing = timing or Timing()
    table = LatencyTable(model, allocation.layers, timing)
    unpruned = table.unpruned.median
    limit = float(budget.limit(unpruned))
    allocation.refuse_unreachable(budget, limit, most=unpruned, least=0.0)

    def predicted(widths: Widths) -> NDArray[np.float64]:
        return table.evaluate(allocation.in_network(model.spec, widths))

    tries: list[_Try] = []
    scale = 1.0  # measured per predicted, from the last try
    while len(tries) < _TRIES:
        aim = _AIM * limit / scale
        search = allocation.search(model.spec, predicted, limit=aim, enough=_ENOUGH * aim)
        levels = search.least if search.cost(search.least) > aim else allocation.choose(search)
        widths = allocation.by_layer(search.widths(levels))
        if any(widths == earlier.widths for earlier in tries):
            break  # there are no widths between the earlier ones
        tries.append(_Try(widths, timing.network(build(widths))))
        measured = tries[-1].latency.median
        if (1 - TOLERANCE) * limit <= measured <= limit:
            break
        scale = measured / search.cost(levels)

    def is_beyond(one: _Try) -> bool:
        return abs(one.latency.median - limit) > TOLERANCE * limit

    best = min(tries, key=lambda one: (is_beyond(one), one.latency.median > limit, abs(one.latency.median - limit)))
    if is_beyond(best):
        narrowest = allocation.by_layer(search.widths(search.least))
        raise PruningError(_missed(budget, limit, unpruned, tries, narrowest))
    return BudgetResult(
        best.widths, allocation.allocator.name, budget, limit, best.latency.median, unpruned, best.latency
    )


@dataclass(frozen=True)
class _Try:
    widths: Mapping[str, int]
    latency: Latency


def _missed(budget: Budget, limit: float, unpruned: float, tries: list[_Try], narrowest: Mapping[str, int]) -> str:
    measured = ", ".join(f"{budget.show(one.latency.median)} (spread {one.latency.spread:.0%})" for one in tries)
    end = ", with every layer at its narrowest" if tries[-1].widths == narrowest else ""
    # On a busy machine a pruned network may take longer than the unpruned network took, which is no budget.
    faster = dict.fromkeys(budget.show(one.latency.median) for one in tries if one.latency.median < unpruned)
    offer = f"ask for {' or '.join(faster)}, " if faster else ""
    return (
        f"a budget of {budget.show(limit)} was not met within {TOLERANCE:.0%}, measured were {measured}{end}, and "
        f"{budget.show(unpruned)} unpruned: {offer}lower round_to, or measure while the machine does nothing else"
    )


class LatencyTable:
    """Predicted latency of a network for a clip of 10 s as a function of its widths.

    Every convolution and linear layer, with the batch norm and a ReLU behind it, is timed separately at every pair of
    some fractions of its inputs and outputs, on inputs of the size it has in the network; between them the times are
    interpolated linearly, and made never to fall where a width rises. The front end is timed once, and so are recurrent
    layers, whose widths do not vary. All other operations are assumed proportional to the layers: their sum is scaled
    to the measured time of the whole network.

    Attributes:
        unpruned: Measured latency of the network the table was made for.
    """

    def __init__(self, model: Tagger, layers: Sequence[str], timing: Timing | None = None) -> None:
        """Time a network's layers; parts that do not depend on the widths of `layers` are timed as they are."""
        timing = timing or Timing()
        self._cost = WidthCost(model.spec)
        self.unpruned = timing.network(model)
        waveform = noise(model, _SECONDS)
        forms, recurrent = _forms(model)
        with evaluation_mode(model):
            self._fixed = timing.part(model.inputs_of, waveform) + sum(
                timing.part(model.get_submodule(name), torch.rand(shape, device=waveform.device))
                for name, shape in recurrent.items()
            )
        self._weights = tuple(f"{name}.weight" for name in forms)
        grids = [_grids(form, self._cost.depends(f"{name}.weight", layers)) for name, form in forms.items()]
        self._outputs = np.array([_padded(outputs) for outputs, _ in grids])
        self._inputs = np.array([_padded(inputs) for _, inputs in grids])
        timed: dict[Any, NDArray[np.float64]] = {}  # many layers of a network are alike
        for form, (outputs, inputs) in zip(forms.values(), grids, strict=True):
            if (form, outputs, inputs) not in timed:
                timed[form, outputs, inputs] = _times(form, outputs, inputs, timing, waveform.device)
        self._times = np.array([timed[form, *grid] for form, grid in zip(forms.values(), grids, strict=True)])
        base = np.array([list(model.spec.widths.values())], np.int64)
        layers_alone, rest = self._layers(base).item(), self.unpruned.median - self._fixed
        self._scale = rest / layers_alone if rest > 0 and layers_alone > 0 else 1.0

    def evaluate(self, widths: Widths) -> NDArray[np.float64]:
        """Return the predicted milliseconds ``(n,)`` of networks of widths ``(n, all layers)``."""
        return self._fixed + self._scale * self._layers(widths)

    def _layers(self, widths: Widths) -> NDArray[np.float64]:
        axes = self._cost.axes_of(self._weights, widths)
        row, up = _place(axes[:, :, 0], self._outputs)
        column, right = _place(axes[:, :, 1], self._inputs)
        layer = np.arange(len(self._weights))
        total: NDArray[np.float64] = (
            (1 - up) * (1 - right) * self._times[layer, row, column]
            + (1 - up) * right * self._times[layer, row, column + 1]
            + up * (1 - right) * self._times[layer, row + 1, column]
            + up * right * self._times[layer, row + 1, column + 1]
        ).sum(axis=1)
        return total


@dataclass(frozen=True)
class _Form:
    """A layer without its widths, so that equal ones are timed once."""

    kind: type[Layer]
    settings: tuple[Any, ...]  # kernel, stride, padding, dilation, whether depthwise; empty for a linear layer
    has_bias: bool
    norm: type[nn.Module] | None
    input_shape: tuple[int, ...]
    out_width: int
    in_width: int  # per group

    @classmethod
    def of(cls, layer: Layer, norm: nn.Module | None, input_shape: torch.Size) -> "_Form":
        """Return the form of a layer on one clip."""
        settings: tuple[Any, ...] = ()
        if not isinstance(layer, nn.Linear):
            settings = (layer.kernel_size, layer.stride, layer.padding, layer.dilation, layer.groups > 1)
        out_width, in_width = layer.weight.shape[:2]
        kind = None if norm is None else type(norm)
        return cls(type(layer), settings, layer.bias is not None, kind, tuple(input_shape), out_width, in_width)

    def build(self, outputs: int, inputs: int, device: torch.device) -> tuple[nn.Module, Tensor]:
        """Return the layer with its batch norm at other widths, and an input for it."""
        if self.kind is nn.Linear:
            layer: nn.Module = nn.Linear(inputs, outputs, bias=self.has_bias)
            shape = (*self.input_shape[:-1], inputs)
        else:
            kernel, stride, padding, dilation, is_depthwise = self.settings
            groups = outputs if is_depthwise else 1
            inputs = outputs if is_depthwise else inputs
            conv: Any = self.kind
            layer = conv(inputs, outputs, kernel, stride, padding, dilation, groups=groups, bias=self.has_bias)
            shape = (self.input_shape[0], inputs, *self.input_shape[2:])
        if self.norm is not None:
            layer = nn.Sequential(layer, self.norm(outputs), nn.ReLU(inplace=True))
        return layer.eval().to(device), torch.rand(shape, device=device)


def _forms(model: Tagger) -> tuple[dict[str, _Form], dict[str, torch.Size]]:
    """Return the form of every convolution and linear layer in forward order, and each recurrent layer's input shape.

    A copy on the meta device finds them without large computations.
    """
    norms = forward_order(model).norms
    with torch.device("meta"):
        twin = build_model(model.spec).eval()
    modules = dict(twin.named_modules())
    forms: dict[str, _Form] = {}
    recurrent: dict[str, torch.Size] = {}

    def note(name: str, layer: Layer, inputs: tuple[Tensor, ...]) -> None:
        norm = norms.get(name)
        forms[name] = _Form.of(layer, None if norm is None else modules[norm], inputs[0].shape)

    for name, module in modules.items():
        if isinstance(module, nn.Conv1d | nn.Conv2d | nn.Linear):
            module.register_forward_pre_hook(partial(note, name))
        elif isinstance(module, BiLSTM):
            module.register_forward_pre_hook(lambda _, inputs, name=name: recurrent.update({name: inputs[0].shape}))
    samples = max(round(_SECONDS * model.spec.front_end.sample_rate), twin.minimum_samples)
    with torch.no_grad():
        twin.forward_inputs(tuple(torch.empty(shape, device="meta") for shape in twin.input_shapes(samples)))
    return forms, recurrent


def _grids(form: _Form, depends: NDArray[np.bool_]) -> tuple[tuple[int, ...], tuple[int, ...]]:
    """Return the widths of outputs and inputs at which a layer is timed, ascending."""
    outputs, inputs = (
        tuple(sorted({max(1, round(width * fraction)) for fraction in _FRACTIONS})) if varies else (width,)
        for width, varies in zip((form.out_width, form.in_width), depends.tolist(), strict=False)
    )
    return outputs, inputs


def _padded(grid: tuple[int, ...]) -> list[int]:
    """Return a grid extended to the length of the longest by widths that no network has."""
    return [*grid, *range(grid[-1] + 1, grid[-1] + 1 + len(_FRACTIONS) - len(grid))]


def _times(
    form: _Form, outputs: tuple[int, ...], inputs: tuple[int, ...], timing: Timing, device: torch.device
) -> NDArray[np.float64]:
    """Return the milliseconds at every pair of widths, never falling, padded to the longest grid."""
    measured = np.array([[timing.part(*form.build(some, others, device)) for others in inputs] for some in outputs])
    rising = np.maximum.accumulate(np.maximum.accumulate(measured, axis=0), axis=1)
    size = len(_FRACTIONS)
    return np.pad(rising, ((0, size - len(outputs)), (0, size - len(inputs))), mode="edge")


def _place(widths: Widths, grid: NDArray[np.int64]) -> tuple[NDArray[np.int64], NDArray[np.float64]]:
    """Return where widths ``(n, layers)`` are in grids ``(layers, points)``: the point below, and the fraction beyond.

    Widths below the smallest count as the smallest.
    """
    below = np.clip((widths[:, :, None] >= grid).sum(axis=2) - 1, 0, grid.shape[1] - 2)
    layer = np.arange(grid.shape[0])
    low, high = grid[layer, below], grid[layer, below + 1]
    return below, np.clip((widths - low) / (high - low), 0.0, 1.0)
