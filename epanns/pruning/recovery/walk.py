"""Clips on their way through one or two networks, step by step, with what lies between the steps kept where it fits."""

from collections.abc import Callable, Iterable, Iterator
from typing import Literal, NoReturn

import torch
from numpy.random import Generator
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from epanns.audio.short_clips import repeat_to_minimum
from epanns.errors import PruningError
from epanns.models.modes import evaluation_mode
from epanns.models.tagger import Features, Tagger
from epanns.pruning.groups import zero_inputs
from epanns.pruning.ranking.calibration import heard
from epanns.seeding import numpy_generator

HELD_OUT_EVERY = 5  # every fifth clip judges the fit to the others
_MOST_CACHED_BYTES = 384 << 20  # of features kept between steps, beside those before; beyond, they are computed again
_CLIPS_AT_ONCE = 8

Pair = tuple[Features, Features]


def run_step(model: Tagger, step: int, features: Features) -> Features:
    """Do one step of a network: 0 begins, the stages follow, and the last one, the head, gives nothing.

    The head is there to be watched; what it would need the inputs for comes behind its last layer.
    """
    stages = model.stages()
    if step == 0:
        return model.begin(features)
    if step <= len(stages):
        return stages[step - 1](features)
    model.head(features, ())
    return ()


def steps_of_modules(model: Tagger) -> dict[str, int]:
    """Return the step in which each convolution, linear layer and batch norm runs, in the order in which they do."""
    found: dict[str, int] = {}
    step = 0

    def note(name: str) -> Callable[[nn.Module, object, object], None]:
        return lambda module, inputs, output: found.update({name: step})

    kinds = (nn.Conv1d, nn.Conv2d, nn.Linear, _BatchNorm)
    handles = [
        module.register_forward_hook(note(name)) for name, module in model.named_modules() if isinstance(module, kinds)
    ]
    try:
        with evaluation_mode(model), torch.inference_mode(False), torch.no_grad():
            inputs = features = zero_inputs(model)
            for step in range(len(model.stages()) + 1):
                features = run_step(model, step, features)
            step += 1
            model.head(features, inputs)
    finally:
        for handle in handles:
            handle.remove()
    return found


class _ReachedError(Exception):
    """Ends a step where what was asked for has been seen."""

    def __init__(self, value: Tensor) -> None:
        super().__init__()
        self.value = value


def watched(model: Tagger, step: int, features: Features, name: str, side: Literal["input", "output"]) -> Tensor:
    """Return what module `name` reads or gives in a step; the rest of the step is not done.

    So nothing that works in place can change the value before it is seen.
    """
    module = model.get_submodule(name)

    def before(module: nn.Module, inputs: tuple[Tensor, ...]) -> NoReturn:
        raise _ReachedError(inputs[0])

    def after(module: nn.Module, inputs: tuple[Tensor, ...], output: Tensor) -> NoReturn:
        raise _ReachedError(output)

    handle = module.register_forward_pre_hook(before) if side == "input" else module.register_forward_hook(after)
    try:
        run_step(model, step, features)
    except _ReachedError as reached:
        return reached.value
    finally:
        handle.remove()
    raise PruningError(f"{name} does not run in step {step} of {model.spec.name}; please report it as a bug")


def _mixed(clips: Tensor, draw: Generator) -> Tensor:
    """Return each of ``(clips, samples)`` weighted and added to another one, which begins at another moment.

    A clip that is alone is added to itself from another moment on.
    """
    if not len(clips):
        return clips
    weights = torch.from_numpy(draw.random(len(clips))).to(clips)[:, None]
    apart = draw.integers(1, len(clips), size=len(clips)) if len(clips) > 1 else [0]
    others = [(clip + int(by)) % len(clips) for clip, by in enumerate(apart)]
    moments = draw.integers(clips.shape[1], size=len(clips))
    rolled = [torch.roll(clips[other], int(moment)) for other, moment in zip(others, moments, strict=True)]
    return clips * weights + torch.stack(rolled) * (1 - weights)


class Walk:
    """The clips of one part, fitted or held out, in a network and in the one it shall imitate.

    Attributes:
        clips: How many clips of both parts there are; known after the first pass.
    """

    def __init__(
        self,
        student: Tagger,
        teacher: Tagger,
        waveforms: Callable[[], Iterable[Tensor]],
        *,
        held_out: bool,
        shared_steps: int,
        mixtures: int = 0,
    ) -> None:
        """Begin before the first step.

        Args:
            student: The network that changes.
            teacher: The one it was made from.
            waveforms: Gives the batches of all clips, as often as it is called.
            held_out: Which part is wanted.
            shared_steps: So many first steps are the same in both.
            mixtures: So many of each clip with another one of its batch are added: more to learn from where clips are
                few.
        """
        self.student, self.teacher, self.clips = student, teacher, 0
        self._waveforms, self._held_out, self._shared_steps = waveforms, held_out, shared_steps
        self._mixtures = mixtures
        self._step = 0  # before which the kept features are
        self._kept: list[Pair] | None = None

    def before(self, step: int) -> Iterator[Pair]:
        """Yield both networks' features before a step, for some clips at a time; steps may be asked for in order."""
        kept: list[Pair] | None = []
        n_bytes = 0
        for pair in self._nearest():
            here = self._advanced(pair, step)
            yield here
            n_bytes += sum(part.numel() * part.element_size() for part in {part for side in here for part in side})
            if n_bytes > _MOST_CACHED_BYTES:
                kept = None
            elif kept is not None:
                kept.append(here)
        if kept is not None:
            self._kept, self._step = kept, step

    def _nearest(self) -> Iterator[Pair]:
        if self._kept is not None:
            yield from self._kept
            return
        device = next(self.student.parameters()).device
        n_clips = 0
        for waveform in heard(self.student, self._waveforms()):
            is_held_out = torch.arange(n_clips, n_clips + len(waveform)) % HELD_OUT_EVERY == 1
            chosen = waveform[is_held_out == self._held_out]
            draws = [numpy_generator("mixtures", n_clips, number) for number in range(self._mixtures)]
            n_clips += len(waveform)
            for some in torch.split(torch.cat([chosen, *(_mixed(chosen, draw) for draw in draws)]), _CLIPS_AT_ONCE):
                if len(some):
                    whole = repeat_to_minimum(some.to(device), self.student.minimum_samples)
                    inputs = self.student.inputs_of(whole)
                    yield inputs, inputs
        if n_clips < 2:
            raise PruningError(f"{n_clips} calibration clips: give at least two, some hundreds if you can")
        self.clips = n_clips

    def _advanced(self, pair: Pair, step: int) -> Pair:
        ours, theirs = pair
        for index in range(self._step, step):
            if index < self._shared_steps:
                ours = theirs = run_step(self.student, index, ours)
            else:
                ours, theirs = run_step(self.student, index, ours), run_step(self.teacher, index, theirs)
        return ours, theirs
