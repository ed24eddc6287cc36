"""`epanns prune`: remove ranked filters from a checkpoint, in one round or several, and record the plan."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, fields
from functools import partial, wraps
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from epanns.cli.shared.options import (
    EXISTING,
    SectionedCommand,
    device_option,
    json_option,
    out_option,
    reserve,
    resuming_command,
    torch_device,
)
from epanns.cli.shared.packs import in_order_of, open_packs, pack_options
from epanns.cli.shared.pruning_options import (
    AMOUNT_SECTIONS,
    Amount,
    RecoveryName,
    amount_options,
    given_settings,
    open_calibration,
    recover_on,
    recovery_lines,
    recovery_options,
)
from epanns.cli.shared.terminal import emit, log
from epanns.cli.shared.training_options import with_frozen_body
from epanns.errors import ConfigError
from epanns.process_memory import keep_freed_memory
from epanns.strict import PATH, Rule, list_of
from epanns.text_files import read_toml

if TYPE_CHECKING:
    from epanns.data.batches.dataset import PackDataset
    from epanns.models.pruning_plan import PruningPlan
    from epanns.models.tagger import Tagger
    from epanns.pruning.calibration_clips import ClipSource
    from epanns.stages.prune import Recover
    from epanns.training.settings.config import TrainingConfig

_SECTIONS = {
    **AMOUNT_SECTIONS,
    "Which filters": ("criterion", "seed"),
    "Recovery and calibration": ("recover", "calibration", "fit-to", "mixtures", "ridge", "labels", "mp3-seconds"),
    "Several rounds": ("steps", "schedule", "between"),
}

_PACKS = Rule(
    "the path of a pack, or a list of paths",
    lambda value: PATH.holds(value) or list_of(PATH, "packs", least=1).holds(value),
)
_ROUNDS = (
    click.option("--steps", type=click.IntRange(1), default=1, show_default=True, help="Number of pruning rounds."),
    click.option(
        "--schedule",
        type=click.Choice(["linear", "geometric"]),
        default="linear",
        show_default=True,
        help="Channels removed per round, with --steps: the same number (linear), or the same share of the channels "
        "left (geometric).",
    ),
    click.option(
        "--between",
        type=EXISTING,
        help="TOML file of a fine-tuning after each round but the last, with --steps, in OUT.steps. Its only keys are "
        "the packs train and val, preset or iterations, and other training settings of `epanns finetune`. The same "
        "command resumes it.",
    ),
)


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
        self,
        dense: "Tagger",
        target: "PruningPlan",
        folder: Path,
        open_packs: "Callable[[list[Path]], PackDataset]",
        identity: Mapping[str, Any],
        calibration: "ClipSource | None",
        recover: "Recover | None",
    ) -> "tuple[Tagger, dict[str, Any] | None]":
        """Return the pruned network and the report of the last recovery; see `stages.prune.prune_in_rounds`.

        Args:
            dense: The unpruned network.
            target: The plan of all rounds.
            folder: Folder of the training between rounds, ``OUT.steps``.
            open_packs: Opens packs of training or validation clips.
            identity: All other settings that decide the pruned networks, such as those of the recovery, in JSON values.
            calibration: Clips for criteria that measure clips.
            recover: The recovery of each round.
        """
        from epanns.cli.shared.training_progress import training_progress
        from epanns.models.warm_start import stays_frozen
        from epanns.stages.prune import Rounds, RoundTraining, prune_in_rounds

        prune = partial(prune_in_rounds, dense, target, calibration=calibration, recover=recover)
        if self.between is None:
            return prune(Rounds(self.steps, self.schedule), log=log)
        packs, config, freeze = read_between(self.between)
        by_default, remedy = stays_frozen(dense.provenance), f"freeze_yamnet = false in {self.between}"
        config = with_frozen_body(config, freeze, by_default=by_default, remedy=remedy)
        train, val = (in_order_of(dense, open_packs(packs[part])) for part in ("train", "val"))
        with training_progress(config) as display:
            options = display.run_options(command=resuming_command())
            training = RoundTraining(folder, train, val, config, options, identity)
            return prune(Rounds(self.steps, self.schedule, training), log=display.log)


def read_between(path: Path) -> "tuple[dict[str, list[Path]], TrainingConfig, bool | None]":
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

    @wraps(function)
    def command(**values: Any) -> Any:
        steps = Steps(**{field.name: values.pop(field.name) for field in fields(Steps)})
        return function(steps=steps, **values)

    for option in reversed(_ROUNDS):
        command = option(command)
    return command


@click.command("prune", cls=SectionedCommand, sections=_SECTIONS)
@click.argument("checkpoint", type=EXISTING)
@out_option("Checkpoint folder to write; must not exist.")
@amount_options
@click.option(
    "--recover",
    type=RecoveryName(),
    metavar="METHOD",
    default="none",
    show_default=True,
    help="Recovery without labels, on --calibration. bn: measure batch-norm statistics again. ls: fit the layers that "
    "read pruned channels to the unpruned network by least squares. ls+bn: both. align:STEPS: STEPS gradient steps "
    "that match every layer of the unpruned network; ls+align:STEPS: ls before them. distil:STEPS: ls, then STEPS "
    "gradient steps toward the unpruned network's outputs. A stopped command resumes gradient steps from OUT.recovery.",
)
@click.option(
    "--calibration", type=EXISTING, help="Pack of clips for --recover and --criterion; only taylor uses their labels."
)
@recovery_options
@pack_options
@steps_options
@device_option
@json_option
def command(
    checkpoint: Path,
    out: Path,
    amount: Amount,
    recover: str,
    calibration: Path | None,
    fit_to: str | None,
    ridge: float | None,
    mixtures: int | None,
    labels_file: Path | None,
    mp3_seconds: float,
    steps: Steps,
    device: str,
    as_json: bool,
) -> None:
    """Remove the least important filters of CHECKPOINT, a folder or a .pth/.pt of PANNs or E-PANNs."""
    reserve(out)
    steps.refuse_contradictions()
    config = amount.config()
    device = torch_device(device)
    settings = given_settings(recover, fit_to=fit_to, ridge=ridge, mixtures=mixtures)
    from epanns.complexity.macs import profile
    from epanns.models.files.checkpoint import save_checkpoint
    from epanns.models.files.load import load
    from epanns.pruning.prune import plan_and_cost

    dense = load(checkpoint).to(device)
    clips = open_calibration(
        calibration,
        dense,
        criterion=config.criterion,
        recover=recover,
        labels_file=labels_file,
        mp3_seconds=mp3_seconds,
    )
    if amount.target_latency is not None:
        log(f"timing every layer of {dense.spec.name} on this machine, then the pruned networks themselves")
    plan, reached = plan_and_cost(dense, config, clips)
    rate = dense.spec.front_end.sample_rate
    recovering = None
    identity = {"recover": recover, "calibration": None if clips is None else clips.identity(), **settings}
    if clips is not None and recover != "none":
        keep_freed_memory()
        whose = {"parent_sha256": dense.provenance.sha256, **identity}
        states = out.with_name(f"{out.name}.recovery")
        recovering = partial(recover_on, clips, recover, {"seed": config.seed, **settings}, states, whose)
    pruned, recovery = steps.prune(
        dense,
        plan,
        folder=out.with_name(f"{out.name}.steps"),
        open_packs=partial(open_packs, labels_file=labels_file, mp3_seconds=mp3_seconds, sample_rate=rate),
        identity=identity,
        calibration=clips,
        recover=recovering,
    )
    if reached is not None:
        pruned.provenance = reached.recorded(pruned.provenance)
    whole = pruned.provenance.plan
    assert whole is not None
    save_checkpoint(pruned, out)
    cost = profile(pruned)
    result = {
        "widths": whole.widths,
        "n_params": cost.n_params,
        "backbone_macs": cost.backbone_macs,
        "param_bytes": cost.param_bytes,
        "budget": None if reached is None else reached.to_dict(),
        "recovery": recovery,
    }
    budget = [] if reached is None else [f"budget: {reached.summary()}"]
    size = (
        f"{cost.n_params:,} parameters ({cost.param_bytes / 2**20:,.2f} MiB in float32), "
        f"{cost.backbone_macs / 1e9:,.3f} G backbone MACs for {cost.clip_seconds:g} s"
    )
    lines = [f"{out}: {whole.summary()}", *budget, size, *recovery_lines(recovery)]
    emit(result, "\n".join(lines), as_json)
