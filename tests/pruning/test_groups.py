"""Groups of channels: who makes them, who normalises them, who reads them."""

import pytest

from epanns.models.zoo import ZOO, build_model
from epanns.pruning.surgery import Reader, channel_groups, forward_order


@pytest.fixture(params=["Cnn6", "Cnn10", "Cnn14_DecisionLevelAtt"])
def model(request):
    return build_model(ZOO[request.param].scaled(1 / 16), num_classes=5).train()


def test_every_convolution_of_a_chain_is_read_by_the_next_one(model):
    groups = channel_groups(model)
    assert tuple(groups) == model.layer_names
    for layer, reader in zip(model.layer_names, [*model.layer_names[1:], "fc1"], strict=True):
        group = groups[layer]
        assert (group.width, group.producers) == (model.spec.widths[layer], (layer,))
        assert (group.norms, group.depthwise) == ((layer.replace(".conv", ".bn"),), ())
        assert group.readers == (Reader(reader, 0),)


def test_tracing_leaves_the_network_as_it_was(model):
    model.conv_block1.requires_grad_(False)
    before = {name: parameter.requires_grad for name, parameter in model.named_parameters()}
    state = {name: value.clone() for name, value in model.state_dict().items()}
    channel_groups(model)
    assert model.training
    assert {name: parameter.requires_grad for name, parameter in model.named_parameters()} == before
    assert all(bool((value == state[name]).all()) for name, value in model.state_dict().items())


def test_forward_order_names_each_layer_with_the_norm_behind_it(model):
    order = forward_order(model)
    assert order.layers[: len(model.layer_names)] == model.layer_names
    assert order.norms == {layer: layer.replace(".conv", ".bn") for layer in model.layer_names}
