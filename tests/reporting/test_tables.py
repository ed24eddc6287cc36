"""Tables: a golden one by hand, full precision in CSV, names that cannot break Markdown."""

import csv
import io
import re
from dataclasses import replace
from pathlib import Path

import pytest

from epanns.models.spec import LAYOUTS
from epanns.reporting.notation import short_layers
from epanns.reporting.quoted import quoted_csv, quoted_rows
from epanns.reporting.rows import rows_by_block
from epanns.reporting.tables import measured_csv, measured_markdown, records_csv
from epanns.safe_text import printable
from epanns.sweeps.journal import Failure

GOLDEN = """\
**ESC-10, test, whole clip, 5 s input** (measured)

| Network | Criterion | Layers | Ratio | Iterations | Parameters | MB | MACs per 5 s | mAP no recovery | mAP fine-tuned | Seeds |
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
    assert "| mAP no recovery | mAP fine-tuned | Accuracy no recovery | Accuracy fine-tuned | Seeds |" in accurate
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


def cells_of(text, line):
    """Return heading -> cell of one line of the first table of a text."""
    table = [row.strip("| ").split(" | ") for row in text.splitlines() if row.startswith("|")]
    return dict(zip(table[0], table[line + 2], strict=True))


def test_a_spread_that_was_not_measured_is_a_dash(records):
    config = {"kind": "pruned", "base": {"kind": "base", "checkpoint_sha256": "c" * 64}}
    one = next(record for record in records if record.ratio == 0.5)
    blocks = rows_by_block([replace(one, trial_id=f"s{seed}", seed=seed, config=config) for seed in (0, 1)])
    text = measured_markdown(blocks)
    unpruned, pruned = cells_of(text, 0), cells_of(text, 1)
    assert (unpruned["mAP no recovery"], unpruned["Seeds"]) == ("0.800 ± –", "1")
    assert (pruned["mAP no recovery"], pruned["mAP fine-tuned"], pruned["Seeds"]) == ("0.300 ± –", "0.790 ± 0.000", "2")
    assert "± –: one network, scored under several seeds, has no spread." in text
    assert [line["mAP_dense_sd"] for line in read_csv(measured_csv(blocks))] == ["", ""]


def test_budgets_names_settings_and_kept_step_0_are_in_words(records):
    changed = [
        replace(
            record,
            ratio=None,
            name="small | base",
            config={**record.config, "budget": "macs 0.25", "recovery": {"fit_to": fit}},
            stages=(*record.stages[:2], replace(record.stages[2], best_step=0)),
            trial_id=f"{record.trial_id}{fit}",
        )
        for record in records
        if record.ratio == 0.5
        for fit in ("current", "dense")
    ]
    blocks = rows_by_block(changed)
    text = measured_markdown(blocks)
    first = cells_of(text.replace("\\| ", "¦ "), 1)
    assert (first["Name"], first["Ratio"]) == ("small ¦ base", "budget of macs 0.25")
    assert (first["Other settings"], first["mAP fine-tuned"]) == ("recovery fit to current", "0.810 ± 0.028 †")
    assert "†: no trained step was better: the weights from before training are kept" in text
    assert "by layer" not in text
    assert [line["settings"] for line in read_csv(measured_csv(blocks))][1:] == [
        "recovery.fit_to=current",
        "recovery.fit_to=dense",
    ]
    assert [line["name"] for line in read_csv(measured_csv(blocks))] == ["small | base"] * 3
    assert "name" not in read_csv(measured_csv(rows_by_block(records)))[0]


def test_failed_trials_are_counted_by_reason(records):
    failures = [Failure(Path(f"s/{name}"), reason) for name, reason in (("a", "x | y\x1b"), ("b", "z"), ("c", "z"))]
    last = measured_markdown(rows_by_block(records), failures).splitlines()[-1]
    wanted = "Trials without a result, which are in no row: 3. 2 of them: z. 1 of them: x \\| y\\\\x1b."
    assert last == wanted
    assert "without a result" not in measured_markdown(rows_by_block(records))


def test_cells_of_csv_are_no_formulas_and_hold_no_control_characters(records):
    hostile = [replace(record, model="=cmd|' /C calc'!A0", dataset="+1\n\x1b[2J", device="@x") for record in records]
    for text in (measured_csv(rows_by_block(hostile)), records_csv(hostile)):
        assert text.isascii() and text.replace("\n", "").isprintable()
        for line in csv.reader(io.StringIO(text)):
            assert not any(cell.startswith(("=", "+", "@", "\t", "\r")) for cell in line)
    assert read_csv(records_csv(hostile))[0]["model"] == "'=cmd|' /C calc'!A0"


@pytest.mark.parametrize("name", ["a & b &lt;", "~~gone~~", "$x$", "a\tb\x1b", "<img src=x>", "a\u202eb"])
def test_markdown_shows_names_as_they_are(records, name):
    text = measured_markdown(rows_by_block([replace(record, model=name) for record in records]))
    cell = next(line for line in text.splitlines() if "unpruned" in line).split(" | ")[0].removeprefix("| ")
    shown = re.sub(r"\\([\\|`*_<>\[\]&~$])", r"\1", cell)
    assert shown == f"{printable(' '.join(name.split()))} × 0.25"
    assert not re.search(r"(?<!\\)[|`*_<>&~$]", cell)
