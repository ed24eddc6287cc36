"""The config.json of a checkpoint: written, and checked before anything is allocated."""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from epanns import __version__
from epanns.errors import CheckpointError
from epanns.models.provenance import SHA256, Provenance
from epanns.models.spec import ModelSpec
from epanns.strict import ANY_TEXT, TABLE, Rule, error_messages, shown, table_problems
from epanns.text_files import LONGEST_JSON, parse_json, read_json, read_text

FORMAT = "epanns-checkpoint/1"

_REMEDY = "correct the file or write the checkpoint again"
_LONGEST_MESSAGE = 3000  # characters
_RULES: Mapping[str, Rule] = {"format": ANY_TEXT, "model": TABLE, "weights_sha256": SHA256, "provenance": TABLE}


@dataclass(frozen=True)
class CheckpointConfig:
    """The content of config.json.

    Attributes:
        spec: The network.
        weights_sha256: Of model.safetensors, in hexadecimal.
        provenance: Where the weights come from; ``sha256`` is that of the weights.
    """

    spec: ModelSpec
    weights_sha256: str
    provenance: Provenance

    def to_json(self) -> str:
        """Return the text of the file.

        Raises:
            CheckpointError: If the provenance has values that JSON cannot hold or `parse` refuses.
        """
        values = {
            "format": FORMAT,
            "model": self.spec.to_dict(),
            "weights_sha256": self.weights_sha256,
            "provenance": self.provenance.to_dict(),
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
            CheckpointError: If it is not JSON, of an unknown format, or invalid; the message has every problem.
        """
        return cls.parse(read_text(path, error=CheckpointError, limit=LONGEST_JSON, remedy=_REMEDY), str(path))

    @classmethod
    def parse(cls, text: str, source: str, remedy: str = _REMEDY) -> "CheckpointConfig":
        """Read and check a text; messages begin with `source` and end with `remedy`. Raises as `read`."""
        values = parse_json(text, source, error=CheckpointError, remedy=remedy)
        if not isinstance(values, dict) or values.get("format") != FORMAT:
            found = values.get("format") if isinstance(values, dict) else None
            raise CheckpointError(
                f"{source}: format {shown(found)} is unknown, epanns {__version__} reads {FORMAT!r}: "
                "update epanns, or check that this is a checkpoint"
            )
        problems = table_problems(values, _RULES, required=_RULES)
        read_provenance = partial(Provenance.from_dict, sha256=values.get("weights_sha256"))
        for key, read in (("model", ModelSpec.from_dict), ("provenance", read_provenance)):
            if isinstance(values.get(key), dict):
                problems += error_messages(partial(read, values[key]))
        if problems:
            text = "; ".join(problems)
            text = text if len(text) <= _LONGEST_MESSAGE else f"{text[:_LONGEST_MESSAGE]}..."
            raise CheckpointError(f"{source}: {text}: {remedy}")
        spec, provenance = ModelSpec.from_dict(values["model"]), read_provenance(values["provenance"])
        config = cls(spec, values["weights_sha256"], provenance)
        if (plan := config.provenance.plan) is not None and plan.widths != dict(config.spec.widths):
            raise CheckpointError(
                f"{source}: provenance.plan leads to other widths than the model has: correct it, or write the "
                "checkpoint again"
            )
        return config


def is_config(path: Path) -> bool:
    """Return whether a file is the config.json of a checkpoint, of any version of epanns."""
    try:
        values = read_json(path, error=CheckpointError)
    except CheckpointError:
        return False
    return isinstance(values, dict) and str(values.get("format")).startswith("epanns-checkpoint/")
