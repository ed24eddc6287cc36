"""Records with any value at any place are reported or refused in one line; ``--hypothesis-profile=long`` tries more."""

import copy
import json
from collections.abc import Iterator
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from epanns.errors import DataError
from epanns.records import read_records
from epanns.reporting.figures.bands import measured_bands
from epanns.reporting.figures.pareto import pareto_figure
from epanns.reporting.report import write_report
from epanns.reporting.rows import rows_by_block
from epanns.reporting.tables import measured_csv, measured_markdown, records_csv
from tests.any_value import ANY_VALUE
from tests.builders import make_record, make_stage

DENSE = make_stage("dense", 0.8)
RECORDS = [
    make_record("base0", 0, (DENSE,), config={"kind": "base", "seed": 0}).to_dict(),
    make_record("control0", 0, (DENSE, make_stage("finetuned", 0.8)), ratio=0.0, finetune_iterations=3).to_dict(),
    make_record("l1-0", 0, (DENSE, make_stage("pruned", 0.2)), ratio=0.5, criterion="l1", name="a").to_dict(),
    make_record("l1-1", 1, (DENSE, make_stage("pruned", 0.9)), ratio=0.5, criterion="l1", network="f" * 64).to_dict(),
]


def places_in(value: Any, place: tuple[Any, ...] = ()) -> Iterator[tuple[Any, ...]]:
    """Yield the keys and indices that lead to every value within a value."""
    for key, inner in value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ():
        yield (*place, key)
        yield from places_in(inner, (*place, key))


PLACES = [(number, place) for number, record in enumerate(RECORDS) for place in places_in(record)]


def report_on(folder, texts) -> str:
    """Write records as they are and make every table and the figure; return the refusal, or nothing."""
    (folder / "records").mkdir(parents=True)
    for number, text in enumerate(texts):
        (folder / "records" / f"{number}.json").write_text(text)
    try:
        records = read_records([folder])
    except DataError as error:
        return str(error)
    blocks = rows_by_block(records)
    for made in (measured_markdown(blocks), measured_csv(blocks), records_csv(records)):
        made.encode()
    pareto_figure(measured_bands(blocks))
    return ""


@given(st.sampled_from(PLACES), ANY_VALUE, st.sampled_from(["value", "key", "gone", "cut"]))
def test_any_value_at_any_place_is_reported_or_refused_in_one_line(tmp_path_factory, where, value, how):
    records = copy.deepcopy(RECORDS)
    number, (*parents, last) = where
    inner: Any = records[number]
    for key in parents:
        inner = inner[key]
    if how == "gone" or (how == "key" and isinstance(inner, list)):
        del inner[last]
    elif how == "key":
        inner[str(value)[:3000]] = inner.pop(last)
    else:
        inner[last] = value
    texts = [json.dumps(record, default=str) for record in records]
    if how == "cut":
        texts[number] = texts[number][: len(texts[number]) * len(parents) // 5]
    folder = tmp_path_factory.mktemp("fuzz")
    refusal = report_on(folder, texts)
    assert refusal.isprintable()
    assert len(refusal) < 3000


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("[" * 100_000, "tables and lists are nested more than 64 deep"),
        ('{"a": ' * 200 + "1" + "}" * 200, "tables and lists are nested more than 64 deep"),
        ('{"seed": 1' + "0" * 5000 + "}", "is a whole number of 2**64 or more"),
        ('{"seconds": NaN}', "NaN is no number of JSON"),
        ('{"name": "\\ud800"}', "has a lone surrogate"),
        ("\0", "cannot be read as JSON"),
        ("", "cannot be read as JSON"),
        (json.dumps({"format": "epanns-record/1", "stages": [3] * 100_000}), "and 100,0"),
    ],
)
def test_hostile_texts_are_refused_in_one_line(tmp_path, text, message):
    refusal = report_on(tmp_path, [text])
    assert message in refusal
    assert refusal.isprintable() and len(refusal) < 3000


@pytest.mark.parametrize("name", ["../escaped", "/tmp/escaped", "..", "a/b", "a\nb", "x" * 300])
def test_a_report_writes_nothing_outside_its_folder(tmp_path, name):
    (tmp_path / "in" / "records").mkdir(parents=True)
    (tmp_path / "in" / "records" / "0.json").write_text(json.dumps(RECORDS[0] | {"trial_id": name}))
    with pytest.raises(DataError, match="0.json: not a usable run record: trial_id="):
        write_report(read_records([tmp_path / "in"]), tmp_path / "a" / "out")
    with pytest.raises(DataError, match="^trial_id="):  # of a caller that did not read it from a file
        write_report([make_record(name, 0, (DENSE,))], tmp_path / "a" / "out")
    assert [path.name for path in tmp_path.iterdir()] == ["in"]
