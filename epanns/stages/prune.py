"""Prune a network to the widths of a plan in several rounds, with recovery and fine-tuning between the rounds."""

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from epanns.data.batches.dataset import PackDataset
from epanns.labels import DECISIVE_SCORES
from epanns.models.files.checkpoint import CONFIG
from epanns.models.files.load import load
from epanns.models.pruning_plan import PruningPlan
from epanns.models.tagger import Tagger
from epanns.pruning.calibration_clips import ClipSource
from epanns.pruning.iterative_pruning import Between, final_widths, prune_towards, widths_by_step
from epanns.seeding import derive_seed
from epanns.stages.finetune import require_clips, validation_on
from epanns.training.config import TrainingConfig
from epanns.training.finetune import finetune
from epanns.training.loop import Log, RunOptions, no_log
from epanns.training.metrics import STEP_0_KEPT
from epanns.workfolder import Work, WorkFolder

# Recovers a pruned network in place, given the network before pruning and the plan; returns a report.
Recover = Callable[[Tagger, Tagger, PruningPlan], dict[str, Any] | None]


@dataclass(frozen=True)
class RoundTraining:
    """The fine-tuning after each round but the last.

    Attributes:
        folder: Holds a run folder ``step<round>`` per round, and ``steps.json``, the configuration of the pruning.
        val: Validation clips, whose score chooses the weights with which the next round continues.
        config: Settings of every run; the seed of a run is derived from their seed and the round. With a weight for a
            teacher, the unpruned network teaches.
        identity: All other settings that decide the pruned networks, such as those of the recovery, in JSON values.
    """

    folder: Path
    train: PackDataset
    val: PackDataset
    config: TrainingConfig
    options: RunOptions
    identity: Mapping[str, Any]


@dataclass(frozen=True)
class Rounds:
    """The rounds of a pruning.

    Attributes:
        schedule: As in `epanns.prune_iteratively`.
    """

    number: int = 1
    schedule: str = "linear"
    training: RoundTraining | None = None


def prune_in_rounds(
    dense: Tagger,
    target: PruningPlan,
    rounds: Rounds,
    *,
    calibration: ClipSource | None = None,
    recover: Recover | None = None,
    log: Log = no_log,
) -> tuple[Tagger, dict[str, Any] | None]:
    """Prune to the widths of a plan.

    The network is recovered after each round. With training, which may have changed what the network computes, a round
    recovers toward the network before it; without, toward `dense`, so that later rounds repair what earlier ones lost.
    Called again after a stop, finished runs are read and the unfinished run is resumed. `dense` is not modified;
    `target` is the plan of one round to the final widths.

    Returns:
        The pruned network and the report of the last recovery.

    Raises:
        PruningError: If a round would remove nothing.
        ConfigError: If the clips do not fit the network.
        OutputError: If the folder of the training holds other runs, or another process works in it.
        Interrupted: If a signal stopped a training or a recovery.
    """
    widths_by_step(
        target.base.widths, final_widths(target), rounds.number, rounds.schedule
    )  # raises before anything is written
    reports: list[dict[str, Any] | None] = [None]

    def after_cut(network: Tagger, before: Tagger, plan: PruningPlan, whole: PruningPlan) -> None:
        if recover is None:
            return
        reports.append(recover(network, dense, whole) if rounds.training is None else recover(network, before, plan))
        if rounds.training is None and rounds.number > 1:
            log(f"[{len(reports) - 1}/{rounds.number}] pruned and recovered")

    between = nullcontext() if rounds.training is None else _fine_tuning(dense, target, rounds, rounds.training, log)
    with between as train:
        pruned, plan = prune_towards(
            dense,
            target,
            steps=rounds.number,
            schedule=rounds.schedule,
            between=train,
            after_cut=after_cut,
            calibration=calibration,
        )
    if rounds.number > 1 and rounds.training is None and recover is None:
        log(_compared(plan, target, rounds.number))
    return pruned, reports[-1]


def _compared(plan: PruningPlan, once: PruningPlan, n_rounds: int) -> str:
    """Return in words how the channels kept after several rounds differ from those of one round."""
    kept = [(layer, channel) for layer, channels in plan.kept_channels.items() for channel in channels]
    others = sum(channel not in once.kept_channels[layer] for layer, channel in kept)
    outcome = "they keep the same channels as one round"
    if others:
        outcome = (
            f"{others:,} of {len(kept):,} kept channels differ from those of one round, as {once.criterion} ranks the "
            "remaining channels again"
        )
    return f"neither training nor recovery between the {n_rounds} rounds (--between, --recover): {outcome}"


@contextmanager
def _fine_tuning(
    dense: Tagger, target: PruningPlan, rounds: Rounds, training: RoundTraining, log: Log
) -> Iterator[Between]:
    """Lock the folder and yield the function that fine-tunes a network after a round."""
    require_clips(dense, training.train, training.val)
    config, folder = training.config, training.folder
    validation = validation_on(training.val)
    identity = {
        "parent_sha256": dense.provenance.sha256,
        "criterion": target.criterion,
        "plan": target.digest,
        "steps": rounds.number,
        "schedule": rounds.schedule,
        **training.identity,
        "training": config.to_dict(),
        "data": training.train.identity(),
        "validation": dict(validation.data),
    }
    work = Work(
        "holds no runs between rounds",
        "holds runs with",
        "these runs",
        "repeat the options to resume, delete it to start over, or choose another --out",
        f"delete {folder} or choose another --out",
    )

    def between(network: Tagger, number: int) -> Tagger:
        run = folder / f"step{number}"
        own = replace(config, seed=derive_seed("between", config.seed, number) % 2**32)
        teacher = dense if config.teacher_weights else None
        finetune(
            network,
            training.train,
            own,
            run,
            validation=validation,
            options=training.options,
            teacher=teacher,
        )
        trained = load(run).to(next(network.parameters()).device)
        score, last = DECISIVE_SCORES[trained.spec.task], trained.provenance.recipe[-1].settings
        best = f"validation {score} {last[f'validation_{score}']:.4f}"
        best += "" if last["best_step"] else f" ({STEP_0_KEPT})"
        log(f"[{number}/{rounds.number}] pruned and fine-tuned: {best}; {run}")
        return trained

    place = WorkFolder(folder, "steps.json", work)
    place.require_usable()
    with place.locked():
        place.begin_or_resume(identity, first=identity, read=lambda found: (found, None))
        if (folder / "step1").is_dir():
            done = sum((folder / f"step{number}" / CONFIG).is_file() for number in range(1, rounds.number))
            log(f"resume at round {done + 1} of {rounds.number}")
        yield between
