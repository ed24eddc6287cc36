"""Figure of the fine-tuning experiment: validation mAP minus that of the unpruned network against iterations."""

from collections.abc import Mapping, Sequence
from statistics import fmean
from typing import TYPE_CHECKING, Protocol

from epanns.reporting.figures import style as canvas

if TYPE_CHECKING:
    from matplotlib.figure import Figure

_FIRST = 5  # iterations: a logarithmic axis has no 0
_LEFT, _MARGIN, _HEIGHT = 1.3, 0.2, 4.6  # cm
_STYLES = ("-", "--", "-.", ":")


class FineTuningRun(Protocol):
    """A run as the figure shows it."""

    seed: int
    curve: Sequence[Sequence[float]]
    goal: float


@canvas.paper_style()
def finetuning_figure(title: str, remark: str, methods: Mapping[str, Sequence[FineTuningRun]]) -> "Figure":
    """Draw the mean over seeds of each method as a thick line, each seed as a thin line; 0 is the unpruned network."""
    from matplotlib.lines import Line2D

    width = canvas.COLUMN - 2 * _MARGIN
    heading = canvas.Heading(title, remark, width)
    entries = [
        (Line2D([], [], color=f"C{number}", linestyle=_STYLES[number], linewidth=1.8), method)
        for number, method in enumerate(methods)
    ]
    entries.append((Line2D([], [], color=canvas.BLACK, linestyle="--", linewidth=0.9), "unpruned"))
    legend = canvas.Legend(entries, width)
    figure = canvas.new_figure(heading.height + _HEIGHT + legend.height + 1.3)
    heading.draw(figure, _MARGIN, 0.1)
    legend.draw(figure, _MARGIN, heading.height + _HEIGHT + 1.1)
    axes = canvas.add_axes(figure, _LEFT, heading.height + 0.1, canvas.COLUMN - _LEFT - _MARGIN, _HEIGHT)
    for number, runs in enumerate(methods.values()):
        lines = [{step: score - run.goal for step, score in run.curve if step >= _FIRST} for run in runs]
        for line in lines:
            axes.plot(list(line), list(line.values()), color=f"C{number}", linewidth=0.6, alpha=0.45)
        shared = sorted(set.intersection(*map(set, lines)))
        means = [fmean(line[step] for line in lines) for step in shared]
        axes.plot(shared, means, color=f"C{number}", linestyle=_STYLES[number], linewidth=1.8)
    axes.axhline(0, color=canvas.BLACK, linestyle="--", linewidth=0.9, zorder=1.5)
    steps = [step for runs in methods.values() for run in runs for step, _ in run.curve if step >= _FIRST]
    canvas.set_log_axis(axes, steps, canvas.COLUMN - _LEFT - _MARGIN)
    axes.set_xlabel("iterations of fine-tuning")
    axes.set_ylabel("mAP minus unpruned")
    axes.yaxis.set_label_coords(-0.92 / (canvas.COLUMN - _LEFT - _MARGIN), 0.5)
    axes.locator_params(axis="y", nbins=6, steps=[1, 2, 5, 10])
    return figure
