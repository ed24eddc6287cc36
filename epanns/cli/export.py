"""`epanns export`: write a checkpoint as ONNX files for other runtimes."""

from collections.abc import Collection
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click
from click.core import ParameterSource

from epanns.cli.shared.options import (
    CHECKPOINT,
    EXISTING,
    EpannsCommand,
    bounded_option,
    json_option,
    out_option,
    reserve,
)
from epanns.cli.shared.packs import in_order_of, log_unknown_lengths, open_packs, pack_options
from epanns.cli.shared.terminal import emit, progress_counter
from epanns.errors import ConfigError
from epanns.safe_text import printable

if TYPE_CHECKING:
    from epanns.data.batches.dataset import PackDataset
    from epanns.models.tagger import Tagger

_OF_INT8 = ("evaluation", "clips", "window", "hop", "equalise", "portable", "labels_file", "mp3_seconds")


@click.command("export", cls=EpannsCommand)
@click.argument("checkpoint", metavar="CKPT", type=CHECKPOINT)
@out_option("Folder to write; must not exist.")
@click.option("--int8", is_flag=True, help="Also write model.int8.onnx; requires --calibration.")
@click.option(
    "--calibration",
    type=EXISTING,
    help="Pack of calibration clips, with --int8; every 5th clip is held out for the comparison unless --evaluate "
    "names a pack.",
)
@click.option(
    "--evaluate",
    "evaluation",
    type=EXISTING,
    help="Pack of clips on which float32 and int8 are compared, with --int8; none may be a calibration clip.",
)
@click.option(
    "--clips", type=click.IntRange(1), default=200, show_default=True, help="Largest number of calibration clips."
)
@click.option(
    "--window",
    type=float,
    help="Length in seconds of the windows for calibration and comparison, with --int8.  [default: whole clips]",
)
@click.option("--hop", type=float, help="Seconds between the starts of windows, with --window.  [default: --window]")
@click.option(
    "--equalise/--no-equalise",
    default=True,
    show_default=True,
    help="Equalisation of the ranges of channels before --int8.",
)
@click.option(
    "--portable", is_flag=True, help="Use only the operators of ONNX itself for int8; LSTMs then compute in float32."
)
@click.option(
    "--latency", is_flag=True, help="Measure the latency of each file for clips of 1 s and 10 s, without front end."
)
@bounded_option("--threads", "Number of CPU threads for --latency", least=1)
@pack_options
@json_option
def command(
    checkpoint: Path,
    out: Path,
    int8: bool,
    calibration: Path | None,
    evaluation: Path | None,
    clips: int,
    window: float | None,
    hop: float | None,
    equalise: bool,
    portable: bool,
    latency: bool,
    threads: int,
    labels_file: Path | None,
    mp3_seconds: float,
    as_json: bool,
) -> None:
    """Write CKPT as ONNX: model.onnx, and with --int8 model.int8.onnx, for any length and number of clips.

    The input of the graphs is the output of the front end, which front_end.json specifies. Before a file is written,
    the scores of float32 are compared with torch's, and those of int8 with float32's on clips that were not used for
    calibration. export.json holds sizes, differences and mAP.
    """
    reserve(out)
    if int8 != (calibration is not None):
        raise ConfigError(
            f"--int8 and --calibration go together: give both or neither (--calibration is {calibration})"
        )
    if hop is not None and window is None:
        raise ConfigError(f"--hop {hop:g} without --window: it is the distance between windows; give --window too")
    if not int8:
        _refuse_given(_OF_INT8, "--int8", "--int8 and --calibration")
    if not latency:
        _refuse_given(("threads",), "--latency", "--latency")
    from epanns.export import require_onnx

    require_onnx()
    from epanns.evaluation.protocol import EvaluationProtocol
    from epanns.export.export import Int8, export_network
    from epanns.models.files.load import load

    protocol = EvaluationProtocol(window, hop)
    model = load(checkpoint)

    def opened(pack: Path) -> "PackDataset":
        rate = model.spec.front_end.sample_rate
        dataset = open_packs([pack], labels_file=labels_file, mp3_seconds=mp3_seconds, sample_rate=rate)
        if window is not None:
            log_unknown_lengths(dataset, "windows")
        return in_order_of(model, dataset)

    quantisation = None
    if calibration is not None:
        compared = None if evaluation is None else opened(evaluation)
        quantisation = Int8(opened(calibration), compared, clips, equalise, portable, protocol)
    with progress_counter("clips compared", "clip") as progress:
        timed = threads if latency else None
        report = export_network(model, out, int8=quantisation, latency_threads=timed, progress=progress)
    emit(report, f"{out}: {describe(model, report)}", as_json)


def _refuse_given(settings: Collection[str], only_with: str, remedy: str) -> None:
    """Raise `ConfigError` if one of the settings is given, which would be ignored."""
    context = click.get_current_context()
    given = []
    for option in context.command.params:
        if option.name in settings and context.get_parameter_source(option.name) is not ParameterSource.DEFAULT:
            value = context.params[option.name]
            if not isinstance(value, bool):
                given.append(f"{option.opts[0]} {value:g}" if isinstance(value, float) else f"{option.opts[0]} {value}")
            elif value or option.secondary_opts:  # `portable = false` in a file gives no option
                given.append(option.opts[0] if value else option.secondary_opts[0])
    if given:
        them = "it" if len(given) == 1 else "them"
        raise ConfigError(f"{', '.join(given)}: used only with {only_with}: give {remedy} too, or leave {them} out")


def describe(model: "Tagger", report: dict[str, Any]) -> str:
    """Return the report as text."""
    sizes = ", ".join(f"{name} {file['bytes'] / 1e6:,.2f} MB" for name, file in report["files"].items())
    apart = report["parity"]["largest_difference"]["clipwise_output"]
    lines = [f"{sizes}; {printable(model.spec.name)}, {report['n_params_folded']:,} numbers with batch norms folded"]
    lines.append(f"float32: scores differ from torch's by at most {apart:.1e}")
    for name, file in report["files"].items():
        if timed := file.get("latency_ms"):
            times = ", ".join(f"{latency['median']:.2f} ms for {clip}" for clip, latency in timed.items())
            latency = next(iter(timed.values()))
            lines.append(f"{name}: {times}; {latency['threads']} thread(s), {latency['runtime']}")
    if "int8" in report:
        lines += _int8_lines(report["int8"])
    return "\n".join(lines)


def _int8_lines(report: dict[str, Any]) -> list[str]:
    found = report["evaluation"]
    held_out = "held-out clips of the calibration pack" if found["of_calibration_pack"] else "clips"
    lines = [
        f"int8, host CPU, {found['clips']:,} {held_out} ({found['name']}): same first class as float32 for "
        f"{100 * found['top1']:.1f} %, {report['protocol']}"
    ]
    for name in ("mAP", "accuracy"):
        if found[name] is not None:
            ours, theirs = found[name]["float32"], found[name]["int8"]
            lines.append(f"{name}: float32 {ours:.4f}, int8 {theirs:.4f} ({100 * (theirs - ours):+.2f} points)")
    if found["mAP"] is None:
        lines.append("no mAP: the clips have no labels, or other classes than the network")
    if report["float32_activations"]:
        layers = ", ".join(", ".join(read) or name for name, read in report["float32_activations"].items())
        lines.append(f"in float32, where eight bits are too few: the inputs of {layers}")
    return lines
