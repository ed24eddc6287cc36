"""Figure of the comparison with LEAN: mAP of each network for every seed, with its cost."""

from collections.abc import Sequence
from typing import TYPE_CHECKING, Protocol

from epanns.reporting.figures import style as canvas
from epanns.reporting.notation import si

if TYPE_CHECKING:
    from matplotlib.figure import Figure

_ROW, _MARGIN, _COSTS = 0.36, 0.2, 1.0  # cm: height of a row, margin, width of a column of costs


class Network(Protocol):
    """A network as the figure shows it."""

    name: str
    pretraining: str
    scores: list[float]
    n_params: float
    macs: float  # per window of 1 s


@canvas.paper_style()
def contest_figure(title: str, remark: str, networks: Sequence[Network]) -> "Figure":
    """Draw one line per network, grouped by pretraining: mAP of each seed and their mean, with parameters and MACs."""
    groups = list(dict.fromkeys(network.pretraining for network in networks))
    heading = canvas.Heading(title, remark, canvas.COLUMN - 2 * _MARGIN)
    n_lines = len(networks) + 1.3 * len(groups)
    top = heading.height + 0.55
    left = _MARGIN + max(canvas.text_width(network.name) for network in networks) + 0.15
    width = canvas.COLUMN - left - _MARGIN - 2 * _COSTS
    figure = canvas.new_figure(top + _ROW * n_lines + 1.0)
    heading.draw(figure, _MARGIN, 0.1)
    axes = canvas.add_axes(figure, left, top, width, _ROW * n_lines)
    axes.set_xlim(0, 1)
    axes.set_ylim(n_lines, 0)
    axes.grid(visible=False, axis="y")
    axes.spines["left"].set_visible(False)
    axes.set_yticks([])
    axes.set_xticks([0, 0.5, 1])
    axes.set_xlabel("mAP")
    beside = axes.get_yaxis_transform()
    costs = [1 + (_COSTS * place - 0.05) / width for place in (1, 2)]
    for x, text in zip(costs, ("params", "MACs/1 s"), strict=True):
        axes.text(x, -0.3, text, transform=beside, ha="right", va="bottom", color=canvas.GREY)
    y = 0.0
    for number, group in enumerate(groups):
        axes.text(
            (_MARGIN - left) / width, y + 0.85, group, transform=beside, va="center", weight="bold", color=f"C{number}"
        )
        y += 1.3
        for network in (network for network in networks if network.pretraining == group):
            look = {"color": f"C{number}", "marker": canvas.MARKERS[number], "linestyle": "none"}
            middle = y + 0.5
            mean = sum(network.scores) / len(network.scores)
            axes.plot([0, mean], [middle, middle], color=f"C{number}", linewidth=0.5)
            axes.plot(network.scores, [middle] * len(network.scores), **look | {"marker": "|", "markersize": 10})
            axes.plot(mean, middle, markersize=4, markeredgecolor="white", markeredgewidth=0.5, **look)
            axes.text(-0.15 / width, middle, network.name, transform=beside, ha="right", va="center")
            for x, text in zip(costs, (si(network.n_params), si(network.macs)), strict=True):
                axes.text(x, middle, text, transform=beside, ha="right", va="center", color=canvas.GREY)
            y += 1
    return figure
