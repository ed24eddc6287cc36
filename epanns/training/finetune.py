"""Training a network on clips, and keeping the best checkpoint."""

from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import asdict, dataclass
from pathlib import Path

from epanns.data.batches.compatibility import require_same_task
from epanns.data.batches.dataset import PackDataset
from epanns.distributed import on_rank_zero
from epanns.errors import Interrupted
from epanns.models.modes import requires_grad_restored
from epanns.models.tagger import Tagger
from epanns.process import catching_signals
from epanns.seeding import random_state_kept
from epanns.training.acceleration import fastest_kernels
from epanns.training.config import TrainingConfig
from epanns.training.distillation import teacher_of
from epanns.training.learner import Learner, require_learner
from epanns.training.loop import Run, RunOptions
from epanns.training.memory import memory_errors_explained
from epanns.training.run_folder import RunFolder, identity_of
from epanns.training.teacher_scores import TeacherScores
from epanns.training.validation import Validation, indistinct, require_positives


@dataclass(frozen=True)
class TrainingResult:
    """The result of a finished run.

    Attributes:
        best_step: Step whose weights were kept: that with the best validation score, 0 for the initial weights, or with
            ``keep = "last"`` the last step.
        best_score: Its validation score.
        steps: Number of optimisation steps.
        seconds: Time spent, over all resumptions.
        chosen_by: Name of the validation score: ``mAP``, or ``accuracy`` of single-label networks.
        curve: Step and score of every validation.
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
    teacher: Tagger | TeacherScores | None = None,
) -> TrainingResult:
    """Train `model`, and write the checkpoint with the best validation score, or of the last step, to `out`.

    A call with the same arguments resumes the run and, on one machine, ends with the same weights as a run without a
    stop: step k draws its clips, mixup weights, masks and dropout from (seed, k) alone. Several processes that all call
    this function share every batch and compute the same as one; rank 0 alone writes files and calls callbacks.

    Args:
        model: Network, trained in place on the device of its parameters, in channels-last memory format. It is left
            with the weights of the last step, or unchanged if the run had finished before: use `load` to get the best
            weights. Layers that were trainable stay trainable. To resume, a network that was not read from a file must
            be rebuilt with the same weights.
        dataset: Training clips with the model's labels and sample rate, cropped by the settings in `config`.
        config: Settings.
        out: Run folder; it becomes a checkpoint folder with the best weights when the run has finished.
        validation: Scores the model at step 0, every `validate_every` steps and after the last step.
        options: Options that do not change the result.
        teacher: Network to learn from beside the labels, with the weights in `config`, or its scores of the training
            clips; a network is moved to the model's device and otherwise left unchanged.

    Raises:
        ConfigError: If data, teacher or `config` do not fit the model or the number of processes, or the validation
            does not return the deciding score.
        OutputError: If `out` holds another run, another process works in it, or it cannot be written.
        TrainingError: If loss or gradient is not finite several times in a row (single such steps are skipped, logged
            and counted), scores of a validation are not finite, or memory runs out.
        CheckpointError: If the run was begun before and none of its states can be used.
        Interrupted: After SIGINT, SIGTERM or SIGUSR1; the state is saved.
    """
    if config.task is not None:
        model.set_task(config.task)
    require_same_task(model, dataset)
    taught_by = teacher_of(model, teacher, config, dataset)
    require_learner(model, config)
    if validation.clips is not None:
        require_positives(validation.clips)
    options = (options or RunOptions()).for_this_process()
    identity = identity_of(model, dataset, config, validation, teacher)
    folder = RunFolder(Path(out), identity, fresh=options.fresh, command=options.command)
    with ExitStack() as stack:
        finished = on_rank_zero(lambda: stack.enter_context(folder.opened()))
        if finished is not None:
            return TrainingResult(**finished)
        stack.enter_context(random_state_kept(next(model.parameters()).device))  # every step sets torch's seed
        stack.enter_context(requires_grad_restored(model))
        stop = stack.enter_context(catching_signals())
        if validation.clips is not None and (note := indistinct(validation.clips, model.spec.task)):
            options.log(note)
        with memory_errors_explained(config, folder.kept), fastest_kernels():
            run = Run(Learner(model, config, taught_by), folder, validation, options)
            with run.logging():
                run.complete(dataset, stop)
        state, chosen_by = run.state, run.chosen_by
        curve = [[row["step"], row[chosen_by]] for row in state.history]
        seconds = round(state.seconds, 3)
        result = TrainingResult(state.best_step, state.best_score, state.step, seconds, chosen_by, curve)
        on_rank_zero(lambda: folder.finish(asdict(result)))
    model.provenance = model.provenance.with_operation(model.provenance.training_kind, **folder.settings)
    if stop.signal_number is not None:
        raise Interrupted(
            stop.signal_number, f"signal {stop.signal_number} came as the run in {out} ended; it is whole"
        )
    return result
