"""The figure of sensitivities: every loss is in it, at its layer, nothing overlaps, and the larger the darker."""

import pytest
from matplotlib.patches import Rectangle

from epanns.pruning.budgets.sensitivity_table import SensitivityRecord, SensitivityRow
from epanns.reporting.figures.sensitivity import sensitivity_figure
from tests.reporting.drawn import outside, overlapping, texts_of

WIDTHS = {"conv_block1.conv1": 64, "conv_block1.conv2": 64, "conv_block2.conv1": 2048}
LOSSES = {("conv_block1.conv1", 0.5): 0.2, ("conv_block1.conv2", 0.25): 0.0499, ("conv_block1.conv2", 0.5): 0.1}


def record_of(ratios, widths=WIDTHS):
    asked = {
        "model": {"name": "Cnn14", "widths": widths},
        "data": {"name": "a set", "clips": 1200, "clip_seconds": 5.0},
        "protocol": "whole clip",
        "criterion": "l2",
        "recover": "bn",
        "calibration": None,
    }
    rows = [SensitivityRow("", 0.0, None, 0.75, 1000, 20_000)]
    rows += [
        SensitivityRow(layer, ratio, 32, 0.75 - LOSSES.get((layer, ratio), -0.004), 800, 15_000)
        for layer in widths
        for ratio in ratios
        if (layer, ratio) != ("conv_block2.conv1", 0.25)
    ]
    return SensitivityRecord(asked, len(rows), tuple(rows))


@pytest.fixture
def figure():
    return sensitivity_figure(record_of((0.25, 0.5)))


def line_of(figure, name):
    """Return the texts of the table in the line of a layer, from left to right."""
    texts = texts_of(figure)
    (y,) = [text.get_position()[1] for text in texts if text.get_text() == name]
    found = [text for text in texts if text.axes is figure.axes[-1] and text.get_position()[1] == y]
    return [text.get_text() for text in sorted(found, key=lambda text: text.get_position()[0])]


def test_each_layer_has_its_losses_and_savings_in_its_line(figure):
    assert line_of(figure, "conv_block1.conv1 (64)")[1:] == ["−0.004", "0.200", "25.0", "20.0"]
    assert line_of(figure, "conv_block1.conv2 (64)")[:3] == ["conv_block1.conv2 (64)", "0.050", "0.100"]
    assert line_of(figure, "conv_block2.conv1 (2048)")[1:3] == ["–", "−0.004"]  # not measured at 25 %


def test_a_curve_per_layer_begins_at_no_loss(figure):
    curves = [line for line in figure.axes[0].lines if len(line.get_xdata()) > 2 or line.get_marker() != "None"]
    assert [list(map(float, line.get_xdata())) for line in curves] == [[0, 25, 50], [0, 25, 50], [0, 50]]
    assert [float(line.get_ydata()[-1]) for line in curves] == pytest.approx([0.2, 0.1, -0.004])


def test_the_dense_score_and_the_settings_are_in_the_heading(figure):
    texts = " ".join(text.get_text() for text in texts_of(figure))
    assert "Cnn14: one layer pruned at a time" in texts
    assert "unpruned: mAP 0.7500 on 1,200 clips of a set, 5 s, whole clip;" in texts
    assert "pruned by l2, batch-norm statistics measured again on the scored clips themselves" in texts


def test_a_larger_loss_is_darker_and_a_gain_has_another_colour(figure):
    cells = [patch for patch in figure.axes[-1].patches if isinstance(patch, Rectangle)]
    gain, largest = (cell.get_facecolor() for cell in cells[:2])
    half, middle = (cell.get_facecolor() for cell in cells[4:6])
    assert sum(largest[:3]) < sum(middle[:3]) < sum(half[:3])
    assert largest[0] > largest[2] and gain[2] > gain[0]  # losses are orange, gains blue


@pytest.mark.parametrize("n_ratios", [1, 3, 9])
def test_nothing_overlaps_or_leaves_the_figure(n_ratios):
    names = {f"features.{number}.conv.0.{number}": 32 + number for number in range(30)}
    figure = sensitivity_figure(record_of([(number + 1) / 10 for number in range(n_ratios)], names))
    assert overlapping(figure) == []
    assert outside(figure) == []
