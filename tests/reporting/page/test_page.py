"""The page: every row and every text of the records is on it, escaped, and it refers to nothing outside."""

import base64
import hashlib
import re
from dataclasses import replace
from html.parser import HTMLParser

import pytest

from epanns.reporting.page.page import report_page
from epanns.reporting.quoted import quoted_rows
from epanns.reporting.rows import rows_by_block
from epanns.sweeps.journal import Failure

HOSTILE = "<script>alert(1)</script>\" onload='x' $title & \x1b[2J\u202e"
VOID = {"meta", "input"}


class Reader(HTMLParser):
    """Collects elements, attributes and the texts of table cells; elements must be closed in order."""

    def __init__(self) -> None:
        super().__init__()
        self.open, self.found, self.cells, self.titles = [], [], [], []

    def handle_starttag(self, tag, attributes):
        self.found.append((tag, dict(attributes)))
        if tag not in VOID:
            self.open.append(tag)
        if tag in ("td", "th"):
            self.cells.append("")
        if tag == "title":
            self.titles.append("")

    def handle_startendtag(self, tag, attributes):
        self.found.append((tag, dict(attributes)))

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        if self.open and ("td" in self.open or "th" in self.open):
            self.cells[-1] += data
        if self.open and self.open[-1] == "title":
            self.titles[-1] += data


def read(page):
    reader = Reader()
    reader.feed(page)
    assert reader.open == []
    return reader


def page_of(records, **options):
    return report_page(rows_by_block(records), records, **options)


def test_every_row_is_in_the_table_and_in_every_chart(records):
    reader = read(page_of(records))
    rows = [attributes["id"] for tag, attributes in reader.found if tag == "tr" and "id" in attributes]
    assert rows == ["row-0", "row-1", "row-2", "row-3"]
    marks = [attributes["data-row"] for tag, attributes in reader.found if tag == "g" and "data-row" in attributes]
    assert sorted(marks) == sorted("0123" * 3)  # parameters, MACs, bytes
    assert "0.830 ± 0.028" in reader.cells


def test_a_tooltip_names_the_configuration_its_score_and_its_trials(records):
    titles = read(page_of(records)).titles[1:]
    assert (
        "Cnn14 × 0.25, l1, 25 % removed, 300 iterations\nmAP 0.8300 ± 0.0283, fine-tuned\n"
        "3.00 M parameters, 900 M MACs\ntrials l1-0.25-0, l1-0.25-1"
    ) in titles


def test_a_row_without_a_score_has_no_mark_and_others_keep_their_look(records):
    pruned = [
        replace(record, stages=record.stages[1:]) for record in records if record.criterion and record.ratio == 0.5
    ]
    unscored = [replace(record, trial_id=f"x{record.seed}", criterion="bn", stages=()) for record in pruned]
    reader = read(page_of([*pruned, *unscored]))
    marks = [attributes for tag, attributes in reader.found if tag == "g" and "data-row" in attributes]
    assert {(mark["data-row"], mark["class"].split()[1]) for mark in marks} == {("1", "c1")}  # row 0, of bn, has c0


def test_latency_has_a_chart_where_it_is_recorded(records):
    timed = [
        replace(record, cost_after=record.cost_after | {"latency_ms": {"median": 10.0 + record.seed}})
        for record in records
    ]
    page = page_of(timed)
    assert "latency for 5 s, ms" in page
    assert "10.5 ms" in page
    assert "latency" not in page_of(records)


def test_texts_of_records_are_escaped_everywhere(records):
    hostile = [
        replace(record, dataset=HOSTILE, protocol=HOSTILE, name=HOSTILE, experiment=HOSTILE + str(place % 2))
        for place, record in enumerate(records)
    ]
    reader = read(page_of(hostile, failures=[Failure(None, HOSTILE)], files=[HOSTILE]))
    tags = [tag for tag, _ in reader.found]
    assert tags.count("script") == 1
    assert not [name for _, attributes in reader.found for name in attributes if name.startswith("on")]
    page = page_of(hostile)
    assert "\x1b" not in page
    assert "\u202e" not in page
    assert r"$title &amp; \x1b[2J\u202e" in page


def test_the_page_refers_to_nothing_but_files_beside_it(records):
    page = page_of(records, quoted=quoted_rows(), files=["table.md", "a b.csv"])
    reader = read(page)
    links = [attributes["href"] for _, attributes in reader.found if "href" in attributes]
    assert links == ["table.md", "a b.csv"]
    assert not [attributes for _, attributes in reader.found if "src" in attributes]
    style = re.search("<style>(.*)</style>", page, re.DOTALL)[1]
    assert "url(" not in style
    assert "@import" not in style


def test_the_policy_admits_the_script_and_the_style_of_the_page_alone(records):
    page = page_of(records)
    (policy,) = re.findall('Content-Security-Policy" content="([^"]*)"', page)
    assert policy.startswith("default-src 'none';")
    for element in ("style", "script"):
        text = re.search(f"<{element}>(.*)</{element}>", page, re.DOTALL)[1]
        digest = base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()
        assert f"{element}-src 'sha256-{digest}'" in policy


def test_columns_that_all_rows_share_are_in_the_note(records):
    reader = read(page_of(records))
    assert "Network" not in "".join(reader.cells)
    assert "network: Cnn14 × 0.25; seeds: 2." in page_of(records)


def test_curves_are_means_over_seeds_at_the_steps_that_all_runs_have(records):
    def with_curve(record):
        last = record.stages[-1]
        if record.criterion is None or last.name != "finetuned":
            return record
        curve = [[0, 0.2], [100, 0.4 + 0.2 * record.seed], *([[150, 0.9]] if record.seed else [])]
        return replace(record, stages=(*record.stages[:-1], replace(last, curve=curve)))

    page = page_of([with_curve(record) for record in records])
    assert "<h3>Learning curves</h3>" in page
    assert "0.5000 at step 100" in page
    assert "step 150" not in page
    assert "Learning curves" not in page_of(records)


@pytest.mark.parametrize("records_given", [False, True])
def test_a_report_without_rows_is_a_page_too(records, records_given):
    page = report_page({}, records if records_given else [])
    assert "epanns report" in read(page).titles
