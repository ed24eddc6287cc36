"""Rules and tables: any value satisfies a rule or is reported on one line; problems of a table are collected."""

import re
from dataclasses import dataclass

import pytest
from hypothesis import given
from hypothesis import strategies as st

from epanns.errors import ConfigError, DataError
from epanns.strict import (
    ANY_TEXT,
    BOOLEAN,
    FINITE,
    PATH,
    TABLE,
    TEXT,
    TableReader,
    check_fields,
    from_table,
    integer,
    list_of,
    number,
    one_of,
    or_none,
    shown,
    table_problems,
)
from tests.any_value import ANY_VALUE

RULES = {
    "truth": BOOLEAN,
    "text": TEXT,
    "any_text": ANY_TEXT,
    "table": TABLE,
    "path": PATH,
    "finite": FINITE,
    "share": number("a number in [0, 1]", lambda value: 0 <= value <= 1),
    "count": integer(0),
    "few": integer(1, 3),
    "name": one_of(("balanced", "shuffled")),
    "maybe": or_none(one_of(("balanced", "shuffled"))),
    "names": list_of(one_of(("balanced", "shuffled")), "names", least=1),
    "lists": list_of(list_of(TEXT, "layers", least=1), "lists of layers"),
}


@given(ANY_VALUE)
def test_any_value_satisfies_a_rule_or_is_reported_on_one_line(value):
    assert shown(value).isprintable()
    for name, rule in RULES.items():
        problem = rule.problem(name, value)
        assert (problem is None) == rule.holds(value)
        if problem is not None:
            assert problem.startswith(name) and problem.isprintable() and len(problem) < 300


@given(st.dictionaries(st.sampled_from([*RULES, "nmae", ""]) | st.text(max_size=5), ANY_VALUE))
def test_every_problem_of_a_table_is_reported_together(table):
    problems = table_problems(table, RULES, required=("count", "name"))
    wrong = sum(not RULES[key].holds(value) for key, value in table.items() if key in RULES)
    unknown = len(table.keys() - RULES.keys())
    missing = len({"count", "name"} - table.keys())
    assert len(problems) == wrong + unknown + missing
    assert all(problem.isprintable() for problem in problems)


@pytest.mark.parametrize(
    ("name", "value", "problem"),
    [
        ("truth", 1, "truth=1: must be true or false"),
        ("count", True, "count=True: must be a whole number >= 0"),
        ("count", 2.0, "count=2.0: must be a whole number >= 0"),
        ("count", -(10**400), "count=an integer of 1,329 bits: must be a whole number >= 0"),
        ("finite", 10**400, "finite=an integer of 1,329 bits: must be a finite number"),
        ("finite", float("nan"), "finite=nan: must be a finite number"),
        ("name", "balancd", "name='balancd' (did you mean 'balanced'?): must be one of balanced, shuffled"),
        ("name", ["balanced"], "name=['balanced']: must be one of balanced, shuffled"),
        ("names", (), "names=[]: must be a list of names, at least 1"),
        ("names", ("balanced", {}), "names[1]={}: must be one of balanced, shuffled"),
        ("lists", [["a"], ["b", ""]], "lists[1][1]='': must be text that is not empty"),
        ("lists", "abc", "lists='abc': must be a list of lists of layers"),
        ("text", "", "text='': must be text that is not empty"),
        ("path", "a\0b", "path='a\\x00b': must be a path of at most 4,096 characters, without NUL"),
        ("table", "x" * 99, f"table='{'x' * 56}...: must be a table"),
    ],
)
def test_a_problem_names_value_and_rule(name, value, problem):
    assert RULES[name].problem(name, value) == problem


@dataclass(frozen=True)
class Pair:
    first: int
    second: tuple[str, ...] = ()

    def __post_init__(self):
        check_fields(self, PAIR, what="pair: ")
        if self.first == len(self.second):
            raise ConfigError("pair: as many as there are")


PAIR = {"first": integer(0), "second": list_of(TEXT, "texts")}


def test_a_table_becomes_a_dataclass_or_one_error():
    assert from_table(Pair, {"first": 1, "second": ["a", "b"]}, PAIR) == Pair(1, ("a", "b"))
    for table, message in (
        (5, "p: must be a table, is 5"),
        (
            {"frst": 1, "second": 2},
            "p: unknown key 'frst' (did you mean 'first'?); missing key 'first'; second=2",
        ),
        ({"first": 1, "second": ["a"]}, "pair: as many as there are"),
    ):
        with pytest.raises(ConfigError, match=re.escape(message)):
            from_table(Pair, table, PAIR, what="p: ")
    with pytest.raises(ConfigError, match=re.escape("pair: first='a': must be a whole number >= 0; second[0]=1: must")):
        Pair("a", (1,))


def test_a_reader_collects_the_problems_of_all_tables():
    reader = TableReader("x.toml", error=DataError)
    assert reader.table({"first": 2}, Pair, PAIR, "one") == Pair(2)
    assert reader.table({"first": 0}, Pair, PAIR, "two") is None
    assert reader.tables([{"first": 3}, 4], Pair, PAIR, "three") == [Pair(3), None]
    assert reader.tables({"first": 3}, Pair, PAIR, "four", alone=True) == [Pair(3)]
    assert reader.tables({"first": 3}, Pair, PAIR, "five") == []
    reader.require(True, "holds")
    reader.require(False, "does not hold")
    with pytest.raises(DataError) as caught:
        reader.finish()
    assert str(caught.value) == (
        "x.toml: [two] pair: as many as there are; [three 2] must be a table, is 4; "
        "[[five]] must be a list of tables, is {'first': 3}; does not hold"
    )
