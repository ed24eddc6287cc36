"""Faults of other pruners that raise no error, one test per fault.

Faults 1 to 12 were measured in Torch-Pruning 1.6.1, which finds the groups of this package. Faults 13 to 19 occur in
parts of Torch-Pruning that this package does not use.
"""

import copy
import gc
import weakref

import pytest
import torch
from torch import nn

import epanns
from epanns.errors import PruningError
from epanns.pruning.iterative_pruning import prune_iteratively
from epanns.pruning.prune import apply_plan, check_optimizer, plan_pruning, prune
from epanns.pruning.ranking.criteria import CRITERIA, LayerFilters
from epanns.pruning.ranking.importance import channel_importance
from epanns.pruning.recovery.recover import recover
from epanns.pruning.surgery import channel_groups
from epanns.training.config import TrainingConfig
from epanns.training.learner import Learner
from epanns.training.optimizer import build_optimizer
from epanns.training.resume import TrainingState, save_state
from tests.builders import narrow_spec, random_waveforms, same_tensors

[WAVEFORM] = random_waveforms(6)
TARGET = (torch.rand(6, 5, generator=torch.Generator().manual_seed(4)) < 0.3).float()
HALVES = {layer: width // 2 for layer, width in narrow_spec().widths.items()}


def calibration():
    return [(WAVEFORM[:3], TARGET[:3]), (WAVEFORM[3:], TARGET[3:])]


def real_widths(model) -> dict[str, int]:
    """Return the widths of the tensors, which may differ from the spec."""
    return {layer: len(model.get_submodule(layer).weight) for layer in model.layer_names}


@pytest.mark.parametrize("criterion", ["l1", "bn", "taylor", "activation", "interpolative"])
def test_01_a_frozen_network_is_pruned_and_stays_frozen(model, criterion):
    model.requires_grad_(False)
    pruned, _ = prune(model, ratio=0.5, criterion=criterion, calibration=calibration())
    assert real_widths(pruned) == HALVES
    assert not any(weight.requires_grad for network in (model, pruned) for weight in network.parameters())


def test_02_frozen_parameters_of_a_pruned_layer_stay_frozen(model):
    model.conv_block5.requires_grad_(False)
    model.conv_block2.bn1.bias.requires_grad_(False)
    pruned, _ = prune(model, ratio=0.5)
    frozen = {name for name, weight in model.named_parameters() if not weight.requires_grad}
    assert {name for name, weight in pruned.named_parameters() if not weight.requires_grad} == frozen
    assert len(frozen) == 7


@pytest.mark.parametrize("context", [torch.no_grad, torch.inference_mode])
@pytest.mark.parametrize("criterion", ["l1", "taylor", "interpolative"])
def test_03_pruning_works_where_gradients_are_off(model, logmel, context, criterion):
    with context():
        pruned, _ = prune(model, ratio=0.5, criterion=criterion, calibration=calibration())
    assert real_widths(pruned) == HALVES
    pruned.forward_inputs((logmel,))["clipwise_logits"].sum().backward()
    assert all(weight.grad is not None for weight in pruned.parameters())


@pytest.mark.parametrize("criterion", ["l1", "taylor", "interpolative"])
def test_04_training_modes_of_all_modules_are_restored(model, criterion):
    model.train()
    model.conv_block2.eval()
    modes = {name: module.training for name, module in model.named_modules()}
    pruned, _ = prune(model, ratio=0.5, criterion=criterion, calibration=calibration())
    channel_groups(model)
    for network in (model, pruned):
        assert {name: module.training for name, module in network.named_modules()} == modes


def test_05_layers_are_found_by_name_and_an_unknown_layer_is_refused(model):
    twin = copy.deepcopy(model)
    assert same_tensors(
        prune(twin, ratios={"conv_block6.conv2": 0.5})[0], prune(model, ratios={"conv_block6.conv2": 0.5})[0]
    )
    with pytest.raises(PruningError, match=r"unknown layer 'conv_block6\.conv3' \(did you mean 'conv_block6\.conv"):
        prune(model, ratios={"conv_block6.conv3": 0.5})
    with pytest.raises(PruningError, match=r"unknown layer Convolution\(.*name a convolution or a block"):
        prune(model, ratios={twin.conv_block6.conv2: 0.5})


@pytest.mark.parametrize("ratio", [1.0, 50, -0.5, float("nan"), "0.5", True])
def test_06_a_ratio_outside_zero_and_one_is_refused(model, ratio):
    for asked in ({"ratio": ratio}, {"ratios": {"conv_block6": ratio}}):
        with pytest.raises(PruningError, match=rf"ratio '?{ratio}'? for conv_block\d.*: must be .*in \[0, 1\)"):
            prune(model, **asked)


def test_07_layers_that_are_not_named_keep_every_channel(model):
    pruned, _ = prune(model, ratio=0.5, layers=["conv_block5"])
    asked = {layer: width for layer, width in HALVES.items() if layer.startswith("conv_block5")}
    assert real_widths(pruned) == dict(model.spec.widths) | asked
    assert pruned.fc1.out_features == model.fc1.out_features


def test_08_classifier_and_embedding_keep_their_size(model, logmel):
    pruned, _ = prune(model, ratio=0.5)
    outputs = pruned.forward_inputs((logmel,))
    assert (outputs["clipwise_output"].shape, outputs["embedding"].shape) == ((2, 5), (2, 9))
    for protected in ("fc_audioset", "fc1"):
        with pytest.raises(PruningError, match=rf"{protected} cannot be pruned"):
            prune(model, ratio=0.5, layers=[protected])


def test_09_layers_that_share_a_parameter_are_refused(model):
    model.conv_block5.bn2.weight = model.conv_block5.bn1.weight
    match = r"conv_block5\.bn1\.weight and conv_block5\.bn2\.weight share one parameter"
    with pytest.raises(PruningError, match=match):
        prune(model, ratio=0.5)


class Stale:
    """A training callback that keeps the optimizer of the unpruned network, a common mistake."""

    def __init__(self, model, make=torch.optim.Adam, **options):
        self.optimizer = make(model.parameters(), lr=0.1, **options)

    def __call__(self, network, step):
        nn.functional.mse_loss(network(WAVEFORM)["clipwise_output"], TARGET).backward()
        self.optimizer.step()


def test_10_an_optimizer_of_the_unpruned_network_is_refused(model, tmp_path):
    stale = torch.optim.Adam(model.parameters())
    check_optimizer(stale, model)
    pruned, _ = prune(model, ratio=0.5)
    count = len(list(model.parameters()))
    match = (
        rf"this Adam holds {count} of {count} parameters that are not the network's and lacks {count} trainable ones"
    )
    with pytest.raises(PruningError, match=rf"{match}, first bn0\.weight: make a new one from the parameters of this"):
        epanns.check_optimizer(stale, pruned)
    learner = Learner(model, TrainingConfig(iterations=1))
    learner.model = pruned
    with pytest.raises(PruningError, match=match):
        save_state(tmp_path, TrainingState(), learner)
    assert not list(tmp_path.iterdir())
    with pytest.raises(
        PruningError, match=r"after round 1 gradients were computed and no weight changed: the optimizer"
    ):
        prune_iteratively(model, steps=2, ratio=0.5, between=Stale(model))
    check_optimizer(build_optimizer(pruned, TrainingConfig(iterations=1)), pruned)


class Fresh:
    """A training callback that makes a new optimizer for the pruned network."""

    def __init__(self, make, options):
        self.make, self.options = make, options

    def __call__(self, network, step):
        Stale(network, self.make, **self.options)(network, step)


@pytest.mark.parametrize(
    ("make", "options"),
    [
        (torch.optim.Adam, {"fused": True}),
        (torch.optim.AdamW, {"fused": True}),
        (torch.optim.SGD, {"fused": True}),
        (torch.optim.AdamW, {}),
        (torch.optim.SGD, {"momentum": 0.9}),
    ],
)
def test_10_every_kind_of_optimizer_is_accepted_for_its_own_network_only(model, make, options):
    """Fused optimizers do not increase the version counter of a tensor."""
    pruned, _ = prune_iteratively(model, steps=2, ratio=0.5, between=Fresh(make, options))
    assert real_widths(pruned) == HALVES
    with pytest.raises(PruningError, match=r"after round 1 gradients were computed and no weight changed"):
        prune_iteratively(model, steps=2, ratio=0.5, between=Stale(model, make, **options))


def test_10_an_optimizer_may_lack_frozen_parameters_only(model):
    model.conv_block1.requires_grad_(False)
    learning = [weight for weight in model.parameters() if weight.requires_grad]
    check_optimizer(torch.optim.SGD(learning, lr=0.1), model)
    with pytest.raises(PruningError, match=r"this SGD lacks 1 trainable ones, first fc_audioset\.bias"):
        check_optimizer(torch.optim.SGD(learning[:-1], lr=0.1), model)


def compiled_whole(model):
    return torch.compile(model, backend="eager")


def compiled_part(model):
    model.conv_block2 = torch.compile(model.conv_block2, backend="eager")
    return model


def compiled_in_place(model):
    model.compile(backend="eager")
    return model


@pytest.mark.parametrize("compile_", [compiled_whole, compiled_part, compiled_in_place])
def test_11_a_compiled_network_is_refused(model, compile_):
    plan = plan_pruning(model, ratio=0.5)
    compiled = compile_(model)
    for attempt in (lambda: prune(compiled, ratio=0.5), lambda: apply_plan(compiled, plan)):
        with pytest.raises(PruningError, match=r"the network is compiled: prune the one given to torch\.compile, then"):
            attempt()


@pytest.mark.parametrize("kind", [nn.DataParallel, nn.parallel.DistributedDataParallel])
def test_11_a_network_wrapped_for_several_devices_is_refused(model, kind):
    wrapped = kind.__new__(kind)  # without the process group that DistributedDataParallel requires
    nn.Module.__init__(wrapped)
    wrapped.module = model
    with pytest.raises(PruningError, match=rf"wrapped in {kind.__name__}: prune its \.module, then wrap the result"):
        prune(wrapped, ratio=0.5)


def test_12_pruning_keeps_no_reference_to_earlier_networks(build):
    """Torch-Pruning keeps modules in default arguments; pruning another network meanwhile must change no result."""
    model = build()
    first, _ = prune(model, ratio=0.5)
    other = build(head="decision_max", num_classes=3)
    gone = [weakref.ref(module) for network in (other, prune(other, ratio=0.25)[0]) for module in network.modules()]
    del other
    gc.collect()
    assert not any(reference() is not None for reference in gone)
    assert same_tensors(prune(model, ratio=0.5)[0], first)


def test_13_a_ratio_is_the_fraction_removed(build):
    model = build(widths=dict.fromkeys(narrow_spec().widths, 32))
    assert set(real_widths(prune(model, ratio=0.25)[0]).values()) == {24}


def test_14_taylor_averages_over_all_clips_of_all_batches(model):
    """Every clip has the same weight, independent of the size of its batch."""
    layers = ["conv_block6.conv2"]

    def scores(*clips):
        batch = [(WAVEFORM[[*clips]], TARGET[[*clips]])]
        return channel_importance(model, layers, criterion="taylor", calibration=batch)[layers[0]]

    parts = [(WAVEFORM[:4], TARGET[:4]), (WAVEFORM[4:], TARGET[4:])]
    found = channel_importance(model, layers, criterion="taylor", calibration=parts)[layers[0]]
    torch.testing.assert_close(found, (4 * scores(0, 1, 2, 3) + 2 * scores(4, 5)) / 6)
    assert not torch.allclose(found, scores(4, 5), rtol=0.01)


def test_15_taylor_includes_the_batch_norm(model):
    """A channel whose batch norm has scale and offset 0 has importance 0."""
    with torch.no_grad():
        model.conv_block6.bn2.weight[3] = model.conv_block6.bn2.bias[3] = 0
    scores = channel_importance(model, ["conv_block6.conv2"], criterion="taylor", calibration=calibration())
    assert float(scores["conv_block6.conv2"][3]) == 0


def test_16_criterion_bn_is_refused_without_a_batch_norm(model):
    with pytest.raises(PruningError, match=r"fc1: no batch norm with a scale follows it, so criterion 'bn'"):
        CRITERIA["bn"](LayerFilters("fc1", model.fc1.weight.detach(), 0))


@pytest.mark.parametrize("layers", [[nn.Conv2d], [nn.BatchNorm2d, "conv_block1"], "conv_block1"])
def test_17_types_and_a_single_string_are_refused_as_layers(model, layers):
    with pytest.raises(PruningError, match=r"unknown layer <class|layers='conv_block1': give a list of layer names"):
        prune(model, ratio=0.5, layers=layers)


def test_18_random_depends_on_the_seed_and_activation_on_every_batch(model):
    plans = [plan_pruning(model, ratio=0.5, criterion="random", seed=seed) for seed in (0, 0, 1)]
    assert plans[0] == plans[1]
    assert plans[0].kept_channels != plans[2].kept_channels
    layers = ["conv_block6.conv2"]
    found, last = (
        channel_importance(model, layers, criterion="activation", calibration=clips)[layers[0]]
        for clips in (calibration(), calibration()[1:])
    )
    assert not torch.allclose(found, last, rtol=0.01)


@pytest.mark.parametrize("criterion", CRITERIA)
def test_19_one_ratio_prunes_every_layer(model, criterion):
    pruned, plan = prune(model, ratio=0.5, criterion=criterion, calibration=calibration())
    assert real_widths(pruned) == plan.widths == HALVES


@pytest.mark.parametrize("method", ["bn", "ls", "taylor", "activation"])
def test_networks_in_half_precision_are_refused(model, method):
    plan = plan_pruning(model, ratio=0.5)
    model.half()
    with pytest.raises(PruningError, match=r"weights are torch\.float16, and clips are measured in float32: call"):
        if method in ("taylor", "activation"):
            prune(model, ratio=0.5, criterion=method, calibration=calibration())
        else:
            recover(apply_plan(model, plan), model, [WAVEFORM], method, plan=plan)
