"""`epanns profile`: count parameters, bytes and multiply-adds of a network, and measure its latency."""

from pathlib import Path
from typing import TYPE_CHECKING

import click

from epanns.cli.shared.options import EpannsCommand, bounded_option, device_option, json_option, torch_device
from epanns.cli.shared.terminal import emit
from epanns.errors import ConfigError, did_you_mean
from epanns.safe_text import printable

if TYPE_CHECKING:
    from epanns.complexity.latency import Latency
    from epanns.complexity.macs import ModelCost
    from epanns.models.spec import ModelSpec
    from epanns.models.tagger import Tagger


@click.command("profile", cls=EpannsCommand)
@click.argument("model_or_ckpt")
@click.option(
    "--seconds",
    type=float,
    default=10.0,
    show_default=True,
    help="Length in seconds of the clip, for counts and times.",
)
@click.option("--latency", is_flag=True, help="Also measure the latency of single clips and the peak memory.")
@bounded_option("--threads", "Number of CPU threads for --latency, by default torch's own", least=None)
@device_option
@click.option("--width", type=float, help="Factor on every layer's width, for a network of the zoo.  [default: 1.0]")
@click.option("--num-classes", type=int, help="Number of classes, for a network of the zoo.")
@json_option
def command(
    model_or_ckpt: str,
    seconds: float,
    latency: bool,
    threads: int | None,
    device: str,
    width: float | None,
    num_classes: int | None,
    as_json: bool,
) -> None:
    """Count parameters, bytes and multiply-adds of MODEL_OR_CKPT.

    MODEL_OR_CKPT is a network of the zoo (see `epanns models`), a checkpoint folder, or a .pth/.pt file of PANNs or
    E-PANNs.
    """
    from epanns.complexity.macs import profile

    if threads is not None and not latency:
        raise ConfigError(f"--threads {threads} without --latency: counts do not depend on threads")
    if device != "cpu" and not latency:
        raise ConfigError(f"--device {device} without --latency: counts do not depend on the device")
    device = torch_device(device)
    network = _network(model_or_ckpt, width, num_classes)
    cost = profile(network, seconds=seconds)
    result, text = cost.to_dict(), describe(cost)
    if latency:
        from epanns.complexity.latency import measure_latency, measure_peak_memory
        from epanns.models.spec import ModelSpec
        from epanns.models.zoo import build_model

        model = (build_model(network) if isinstance(network, ModelSpec) else network).to(device)
        timing = measure_latency(model, seconds=seconds, threads=threads)
        peak = measure_peak_memory(model, seconds=seconds, threads=threads)
        result |= {"latency_ms": timing.to_dict(), "peak_memory_bytes": peak}
        text += "\n\n" + describe_latency(timing, peak, seconds, device)
    emit(result, text, as_json)


def _network(name: str, width: float | None, num_classes: int | None) -> "Tagger | ModelSpec":
    from epanns.models.files.load import load
    from epanns.models.zoo import ZOO, spec_of

    if name in ZOO:
        return spec_of(name, num_classes=num_classes, width=1.0 if width is None else width)
    if not Path(name).exists():
        raise ConfigError(
            f"{name!r} is neither a network of the zoo{did_you_mean(name, ZOO)} nor an existing checkpoint; "
            "`epanns models` lists the zoo"
        )
    for option, value in (("--width", width), ("--num-classes", num_classes)):
        if value is not None:
            raise ConfigError(
                f"{option} {value} is for networks of the zoo; {name} is a checkpoint of fixed size, remove the option"
            )
    return load(name)


def describe(cost: "ModelCost") -> str:
    """Return the cost as a table: totals by each convention of counting, then one row per layer."""
    # PANNs' counter adds biases and norms to two per MAC.
    left_out = "; LSTMs and attention left out" if cost.panns_multiply_adds < 2 * cost.backbone_macs else ""
    uncounted = ", ".join(f"{name} x{calls}" for name, calls in cost.uncounted.items())
    front_end = cost.front_end_macs > 0  # networks on the waveform have no front end
    held = cost.n_params_with_front_end > cost.n_params  # PANNs' files store the front end, YAMNet's do not
    rows = [
        (f"{printable(cost.name)} at {cost.sample_rate} Hz, for one clip of {cost.clip_seconds:g} s", ""),
        ("trainable parameters", f"{cost.n_params:,} ({cost.param_bytes / 2**20:,.2f} MiB in float32)"),
        ("  with statistics (Keras' total)", f"{cost.n_params_with_statistics:,}"),
        ("  with batch norms folded", f"{cost.n_params_folded:,}"),
        *([("  with PANNs' frozen front end", f"{cost.n_params_with_front_end:,}")] if held else []),
        ("backbone MACs (layers below)", _giga(cost.backbone_macs)),
        *([("  with front end (+ STFT + mel)", _giga(cost.macs_with_front_end))] if front_end else []),
        ("PANNs multiply-adds (2 per MAC)", _giga(cost.panns_multiply_adds) + left_out),
    ]
    layers = [("layer", "width", "parameters", "MACs")] + [
        (layer.name, f"{layer.width:,}", f"{layer.n_params:,}", f"{layer.macs:,}") for layer in cost.layers
    ]
    longest = max(20, *(len(layer.name) for layer in cost.layers))
    table = [f"{name:<{longest}} {width:>7} {n_params:>12} {macs:>15}" for name, width, n_params, macs in layers]
    return "\n".join(
        [
            *(f"{name:<33} {value}".rstrip() for name, value in rows),
            "",
            *table,
            "",
            f"not in backbone MACs: {uncounted}",
        ]
    )


def describe_latency(timing: "Latency", peak: int | None, seconds: float, device: str = "cpu") -> str:
    """Return a measurement as two lines of text."""
    memory = "not measurable on this system" if peak is None else f"{peak / 2**20:,.0f} MiB"
    return (
        f"latency of one {seconds:g} s clip, waveform in, tags out: median {timing.median:.1f} ms, "
        f"{timing.min:.1f} to {timing.max:.1f} (spread {timing.spread:.0%}); "
        f"threads: {timing.threads}, {timing.runtime}, {timing.dtype}\n"
        f"peak memory {'of the whole process' if device == 'cpu' else f'on {device}'} meanwhile: {memory}"
    )


def _giga(count: int) -> str:
    return f"{count / 1e9:,.3f} G ({count:,})"
