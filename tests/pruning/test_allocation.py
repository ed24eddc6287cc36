import contextlib
import json
from fractions import Fraction

import pytest
from hypothesis import given
from hypothesis import strategies as st

from epanns.errors import PruningError
from epanns.pruning.config import ratio_per_layer, read_ratios, select_layers
from epanns.pruning.rounding import remaining_width

CONVS = ("conv_block1.conv1", "conv_block1.conv2", "conv_block2.conv1", "conv_block2.conv2", "conv_block10.conv1")
PROTECTED = {"fc1": "reason one", "att_block.att": "reason two"}


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
        (5, 0.5, 3),  # 2.5 go: halves to even, 2
        (7, 0.5, 3),  # 3.5 go: 4
        (64, 0, 64),
    ],
)
def test_remaining_width_is_exact(width, ratio, kept):
    assert remaining_width(width, ratio) == kept


@pytest.mark.parametrize(
    ("width", "ratio", "round_to", "kept"),
    [
        (512, 0.3, 8, 360),  # 358 stay: nearest multiple is 360, Torch-Pruning's is 352
        (512, 0.9, 64, 64),  # 51 stay: one multiple, where Torch-Pruning silently removes nothing
        (512, 0.99, 64, 64),
        (100, 0.5, 20, 60),  # 50 stay, between 40 and 60: up
        (4, 0.9, 2, 2),  # none would stay: one multiple
        (100, 0, 64, 100),
    ],
)
def test_remaining_width_takes_the_nearest_multiple(width, ratio, round_to, kept):
    assert remaining_width(width, ratio, round_to=round_to) == kept


ratios = st.integers(0, 999).map(lambda thousandths: thousandths / 1000)


@given(width=st.integers(1, 4096), ratio=ratios)
def test_remaining_width_is_within_half_a_channel_and_never_silent(width, ratio):
    exact = width * (1 - Fraction(round(ratio * 1000), 1000))
    try:
        kept = remaining_width(width, ratio)
    except PruningError:
        assert exact <= Fraction(1, 2) or width - exact <= Fraction(1, 2)
    else:
        assert abs(kept - exact) <= Fraction(1, 2)
        assert 1 <= kept < width or ratio == 0


@given(width=st.integers(1, 4096), ratio=ratios.filter(bool), round_to=st.integers(1, 300))
def test_remaining_width_is_a_multiple_that_leaves_something(width, ratio, round_to):
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


def test_a_ratio_in_percent_is_recognised():
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
def test_a_ratio_for_the_whole_network_is_no_error_in_a_narrow_layer(width, ratio, round_to):
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


def test_layers_are_named_one_by_one_or_by_block_and_come_in_forward_order():
    names = ["conv_block2", "conv_block1.conv2", "conv_block2.conv1"]
    assert select_layers(names, prunable=CONVS, protected=PROTECTED) == CONVS[1:4]
    assert select_layers(["conv_block1"], prunable=CONVS, protected=PROTECTED) == CONVS[:2]  # not conv_block10


def test_an_unknown_layer_is_refused_with_the_nearest_name():
    match = r"unknown layer 'conv_blok2' \(did you mean 'conv_block2'\?\): name a convolution or a block, among conv_bl"
    with pytest.raises(PruningError, match=match):
        select_layers(["conv_block1", "conv_blok2"], prunable=CONVS, protected=PROTECTED)


@pytest.mark.parametrize(("name", "reason"), [("fc1", "reason one"), ("att_block", "two"), ("att_block.att", "two")])
def test_a_protected_layer_is_refused_with_the_reason(name, reason):
    with pytest.raises(PruningError, match=rf"{name} cannot be pruned: .*{reason}"):
        select_layers([name], prunable=CONVS, protected=PROTECTED)


@pytest.mark.parametrize("names", [[], "conv_block1"])
def test_layers_must_be_a_list_with_a_name(names):
    with pytest.raises(PruningError, match=r"layers=.*: give a list of layer names, or leave it out"):
        select_layers(names, prunable=CONVS, protected=PROTECTED)


@pytest.mark.parametrize("backwards", [False, True])
def test_a_layers_own_ratio_beats_its_blocks(backwards):
    given_ratios = {"conv_block2": 0.5, "conv_block2.conv1": 0.25, "conv_block1.conv2": 0}
    if backwards:
        given_ratios = dict(reversed(given_ratios.items()))
    assert ratio_per_layer(given_ratios, prunable=CONVS, protected=PROTECTED) == {
        "conv_block1.conv2": 0,
        "conv_block2.conv1": 0.25,
        "conv_block2.conv2": 0.5,
    }


def test_a_ratio_of_a_block_is_checked_under_the_name_given():
    with pytest.raises(PruningError, match=r"ratio 1\.5 for conv_block2: must be in"):
        ratio_per_layer({"conv_block2": 1.5}, prunable=CONVS, protected=PROTECTED)


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("ratios.toml", "conv_block1 = 0.5\nconv_block2.conv1 = 0.25\n"),
        ("ratios.toml", 'conv_block1 = 0.5\n"conv_block2.conv1" = 0.25\n'),
        ("ratios.json", json.dumps({"conv_block1": 0.5, "conv_block2.conv1": 0.25})),
    ],
)
def test_ratios_are_read_from_toml_and_json(tmp_path, name, text):
    path = tmp_path / name
    path.write_text(text)
    assert read_ratios(path) == {"conv_block1": 0.5, "conv_block2.conv1": 0.25}


@pytest.mark.parametrize(
    ("name", "text", "match"),
    [
        ("ratios.toml", "conv_block1: 0.5", r"ratios\.toml: cannot be read as TOML \(.*\)"),
        ("ratios.json", "{", r"ratios\.json: cannot be read as JSON \(.*\)"),
        ("ratios.json", "[0.5]", r"ratios\.json: must hold lines such as conv_block4 = 0\.5, one per layer or block"),
        ("ratios.toml", "", r"ratios\.toml: must hold lines such as"),
        ("ratios.toml", 'conv_block1 = "half"', r"ratios\.toml: conv_block1 = 'half' must be a number in \[0, 1\)"),
        ("ratios.json", '{"conv_block1": 0.5, "conv_block1": 0.25}', r"key 'conv_block1' occurs twice in one table"),
        ("ratios.toml", "a.b = 0.5\n'a.b' = 0.25", r"ratios\.toml: a\.b is given twice; name each layer or block once"),
        ("ratios.json", '{"conv_block1": NaN}', r"NaN is no number of JSON"),
        ("ratios.toml", "conv_block1 = true", r"ratios\.toml: conv_block1 = True must be a number"),
    ],
)
def test_a_file_of_ratios_that_is_wrong_is_named(tmp_path, name, text, match):
    path = tmp_path / name
    path.write_text(text)
    with pytest.raises(PruningError, match=match):
        read_ratios(path)


def test_a_missing_file_of_ratios_is_named(tmp_path):
    with pytest.raises(PruningError, match=r"nowhere\.toml: cannot be read \(No such file"):
        read_ratios(tmp_path / "nowhere.toml")


def test_a_layer_that_stands_twice_is_named():
    with pytest.raises(PruningError, match="layers: conv_block1 is given twice; name each layer or block once"):
        select_layers(["conv_block1", "conv_block2", "conv_block1"], prunable=CONVS, protected=PROTECTED)
