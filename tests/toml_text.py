"""TOML texts of tables whose values are of any kind."""

import datetime
import math
from collections.abc import Mapping

from hypothesis import strategies as st

from tests.any_value import ANY_VALUE


def toml_of(value: object) -> str:
    """Return a value as TOML writes it, tables in line; what TOML has no form for becomes text."""
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, int):
        return str(value)
    if isinstance(value, float):
        return str(value) if math.isfinite(value) else {math.inf: "inf", -math.inf: "-inf"}.get(value, "nan")
    if isinstance(value, datetime.date | datetime.time):
        return value.isoformat()
    if isinstance(value, Mapping):
        return "{" + ", ".join(f"{quoted(key)} = {toml_of(item)}" for key, item in value.items()) + "}"
    if isinstance(value, list | tuple):
        return "[" + ", ".join(map(toml_of, value)) + "]"
    return quoted(str(value))


def quoted(text: str) -> str:
    """Return text as a basic string of TOML."""
    return '"' + "".join(_escaped(letter) for letter in text) + '"'


def _escaped(letter: str) -> str:
    if "\ud800" <= letter <= "\udfff":
        return "?"
    return letter if letter.isprintable() and letter not in '"\\' else f"\\U{ord(letter):08x}"


def document(table: Mapping[str, object]) -> str:
    """Return the TOML of a table, each key on a line."""
    return "".join(f"{quoted(key)} = {toml_of(value)}\n" for key, value in table.items())


@st.composite
def altered(draw: st.DrawFn, table: Mapping[str, object]) -> dict[str, object]:
    """Draw a table in which one or two keys, at any depth, have a value of any kind, are new or are missing."""
    found = _copied(table)
    for _ in range(draw(st.integers(1, 2))):
        place: dict[str, object] | list[object] = found
        while True:
            keys = [*place] if isinstance(place, dict) else list(range(len(place)))
            new = draw(st.text(max_size=4)) if isinstance(place, dict) else len(keys)
            key = draw(st.sampled_from([*keys, *keys, new]))
            inner = place[key] if key != new and key in keys else None
            if isinstance(inner, dict | list) and draw(st.booleans()):
                place = inner
                continue
            value = _copied(draw(ANY_VALUE))
            if isinstance(place, list) and key == len(place):
                place.append(value)
            elif draw(st.integers(0, 9)) == 0 and key in keys:
                place.pop(key)
            else:
                place[key] = value
            break
    return found


def _copied(value: object) -> object:
    if isinstance(value, Mapping):
        return {key: _copied(item) for key, item in value.items()}
    return [_copied(item) for item in value] if isinstance(value, list) else value
