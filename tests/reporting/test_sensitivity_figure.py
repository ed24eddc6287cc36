"""The figure of sensitivities: every number is in it, at its layer, inside the drawing, and the larger the darker."""

import pytest

from epanns.pruning.budgets.sensitivity_table import SensitivityRow
from epanns.reporting.drawing import Label, Shape, text_width
from epanns.reporting.sensitivity_figure import sensitivity_drawing
from epanns.stages.sensitivity_record import SensitivityRecord

WIDTHS = {"conv_block1.conv1": 64, "conv_block1.conv2": 64, "conv_block2.conv1": 2048}
LOSSES = {("conv_block1.conv1", 0.5): 0.2, ("conv_block1.conv2", 0.25): 0.0499, ("conv_block1.conv2", 0.5): 0.1}


@pytest.fixture
def drawing():
    asked = {
        "model": {"name": "Cnn14", "widths": WIDTHS},
        "data": {"name": "a set", "clips": 1200, "clip_seconds": 5.0},
        "protocol": "whole clip",
        "criterion": "l2",
        "recover": "bn",
        "calibration": None,
    }
    rows = [SensitivityRow("", 0.0, None, 0.75, 1000, 20_000)]
    rows += [
        SensitivityRow(layer, ratio, 32, 0.75 - LOSSES.get((layer, ratio), -0.004), 800, 15_000)
        for layer in WIDTHS
        for ratio in (0.25, 0.5)
        if (layer, ratio) != ("conv_block2.conv1", 0.25)
    ]
    return sensitivity_drawing(SensitivityRecord(asked, 6, tuple(rows)))


def labels_of(drawing):
    return [element for element in drawing.elements if isinstance(element, Label)]


def line_of(drawing, name):
    (y,) = [label.position[1] for label in labels_of(drawing) if label.text == name]
    return [label.text for label in labels_of(drawing) if label.position[1] == y]


def test_each_layer_has_its_losses_and_savings_in_its_line(drawing):
    assert line_of(drawing, "conv_block1.conv1")[2:] == ["−0.004", "0.200", "25.0", "25.0", "20.0", "20.0"]
    assert line_of(drawing, "conv_block1.conv2")[:4] == ["conv_block1.conv2", "64", "0.050", "0.100"]
    assert line_of(drawing, "conv_block2.conv1")[1:4] == ["2048", "–", "−0.004"]  # not measured at 25 %
    tops = [label.position[1] for name in WIDTHS for label in labels_of(drawing) if label.text == name]
    assert tops == sorted(tops)


def test_the_dense_score_and_what_was_done_stand_above(drawing):
    texts = [label.text for label in labels_of(drawing)]
    assert texts[:3] == [
        "Cnn14: one layer pruned at a time",
        "Unpruned: mAP 0.7500 on 1,200 clips of a set, 5 s, whole clip.",
        "Each layer pruned by l2, batch-norm statistics measured again on the scored clips themselves, "
        "without their labels.",
    ]
    assert [text for text in texts if text[0].isdigit() and text.endswith(" %")] == ["25 %", "50 %"] * 3


def test_a_larger_loss_is_darker_and_a_gain_has_another_colour(drawing):
    def brightness(colour):
        return sum(int(colour[index : index + 2], 16) for index in (1, 3, 5))

    gain, largest, half, middle = [element.fill for element in drawing.elements if isinstance(element, Shape)][:4]
    assert brightness(largest) < brightness(middle) < brightness(half)
    assert largest == "#d55e00"
    assert int(gain[5:], 16) > int(gain[1:3], 16)  # blue, where losses are red


def test_nothing_leaves_the_drawing(drawing):
    for label in labels_of(drawing):
        width = text_width(label.text, label.size)
        left = label.position[0] - {"start": 0, "middle": width / 2, "end": width}[label.anchor]
        assert left >= 0
        assert left + width <= drawing.width
        assert 0 < label.position[1] < drawing.height
    shapes = [element for element in drawing.elements if isinstance(element, Shape)]
    assert all(0 <= x <= drawing.width and 0 <= y <= drawing.height for shape in shapes for x, y in shape.points)
