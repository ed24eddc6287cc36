import pytest
import torch
from torch import nn

from epanns.errors import PruningError
from epanns.labels import LabelSet
from epanns.models.families.cnn_2d import Cnn
from epanns.models.provenance import Provenance
from epanns.models.spec import conv_widths
from epanns.models.zoo import ZOO, build_model
from epanns.pruning.surgery import Reader, channel_groups, forward_order, remove_channels
from tests.builders import same_tensors, tensors_of
from tests.families import silenced

LAST_SIX = tuple(conv_widths(1, 1, 1, 1, 1, 1))[6:]
KINDS = {
    "Cnn14": {},
    "Cnn10": {"widths": conv_widths(4, 6, 8, 10)},
    "Cnn6": {"widths": conv_widths(4, 6, 8, 10, convs_per_block=1), "kernel_size": 5},
    "decision_max": {"head": "decision_max"},
    "decision_avg": {"head": "decision_avg"},
    "decision_att": {"head": "decision_att"},
}


def every_other(model: Cnn, layers=None) -> dict[str, tuple[int, ...]]:
    """Keep channels 1, 3, 5, ... : neither a prefix nor a suffix, so that a wrong index shows."""
    widths = model.spec.widths
    return {layer: tuple(range(1, widths[layer], 2)) for layer in layers or widths}


@pytest.mark.parametrize("kind", KINDS)
def test_pruned_network_equals_dense_network_with_zeroed_channels(build, logmel, kind):
    model = build(**KINDS[kind])
    kept = every_other(model)
    expected = silenced(model, kept, (logmel,))
    with torch.no_grad():
        outputs = remove_channels(model, kept).forward_inputs((logmel,))
    assert outputs.keys() == expected.keys()
    for key, value in expected.items():
        torch.testing.assert_close(outputs[key], value, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("layers", [LAST_SIX, LAST_SIX[-1:], LAST_SIX[:1], ("conv_block1.conv1", "conv_block4.conv2")])
def test_pruning_any_layers_equals_zeroing_their_channels(model, logmel, layers):
    kept = every_other(model, layers)
    with torch.no_grad():
        outputs = remove_channels(model, kept).forward_inputs((logmel,))
    for key, value in silenced(model, kept, (logmel,)).items():
        torch.testing.assert_close(outputs[key], value, rtol=1e-5, atol=1e-5)


def test_kept_tensors_equal_slices_of_the_unpruned_tensors(model):
    kept = every_other(model)
    expected, inputs = dict(model.state_dict()), [0]
    for layer in model.layer_names:
        channels = list(kept[layer])
        expected[f"{layer}.weight"] = expected[f"{layer}.weight"][channels][:, inputs]
        for tensor in ("weight", "bias", "running_mean", "running_var"):
            name = f"{layer.replace('.conv', '.bn')}.{tensor}"
            expected[name] = expected[name][channels]
        inputs = channels
    expected["fc1.weight"] = expected["fc1.weight"][:, inputs]
    pruned = remove_channels(model, kept).state_dict()
    assert pruned.keys() == expected.keys()
    assert all(torch.equal(pruned[name], tensor) for name, tensor in expected.items())


def test_the_original_network_is_unchanged_and_shares_no_memory(model):
    before = tensors_of(model)
    spec = model.spec
    pruned = remove_channels(model, every_other(model))
    assert model.spec is spec
    assert same_tensors(model, before)
    own = {tensor.data_ptr() for tensor in model.state_dict().values()}
    assert own.isdisjoint(tensor.data_ptr() for tensor in pruned.state_dict().values())


def test_keeping_everything_is_the_identity_bit_for_bit(model):
    for kept in ({}, {layer: tuple(range(width)) for layer, width in model.spec.widths.items()}):
        same = remove_channels(model, kept)
        assert same.spec == model.spec
        assert same_tensors(same, model)


def test_spec_labels_and_provenance_are_copied(model):
    model.labels = LabelSet.of(["a", "b", "c", "d", "e"])
    model.provenance = Provenance(sha256="0" * 64)
    pruned = remove_channels(model, {"conv_block6.conv2": (1, 3)})
    assert pruned.spec == model.spec.with_widths({"conv_block6.conv2": 2})
    assert pruned.labels == model.labels
    assert pruned.provenance == model.provenance
    assert pruned.conv_block6.conv2.out_channels == pruned.conv_block6.bn2.num_features == pruned.fc1.in_features == 2
    assert (pruned.fc1.out_features, pruned.fc_audioset.out_features) == (9, 5)


def test_batch_norm_statistics_and_the_global_generator_are_unchanged(model):
    model.train()
    before = torch.get_rng_state()
    pruned = remove_channels(model, {"conv_block6.conv2": (0,)})
    assert torch.equal(torch.get_rng_state(), before)
    assert torch.equal(pruned.bn0.running_mean, model.bn0.running_mean)


def test_double_precision_is_kept(model):
    assert remove_channels(model.double(), every_other(model)).fc1.weight.dtype == torch.float64


class NoSurgery:
    def prune(self, record_history):
        """Do nothing, as Torch-Pruning does with layers that it does not support."""


def test_surgery_without_effect_is_an_error(model, monkeypatch):
    import torch_pruning

    monkeypatch.setattr(torch_pruning.DependencyGraph, "get_pruning_group", lambda *arguments: NoSurgery())
    with pytest.raises(PruningError, match=r"surgery did not give the planned network: .*conv_block6\.conv2\.weight"):
        remove_channels(model, {"conv_block6.conv2": (0,)})


def test_no_hook_remains_on_a_module(model):
    pruned = remove_channels(model, every_other(model))
    for network in (model, pruned):
        assert not any(module._forward_hooks for module in network.modules() if not isinstance(module, nn.Identity))


@pytest.fixture(params=["Cnn6", "Cnn10", "Cnn14_DecisionLevelAtt"])
def chain(request):
    return build_model(ZOO[request.param].scaled(1 / 16), num_classes=5).train()


def test_every_convolution_of_a_chain_is_read_by_the_next_layer(chain):
    groups = channel_groups(chain)
    assert tuple(groups) == chain.layer_names
    for layer, reader in zip(chain.layer_names, [*chain.layer_names[1:], "fc1"], strict=True):
        group = groups[layer]
        assert (group.width, group.producers) == (chain.spec.widths[layer], (layer,))
        assert (group.norms, group.depthwise) == ((layer.replace(".conv", ".bn"),), ())
        assert group.readers == (Reader(reader, 0),)


def test_tracing_leaves_the_network_unchanged(chain):
    chain.conv_block1.requires_grad_(False)
    before = {name: parameter.requires_grad for name, parameter in chain.named_parameters()}
    state = tensors_of(chain)
    channel_groups(chain)
    assert chain.training
    assert {name: parameter.requires_grad for name, parameter in chain.named_parameters()} == before
    assert all(bool((value == state[name]).all()) for name, value in chain.state_dict().items())


def test_forward_order_maps_each_layer_to_its_batch_norm(chain):
    order = forward_order(chain)
    assert order.layers[: len(chain.layer_names)] == chain.layer_names
    assert order.norms == {layer: layer.replace(".conv", ".bn") for layer in chain.layer_names}
