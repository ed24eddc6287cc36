"""Training: from a network and clips to the best checkpoint."""

from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from epanns.data.compatibility import require_same_task
from epanns.data.dataset import PackDataset
from epanns.distributed import on_rank_zero
from epanns.errors import Interrupted
from epanns.models.modes import requires_grad_restored
from epanns.models.tagger import Tagger
from epanns.seeding import random_state_kept
from epanns.signals import catching_signals
from epanns.training.config import TrainingConfig
from epanns.training.folder import RunFolder
from epanns.training.identity import identity_of
from epanns.training.kernels import kernels_tried_out
from epanns.training.learner import Learner, require_learner
from epanns.training.loop import Run
from epanns.training.memory import memory_errors_told
from epanns.training.run_options import RunOptions
from epanns.training.state import TrainingState
from epanns.training.teacher import teacher_of
from epanns.training.validation import Validation, indistinct, require_positives


@dataclass(frozen=True)
class TrainingResult:
    """How a run ended.

    Attributes:
        best_step: Step whose weights were kept, those with the best validation score; 0 for those from before training.
        best_score: That score.
        steps: Steps done in all.
        seconds: Time spent, over all resumptions.
        chosen_by: The score: ``mAP``, or ``accuracy`` of single-label networks.
        curve: Step and score of every validation; none in runs from before it was kept.
    """

    best_step: int
    best_score: float
    steps: int
    seconds: float
    chosen_by: str = "mAP"
    curve: Sequence[Sequence[float]] = ()


def finetune(
    model: Tagger,
    dataset: PackDataset,
    config: TrainingConfig,
    out: Path | str,
    *,
    validation: Validation,
    options: RunOptions | None = None,
    teacher: Tagger | None = None,
) -> TrainingResult:
    """Train `model` and leave the best checkpoint in `out`: by validation mAP, or accuracy of a single-label network.

    The run goes on where it was when called again with the same arguments, and on one machine ends with the same
    weights as if it had never stopped: step k draws its clips, mixing weights, masks and dropout from (seed, k) alone.
    Several processes, each of which calls this, share every batch and do what one does; rank 0 alone writes and tells.

    Args:
        model: Trained in place, on the device its parameters are on, in channels-last memory format; it is left with
            the weights of the last step, or of a run that had ended before, as it is: `load` the folder. What was to
            learn before may learn after. To go on, a network that no file tells must be built with the same weights.
        dataset: Training clips with the model's labels and sample rate; `config` says what is taken of each.
        config: What to do.
        out: Run folder; becomes the checkpoint folder of the best weights when the run ends.
        validation: Called at step 0, every `validate_every` steps and after the last one.
        options: How to carry the run out, and whom to tell.
        teacher: Network to learn from beside the labels, by the weights that `config` gives it; it is moved to the
            model's device and otherwise left as it is.

    Raises:
        ConfigError: If data, teacher or `config` do not fit the model or the number of processes, or the validation
            lacks the score that decides.
        OutputError: If `out` holds another run, another process works in it, or it cannot be written.
        TrainingError: If loss or gradient is not finite several times in a row (single such steps are skipped,
            told and counted), scores of a validation are not finite, or memory runs out.
        CheckpointError: If the run was begun before and none of its states can be used.
        Interrupted: If SIGINT, SIGTERM or SIGUSR1 came; the state is saved.
    """
    if config.task is not None:
        model.set_task(config.task)
    require_same_task(model, dataset)
    taught_by = teacher_of(model, teacher, config)
    require_learner(model, config)
    if validation.clips is not None:
        require_positives(validation.clips)
    options = (options or RunOptions()).heard_once()
    asked = identity_of(model, dataset, config, validation, teacher)
    folder = RunFolder(Path(out), asked, fresh=options.fresh, command=options.command)
    with (
        _opened(folder) as ended,
        random_state_kept(next(model.parameters()).device),  # the seeding of every step is not the caller's
        requires_grad_restored(model),
        catching_signals() as stop,
    ):
        if ended is not None:
            return TrainingResult(**ended)
        if validation.clips is not None and (note := indistinct(validation.clips, model.spec.task)):
            options.log(note)
        with memory_errors_told(config, folder.kept), kernels_tried_out():
            run = Run(Learner(model, config, taught_by), folder, validation, options)
            with run.logging():
                run.to_the_end(dataset, stop)
        result = _result_of(run.state, run.chosen_by)
        on_rank_zero(lambda: folder.finish(asdict(result)))
    model.provenance = model.provenance.with_operation(model.provenance.training_kind, **folder.step_settings)
    if stop.signal_number is not None:
        raise Interrupted(
            stop.signal_number, f"signal {stop.signal_number} came as the run in {out} ended; it is whole"
        )
    return result


@contextmanager
def _opened(folder: RunFolder) -> Iterator[dict[str, Any] | None]:
    """Open the folder on rank 0 and tell all what it holds."""
    with ExitStack() as stack:
        yield on_rank_zero(lambda: stack.enter_context(folder.opened()))


def _result_of(state: TrainingState, chosen_by: str) -> TrainingResult:
    curve = [[row["step"], row[chosen_by]] for row in state.history]
    return TrainingResult(state.best_step, state.best_score, state.step, round(state.seconds, 3), chosen_by, curve)
