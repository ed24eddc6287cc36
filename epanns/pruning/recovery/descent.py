"""Gradient steps of a pruned network toward the unpruned one, without labels: the loop of ``align`` and ``distil``.

Four measures make it safe with few clips: batch norms keep their statistics, the learning rate decays to zero, every
step uses new crops and mixtures of clips, and held-out clips choose the weights: those with the lowest held-out loss
are kept, or those from before the first step if no step improved on them.
"""

import copy
import math
import shutil
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Protocol

import torch
from torch import Tensor, nn

from epanns.errors import Interrupted, PruningError
from epanns.models.modes import evaluation_mode, requires_grad_restored
from epanns.models.tagger import Tagger
from epanns.process import Stopped, StopRequest, catching_signals
from epanns.pruning.calibration_clips import CalibrationClips, ClipSource
from epanns.pruning.recovery.mixed_crops import MixedCrops
from epanns.state_files import read_newest_state, write_state
from epanns.workfolder import Work, WorkFolder

_FORMAT = "epanns-recovery-state/1"
_FIRST = "recovery.json"
_WORK = Work(
    "holds no recovery",
    "holds a recovery with",
    "a recovery",
    "repeat the options to resume, delete it to start over, or choose another --out",
    "delete it or choose another --out",
)


class Objective(Protocol):
    """A loss between a pruned network and the unpruned one; lower is nearer."""

    def scale_to(self, batches: Iterator[Tensor]) -> None:
        """Measure the scales of the loss on the held-out clips, ``(batch, samples)`` at a time."""

    def loss(self, waveform: Tensor) -> Tensor:
        """Return the mean loss of clips ``(batch, samples)``."""


@dataclass(frozen=True)
class DescentSettings:
    """Settings of the gradient steps.

    Attributes:
        steps: Number of steps, > 0.
        seed: Seed of crops, mixtures and gains.
        batch: Number of inputs of a step.
        part: Number of inputs computed at once, which bounds the memory; gradients are summed over the parts.
        rate: Highest learning rate of Adam, reached after `warm_up` steps; it then decays to zero by a cosine.
        warm_up: Number of steps of linear warm-up.
        gradient_norm: Norm to which larger gradients are scaled.
        crop_seconds: Length of an input; None for whole clips.
        evaluations: Number of evaluations on the held-out clips.
        patience: Number of evaluations in a row without improvement after which the steps end.
    """

    steps: int
    seed: int = 0
    batch: int = 48
    part: int = 16
    rate: float = 1e-3
    warm_up: int = 50
    gradient_norm: float = 1.0
    crop_seconds: float | None = 0.975
    evaluations: int = 20
    patience: int = 6

    def rate_at(self, step: int) -> float:
        """Return the learning rate of a step, counted from 1."""
        warm = min(1.0, step / max(1, min(self.warm_up, self.steps // 10)))
        return self.rate * warm * 0.5 * (1 + math.cos(math.pi * (step - 1) / self.steps))


@dataclass(frozen=True)
class Descent:
    """Result of gradient steps.

    Attributes:
        clips: Number of calibration clips, held-out ones included.
        steps: Number of optimisation steps, fewer than requested if the held-out loss no longer fell.
        best_step: The step whose weights are kept; 0 for the weights from before the first step.
        before: Loss on held-out clips before the first step.
        after: The same with the weights that are kept.
        curve: Step and loss on held-out clips of every evaluation.
    """

    clips: int
    steps: int
    best_step: int
    before: float
    after: float
    curve: tuple[tuple[int, float], ...]

    def settings(self, steps: int, seed: int) -> dict[str, Any]:
        """Return the settings and results for a recipe, given the requested number of steps and the seed."""
        held_out = {"before": self.before, "after": self.after}
        return {"clips": self.clips, "steps": steps, "seed": seed, "best_step": self.best_step, "held_out": held_out}


@dataclass(frozen=True)
class RecoveryRun:
    """How gradient steps are carried out; nothing here changes their result.

    Attributes:
        folder: Folder of the states from which killed work resumes, removed when the steps are done; None saves none.
        identity: What decides the networks and the clips, in JSON values, compared before a resumption.
        on_step: Called after each step with its number, the number of all steps and its loss.
        log: Called with one line for each event that a user should see.
        keeps_states: Whether the folder stays when the steps are done, and the same call then reads the result from it;
            the caller, who has several recoveries to do, removes it at the end.
    """

    folder: Path | None = None
    identity: Mapping[str, Any] = field(default_factory=dict)
    on_step: Callable[[int, int, float], None] | None = None
    log: Callable[[str], None] = field(default=lambda line: None)
    keeps_states: bool = False


def descend(
    student: Tagger,
    teacher: Tagger,
    clips: ClipSource,
    objective: Objective,
    settings: DescentSettings,
    *,
    identity: Mapping[str, Any],
    run: RecoveryRun | None = None,
) -> Descent:
    """Train `student` in place until the steps are done or the held-out loss no longer falls; keep the best weights.

    With a folder, a call with the same arguments after a stop resumes, and ends with the same bytes as one without.

    Args:
        student: The pruned network.
        teacher: The unpruned network; not touched.
        clips: Batches of waveforms ``(batch, samples)`` float in [-1, 1], all of one length, at least two clips.
        objective: The loss.
        settings: See there.
        identity: All that decides the result beside `settings`, in JSON values.
        run: Folder and callbacks.

    Raises:
        PruningError: If the clips cannot be used, or a value is not finite.
        Interrupted: After SIGINT, SIGTERM or SIGUSR1, if there is a folder; the state is saved.
        OutputError: If the folder holds other work, or another process works in it.
    """
    if settings.steps < 1:
        raise PruningError(f"{settings.steps} steps: give at least 1")
    run = run or RecoveryRun()
    before = {name: value.clone() for name, value in student.state_dict().items()}
    with ExitStack() as stack:
        stop = StopRequest()
        if run.folder is not None:
            work = WorkFolder(run.folder, _FIRST, _WORK)
            work.require_usable()
            stack.enter_context(work.locked())
            whole = {**run.identity, **identity, "settings": asdict(settings)}
            work.begin_or_resume(whole, first=whole, read=lambda found: (found, None))
            stop = stack.enter_context(catching_signals())
        stack.enter_context(trainable(student))
        stack.enter_context(evaluation_mode(teacher))
        try:
            crops = MixedCrops(CalibrationClips.of(clips), student, crop_seconds=settings.crop_seconds)
            result = _Loop(student, crops, objective, settings, run, stop).complete()
        except BaseException:
            student.load_state_dict(before)
            raise
    if run.folder is not None and not run.keeps_states:
        shutil.rmtree(run.folder)
    return result


@contextmanager
def trainable(model: nn.Module) -> Iterator[None]:
    """Make every parameter trainable in evaluation mode, in which batch norms keep their statistics; restore both."""
    with torch.inference_mode(False), torch.enable_grad(), evaluation_mode(model), requires_grad_restored(model):
        model.requires_grad_(True)
        try:
            yield
        finally:
            model.zero_grad(set_to_none=True)


class _Loop:
    """The steps, their best weights, and the state on disk."""

    def __init__(
        self,
        student: Tagger,
        crops: MixedCrops,
        objective: Objective,
        settings: DescentSettings,
        run: RecoveryRun,
        stop: StopRequest,
    ) -> None:
        self._student, self._crops, self._objective = student, crops, objective
        self._settings, self._run, self._stop = settings, run, stop
        self._parameters = list(student.parameters())
        self._optimizer = torch.optim.Adam(self._parameters, lr=settings.rate)
        self._every = max(1, settings.steps // settings.evaluations)
        self._step = self._best_step = self._without_gain = 0
        self._before = self._best = math.inf
        self._kept: dict[str, Tensor] = {}
        self._curve: list[tuple[int, float]] = []

    def complete(self) -> Descent:
        """Do the remaining steps and load the best weights."""
        self._objective.scale_to(self._crops.held_out(self._settings.part))
        folder = self._run.folder
        if folder is None or self._read_state(folder) is None:
            self._before = self._held_out_loss()
            if not math.isfinite(self._before):
                raise PruningError("outputs are not finite on the calibration clips; look for bad clips or weights")
            self._best, self._kept = self._before, copy.deepcopy(self._student.state_dict())
            self._curve = [(0, self._before)]
            self._save()
        else:
            self._run.log(f"resume the recovery at step {self._step:,} of {self._settings.steps:,}")
        while self._step < self._settings.steps and self._without_gain < self._settings.patience:
            if not self._descend_once():
                self._run.log(f"step {self._step + 1:,} of the recovery: loss or gradient is not finite; it ends there")
                break
            if self._step % self._every == 0 or self._step == self._settings.steps:
                self._evaluate()
                self._save()
            self._raise_if_stopped()
        self._student.load_state_dict(self._kept)
        curve = tuple((int(step), float(loss)) for step, loss in self._curve)
        return Descent(self._crops.total, self._step, self._best_step, self._before, self._best, curve)

    def _descend_once(self) -> bool:
        """Do a step; return whether loss and gradient were finite, without which the weights stay."""
        step, settings = self._step + 1, self._settings
        for group in self._optimizer.param_groups:
            group["lr"] = settings.rate_at(step)
        self._optimizer.zero_grad()
        total = 0.0
        for part in torch.split(self._crops.inputs(settings.seed, step, settings.batch), settings.part):
            loss = self._objective.loss(part) * (len(part) / settings.batch)
            loss.backward()  # type: ignore[no-untyped-call]
            total += float(loss.detach())
        norm = nn.utils.clip_grad_norm_(self._parameters, settings.gradient_norm)
        if not math.isfinite(total) or not bool(norm.isfinite()):
            return False
        self._optimizer.step()
        self._step = step
        if self._run.on_step is not None:
            self._run.on_step(step, settings.steps, total)
        return True

    def _evaluate(self) -> None:
        loss = self._held_out_loss()
        self._without_gain += 1
        if loss < self._best:
            self._best, self._best_step, self._without_gain = loss, self._step, 0
            self._kept = copy.deepcopy(self._student.state_dict())
        self._curve.append((self._step, loss))
        self._run.log(
            f"step {self._step:,} of {self._settings.steps:,}: loss {loss:.4f} on held-out clips, {self._before:.4f} "
            "before the first step"
        )

    @torch.no_grad()
    def _held_out_loss(self) -> float:
        total = n_clips = 0.0
        for waveform in self._crops.held_out(self._settings.part):
            total += float(self._objective.loss(waveform)) * len(waveform)
            n_clips += len(waveform)
        return total / n_clips

    def _raise_if_stopped(self) -> None:
        try:
            self._stop.raise_if_stopped()
        except Stopped as stopped:
            self._save()
            raise Interrupted(
                stopped.signal_number,
                f"stopped by signal {stopped.signal_number} at step {self._step:,} of {self._settings.steps:,} of the "
                f"recovery; the same command resumes it from {self._run.folder}",
            ) from None

    def _save(self) -> None:
        if self._run.folder is not None:
            counters = {name: getattr(self, f"_{name}") for name in _COUNTERS}
            values = {"format": _FORMAT, **counters, "model": self._student.state_dict(), "kept": self._kept}
            write_state(self._run.folder, self._step, {**values, "optimizer": self._optimizer.state_dict()})

    def _read_state(self, folder: Path) -> bool | None:
        remedy = f"delete {folder} to start over"
        return read_newest_state(folder, self._resume, self._run.log, what="state of a recovery", remedy=remedy)

    def _resume(self, saved: dict[str, Any]) -> bool:
        if saved["format"] != _FORMAT:
            raise ValueError(f"its format is {saved['format']!r}, not {_FORMAT!r}")
        counters = {name: saved[name] for name in _COUNTERS}
        self._student.load_state_dict(saved["model"])
        self._optimizer.load_state_dict(saved["optimizer"])
        self._kept = saved["kept"]
        for name, value in counters.items():
            setattr(self, f"_{name}", value)
        return True


_COUNTERS = ("step", "best_step", "without_gain", "before", "best", "curve")
