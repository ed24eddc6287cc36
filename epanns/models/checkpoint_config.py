"""The config.json of a checkpoint: written, and checked before anything is allocated."""

import json
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from epanns import __version__
from epanns.errors import CheckpointError, ConfigError, did_you_mean
from epanns.models.recipe import recipe_problems
from epanns.models.spec import ModelSpec
from epanns.text_files import LONGEST_JSON, parse_json, read_json, read_text

FORMAT = "epanns-checkpoint/1"

_REMEDY = "correct the file or write the checkpoint again"
_MOST = 8  # problems that a message names; the rest is counted
_LONGEST_PROBLEM = 400  # characters


def _is_table(value: object) -> bool:
    return isinstance(value, dict)


def _is_list(value: object) -> bool:
    return isinstance(value, list)


def _is_list_of_text(value: object) -> bool:
    return isinstance(value, list) and all(isinstance(item, str) for item in value)


def _is_sha256(value: object) -> bool:
    return isinstance(value, str) and re.fullmatch("[0-9a-f]{64}", value) is not None


def _is_width(value: object) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and 0 < value <= 8


def _is_text(value: object) -> bool:
    return isinstance(value, str)


def _or_null(fits: Callable[[object], bool]) -> Callable[[object], bool]:
    return lambda value: value is None or fits(value)


_Rules = Mapping[str, tuple[str, Callable[[object], bool]]]

_CONFIG: _Rules = {
    "format": ("text", _is_text),
    "model": ("a table", _is_table),
    "weights_sha256": ("64 hexadecimal digits", _is_sha256),
    "provenance": ("a table", _is_table),
}
_PROVENANCE: _Rules = {
    "source": ("text", _is_text),
    "parent_sha256": ("null or 64 hexadecimal digits", _or_null(_is_sha256)),
    "plan": ("null or a table", _or_null(_is_table)),
    "recipe": ("a list of steps", _is_list),
    "assumed": ("a list of text", _is_list_of_text),
    "width": ("null or a number in (0, 8]", _or_null(_is_width)),
    "versions": ("a table", _is_table),
}


@dataclass(frozen=True)
class CheckpointConfig:
    """What config.json holds.

    Attributes:
        spec: The network.
        weights_sha256: Of model.safetensors, in hexadecimal.
        provenance: ``source`` (text), ``parent_sha256`` (of the weights these were made of, or None), ``plan``
            (JSON object or None), ``recipe`` (what was done, in order: `models.recipe`), ``assumed`` (what
            nothing told when a released file was read, in words), ``width`` (factor on the widths of the zoo's
            row, or None where nobody said), ``versions`` (package -> version).
    """

    spec: ModelSpec
    weights_sha256: str
    provenance: dict[str, Any]

    def to_json(self) -> str:
        """Return the text of the file.

        Raises:
            CheckpointError: If the provenance holds what JSON or `parse` cannot: the file would not be read again.
        """
        values = {
            "format": FORMAT,
            "model": self.spec.to_dict(),
            "weights_sha256": self.weights_sha256,
            "provenance": self.provenance,
        }
        remedy = "give model.provenance, plan and recipe the values of JSON"
        try:
            text = json.dumps(values, indent=2, ensure_ascii=False) + "\n"
        except (TypeError, ValueError, RecursionError) as error:
            raise CheckpointError(f"this {self.spec.name} cannot be saved: provenance ({error}): {remedy}") from error
        self.parse(text, f"this {self.spec.name} cannot be saved", remedy)
        return text

    @classmethod
    def read(cls, path: Path) -> "CheckpointConfig":
        """Read and check the file.

        Raises:
            CheckpointError: If it is no JSON, of an unknown format, or breaks a rule; every broken rule is named.
        """
        return cls.parse(read_text(path, error=CheckpointError, limit=LONGEST_JSON, remedy=_REMEDY), str(path))

    @classmethod
    def parse(cls, text: str, source: str, remedy: str = _REMEDY) -> "CheckpointConfig":
        """Check a text; `source` names it in messages, which end in `remedy`. Raises as `read` does."""
        values = parse_json(text, source, error=CheckpointError, remedy=remedy)
        if not isinstance(values, dict) or values.get("format") != FORMAT:
            found = values.get("format") if isinstance(values, dict) else None
            raise CheckpointError(
                f"{source}: format {_cut(repr(found))} is unknown, epanns {__version__} reads {FORMAT!r}: "
                "update epanns, or check that this is a checkpoint"
            )
        problems = _problems(values, _CONFIG, "")
        if isinstance(provenance := values.get("provenance"), dict):
            problems += _problems(provenance, _PROVENANCE, "provenance.")
            if isinstance(provenance.get("recipe"), list):
                problems += [f"provenance.{problem}" for problem in recipe_problems(provenance["recipe"])]
        if problems:
            rest = f" and {len(problems) - _MOST} more" if len(problems) > _MOST else ""
            raise CheckpointError(f"{source}: {'; '.join(map(_cut, problems[:_MOST]))}{rest}: {remedy}")
        try:
            spec = ModelSpec.from_dict(values["model"])
        except ConfigError as error:
            raise CheckpointError(f"{source}: {_cut(str(error))}: {remedy}") from error
        return cls(spec, values["weights_sha256"], values["provenance"])


def is_config(path: Path) -> bool:
    """Return whether a file is the config.json of a checkpoint of epanns, of whatever version."""
    try:
        values = read_json(path, error=CheckpointError)
    except CheckpointError:
        return False
    return isinstance(values, dict) and str(values.get("format")).startswith("epanns-checkpoint/")


def _cut(text: str) -> str:
    return text if len(text) <= _LONGEST_PROBLEM else f"{text[:_LONGEST_PROBLEM]}..."


def _problems(values: Mapping[str, Any], rules: _Rules, prefix: str) -> list[str]:
    unknown = [f"unknown key {prefix}{key}{did_you_mean(key, rules)}" for key in values if key not in rules]
    missing = [f"missing key {prefix}{key}" for key in rules if key not in values]
    broken = [
        f"{prefix}{key} must be {rule}, is {str(values[key])[:60]!r}"
        for key, (rule, fits) in rules.items()
        if key in values and not fits(values[key])
    ]
    return unknown + missing + broken
