"""The main figure: every result is in it, legends name what differs, nothing overlaps."""

from dataclasses import replace
from pathlib import Path

import pytest

from epanns.records import read_records
from epanns.reporting.figures.bands import CROWD, DEPLOYMENT, measured_bands, quoted_bands
from epanns.reporting.figures.pareto import pareto_figure
from epanns.reporting.quoted import quoted_rows
from epanns.reporting.rows import rows_by_block
from tests.builders import make_stage
from tests.reporting.drawn import outside, overlapping, texts_of

RESULTS = Path(__file__).parents[3] / "results"


def bands_of(records):
    return measured_bands(rows_by_block(records))


def points_of(series):
    return [(point.costs[0], round(point.mean, 3)) for point in series.points]


def two_bases(records, names=("", "")):
    """Return the records of two bases of one network, which differ in their training."""
    made = []
    for number, name in enumerate(names):
        for record in records:
            base = {**record.config.get("base", record.config), "training": {"iterations": 100 * (number + 1)}}
            config = base if record.config["kind"] == "base" else {**record.config, "base": base}
            made.append(replace(record, trial_id=f"{record.trial_id}-{number}", config=config, name=name))
    return made


def test_different_data_have_bands_of_their_own(records):
    other = [replace(record, trial_id=f"x{record.trial_id}", dataset="ESC-50") for record in records]
    assert [band.title for band in bands_of([*records, *other])] == ["ESC-10, test", "ESC-50, test"]


def test_quoted_results_are_apart_and_hollow():
    bands = quoted_bands(quoted_rows())
    assert [band.title for band in bands] == [
        "AudioSet (quoted, not measured here)",
        "FSD50K (quoted, not measured here)",
    ]
    shown = [series for band in bands for strip in band.strips for series in strip.series]
    assert {series.look["markerfacecolor"] for series in shown} == {"white"}
    labels = {point.label for series in shown for point in series.points}
    assert labels == {row.figure_label for row in quoted_rows()} - {""}
    assert not any(strip.has_front for band in bands for strip in band.strips)


def test_every_stage_of_every_ratio_is_drawn(records):
    (band,) = bands_of(records)
    main, cut = band.strips
    unpruned, control, tuned = main.series
    assert (points_of(unpruned), points_of(control)) == ([(5e6, 0.81)], [(5e6, 0.83)])
    assert unpruned.is_reference and control.is_reference and not tuned.is_reference
    assert (points_of(tuned), main.label) == ([(3e6, 0.83), (1.5e6, 0.81)], "mAP fine-tuned")
    assert [point.label for point in tuned.points] == ["25 %", "50 %"]
    assert (points_of(cut.series[0]), cut.label) == ([(3e6, 0.61), (1.5e6, 0.31)], "no recovery")
    rows = next(iter(rows_by_block(records).values()))
    assert tuned.points[-1].sd == rows[-1].mAP["finetuned"].sd
    assert unpruned.points[0].sd == rows[0].mAP["dense"].sd


def test_the_legend_names_what_differs_and_the_heading_what_is_shared(records):
    (band,) = bands_of(records)
    assert [text for text, _ in band.legend] == ["unpruned", "unpruned, fine-tuned equally long", "Pareto front"]
    assert band.remark == (
        "Cnn14 × 0.25, l1, blocks 4–6, no recovery, 300 iterations; whole clip, 5 s input; mean ± sd of 2 seeds; "
        "labels: filters removed"
    )
    pruned = [record for record in records if record.criterion]
    cosine = [replace(record, trial_id=f"c{record.trial_id}", criterion="cosine") for record in pruned]
    (band,) = bands_of([*records, *cosine])
    assert [text for text, _ in band.legend[:2]] == ["cosine", "l1"]
    assert "l1" not in band.remark and "blocks 4–6" in band.remark


def test_one_ratio_is_named_in_the_heading_alone(records):
    (band,) = bands_of([record for record in records if record.ratio in (0.5, 0.0, None)])
    assert "50 % of filters removed" in band.remark and "labels" not in band.remark
    assert not any(point.label for series in band.strips[0].series for point in series.points)


def test_a_stage_before_the_last_is_faint_and_in_the_legend(records):
    recovered = [
        replace(
            record,
            recover="bn",
            stages=(*record.stages[:2], replace(record.stages[1], name="recovered"), record.stages[2]),
        )
        if record.criterion
        else record
        for record in records
    ]
    (band,) = bands_of(recovered)
    assert [series.is_faint for series in band.strips[0].series] == [False, False, True, False]
    assert [text for text, _ in band.legend[:2]] == ["recovered (without labels)", "fine-tuned"]


def test_two_bases_of_one_network_have_two_names(records):
    (band,) = bands_of(two_bases(records))
    unpruned = [series for series in band.strips[0].series if series.look["marker"] == "*"]
    assert [series.points[0].label for series in unpruned] == ["iterations 100", "iterations 200"]
    assert [text for text, _ in band.legend][:2] == ["base training iterations 100", "base training iterations 200"]


def test_names_that_users_gave_are_in_the_legend(records):
    (band,) = bands_of(two_bases(records, ("short", "long")))
    unpruned = [series for series in band.strips[0].series if series.look["marker"] == "*"]
    assert [series.name for series in unpruned] == ["long", "short"]
    assert [text for text, _ in band.legend][:2] == ["long (Cnn14 × 0.25)", "short (Cnn14 × 0.25)"]


def test_a_budget_is_a_line_of_its_own(records):
    cut = [replace(r, ratio=None, config={**r.config, "budget": "macs 0.25"}) for r in records if r.ratio == 0.5]
    (band,) = bands_of([*(r for r in records if r.ratio != 0.5), *cut])
    assert "budget of macs 0.25" in [text for text, _ in band.legend]
    assert [points_of(series) for series in band.strips[0].series[2:]] == [[(1.5e6, 0.81)], [(3e6, 0.83)]]


def test_records_without_scores_leave_an_empty_figure(records):
    assert bands_of([replace(record, stages=()) for record in records]) == []
    assert pareto_figure([]).axes == []


def test_an_unpruned_network_alone_needs_no_front(records):
    (band,) = bands_of([record for record in records if record.config["kind"] == "base"])
    assert [text for text, _ in band.legend] == ["unpruned"]
    assert len(pareto_figure([band]).axes) == 2


def test_the_front_joins_the_best_of_each_cost(records):
    figure = pareto_figure(bands_of(records))
    (step,) = [line for line in figure.axes[0].lines if line.get_drawstyle() == "steps-post"]
    costs, means = (list(map(float, values)) for values in step.get_data())
    assert costs == sorted(costs) and means == sorted(means)
    assert means[0] == pytest.approx(0.81) and means[-1] == pytest.approx(0.83)


@pytest.mark.parametrize("folder", sorted(path.parent for path in RESULTS.glob("**/records")), ids=str)
def test_nothing_overlaps_in_the_figures_of_the_results(folder):
    figure = pareto_figure(bands_of(read_records([folder])))
    assert overlapping(figure) == []
    assert outside(figure) == []


def test_nothing_overlaps_in_the_figure_of_quoted_results():
    figure = pareto_figure(quoted_bands(quoted_rows()))
    assert overlapping(figure) == []
    assert outside(figure) == []


@pytest.mark.parametrize("letter", ["x", "W", "x y "])
def test_no_text_reaches_beyond_the_figure(records, letter):
    long = [replace(r, name=letter * 150, dataset=letter * 150, protocol="p " * 200) for r in two_bases(records)]
    figure = pareto_figure(bands_of(long))
    assert outside(figure) == []
    assert overlapping(figure) == []


def test_scores_that_spread_over_the_whole_range_are_within_the_axes(records):
    apart = [replace(r, stages=(replace(r.stages[0], scores={"test": {"mAP": float(r.seed)}}),)) for r in records[:8:4]]
    assert {record.seed for record in apart} == {0, 1}
    axes = pareto_figure(bands_of(apart)).axes[0]
    assert axes.get_ylim()[0] >= -0.02 and max(axes.get_yticks()) <= 1


def test_a_figure_holds_no_control_characters(records):
    figure = pareto_figure(bands_of([replace(record, dataset="a\x1b[2J\u202eb\ud800") for record in records]))
    assert r"a\x1b[2J\u202eb\ud800, test" in [text.get_text() for text in texts_of(figure)]


def with_latency(record, milliseconds):
    return replace(record, cost_after=record.cost_after | {"latency_ms": {"median": milliseconds}})


def test_bytes_are_drawn_alone_until_latency_is_recorded(records):
    (band,) = measured_bands(rows_by_block(records), DEPLOYMENT)
    assert band.x_labels == ("bytes of parameters",)
    timed = [with_latency(record, 100 - 50 * (record.ratio or 0)) for record in records]
    (band,) = measured_bands(rows_by_block(timed), DEPLOYMENT)
    assert band.x_labels == ("bytes of parameters", "latency for 5 s, ms")
    (tuned,) = [series for series in band.strips[0].series if not series.is_reference]
    assert sorted(point.costs for point in tuned.points) == [(6e6, 75), (12e6, 87.5)]
    assert len(pareto_figure([band]).axes) == 4


def test_latency_of_some_seeds_alone_is_not_drawn(records):
    partly = [with_latency(record, 9.0) if record.seed == 0 else record for record in records]
    (band,) = measured_bands(rows_by_block(partly), DEPLOYMENT)
    assert band.x_labels == ("bytes of parameters",)


def many_lines(records, count):
    """Return pruned records of `count` recipes, each of a higher mAP at equal cost than the recipe before."""
    made = [record for record in records if record.criterion is None and record.seed == 0]
    for number in range(count):
        for record in (record for record in records if record.criterion and record.seed == 0):
            scored = make_stage("finetuned", record.stage("finetuned").scores["test"]["mAP"] + 0.001 * number)
            stages = (record.stage("dense"), record.stage("pruned"), scored)
            made.append(
                replace(record, trial_id=f"{record.trial_id}-{number}", finetune_iterations=number, stages=stages)
            )
    return made


def test_of_many_lines_those_on_the_front_keep_their_look(records):
    (band,) = bands_of(many_lines(records, 40))
    crowd = [series for series in band.strips[0].series if series.look == CROWD]
    assert [len(series.points) for series in crowd] == [2 * 39]
    (best,) = [series for series in band.strips[0].series if series.name == "39 iterations"]
    assert {round(point.mean, 3) for point in best.points} == {0.849, 0.829}
    assert "78 other rows, off the front" in dict(band.legend)
    assert "39 iterations" in dict(band.legend)
    assert len(pareto_figure([band]).axes) == 4
    (few,) = bands_of(many_lines(records, 14))
    assert not [series for series in few.strips[0].series if series.look == CROWD]
