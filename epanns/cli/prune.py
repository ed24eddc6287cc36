"""`epanns prune`: remove ranked filters from a checkpoint, in one round or several, and record the plan."""

import shutil
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager, suppress
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click
from click.core import ParameterSource

from epanns.cli.shared.options import (
    CHECKPOINT,
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
    RecoveryName,
    amount_options,
    given_settings,
    open_calibration,
    pruning_config,
    recovery_lines,
    recovery_options,
)
from epanns.cli.shared.terminal import emit, log, progress_counter
from epanns.cli.shared.training_options import with_frozen_body
from epanns.cli.shared.training_progress import training_progress
from epanns.errors import ConfigError
from epanns.process import keep_freed_memory
from epanns.strict import PATH, Rule, list_of
from epanns.text_files import read_toml

if TYPE_CHECKING:
    from epanns.data.batches.dataset import PackDataset
    from epanns.models.pruning_plan import PruningPlan
    from epanns.models.tagger import Tagger
    from epanns.pruning.calibration_clips import CalibrationClips
    from epanns.stages.prune import Recover
    from epanns.training.config import TrainingConfig

_SECTIONS = {
    **AMOUNT_SECTIONS,
    "Which filters": ("method", "criterion", "seed"),
    "Recovery and calibration": (
        "recover",
        "calibration",
        "fit-to",
        "mixtures",
        "rectify",
        "ridge",
        "labels",
        "mp3-seconds",
    ),
    "Several rounds": ("steps", "schedule", "between"),
}

_PACKS = Rule(
    "the path of a pack, or a list of paths",
    lambda value: PATH.holds(value) or list_of(PATH, "packs", least=1).holds(value),
)


def read_between(path: Path) -> "tuple[dict[str, list[Path]], TrainingConfig, bool | None]":
    """Return the packs and the settings of a ``--between`` file, and its ``freeze_yamnet`` or None.

    Raises:
        ConfigError: If the file cannot be read, or a key is unknown, missing or of the wrong kind.
    """
    from epanns.training.config import read_training

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


def _clips_between(
    path: Path, dense: "Tagger", open_packs: "Callable[[list[Path]], PackDataset]"
) -> "tuple[TrainingConfig, PackDataset, PackDataset]":
    """Return the settings, the training clips and the validation clips of a ``--between`` file."""
    from epanns.models.warm_start import stays_frozen

    packs, config, freeze = read_between(path)
    by_default, remedy = stays_frozen(dense.provenance), f"freeze_yamnet = false in {path}"
    config = with_frozen_body(config, freeze, by_default=by_default, remedy=remedy)
    train, val = (in_order_of(dense, open_packs(packs[part])) for part in ("train", "val"))
    return config, train, val


@contextmanager
def _recovery(
    clips: "CalibrationClips | None", method: str, settings: dict[str, Any], out: Path, identity: Mapping[str, Any]
) -> "Iterator[Recover | None]":
    """Yield the recovery of each round; states of gradient steps are in a folder for each round below OUT.recovery.

    The folders are removed at the end, so that a command that was stopped in a later round reads the earlier ones.
    """
    from epanns.pruning.recovery.descent import RecoveryRun
    from epanns.pruning.recovery.recover import parts_of, recover

    if clips is None or method == "none":
        yield None
        return
    keep_freed_memory()
    states = out.with_name(f"{out.name}.recovery")
    used: list[Path] = []
    identity = {**identity, "recover": method, "calibration": clips.identity(), **settings}

    def recovered(pruned: "Tagger", before: "Tagger", plan: "PruningPlan") -> dict[str, Any] | None:
        used.append(states / plan.digest[:12])
        with progress_counter(parts_of(method)[-1], "step") as show:
            run = RecoveryRun(
                used[-1],
                identity,
                on_step=lambda step, total, loss: show(step, total),
                log=log,
                keeps_states=True,
            )
            return recover(pruned, before, clips, method, plan=plan, run=run, **settings)

    yield recovered
    for folder in used:
        shutil.rmtree(folder, ignore_errors=True)
    with suppress(OSError):  # missing, or not empty
        states.rmdir()


def _by_method(
    context: click.Context, method: str, amount: Mapping[str, Any], recover: str, settings: Mapping[str, Any]
) -> tuple[dict[str, Any], str, dict[str, Any]]:
    """Return amount, recovery and its settings with the method's values for the options that are not given."""
    from epanns.pruning.method import method_named
    from epanns.pruning.recovery.recover import parts_of

    targets = [kind for kind in ("params", "macs", "bytes", "latency") if amount[f"target_{kind}"] is not None]
    defaults = method_named(method, budget=targets[0] if targets else None)

    def is_given(name: str) -> bool:
        return context.get_parameter_source(name) is not ParameterSource.DEFAULT

    amount, settings = dict(amount), dict(settings)
    amount["criterion"] = amount["criterion"] if is_given("criterion") else defaults.criterion
    amount["allocate"] = amount["allocate"] if is_given("allocate") else defaults.allocate
    recover = recover if is_given("recover") else defaults.recover
    if "ls" in parts_of(recover):
        settings |= {name: value for name, value in defaults.recovery.items() if settings[name] is None}
    if method == "plain":
        return amount, recover, settings
    options = {"criterion": amount["criterion"], "allocate": amount["allocate"], "recover": recover, **settings}
    values = " ".join(f"--{name.replace('_', '-')} {value}" for name, value in options.items() if value is not None)
    log(f"--method {method}: {values}")
    return amount, recover, settings


@click.command("prune", cls=SectionedCommand, sections=_SECTIONS)
@click.argument("checkpoint", type=CHECKPOINT)
@out_option("Checkpoint folder to write; must not exist.")
@click.option(
    "--method",
    type=click.Choice(["plain", "auto"]),
    default="plain",
    show_default=True,
    help="Defaults of --criterion, --allocate, --recover and the recovery's options. plain: l1, uniform, none. auto: "
    "the best ones without labels, on --calibration; options that are given take precedence.",
)
@amount_options
@click.option(
    "--recover",
    type=RecoveryName(),
    metavar="METHOD",
    default="none",
    show_default=True,
    help="Recovery without labels, on --calibration. bn: measure batch-norm statistics again. ls: fit the layers that "
    "read pruned channels to the unpruned network by least squares. ls+bn: both. grail, fold: published baselines of "
    "ls, a ridge regression between channels, and a merger of each removed channel into a kept one. align:STEPS: STEPS "
    "gradient steps that match every layer of the unpruned network; ls+align:STEPS: ls before them. distil:STEPS: ls, "
    "then STEPS gradient steps toward the unpruned network's outputs. A stopped command resumes gradient steps from "
    "OUT.recovery.",
)
@click.option(
    "--calibration", type=EXISTING, help="Pack of clips for --recover and --criterion; only taylor uses their labels."
)
@recovery_options
@pack_options
@click.option(
    "--steps",
    type=click.IntRange(1),
    default=1,
    show_default=True,
    help="Number of pruning rounds; each ranks the remaining filters again and ends with --recover.",
)
@click.option(
    "--schedule",
    type=click.Choice(["linear", "geometric"]),
    default="linear",
    show_default=True,
    help="Channels removed per round, with --steps: the same number (linear), or the same share of the channels left "
    "(geometric).",
)
@click.option(
    "--between",
    type=EXISTING,
    help="TOML file of a fine-tuning after each round but the last, with --steps, in OUT.steps. Its only keys are the "
    "packs train and val, preset or iterations, and other training settings of `epanns finetune`. The same command "
    "resumes it.",
)
@device_option
@json_option
@click.pass_context
def command(
    context: click.Context,
    checkpoint: Path,
    out: Path,
    method: str,
    amount: dict[str, Any],
    recover: str,
    calibration: Path | None,
    fit_to: str | None,
    ridge: float | None,
    mixtures: int | None,
    rectify: int | None,
    labels_file: Path | None,
    mp3_seconds: float,
    steps: int,
    schedule: str,
    between: Path | None,
    device: str,
    as_json: bool,
) -> None:
    """Remove the least important filters of CHECKPOINT, a folder or a .pth/.pt of PANNs or E-PANNs."""
    reserve(out)
    if steps == 1 and (between is not None or schedule != "linear"):
        raise ConfigError(f"--steps {steps}: --schedule and --between go with at least two steps")
    chosen = {"fit_to": fit_to, "ridge": ridge, "mixtures": mixtures, "rectify": rectify}
    amount, recover, chosen = _by_method(context, method, amount, recover, chosen)
    config, device = pruning_config(amount), torch_device(device)
    settings = given_settings(recover, **chosen)
    from epanns.complexity.macs import profile
    from epanns.models.files.checkpoint import save_checkpoint
    from epanns.models.files.load import load
    from epanns.pruning.prune import plan_and_cost
    from epanns.stages.prune import Rounds, RoundTraining, prune_in_rounds

    dense = load(checkpoint).to(device)
    rate = dense.spec.front_end.sample_rate
    opened = partial(open_packs, labels_file=labels_file, mp3_seconds=mp3_seconds, sample_rate=rate)
    clips = open_calibration(calibration, dense, opened, config, recover=recover)
    if amount["target_latency"] is not None:
        log(f"timing every layer of {dense.spec.name} on this machine, then the pruned networks themselves")
    plan, reached = plan_and_cost(dense, config, clips)
    started = {"parent_sha256": dense.provenance.sha256, "rounds": steps, "schedule": schedule}
    with ExitStack() as stack:
        recovering = stack.enter_context(_recovery(clips, recover, {"seed": config.seed, **settings}, out, started))
        rounds, write = Rounds(steps, schedule), log
        if between is not None:
            identity = {"recover": recover, "calibration": None if clips is None else clips.identity(), **settings}
            training, train, val = _clips_between(between, dense, opened)
            display = stack.enter_context(training_progress(training))
            options, folder = display.run_options(command=resuming_command()), out.with_name(f"{out.name}.steps")
            rounds = Rounds(steps, schedule, RoundTraining(folder, train, val, training, options, identity))
            write = display.log
        pruned, recovery = prune_in_rounds(dense, plan, rounds, calibration=clips, recover=recovering, log=write)
        pruned.provenance = pruned.provenance if reached is None else reached.recorded(pruned.provenance)
        save_checkpoint(pruned, out)
    whole, cost = pruned.provenance.plan, profile(pruned)
    assert whole is not None
    result = {
        "widths": whole.widths,
        "n_params": cost.n_params,
        "backbone_macs": cost.backbone_macs,
        "param_bytes": cost.param_bytes,
        "budget": None if reached is None else reached.to_dict(),
        "recovery": recovery,
    }
    size = (
        f"{cost.n_params:,} parameters ({cost.param_bytes / 2**20:,.2f} MiB in float32), "
        f"{cost.backbone_macs / 1e9:,.3f} G backbone MACs for {cost.clip_seconds:g} s"
    )
    budget = [] if reached is None else [f"budget: {reached.summary()}"]
    emit(result, "\n".join([f"{out}: {whole.summary()}", *budget, size, *recovery_lines(recovery)]), as_json)
