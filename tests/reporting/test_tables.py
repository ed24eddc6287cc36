"""Tables: a golden one by hand, full precision in CSV, names that cannot break Markdown."""

import csv
import io
from dataclasses import replace

import pytest

from epanns.models.layouts import LAYOUTS
from epanns.reporting.layer_names import short_layers
from epanns.reporting.quoted import quoted_rows
from epanns.reporting.rows import rows_by_block
from epanns.reporting.tables import measured_csv, measured_markdown, quoted_csv, records_csv

GOLDEN = """\
**ESC-10, test, whole clip, 5 s input** (measured)

| Network | Criterion | Layers | Ratio | Iterations | Parameters | MB | MACs per 5 s | mAP before | mAP fine-tuned | Seeds |
| --- | --- | --- | --- | --- | --- | --- | --- | --- | --- | --- |
| Cnn14 × 0.25 | unpruned | – | – | – | 5.00 M | 20.0 | 1.20 G | 0.810 ± 0.014 | – | 2 |
| Cnn14 × 0.25 | unpruned, trained on | – | – | 300 | 5.00 M | 20.0 | 1.20 G | – | 0.830 ± 0.014 | 2 |
| Cnn14 × 0.25 | l1 | blocks 4–6 | 0.25 | 300 | 3.00 M (−40.0 %) | 12.0 | 900 M (−25.0 %) | 0.610 ± 0.014 | 0.830 ± 0.028 | 2 |
| Cnn14 × 0.25 | l1 | blocks 4–6 | 0.5 | 300 | 1.50 M (−70.0 %) | 6.00 | 750 M (−37.5 %) | 0.310 ± 0.014 | 0.810 ± 0.028 | 2 |

mAP: macro average precision"""  # noqa: E501


def read_csv(text):
    return list(csv.DictReader(io.StringIO(text)))


def test_measured_table_is_the_golden_one(records):
    assert measured_markdown(rows_by_block(records)).startswith(GOLDEN)


def test_csv_holds_every_row_with_full_precision(records):
    lines = read_csv(measured_csv(rows_by_block(records)))
    assert [line["variant"] for line in lines] == ["unpruned", "unpruned, trained on", "l1", "l1"]
    last = lines[-1]
    assert last["layers"] == "conv_block4;conv_block5;conv_block6"
    assert (last["n_params"], last["param_megabytes"], last["backbone_macs"]) == ("1500000", "6.0", "750000000")
    assert float(last["mAP_finetuned"]) == pytest.approx(0.81, abs=1e-12)
    assert float(last["param_reduction"]) == pytest.approx(0.7, abs=1e-12)
    assert (last["mAP_recovered"], last["clip_seconds"], last["n_seeds"]) == ("", "5.0", "2")


def with_accuracy(record, without=()):
    """Return a record of a single-label network, whose accuracy is a tenth below its mAP, but at some stages."""
    stages = [
        stage
        if stage.name in without
        else replace(stage, scores={split: {**s, "accuracy": s["mAP"] - 0.1} for split, s in stage.scores.items()})
        for stage in record.stages
    ]
    return replace(record, stages=tuple(stages))


ACCURATE = """\
| Cnn14 × 0.25 | unpruned | – | – | – | 5.00 M | 20.0 | 1.20 G | 0.810 ± 0.014 | – | 0.710 ± 0.014 | – | 2 |
| Cnn14 × 0.25 | unpruned, trained on | – | – | 300 | 5.00 M | 20.0 | 1.20 G | – | 0.830 ± 0.014 | – | 0.730 ± 0.014 | 2 |
"""  # noqa: E501


def test_accuracy_is_shown_where_every_row_of_the_table_has_one(records):
    single = [with_accuracy(replace(record, trial_id=f"x{record.trial_id}", dataset="ESC-50")) for record in records]
    blocks = rows_by_block([*records, *single])
    plain, accurate = measured_markdown(blocks).split("**ESC-50, test")
    assert plain.startswith(GOLDEN.split("\n\nmAP:")[0])
    assert "| mAP before | mAP fine-tuned | Accuracy before | Accuracy fine-tuned | Seeds |" in accurate
    assert ACCURATE in accurate
    assert "Accuracy: share of the clips" in accurate
    lines = read_csv(measured_csv(blocks))
    assert [line["accuracy_finetuned"] == "" for line in lines] == [True] * 5 + [False] * 3
    assert float(lines[-1]["accuracy_finetuned"]) == pytest.approx(0.71, abs=1e-12)
    assert float(lines[-1]["accuracy_finetuned_sd"]) == pytest.approx(float(lines[-1]["mAP_finetuned_sd"]), abs=1e-12)


@pytest.mark.parametrize("without", ["dense", "pruned", "finetuned"])
def test_accuracy_is_left_out_where_a_row_or_a_seed_lacks_it(records, without):
    single = [with_accuracy(record, [without] if record.seed == 1 else []) for record in records]
    text = measured_markdown(rows_by_block(single))
    assert text.startswith(GOLDEN)
    assert "ccuracy" not in text + measured_csv(rows_by_block(single))


def test_records_csv_has_a_row_per_run_and_a_column_per_score(records):
    lines = read_csv(records_csv(records))
    assert [line["trial_id"] for line in lines] == [record.trial_id for record in records]
    assert lines[0]["finetuned_test_mAP"] == ""
    assert lines[1]["finetuned_test_mAP"] == "0.82"
    assert lines[1]["finetuned_val_mAP"] == "0.9"


def test_blocks_are_tables_of_their_own(records):
    other = [replace(record, trial_id=f"x{record.trial_id}", dataset="ESC-50") for record in records]
    text = measured_markdown(rows_by_block([*records, *other]))
    assert text.count("| Network |") == 2
    assert text.index("**ESC-10, test") < text.index("**ESC-50, test")


def test_experiment_is_shown_where_there_are_several(records):
    other = [replace(record, trial_id=f"x{record.trial_id}", experiment="again") for record in records]
    assert "| Experiment |" not in measured_markdown(rows_by_block(records))
    assert "| Experiment |" in measured_markdown(rows_by_block([*records, *other]))


def test_names_cannot_break_the_table(records):
    hostile = [replace(record, dataset="a|b <script>\n# x", model="`m`|") for record in records]
    text = measured_markdown(rows_by_block(hostile))
    assert "<script>" not in text
    assert "a\\|b \\<script\\> # x" in text
    rows = [line for line in text.splitlines() if line.startswith("|")]
    assert {line.replace("\\|", "").count("|") for line in rows} == {12}


def test_quoted_rows_hold_the_published_figures():
    rows = {row.name: row for row in quoted_rows() if row.figure_label}
    assert (rows["Cnn14"].value, rows["Cnn14"].n_params, rows["Cnn14"].macs) == (0.431, 80_753_615, 20_041_926_656)
    assert [rows[f"E-PANNs {r} %"].value for r in (25, 50, 75)] == [0.442, 0.440, 0.420]
    assert [rows[f"E-PANNs {r} %"].n_params for r in (25, 50, 75)] == [47_408_591, 23_205_839, 8_145_359]
    assert (rows["LEAN, GPU"].value, rows["LEAN, GPU"].n_params, rows["LEAN, GPU"].macs) == (
        0.4677,
        4_584_201,
        107_710_464,
    )
    assert (rows["LEAN, on device (int8)"].value, rows["LEAN, on device (int8)"].param_bytes) == (0.445, 4_500_000)
    assert all("maximum" in row.protocol for row in rows.values() if row.family == "E-PANNs")


def test_quoted_csv_is_the_file_they_come_from():
    assert read_csv(quoted_csv(quoted_rows()))[0]["source"].startswith("Kong et al. 2020")


@pytest.mark.parametrize(
    ("layers", "short"),
    [
        ((), "–"),
        (("conv_block4", "conv_block5", "conv_block6"), "blocks 4–6"),
        (("conv_block4.conv1", "conv_block4.conv2"), "block 4"),
        (("conv_block2.conv1", "conv_block3.conv1"), "blocks 2–3, conv1"),
        (("conv_block2", "conv_block4"), "conv_block2, conv_block4"),
        (("conv_block2.conv1", "conv_block3.conv2"), "conv_block2.conv1, conv_block3.conv2"),
        (("layer1",), "layer1"),
        (("resnet.layer3", "resnet.layer4"), "resnet.layer3, resnet.layer4"),
        (LAYOUTS["resnet22"], "conv_block1, resnet.layer1–4, conv_block_after1 (15 layers)"),
        ([f"features.{block}.4" for block in (1, 2, 3, 7, 8)], "features.1–3, features.7–8 (5 layers)"),
        (LAYOUTS["dainet19"], "conv0, conv_block1–4 (16 layers)"),
        (LAYOUTS["leenet24"], "blocks 1–9"),
    ],
)
def test_layers_are_named_in_few_words(layers, short):
    assert short_layers(layers) == short
