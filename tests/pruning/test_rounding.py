import contextlib
from fractions import Fraction

import pytest
from hypothesis import given
from hypothesis import strategies as st

from epanns.errors import PruningError
from epanns.pruning.rounding import remaining_width


@pytest.mark.parametrize(
    ("width", "ratio", "kept"),
    [
        (512, 0.25, 384),
        (512, 0.5, 256),
        (512, 0.75, 128),
        (10, 0.9, 1),  # in floating point 10 * (1 - 0.9) is 0.99..., which truncates to 0
        (100, 0.9, 10),
        (1024, 0.3, 717),
        (1000, 0.29, 710),
        (5, 0.5, 3),  # 2.5 are removed: rounded to even, 2
        (7, 0.5, 3),  # 3.5 are removed: 4
        (64, 0, 64),
    ],
)
def test_remaining_width_equals_exact_arithmetic(width, ratio, kept):
    assert remaining_width(width, ratio) == kept


@pytest.mark.parametrize(
    ("width", "ratio", "round_to", "kept"),
    [
        (512, 0.3, 8, 360),  # 358 are kept: the nearest multiple is 360, Torch-Pruning's is 352
        (512, 0.9, 64, 64),  # 51 are kept: one multiple, where Torch-Pruning removes nothing
        (512, 0.99, 64, 64),
        (100, 0.5, 20, 60),  # 50 are kept, halfway between 40 and 60: up
        (4, 0.9, 2, 2),  # 0 would be kept: one multiple
        (100, 0, 64, 100),
    ],
)
def test_remaining_width_is_the_nearest_multiple(width, ratio, round_to, kept):
    assert remaining_width(width, ratio, round_to=round_to) == kept


ratios = st.integers(0, 999).map(lambda thousandths: thousandths / 1000)


@given(width=st.integers(1, 4096), ratio=ratios)
def test_remaining_width_is_within_half_a_channel_or_refused(width, ratio):
    exact = width * (1 - Fraction(round(ratio * 1000), 1000))
    try:
        kept = remaining_width(width, ratio)
    except PruningError:
        assert exact <= Fraction(1, 2) or width - exact <= Fraction(1, 2)
    else:
        assert abs(kept - exact) <= Fraction(1, 2)
        assert 1 <= kept < width or ratio == 0


@given(width=st.integers(1, 4096), ratio=ratios.filter(bool), round_to=st.integers(1, 300))
def test_remaining_width_is_a_positive_multiple(width, ratio, round_to):
    try:
        kept = remaining_width(width, ratio, round_to=round_to)
    except PruningError:
        return
    assert kept % round_to == 0
    assert round_to <= kept < width


@given(width=st.integers(2, 2048), low=ratios, high=ratios)
def test_a_larger_ratio_never_keeps_more(width, low, high):
    low, high = sorted((low, high))
    with contextlib.suppress(PruningError):
        assert remaining_width(width, high) <= remaining_width(width, low)


@pytest.mark.parametrize("ratio", [-0.1, 1, 1.0, 1.2, float("nan"), float("inf"), -float("inf")])
def test_ratio_outside_the_unit_interval_is_refused(ratio):
    with pytest.raises(PruningError, match=rf"ratio {ratio} for conv9: must be in \[0, 1\), the fraction of channels"):
        remaining_width(64, ratio, layer="conv9")


def test_a_ratio_in_percent_is_refused_with_the_fraction():
    with pytest.raises(PruningError, match=r"for 50 % give 0\.5"):
        remaining_width(64, 50, layer="conv9")


@pytest.mark.parametrize("ratio", ["0.5", None, True])
def test_a_ratio_that_is_no_number_is_refused(ratio):
    with pytest.raises(PruningError, match=rf"ratio {ratio!r} for conv9: must be a number in"):
        remaining_width(64, ratio, layer="conv9")


def test_removing_every_channel_is_refused():
    with pytest.raises(PruningError, match=r"ratio 0\.9 removes all 4 channels of conv9: give at most 0\.75 or leave"):
        remaining_width(4, 0.9, layer="conv9")


@given(width=st.integers(1, 64), ratio=ratios, round_to=st.integers(1, 16))
def test_a_ratio_of_the_whole_network_keeps_at_least_one_channel_of_a_narrow_layer(width, ratio, round_to):
    left = width - round(width * Fraction(round(ratio * 1000), 1000))
    kept = remaining_width(width, ratio, round_to=round_to, exact=False)
    assert 1 <= kept <= width
    if round_to == 1:
        assert kept == max(1, left)
    elif kept < width:
        assert kept % round_to == 0


def test_removing_no_channel_is_refused():
    with pytest.raises(PruningError, match=r"ratio 0\.1 removes none of the 4 channels of conv9 \(round_to=1\): raise"):
        remaining_width(4, 0.1, layer="conv9")
    with pytest.raises(PruningError, match=r"ratio 0\.2 removes none of the 16 channels of conv9 \(round_to=16\)"):
        remaining_width(16, 0.2, round_to=16, layer="conv9")


@pytest.mark.parametrize("round_to", [0, -8, 2.0, True])
def test_round_to_must_be_a_positive_whole_number(round_to):
    with pytest.raises(PruningError, match=rf"round_to={round_to}: must be a whole number of at least 1"):
        remaining_width(64, 0.5, round_to=round_to)
