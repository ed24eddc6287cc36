"""`epanns prune`: remove ranked filters from a checkpoint and record the plan in the new one."""

from functools import partial
from pathlib import Path
from typing import Any

import click

from epanns.cli.shared.amount import AMOUNT_SECTIONS, Amount, amount_options
from epanns.cli.shared.calibration import open_calibration
from epanns.cli.shared.command import SectionedCommand
from epanns.cli.shared.options import EXISTING, device_option, json_option, out_option, reserve, torch_device
from epanns.cli.shared.packs import open_packs, pack_options
from epanns.cli.shared.recovery import RecoveryName, given_settings, recover_on, recovery_lines, recovery_options
from epanns.cli.shared.rounds import Runs, Steps, steps_options
from epanns.cli.shared.terminal import emit, log

_SECTIONS = {
    **AMOUNT_SECTIONS,
    "Which filters": ("criterion", "seed"),
    "Recovery and calibration": ("recover", "calibration", "fit-to", "mixtures", "ridge", "labels", "mp3-seconds"),
    "In steps": ("steps", "schedule", "between"),
}


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
    "read pruned channels to the unpruned network by least squares. ls+bn: both. distil:STEPS: ls, then STEPS steps "
    "of gradient descent toward the unpruned network's outputs.",
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
    runs = Runs(
        folder=out.with_name(f"{out.name}.steps"),
        opened=partial(open_packs, labels_file=labels_file, mp3_seconds=mp3_seconds, sample_rate=rate),
        asked={"recover": recover, "calibration": None if clips is None else clips.identity(), **settings},
        measured=clips,
    )
    recovering = None
    if clips is not None and recover != "none":
        recovering = partial(recover_on, clips, recover, {"seed": config.seed, **settings})
    pruned, recovery = steps.prune(dense, plan, runs, recovering)
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
    lines = [f"{out}: {whole.summary()}", *budget, _size(result, cost.clip_seconds), *recovery_lines(recovery)]
    emit(result, "\n".join(lines), as_json)


def _size(result: dict[str, Any], clip_seconds: float) -> str:
    return (
        f"{result['n_params']:,} parameters ({result['param_bytes'] / 2**20:,.2f} MiB in float32), "
        f"{result['backbone_macs'] / 1e9:,.3f} G backbone MACs for {clip_seconds:g} s"
    )
