"""Numbers as tables and axes show them."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from epanns.reporting.notation import mean_and_sd, megabytes, si, si_tick, signed_percent, three_digits


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (23_205_839, "23.2 M"),
        (80_753_615, "80.8 M"),
        (20_041_926_656, "20.0 G"),
        (999_600, "1.00 M"),
        (999_400, "999 k"),
        (12, "12.0"),
        (0, "0"),
        (None, "–"),
    ],
)
def test_counts_have_three_digits_and_a_prefix(value, text):
    assert si(value) == text


@given(st.floats(1e-3, 9.99e14))
def test_three_digits_are_right_to_half_a_percent(value):
    number, _, prefix = si(value).partition(" ")
    factor = {"T": 1e12, "G": 1e9, "M": 1e6, "k": 1e3, "": 1}[prefix]
    assert float(number) * factor == pytest.approx(value, rel=0.0051)


def test_durations_and_counts_in_words():
    assert (si_tick(5_000_000), si_tick(1.2e9), si_tick(3)) == ("5 M", "1.2 G", "3")
    assert (megabytes(4_500_000), megabytes(None)) == ("4.50", "–")
    assert (signed_percent(-0.381), signed_percent(0.05)) == ("−38.1 %", "+5.0 %")
    assert (three_digits(0.0123), three_digits(99.96)) == ("0.0123", "100")


@pytest.mark.parametrize(
    ("values", "how", "text"),
    [
        ([0.6, 0.64], {}, "0.620 ± 0.028"),
        ([0.6], {}, "0.600"),
        ([0.6], {"sign": True}, "+0.600"),
        ([-1.0, -3.0], {"sign": True, "digits": 1}, "-2.0 ± 1.4"),
    ],
)
def test_several_values_are_a_mean_and_the_sample_deviation(values, how, text):
    assert mean_and_sd(values, **how) == text
