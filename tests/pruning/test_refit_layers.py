"""Inputs and outputs of layers as rows of a linear regression."""

import pytest
import torch
from torch import nn

from epanns.pruning.recovery.refit_layers import chosen_positions, input_rows, output_rows, positions_per_clip

LAYERS = {
    "3x3": (nn.Conv2d(3, 4, 3, padding=1, bias=False), (2, 3, 7, 5)),
    "1x1": (nn.Conv2d(3, 4, 1), (2, 3, 7, 5)),
    "stride": (nn.Conv2d(3, 4, (3, 5), stride=(2, 1), padding=(1, 2)), (2, 3, 8, 6)),
    "dilation": (nn.Conv2d(3, 4, 3, dilation=(2, 1), padding=(2, 0)), (2, 3, 9, 6)),
    "1-d": (nn.Conv1d(3, 4, 11, stride=5, padding=5), (2, 3, 60)),
    "1-d dilation": (nn.Conv1d(3, 4, 3, dilation=4, padding=4, bias=False), (2, 3, 30)),
    "linear": (nn.Linear(6, 4), (2, 6)),
    "linear over segments": (nn.Linear(6, 4), (2, 5, 6)),
}


@pytest.mark.parametrize("name", LAYERS)
@pytest.mark.parametrize("most", [3, 10_000])
def test_input_rows_times_weights_equal_the_outputs_of_the_layer(name, most):
    layer, shape = LAYERS[name]
    values = torch.randn(shape, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        output = layer(values)
        n_positions = positions_per_clip(layer, output)
        positions = torch.stack([chosen_positions(name, clip, n_positions, most) for clip in range(2)])
        inputs, targets = input_rows(layer, values, positions), output_rows(layer, output, positions)
        assert len(inputs) == len(targets) == 2 * min(most, n_positions)
        made = inputs @ layer.weight.flatten(1).T + (0 if layer.bias is None else layer.bias)
    torch.testing.assert_close(made, targets)


def test_chosen_positions_are_spread_evenly_and_depend_on_the_clip():
    positions = chosen_positions("conv", 7, 1000, 100)
    assert torch.equal(positions // 10, torch.arange(100))  # one of ten
    assert torch.equal(positions, chosen_positions("conv", 7, 1000, 100))
    assert not torch.equal(positions, chosen_positions("conv", 8, 1000, 100))
    assert torch.equal(chosen_positions("conv", 7, 100, 100), torch.arange(100))
    assert int(chosen_positions("conv", 0, 64_064, 1000).max()) < 64_064
