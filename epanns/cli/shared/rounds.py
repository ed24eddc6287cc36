"""Options of `epanns prune` for several rounds, and the TOML file of the fine-tuning between rounds."""

import functools
from collections.abc import Callable, Mapping
from dataclasses import dataclass, fields
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from epanns.cli.shared.options import EXISTING, resuming_command
from epanns.cli.shared.terminal import log
from epanns.cli.shared.training_options import with_frozen_body
from epanns.errors import ConfigError
from epanns.strict import PATH, Rule, list_of
from epanns.text_files import read_toml

if TYPE_CHECKING:
    from epanns.data.batches.dataset import PackDataset
    from epanns.models.pruning_plan import PruningPlan
    from epanns.models.tagger import Tagger
    from epanns.pruning.calibration_clips import ClipSource
    from epanns.stages.prune import Recover
    from epanns.training.settings.config import TrainingConfig

_PACKS = Rule(
    "the path of a pack, or a list of such",
    lambda value: PATH.holds(value) or list_of(PATH, "packs", least=1).holds(value),
)
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
class Runs:
    """The runs of the training between rounds.

    Attributes:
        folder: ``OUT.steps``.
        opened: Opens packs.
        asked: Settings that decide the pruned networks beside plan and rounds, in JSON values.
        measured: Clips for criteria that measure clips.
    """

    folder: Path
    opened: "Callable[[list[Path]], PackDataset]"
    asked: Mapping[str, Any]
    measured: "ClipSource | None" = None


@dataclass(frozen=True)
class Steps:
    """The values of the options; see their help."""

    steps: int
    schedule: str
    between: Path | None

    def refuse_contradictions(self) -> None:
        """Raise `ConfigError` for options that do not go together, before anything is read."""
        if self.steps == 1 and (self.between is not None or self.schedule != "linear"):
            raise ConfigError(f"--steps {self.steps}: --schedule and --between go with at least two steps")

    def prune(
        self, dense: "Tagger", target: "PruningPlan", runs: Runs, recover: "Recover | None"
    ) -> "tuple[Tagger, dict[str, Any] | None]":
        """Return the pruned network and the report of the last recovery; see `stages.prune.prune_in_rounds`."""
        from epanns.cli.shared.packs import in_order_of
        from epanns.cli.shared.training_progress import training_progress
        from epanns.models.warm_start import stays_frozen
        from epanns.stages.prune import Rounds, RoundTraining, prune_in_rounds

        prune = functools.partial(prune_in_rounds, dense, target, calibration=runs.measured, recover=recover)
        if self.between is None:
            return prune(Rounds(self.steps, self.schedule), log=log)
        packs, config, asked = _read(self.between)
        by_default, remedy = stays_frozen(dense.provenance), f"freeze_yamnet = false in {self.between}"
        config = with_frozen_body(config, asked, by_default=by_default, remedy=remedy)
        train, val = (in_order_of(dense, runs.opened(packs[part])) for part in ("train", "val"))
        with training_progress(config) as display:
            options = display.run_options(command=resuming_command())
            training = RoundTraining(runs.folder, train, val, config, options, runs.asked)
            return prune(Rounds(self.steps, self.schedule, training), log=display.log)


def _read(path: Path) -> "tuple[dict[str, list[Path]], TrainingConfig, bool | None]":
    """Return the packs and the settings of a ``--between`` file, and its ``freeze_yamnet`` or None.

    Raises:
        ConfigError: If the file cannot be read, or a key is unknown, missing or of the wrong kind.
    """
    from epanns.training.settings.presets import read_training

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
