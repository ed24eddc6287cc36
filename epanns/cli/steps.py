"""Pruning in steps, as options of `epanns prune`, and the fine-tuning between the steps."""

import functools
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, fields
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from epanns.cli.options import EXISTING, resuming_command
from epanns.cli.terminal import log
from epanns.cli.training_options import with_frozen_body
from epanns.errors import ConfigError
from epanns.strict import PATH, Rule, list_of
from epanns.text_files import read_toml

if TYPE_CHECKING:
    from epanns.data.dataset import PackDataset
    from epanns.models.pruning_plan import PruningPlan
    from epanns.models.tagger import Tagger
    from epanns.pruning.ranking.calibration import CalibrationBatch
    from epanns.pruning.schedule import Between
    from epanns.training.config import TrainingConfig

_PACKS = Rule(
    "the path of a pack, or a list of such",
    lambda value: PATH.holds(value) or list_of(PATH, "packs", least=1).holds(value),
)
# Recovers a network in place: (pruned, the one it was cut from, plan) -> what is to be told of it.
Recovering = Callable[["Tagger", "Tagger", "PruningPlan"], dict[str, Any] | None]

_OPTIONS = (
    click.option("--steps", type=click.IntRange(1), default=1, show_default=True, help="Number of pruning rounds."),
    click.option(
        "--schedule",
        type=click.Choice(["linear", "geometric"]),
        default="linear",
        show_default=True,
        help="With --steps: channels removed per round: the same number (linear), or the same share of the channels "
        "left (geometric).",
    ),
    click.option(
        "--between",
        type=EXISTING,
        help="With --steps: TOML file of a fine-tuning after each round but the last, in OUT.steps: the packs train "
        "and val, and preset or iterations and other training settings of `epanns finetune`; no other options. The "
        "same command resumes it.",
    ),
)


@dataclass(frozen=True)
class Steps:
    """The options as they were given; see their help."""

    steps: int
    schedule: str
    between: Path | None

    def refuse_contradictions(self) -> None:
        """Refuse options that do not go together, before anything is read."""
        if self.steps == 1 and (self.between is not None or self.schedule != "linear"):
            raise ConfigError(f"--steps {self.steps}: --schedule and --between go with at least two steps")

    def prune(
        self, dense: "Tagger", target: "PruningPlan", runs: "Runs", recovering: Recovering | None
    ) -> "tuple[Tagger, dict[str, Any] | None]":
        """Prune to the widths of a plan.

        Without training it is recovered once, after the last cut; with it after each cut, before the training.

        Args:
            dense: The network; not touched.
            target: What one step would do.
            runs: Where and on what the training between the steps runs.
            recovering: What is done for a pruned network without labels.

        Returns:
            The smaller network and what the last recovery tells.
        """
        from epanns.pruning.schedule import prune_towards, widths_by_step

        widths_by_step(target, self.steps, self.schedule)  # refuses before anything is written
        if self.between is None:
            pruned, plan = prune_towards(
                dense, target, steps=self.steps, schedule=self.schedule, calibration=runs.measured
            )
            if self.steps > 1:
                log(self._compared(plan, target))
            return pruned, None if recovering is None else recovering(pruned, dense, plan)
        reports: list[dict[str, Any] | None] = [None]
        with self._finetuning(self.between, dense, target, runs) as between:
            pruned, _ = prune_towards(
                dense,
                target,
                steps=self.steps,
                schedule=self.schedule,
                calibration=runs.measured,
                between=between,
                after_cut=None if recovering is None else lambda *cut: reports.append(recovering(*cut)),
            )
        return pruned, reports[-1]

    def _compared(self, plan: "PruningPlan", target: "PruningPlan") -> str:
        """Say whether steps without training are the same as one."""
        kept = [(layer, channel) for layer, channels in plan.kept_channels.items() for channel in channels]
        others = sum(channel not in target.kept_channels[layer] for layer, channel in kept)
        nothing = f"nothing is trained between the {self.steps} steps (--between)"
        if others == 0:
            return f"{nothing}: they keep the same channels as one step"
        return (
            f"{nothing}: {others:,} of {len(kept):,} channels they keep are not those of one step, "
            f"as {target.criterion} ranks anew what is left"
        )

    @contextmanager
    def _finetuning(self, file: Path, dense: "Tagger", target: "PruningPlan", runs: "Runs") -> "Iterator[Between]":
        from epanns.cli.packs import in_order_of
        from epanns.cli.training_progress import training_progress
        from epanns.data.compatibility import refuse_leak, require_same_task
        from epanns.labels import DECISIVE_SCORES
        from epanns.models.checkpoint import CONFIG
        from epanns.models.warm_start import stays_frozen
        from epanns.stages.finetune import validation_on
        from epanns.stages.prune import finetuning_between
        from epanns.training.metrics import STEP_0_KEPT

        packs, config, frozen = _read(file)
        by_default = stays_frozen(dense.provenance)
        config = with_frozen_body(config, frozen, by_default=by_default, remedy=f"freeze_yamnet = false in {file}")
        train, val = (in_order_of(dense, runs.opened(packs[part])) for part in ("train", "val"))
        for pack in (train, val):
            require_same_task(dense, pack)
        refuse_leak(train, val, part="validation")
        asked = {
            "parent_sha256": dense.provenance.sha256,
            "criterion": target.criterion,
            "plan": target.digest,
            "steps": self.steps,
            "schedule": self.schedule,
            **runs.asked,
        }
        with (
            training_progress(config) as display,
            finetuning_between(
                runs.folder,
                asked,
                train,
                config,
                validation=validation_on(val),
                options=display.run_options(command=resuming_command()),
                teacher=dense if config.teacher_weights else None,
            ) as finetune,
        ):

            def between(network: "Tagger", step: int) -> "Tagger":
                trained = finetune(network, step)
                score, done = DECISIVE_SCORES[trained.spec.task], trained.provenance.recipe[-1].settings
                best = f"validation {score} {done[f'validation_{score}']:.4f}"
                best += "" if done["best_step"] else f" ({STEP_0_KEPT})"
                display.log(f"[{step}/{self.steps}] cut and fine-tuned: {best}; {runs.folder}/step{step}")
                return trained

            if (runs.folder / "step1").is_dir():
                ended = [step for step in range(1, self.steps) if (runs.folder / f"step{step}" / CONFIG).is_file()]
                display.log(f"resume at round {len(ended) + 1} of {self.steps}")
            yield between


@dataclass(frozen=True)
class Runs:
    """The training between steps.

    Attributes:
        folder: Of the runs; ``OUT.steps``.
        opened: Opens packs.
        asked: What else than plan and steps decides the result, in JSON values.
        measured: Clips that the criterion measures at each step; None where it measures none.
    """

    folder: Path
    opened: "Callable[[list[Path]], PackDataset]"
    asked: Mapping[str, Any]
    measured: "Iterable[CalibrationBatch] | None" = None


def _read(path: Path) -> "tuple[dict[str, list[Path]], TrainingConfig, bool | None]":
    """Return the packs and the training of a ``--between`` file, and what it says of YAMNet's body, if anything.

    Raises:
        ConfigError: If the file cannot be read, or a key is unknown, missing or of the wrong kind.
    """
    from epanns.training.presets import read_training

    read = read_toml(path)
    given = {key.replace("-", "_"): value for key, value in read.items()}
    length = () if "preset" in given else ("iterations",)
    problems = []
    if len(given) < len(read):
        problems.append("a key is given twice, with - and with _: give it once")
    if missing := [key for key in ("train", "val", *length) if key not in given]:
        problems.append(f"{', '.join(missing)} missing: packs to train and validate on, and how long")
    packs = {part: given.pop(part) for part in ("train", "val") if part in given}
    problems += [problem for part, paths in packs.items() if (problem := _PACKS.problem(part, paths))]
    try:
        config = read_training(given)
    except ConfigError as error:
        problems.append(str(error))
    if problems:
        raise ConfigError(f"{path}: " + "; ".join(problems))
    listed = {part: [paths] if isinstance(paths, str) else paths for part, paths in packs.items()}
    return {part: [Path(item) for item in paths] for part, paths in listed.items()}, config, given.get("freeze_yamnet")


def steps_options(function: Callable[..., Any]) -> Callable[..., Any]:
    """Add the options; the command receives them as one `Steps` named `steps`."""

    @functools.wraps(function)
    def command(**values: Any) -> Any:
        steps = Steps(**{field.name: values.pop(field.name) for field in fields(Steps)})
        return function(steps=steps, **values)

    for option in reversed(_OPTIONS):
        command = option(command)
    return command
