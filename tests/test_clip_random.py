"""Random numbers of a clip depend on its seed alone, not on its batch."""

import hashlib

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given
from hypothesis import strategies as st
from torch.nn.modules.batchnorm import _BatchNorm

from epanns.audio.specaugment import SpecAugmenter
from epanns.clip_random import MOST_UNIFORMS, clip_draws, clip_seeds, clip_uniforms, dropout, dropout_if
from epanns.errors import ConfigError
from epanns.models.layers.mixup import mix_pairs
from epanns.models.zoo import BUILDERS, ZOO
from tests.families import noise, uneven

SEEDS = clip_seeds(3, 14, range(8))
FAMILIES = {ZOO[name].family: name for name in reversed(ZOO)}


def learn(clips: torch.Tensor, seeds: list[int]) -> list[torch.Tensor]:
    """Draw as a network does while it learns: stripes, pairs mixed, dropout of maps, of frames and of vectors."""
    augment, weights = SpecAugmenter().train(), torch.full((len(clips) // 2,), 0.5)
    with clip_draws(seeds):
        masked = augment(clips)
        maps = dropout(mix_pairs(masked, weights), 0.2, True)
        frames = dropout(maps.mean(3), 0.1, True)
        return [masked, maps, frames, dropout(frames.mean(1), 0.5, True)]


def ones(*shape: int) -> torch.Tensor:
    return torch.ones(len(SEEDS), *shape)


@given(cuts=st.sets(st.sampled_from([2, 4, 6])), frames=st.integers(20, 23))
def test_parts_of_a_batch_have_the_masks_of_the_whole_batch(cuts, frames):
    clips, ends = ones(1, frames, 64), [0, *sorted(cuts), 8]
    spans = [slice(first, end) for first, end in zip(ends, ends[1:], strict=False)]
    parts = zip(*[learn(clips[span], SEEDS[span]) for span in spans], strict=True)
    for whole, part in zip(learn(clips, SEEDS), parts, strict=True):
        assert torch.equal(whole, torch.cat(part))
        assert 0 < (whole == 0).float().mean() < 0.9


def test_another_seed_changes_the_mask_of_its_clip_alone():
    def masks(seeds):
        with clip_draws(seeds):
            return [dropout(ones(50), 0.5, True), SpecAugmenter().train()(ones(1, 200, 64)), clip_uniforms(8, 4)]

    for before, after in zip(masks(SEEDS), masks([*SEEDS[:5], SEEDS[5] + 1, *SEEDS[6:]]), strict=True):
        assert [clip for clip in range(8) if not torch.equal(before[clip], after[clip])] == [5]
    assert not set(clip_seeds(3, 15, range(8))) & set(SEEDS)


def test_each_layer_has_another_mask():
    with clip_draws(SEEDS):
        assert not torch.equal(dropout(ones(50), 0.5, True), dropout(ones(50), 0.5, True))


@pytest.mark.parametrize("p", [0.1, 0.2, 0.5])
def test_values_are_kept_with_the_right_chance_and_the_mean_stays(p):
    with clip_draws(SEEDS):
        made = dropout(ones(64, 25, 50), p, True)
    kept = (made != 0).double()
    deviation = (p * (1 - p) / kept.numel()) ** 0.5
    assert abs(kept.mean() - (1 - p)) < 4 * deviation
    assert (kept.mean(dim=(1, 2, 3)) - (1 - p)).abs().max() < 4.5 * deviation * 8**0.5
    assert set(made.unique().tolist()) == {0, float(torch.tensor(1 / (1 - p)))}


def test_the_order_in_memory_changes_no_mask():
    maps = torch.randn(8, 6, 5, 7)
    with clip_draws(SEEDS):
        contiguous = dropout(maps, 0.5, True)
    with clip_draws(SEEDS):
        last = dropout(maps.to(memory_format=torch.channels_last), 0.5, True)
    assert torch.equal(contiguous, last)
    assert last.is_contiguous(memory_format=torch.channels_last)
    assert contiguous.is_contiguous()


def test_gradients_are_zero_exactly_where_values_are():
    maps = ones(6, 5, 7).requires_grad_()
    with clip_draws(SEEDS):
        made = dropout(maps, 0.2, True)
    made.sum().backward()
    assert torch.equal(maps.grad, made.detach())


@pytest.mark.parametrize("p", [1e-9, 1e-6, 1 - 1e-9])
def test_extreme_probabilities_are_kept(p):
    with clip_draws(SEEDS):
        kept = dropout(ones(6, 5, 7), p, True) != 0
    assert kept.float().mean() == pytest.approx(1 - p, abs=1e-3)


def test_masks_are_the_same_on_every_machine():
    with clip_draws(SEEDS):
        kept = dropout(ones(6, 5, 7), 0.2, True) != 0
        stripes = SpecAugmenter().train()(ones(1, 500, 64)) == 0
    digest = hashlib.sha256(kept.contiguous().numpy().tobytes() + stripes.numpy().tobytes()).hexdigest()
    assert digest[:16] == "e646a34fbdab692e"


@pytest.mark.parametrize(("axis", "size", "width"), [(2, 500, 64), (3, 64, 8), (2, 40, 20)])
def test_stripes_follow_panns_law(axis, size, width):
    """Widths are uniform in 0 .. width - 1; a stripe may begin anywhere it has room."""
    clips, shape = 6_400, (1, size, 2) if axis == 2 else (1, 2, size)
    augment = SpecAugmenter(stripes=1, time_width=64, mel_width=8).train()
    with clip_draws(range(clips)):
        lost = augment(torch.ones(clips, *shape))[:, 0].amax(dim=2 if axis == 2 else 1) == 0
    widths = lost.sum(1)
    counts, expected = torch.bincount(widths, minlength=width), clips / width
    assert len(counts) == width
    assert ((counts - expected).abs() < 4.5 * expected**0.5).all()
    stripes = lost[widths > 0].float()
    starts, room = stripes.argmax(1), size - widths[widths > 0]
    assert (stripes.diff(dim=1).abs().sum(1) <= 2).all()
    relative = (starts + 0.5) / room
    assert relative.mean() == pytest.approx(0.5, abs=0.02)
    assert relative.var() == pytest.approx(1 / 12, abs=0.01)


def test_a_teacher_has_the_stripes_of_its_student():
    augment, logmel = SpecAugmenter().train(), ones(1, 300, 64)
    with clip_draws(SEEDS):
        student = augment(logmel)
        dropout(ones(30), 0.5, True)
        assert torch.equal(augment(logmel), student)


@pytest.mark.parametrize("name", FAMILIES.values())
def test_every_family_draws_from_the_clips_seeds_alone(name):
    model = uneven(name).train()
    for module in model.modules():
        if isinstance(module, _BatchNorm):
            module.eval()  # statistics of the batch are another matter
    inputs, weights = noise(model, clips=8), torch.full((4,), 0.5)

    def made(generator: int, seeds: list[int]) -> torch.Tensor:
        torch.manual_seed(generator)
        before = torch.get_rng_state()
        with torch.no_grad(), clip_draws(seeds):
            output = model.forward_inputs(inputs, weights)["embedding"]
        assert torch.equal(torch.get_rng_state(), before)
        return output

    assert torch.equal(made(0, SEEDS), made(1, SEEDS))
    assert not torch.equal(made(0, SEEDS), made(0, SEEDS[::-1]))
    assert model.spec.family in BUILDERS


def test_outside_the_block_torch_draws_the_masks():
    x = torch.randn(8, 6, 5, 7)
    with clip_draws(SEEDS):
        assert torch.equal(dropout(x, 0.5, False), x)
        assert torch.equal(dropout(x, 0.0, True), x)
    assert clip_uniforms(8, 4) is None
    torch.manual_seed(5)
    ours = dropout(x, 0.2, True)
    torch.manual_seed(5)
    assert torch.equal(ours, F.dropout(x, 0.2, True))


def test_blocks_can_be_nested():
    with clip_draws(SEEDS):
        outer = clip_uniforms(8, 4)
        with clip_draws([1]):
            assert clip_uniforms(1, 4).shape == (1, 4)
        assert torch.equal(clip_uniforms(8, 4), outer)


def test_other_numbers_of_clips_are_refused():
    with clip_draws(SEEDS), pytest.raises(ConfigError, match="5 clips inside clip_draws of 8 seeds: give one for each"):
        dropout(torch.ones(5, 3), 0.5, True)
    with clip_draws(SEEDS), pytest.raises(ConfigError, match="33 random numbers of each clip: at most 32 are drawn"):
        clip_uniforms(8, MOST_UNIFORMS + 1)
    with pytest.raises(ConfigError, match="clip_draws without a seed: give one for each clip"), clip_draws([]):
        pass


@pytest.mark.slow
def test_a_compiled_network_is_compiled_once_and_has_the_stripes_of_the_clips():
    augment, graphs = SpecAugmenter().train(), []

    def collect(graph, examples):
        graphs.append(graph)
        return graph

    learning = torch.compile(lambda logmel: dropout(augment(logmel), 0.2, True), backend=collect, fullgraph=True)
    for step in range(3):
        with clip_draws(clip_seeds(0, step, range(8))):
            masked = augment(ones(1, 300, 64))
            assert not learning(ones(1, 300, 64))[masked == 0].any()
    assert len(graphs) == 1


def test_dropout_can_be_switched_off_for_a_while():
    clips = ones(5, 7)
    with clip_draws(SEEDS), dropout_if(False):
        assert torch.equal(dropout(clips, 0.5, True), clips)
        with dropout_if(True):
            assert not torch.equal(dropout(clips, 0.5, True), clips)
        assert torch.equal(dropout(clips, 0.5, True), clips)
    assert not torch.equal(dropout(clips, 0.5, True), clips)
