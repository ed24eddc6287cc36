import subprocess
import sys

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


def zeroed_after_batch_norm(model: Cnn, kept: dict[str, tuple[int, ...]], logmel: torch.Tensor):
    """Run the dense network with the dropped channels set to zero where they leave their batch norm."""
    handles = []
    for layer, channels in kept.items():
        mask = torch.zeros(model.spec.widths[layer])
        mask[list(channels)] = 1

        def silence(module, inputs, output, mask=mask):
            return output * mask[:, None, None]

        handles.append(model.get_submodule(layer.replace(".conv", ".bn")).register_forward_hook(silence))
    with torch.no_grad():
        outputs = model.forward_inputs((logmel,))
    for handle in handles:
        handle.remove()
    return outputs


@pytest.mark.parametrize("kind", KINDS)
def test_pruned_equals_dense_with_dropped_channels_zeroed_after_batch_norm(build, logmel, kind):
    model = build(**KINDS[kind])
    kept = every_other(model)
    expected = zeroed_after_batch_norm(model, kept, logmel)
    with torch.no_grad():
        outputs = remove_channels(model, kept).forward_inputs((logmel,))
    assert outputs.keys() == expected.keys()
    for key, value in expected.items():
        torch.testing.assert_close(outputs[key], value, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("layers", [LAST_SIX, LAST_SIX[-1:], LAST_SIX[:1], ("conv_block1.conv1", "conv_block4.conv2")])
def test_pruned_equals_dense_with_dropped_channels_zeroed_for_any_layers(model, logmel, layers):
    kept = every_other(model, layers)
    with torch.no_grad():
        outputs = remove_channels(model, kept).forward_inputs((logmel,))
    for key, value in zeroed_after_batch_norm(model, kept, logmel).items():
        torch.testing.assert_close(outputs[key], value, rtol=1e-5, atol=1e-5)


def test_surviving_tensors_equal_slicing_by_hand(model):
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


def test_the_original_is_not_touched(model):
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    spec = model.spec
    pruned = remove_channels(model, every_other(model))
    assert model.spec is spec
    assert all(torch.equal(tensor, before[name]) for name, tensor in model.state_dict().items())
    own = {tensor.data_ptr() for tensor in model.state_dict().values()}
    assert own.isdisjoint(tensor.data_ptr() for tensor in pruned.state_dict().values())


def test_keeping_everything_is_the_identity_bit_for_bit(model):
    same = remove_channels(model, {layer: tuple(range(width)) for layer, width in model.spec.widths.items()})
    assert same.spec == model.spec
    assert all(torch.equal(tensor, model.state_dict()[name]) for name, tensor in same.state_dict().items())


def test_spec_labels_and_provenance_come_along(model):
    model.labels = LabelSet.of(["a", "b", "c", "d", "e"])
    model.provenance = Provenance(sha256="0" * 64)
    pruned = remove_channels(model, {"conv_block6.conv2": (1, 3)})
    assert pruned.spec == model.spec.with_widths({"conv_block6.conv2": 2})
    assert pruned.labels == model.labels
    assert pruned.provenance == model.provenance
    assert pruned.conv_block6.conv2.out_channels == pruned.conv_block6.bn2.num_features == pruned.fc1.in_features == 2
    assert (pruned.fc1.out_features, pruned.fc_audioset.out_features) == (9, 5)


def freeze_all(model):
    model.requires_grad_(False)


def freeze_half(model):
    model.conv_block4.requires_grad_(False)
    model.conv_block5.bn1.weight.requires_grad_(False)


@pytest.mark.parametrize("freeze", [freeze_all, freeze_half, lambda model: None])
@pytest.mark.parametrize("training", [True, False])
def test_modes_and_frozen_parameters_come_back_as_they_were(model, freeze, training):
    freeze(model)
    model.train(training)
    model.conv_block2.train(not training)
    pruned = remove_channels(model, every_other(model))
    for network in (model, pruned):
        assert [module.training for module in network.modules()] == [module.training for module in model.modules()]
        assert network.conv_block2.bn1.training is not training
    assert {name: parameter.requires_grad for name, parameter in pruned.named_parameters()} == {
        name: parameter.requires_grad for name, parameter in model.named_parameters()
    }
    assert dict(pruned.spec.widths) == {layer: width // 2 for layer, width in model.spec.widths.items()}


@pytest.mark.parametrize("context", [torch.no_grad, torch.inference_mode, torch.enable_grad])
def test_gradients_may_be_off_around_pruning(model, logmel, context):
    with context():
        pruned = remove_channels(model, every_other(model))
    pruned.forward_inputs((logmel,))["clipwise_logits"].sum().backward()
    assert all(parameter.grad is not None for parameter in pruned.parameters())


def test_batch_norm_statistics_and_global_random_numbers_are_left_alone(model):
    model.train()
    before = torch.get_rng_state()
    pruned = remove_channels(model, {"conv_block6.conv2": (0,)})
    assert torch.equal(torch.get_rng_state(), before)
    assert torch.equal(pruned.bn0.running_mean, model.bn0.running_mean)


def test_a_pruned_network_can_be_pruned_again(model, logmel):
    once = remove_channels(model, {"conv_block6.conv1": (1, 4, 8, 11)})
    twice = remove_channels(once, {"conv_block6.conv1": (1, 3)})
    assert torch.equal(twice.conv_block6.conv1.weight, model.conv_block6.conv1.weight[[4, 11]])


def test_double_precision_works(model):
    assert remove_channels(model.double(), every_other(model)).fc1.weight.dtype == torch.float64


class NoSurgery:
    def prune(self, record_history):
        """Do nothing, as Torch-Pruning does in the cases it does not understand."""


def test_surgery_that_did_nothing_is_an_error(model, monkeypatch):
    import torch_pruning

    monkeypatch.setattr(torch_pruning.DependencyGraph, "get_pruning_group", lambda *arguments: NoSurgery())
    with pytest.raises(PruningError, match=r"surgery did not give the planned network: .*conv_block6\.conv2\.weight"):
        remove_channels(model, {"conv_block6.conv2": (0,)})


def test_module_hooks_do_not_stay(model):
    pruned = remove_channels(model, every_other(model))
    for network in (model, pruned):
        assert not any(module._forward_hooks for module in network.modules() if not isinstance(module, nn.Identity))


def test_torch_pruning_is_imported_only_for_surgery():
    program = "import sys, epanns.pruning.prune, epanns.pruning.surgery; sys.exit('torch_pruning' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", program], check=False).returncode == 0


def test_what_surgery_does_not_cut_gets_memory_of_its_own(model):
    """Surgery works on the original's memory and must neither write to it nor leave the copy in it."""
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    pruned = remove_channels(model, {"conv_block6.conv2": (1, 3)})
    with torch.no_grad():
        for weight in pruned.parameters():
            weight.fill_(7)
    assert all(torch.equal(tensor, before[name]) for name, tensor in model.state_dict().items())


@pytest.fixture(params=["Cnn6", "Cnn10", "Cnn14_DecisionLevelAtt"])
def chain(request):
    return build_model(ZOO[request.param].scaled(1 / 16), num_classes=5).train()


def test_every_convolution_of_a_chain_is_read_by_the_next_one(chain):
    groups = channel_groups(chain)
    assert tuple(groups) == chain.layer_names
    for layer, reader in zip(chain.layer_names, [*chain.layer_names[1:], "fc1"], strict=True):
        group = groups[layer]
        assert (group.width, group.producers) == (chain.spec.widths[layer], (layer,))
        assert (group.norms, group.depthwise) == ((layer.replace(".conv", ".bn"),), ())
        assert group.readers == (Reader(reader, 0),)


def test_tracing_leaves_the_network_as_it_was(chain):
    chain.conv_block1.requires_grad_(False)
    before = {name: parameter.requires_grad for name, parameter in chain.named_parameters()}
    state = {name: value.clone() for name, value in chain.state_dict().items()}
    channel_groups(chain)
    assert chain.training
    assert {name: parameter.requires_grad for name, parameter in chain.named_parameters()} == before
    assert all(bool((value == state[name]).all()) for name, value in chain.state_dict().items())


def test_forward_order_names_each_layer_with_the_norm_behind_it(chain):
    order = forward_order(chain)
    assert order.layers[: len(chain.layer_names)] == chain.layer_names
    assert order.norms == {layer: layer.replace(".conv", ".bn") for layer in chain.layer_names}
