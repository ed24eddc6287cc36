"""Budgets: their text form, their limits and their display."""

import math
from fractions import Fraction

import pytest
from hypothesis import given
from hypothesis import strategies as st

from epanns.errors import PruningError
from epanns.pruning.budgets.budget import Budget


@pytest.mark.parametrize(
    ("kind", "text", "amount"),
    [
        ("params", "22M", 22_000_000),
        ("params", "22.05 M", 22_050_000),
        ("params", "22050000", 22_050_000),
        ("params", "900k", 900_000),
        ("macs", "5.02G", 5_020_000_000),  # in floating point 5.02e9 - 1e-6
        ("macs", "5.02e9", 5_020_000_000),
        ("macs", "0.5G", 500_000_000),
        ("macs", "0.25", 0.25),
        ("macs", ".25", 0.25),
        ("bytes", "4.5MB", 4_500_000),
        ("bytes", "4.5MiB", 4_718_592),
        ("bytes", "512KiB", 524_288),
        ("bytes", "1000000", 1_000_000),
        ("bytes", "0.1", 0.1),
        ("latency", "20ms", 20),
        ("latency", "0.02s", 20),
        ("latency", "12.5", 12.5),
        ("latency", "0.6", 0.6),
    ],
)
def test_a_budget_is_parsed_exactly(kind, text, amount):
    assert Budget.parse(kind, text) == Budget(kind, amount)
    assert Budget.parse(kind, text).is_fraction == (amount < 1)


@given(st.integers(1, 10**15))
def test_a_whole_number_is_parsed_as_itself(number):
    assert Budget.parse("macs", str(number)).limit(10**16) == number


@pytest.mark.parametrize(
    ("kind", "text", "match"),
    [
        ("macs", "5.02X", r"'5\.02X' is no budget of macs: give a number above 0 such as 0\.25 or 5\.02G \(units: k, "),
        ("macs", "5.02GB", r"no budget of macs"),
        ("macs", "5,02G", r"no budget of macs"),
        ("macs", "", r"'' is no budget of macs"),
        ("params", "22m", r"no budget of params"),  # thousandths, not millions
        ("params", "-3", r"no budget of params"),
        ("params", "0", r"'0' is no budget of params: give a number above 0"),
        ("params", "nan", r"no budget of params"),
        ("params", "inf", r"no budget of params"),
        ("params", "1e999999999", r"'1e999999999' is no budget of params: give a number above 0 such as 0\.25 or 22M"),
        ("params", "1e400M", r"'1e400M' is no budget of params"),
        ("macs", "1e-400", r"'1e-400' is no budget of macs"),
        ("params", "25%", r"'25%' is no budget of params: for 25 % give 0\.25 \(units"),
        ("bytes", "4.5Mb", r"no budget of bytes: give a number above 0 such as 0\.25 or 4\.5MB \(units: B, kB, KB, MB"),
        (
            "bytes",
            "0.5B",
            r"'0\.5B' is no budget of bytes: it is 0\.5 bytes; must be at least 1; a fraction of what the network "
            r"costs has no unit, as in 0\.25$",
        ),
        (
            "params",
            "0.0001k",
            r"'0\.0001k' is no budget of params: it is 0\.1 params; must be at least 1;",
        ),
        ("macs", "0.0000001M", r"no budget of macs: it is 0\.1\d* macs; must be at least 1"),
        ("latency", "20us", r"no budget of latency: .* \(units: ms, s\)"),
    ],
)
def test_an_invalid_text_is_refused_with_an_example(kind, text, match):
    with pytest.raises(PruningError, match=match):
        Budget.parse(kind, text)


@pytest.mark.parametrize(
    ("arguments", "match"),
    [
        (("flops", 0.5), r"budget of kind 'flops': must be one of params, macs, bytes, latency"),
        (("macs", 0), r"budget of 0 macs: must be a number above 0"),
        (("macs", -1.5), r"budget of -1\.5 macs"),
        (("macs", math.nan), r"budget of nan macs"),
        (("macs", math.inf), r"budget of inf macs"),
        (("macs", True), r"budget of True macs"),
        (("macs", "5G"), r"budget of '5G' macs: must be a number"),
        (("params", 0.5, False, True), r"absolute goes with a budget of latency, not of params: give 1 or more"),
        (("params", 0.5, True), r"int8 goes with a budget of bytes, not of params"),
    ],
)
def test_an_invalid_kind_or_amount_is_refused(arguments, match):
    with pytest.raises(PruningError, match=match):
        Budget(*arguments)


def test_the_limit_of_a_fraction_is_exact():
    assert Budget("macs", 0.1).limit(10) == 1  # 0.1 in binary is more than a tenth
    assert Budget("macs", 0.3).limit(20_041_926_656) == Fraction(3, 10) * 20_041_926_656
    assert Budget("macs", 7.5).limit(3) == Fraction(15, 2)


def test_a_pruning_ratio_of_all_channels_is_a_budget_of_channels():
    assert Budget.left_by(0.9).limit(100) == 10  # 1 - 0.9 in floating point is less than a tenth
    for ratio in (0, 1, -0.5, 50, True, "0.5", math.nan):
        with pytest.raises(PruningError, match=rf"ratio {ratio!r}: must be in \(0, 1\), the fraction of all channels"):
            Budget.left_by(ratio)


@pytest.mark.parametrize(
    ("budget", "cost", "text"),
    [
        (Budget("macs", 0.5), 5_021_564_928, "5.0216 G MACs"),
        (Budget("params", 0.5), 22_052_655, "22.0527 M parameters"),
        (Budget("params", 0.5), 999, "999 parameters"),
        (Budget("bytes", 0.5), 4_500_000, "4.5000 MB in float32"),
        (Budget("bytes", 0.5, int8=True), 1_500, "1.5000 kB in int8"),
        (Budget("latency", 0.5), 20.126, "20.13 ms"),
        (Budget("latency", 0.5), 100_000, "100,000 ms"),
        (Budget("channels", 0.5), 4032, "4,032 channels"),
    ],
)
def test_a_cost_is_shown_in_its_unit(budget, cost, text):
    assert budget.show(cost) == text


@pytest.mark.parametrize(("text", "limit"), [("0.5ms", 0.5), ("0.0005s", 0.5), ("0.5", 10), ("5ms", 5), ("1ms", 1)])
def test_a_latency_with_a_unit_is_absolute_also_below_one_millisecond(text, limit):
    budget = Budget.parse("latency", text)
    assert budget.limit(20) == limit
    assert budget.is_fraction == (text == "0.5")
    assert budget.show(0.5) == "0.5 ms"


@given(st.integers(1, 10**13), st.sampled_from([("params", False), ("macs", False), ("bytes", False), ("bytes", True)]))
def test_an_offered_budget_is_at_least_the_cost_and_at_most_one_thousandth_above(cost, kind):
    budget = Budget(kind[0], 0.5, int8=kind[1])
    text = budget.offer(cost)
    for unit in (" parameters", " MACs", " in float32", " in int8"):
        text = text.removesuffix(unit)
    limit = Budget.parse(kind[0], text).limit(0) if cost > 1 else 1
    assert cost <= limit <= cost * (1 + Fraction(1, 1000))
