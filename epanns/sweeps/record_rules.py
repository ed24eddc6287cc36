"""What each field of a run record may be."""

from collections.abc import Mapping, Sequence
from dataclasses import fields, replace
from typing import Any

from epanns.safe_text import LONGEST_NAME, is_path_name
from epanns.strict import (
    ANY_TEXT,
    FINITE,
    POSITIVE,
    TABLE,
    Rule,
    integer,
    is_finite,
    list_of,
    number,
    one_of,
    or_none,
    required_fields,
    shown,
    table_problems,
)

STAGES = ("dense", "pruned", "recovered", "finetuned", "evaluated")

_MOST = 1e18  # of parameters, bytes and multiply-adds

_TEXT = Rule("text", lambda value: isinstance(value, str) and value != "")
_SCORE = number("a number in [0, 1]", lambda value: 0 <= value <= 1)
_SIZE = number(f"a number in [1, {_MOST:g}]", lambda value: 1 <= value <= _MOST)
_NUMBER_OR_NULL = Rule("a finite number or null", lambda value: value is None or is_finite(value))
_ANY = Rule("any value", lambda value: True)

# What a report cannot do without; the other keys of a summary may come and go.
_COSTS = dict.fromkeys(("n_params", "param_bytes", "backbone_macs"), _SIZE)
_SCORES = {"mAP": _SCORE, "accuracy": replace(or_none(_SCORE), text="a number in [0, 1] or null")}

_RULES: dict[str, Rule] = {
    "trial_id": Rule(
        f"a name of 1 to {LONGEST_NAME} of the characters A-Z a-z 0-9 . _ - and not . or ..", is_path_name
    ),
    "experiment": _TEXT,
    "model": _TEXT,
    "width": POSITIVE,
    "criterion": replace(or_none(_TEXT), text="text or null"),
    "layers": list_of(_TEXT, "texts"),
    "ratio": replace(or_none(number("", lambda value: 0 <= value < 1)), text="a number in [0, 1) or null"),
    "recover": _TEXT,
    "finetune_iterations": integer(0),
    "seed": integer(0),
    "dataset": _TEXT,
    "protocol": _TEXT,
    "clip_seconds": POSITIVE,
    "config": TABLE,
    "plan_digest": replace(or_none(_TEXT), text="text or null"),
    "cost_before": TABLE,
    "cost_after": TABLE,
    "stages": Rule("a list", lambda value: isinstance(value, list)),
    "device": _TEXT,
    "versions": TABLE,
    "seconds": FINITE,
    "network": replace(or_none(_TEXT), text="text or null"),
    "name": ANY_TEXT,
    "intervals": TABLE,
}
_CURVE_POINT = Rule(
    "a pair, step and score", lambda pair: isinstance(pair, list) and len(pair) == 2 and all(map(is_finite, pair))
)
_STAGE_RULES: dict[str, Rule] = {
    "name": one_of(STAGES),
    "scores": TABLE,
    "seconds": FINITE,
    "curve": list_of(_CURVE_POINT, "pairs, step and score"),
    "best_step": replace(or_none(integer(0)), text="a whole number >= 0 or null"),
}


def record_problems(given: Mapping[str, Any], record: type[Any], stage: type[Any]) -> list[str]:
    """Return everything that keeps a JSON object from being a record, one line each.

    Args:
        given: The object, without its format.
        record: The dataclass of records; a field of it that has no rule here may be anything.
        stage: The dataclass of their stages.
    """
    problems = _table_problems(given, record, _RULES, "")
    for name in ("cost_before", "cost_after"):
        problems += _with_rules(given.get(name), _COSTS, _ANY, f"{name}.", required=tuple(_COSTS))
    stages = given.get("stages")
    for index, each in enumerate(stages if isinstance(stages, list) else ()):
        problems += _stage_problems(each, stage, f"stages[{index}]")
    return problems


def _stage_problems(given: object, kind: type[Any], where: str) -> list[str]:
    if not isinstance(given, dict):
        return [f"{where} is a {type(given).__name__}, not an object"]
    problems = _table_problems(given, kind, _STAGE_RULES, f"{where}.")
    scores = given.get("scores")
    for split, summary in (scores if isinstance(scores, dict) else {}).items():
        name = f"{where}.scores.{shown(split)[1:-1]}"
        if isinstance(summary, dict):
            problems += _with_rules(summary, _SCORES, _NUMBER_OR_NULL, f"{name}.", required=("mAP",))
        else:
            problems.append(f"{name}={shown(summary)}: must be an object with the number mAP")
    return problems


def _table_problems(given: Mapping[str, Any], kind: type[Any], rules: Mapping[str, Rule], prefix: str) -> list[str]:
    known = {field.name: rules.get(field.name, _ANY) for field in fields(kind)}
    return table_problems(given, known, required=required_fields(kind), prefix=prefix)


def _with_rules(
    given: object, rules: Mapping[str, Rule], rest: Rule, prefix: str, *, required: Sequence[str]
) -> list[str]:
    """Return the problems of a table whose keys beyond `rules` all obey the rule `rest`."""
    if not isinstance(given, dict):
        return []  # reported by the rule of the table itself
    named = {key if key in rules else shown(key)[1:-1]: value for key, value in given.items()}
    return table_problems(named, dict.fromkeys(named, rest) | dict(rules), required=required, prefix=prefix)
