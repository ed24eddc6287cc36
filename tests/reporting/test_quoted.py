"""What others published: every row complete and sourced, and what can be recomputed comes out as it is quoted."""

import math
from statistics import NormalDist

import pytest

from epanns.complexity.macs import profile
from epanns.models.zoo import ZOO, spec_of
from epanns.reporting.quoted import quoted_markdown, quoted_rows

ROWS = quoted_rows()


def row(name, dataset="FSD50K"):
    (found,) = [row for row in ROWS if (row.name, row.dataset) == (name, dataset)]
    return found


def name_of(row):
    return f"{row.name}, {row.dataset}"


@pytest.mark.parametrize("row", ROWS, ids=name_of)
def test_a_logged_row_has_its_layer_score_and_position(row):
    assert row.dataset in ("AudioSet", "FSD50K")
    assert row.name
    assert row.family
    assert row.dataset in row.protocol
    assert row.source
    assert 0 < row.value < 1 or (row.metric, row.value % 1) == ("classes of 200 with better AP", 0)
    assert (row.macs is None) == (row.macs_convention == "")
    assert row.macs is None or row.clip_seconds
    assert not row.figure_label or (row.metric == "mAP" and row.n_params and row.clip_seconds)
    if "arXiv 2305.12712" in row.source:
        assert "Table I" in row.source


def test_no_row_appears_twice():
    keys = [(row.name, row.dataset, row.metric) for row in ROWS]
    assert len(set(keys)) == len(keys)


def test_the_systems_that_are_compared_are_all_there():
    families = {row.family for row in ROWS}
    assert families >= {"PANNs", "E-PANNs", "EfficientAT", "CED", "PaSST", "YAMNet", "LEAN", "TKD", "FSD50K baselines"}
    tables = {numeral for row in ROWS for numeral in row.source.partition("Table ")[2].split(";")[0].split(" and ")}
    assert tables >= {"I", "II", "III", "IV"}


@pytest.mark.parametrize("row", [r for r in ROWS if r.mAUC and r.d_prime], ids=name_of)
def test_d_prime_follows_from_the_printed_auc(row):
    def d_prime(auc):
        return math.sqrt(2) * NormalDist().inv_cdf(auc)

    assert d_prime(row.mAUC - 0.0005) <= row.d_prime <= d_prime(row.mAUC + 0.0005)


def test_an_improvement_of_22_percent_is_one_of_28():
    ours, theirs = row("LEAN, on device (int8)"), row("TKD Att-RNN")
    gained = ours.value - theirs.value
    assert f"22 % over .3471 is {100 * gained / theirs.value:.1f} %" in ours.note
    assert f"{100 * gained / ours.value:.1f} % of its own value" in ours.note


@pytest.mark.parametrize("row", [r for r in ROWS if r.family == "PANNs"], ids=name_of)
def test_pannss_networks_cost_what_is_counted_here(row):
    cost = profile(spec_of(row.name))
    assert (row.n_params, row.param_bytes, row.macs) == (cost.n_params, cost.param_bytes, cost.backbone_macs)


def test_every_published_network_of_the_zoo_is_quoted():
    variants = {name for name in ZOO if name.startswith(("Cnn14_", "Wavegram_Logmel128", "LEAN", "YAMNet", "mn"))}
    assert {row.name for row in ROWS if row.family == "PANNs"} == {*ZOO} - variants


def test_leans_counts_follow_from_its_layers():
    body = 3_184_512 + 10_944 + 2 * 10_944  # kernels, shifts, statistics
    project, head = 1024 * 256 + 256, 512 * 200 + 200
    encoder = sum(2 * 4 * 128 * (inputs + 128 + 1) for inputs in (400, 256))
    attention = 2 * (256 * 128 + 128) + 129
    joined = body + project + encoder + head
    assert row("YAMNet, linear classifier").n_params == body + 1024 * 200 + 200
    assert row("YAMNet, projection").n_params == body + project + 256 * 200 + 200
    assert row("LEAN without attention (JM)").n_params == joined
    assert row("LEAN with affinity attention").n_params == joined
    assert row("LEAN, GPU").n_params == joined + attention

    steps, states = 40, 256
    lstms = sum(steps * 2 * 4 * 128 * (inputs + 128) for inputs in (400, 256))
    yamnet = 68_631_552
    joined = yamnet + 1024 * 256 + lstms + 512 * 200
    assert row("YAMNet, linear classifier").macs == yamnet + 1024 * 200
    assert row("YAMNet, projection").macs == yamnet + 1024 * 256 + 256 * 200
    assert row("LEAN without attention (JM)").macs == joined
    assert row("LEAN with affinity attention").macs == joined + 2 * steps * states
    asked = 256 * 128 + steps * (256 * 128 + 128 + states)
    assert row("LEAN, GPU").macs == row("LEAN, on device (int8)").macs == joined + asked


def test_each_data_set_and_metric_has_a_table_marked_as_not_measured():
    text = quoted_markdown(ROWS)
    titles = [line for line in text.splitlines() if line.startswith("**")]
    assert titles == [
        "**AudioSet, mAP** (quoted, not measured here)",
        "**FSD50K, mAP** (quoted, not measured here)",
        "**FSD50K, classes of 200 with better AP** (quoted, not measured here)",
    ]
    assert text.count("| System |") == 3
    assert "(measured)" not in text
    audioset, fsd50k, _ = text.split("**FSD50K, ")
    assert "| E-PANNs 50 % | 0.44 |" in audioset
    assert "LEAN" not in audioset
    assert "| LEAN, GPU | 0.4677 | 0.944 | 2.251 | 4.58 M |" in fsd50k
