"""Features of calibration clips at the same place of two networks, stage by stage, kept in memory where they fit."""

from collections.abc import Callable, Iterator
from typing import Literal, NoReturn

import torch
from numpy.random import Generator
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from epanns.audio.short_clips import repeat_to_minimum
from epanns.errors import PruningError
from epanns.models.modes import evaluation_mode
from epanns.models.tagger import Features, Tagger
from epanns.pruning.calibration_clips import CalibrationClips, is_held_out, refuse_too_few
from epanns.pruning.surgery import zero_inputs
from epanns.seeding import numpy_generator

_MOST_CACHED_BYTES = 384 << 20  # of features kept between stages, beside those before; larger ones are computed again
_CLIPS_AT_ONCE = 8

Pair = tuple[Features, Features]


class PairedFeatures:
    """Features of the fitted or of the held-out clips in a student network and in its teacher.

    Attributes:
        n_clips: Number of clips, fitted and held out together; known after the first pass.
    """

    def __init__(
        self,
        student: Tagger,
        teacher: Tagger,
        clips: CalibrationClips,
        *,
        held_out: bool,
        shared_stages: int,
        mixtures: int = 0,
    ) -> None:
        """Start before the first stage.

        Args:
            student: The network that is fitted.
            teacher: The network it was pruned from.
            clips: All calibration clips.
            held_out: Whether to give the held-out clips instead of the fitted ones.
            shared_stages: Number of first stages that are equal in both networks.
            mixtures: Number of mixtures of each clip with another clip of its batch to add.
        """
        self.student, self.teacher, self.n_clips = student, teacher, 0
        self._clips, self._held_out, self._shared_stages = clips, held_out, shared_stages
        self._mixtures = mixtures
        self._stage = 0  # before which the kept features are
        self._kept: list[Pair] | None = None

    def before(self, stage: int) -> Iterator[Pair]:
        """Yield both networks' features before a stage, some clips at a time; call with ascending stages."""
        kept: list[Pair] | None = []
        n_bytes = 0
        for pair in self._nearest():
            advanced = self._advanced(pair, stage)
            yield advanced
            n_bytes += sum(part.numel() * part.element_size() for part in {part for side in advanced for part in side})
            if n_bytes > _MOST_CACHED_BYTES:
                kept = None
            elif kept is not None:
                kept.append(advanced)
        if kept is not None:
            self._kept, self._stage = kept, stage

    def _nearest(self) -> Iterator[Pair]:
        if self._kept is not None:
            yield from self._kept
            return
        device = next(self.student.parameters()).device
        n_clips = 0
        for waveform in self._clips.waveforms(self.student):
            chosen = waveform[is_held_out(n_clips, len(waveform)) == self._held_out]
            generators = [numpy_generator("mixtures", n_clips, number) for number in range(self._mixtures)]
            n_clips += len(waveform)
            mixed = torch.cat([chosen, *(mixtures_of(chosen, generator) for generator in generators)])
            for some in torch.split(mixed, _CLIPS_AT_ONCE):
                if len(some):
                    whole = repeat_to_minimum(some.to(device), self.student.minimum_samples)
                    inputs = self.student.inputs_of(whole)
                    yield inputs, inputs
        refuse_too_few(n_clips)
        self.n_clips = n_clips

    def _advanced(self, pair: Pair, stage: int) -> Pair:
        ours, theirs = pair
        for index in range(self._stage, stage):
            if index < self._shared_stages:
                ours = theirs = run_stage(self.student, index, ours)
            else:
                ours, theirs = run_stage(self.student, index, ours), run_stage(self.teacher, index, theirs)
        return ours, theirs


def run_stage(model: Tagger, stage: int, features: Features) -> Features:
    """Run stage 0, the network's beginning, one of its stages, or the head, whose outputs are dropped.

    The head runs only for hooks on its layers; the inputs that it may need come after its last layer.
    """
    stages = model.stages()
    if stage == 0:
        return model.begin(features)
    if stage <= len(stages):
        return stages[stage - 1](features)
    model.head(features, ())
    return ()


def stages_of_modules(model: Tagger) -> dict[str, int]:
    """Return the stage in which each convolution, linear layer and batch norm runs, in forward order."""
    found: dict[str, int] = {}
    stage = 0

    def note(name: str) -> Callable[[nn.Module, object, object], None]:
        return lambda module, inputs, output: found.update({name: stage})

    kinds = (nn.Conv1d, nn.Conv2d, nn.Linear, _BatchNorm)
    handles = [
        module.register_forward_hook(note(name)) for name, module in model.named_modules() if isinstance(module, kinds)
    ]
    try:
        with evaluation_mode(model), torch.inference_mode(False), torch.no_grad():
            inputs = features = zero_inputs(model)
            for stage in range(len(model.stages()) + 1):
                features = run_stage(model, stage, features)
            stage += 1
            model.head(features, inputs)
    finally:
        for handle in handles:
            handle.remove()
    return found


class _ReachedError(Exception):
    """Ends a stage once the wanted tensor is there."""

    def __init__(self, value: Tensor) -> None:
        super().__init__()
        self.value = value


def capture(model: Tagger, stage: int, features: Features, name: str, side: Literal["input", "output"]) -> Tensor:
    """Return the input or output of module `name` in a stage.

    The rest of the stage does not run, so no in-place operation can change the tensor.
    """
    module = model.get_submodule(name)

    def before(module: nn.Module, inputs: tuple[Tensor, ...]) -> NoReturn:
        raise _ReachedError(inputs[0])

    def after(module: nn.Module, inputs: tuple[Tensor, ...], output: Tensor) -> NoReturn:
        raise _ReachedError(output)

    handle = module.register_forward_pre_hook(before) if side == "input" else module.register_forward_hook(after)
    try:
        run_stage(model, stage, features)
    except _ReachedError as reached:
        return reached.value
    finally:
        handle.remove()
    raise PruningError(f"{name} does not run in stage {stage} of {model.spec.name}; please report it as a bug")


def mixtures_of(clips: Tensor, generator: Generator) -> Tensor:
    """Return each of ``(clips, samples)`` weighted and added to another clip, which is rolled to a random start.

    A single clip is added to itself, rolled.
    """
    if not len(clips):
        return clips
    weights = torch.from_numpy(generator.random(len(clips))).to(clips)[:, None]
    shifts = generator.integers(1, len(clips), size=len(clips)) if len(clips) > 1 else [0]
    others = [(clip + int(shift)) % len(clips) for clip, shift in enumerate(shifts)]
    starts = generator.integers(clips.shape[1], size=len(clips))
    rolled = [torch.roll(clips[other], int(start)) for other, start in zip(others, starts, strict=True)]
    return clips * weights + torch.stack(rolled) * (1 - weights)
