"""Two files of a checkpoint: config.json, checked before anything is allocated, and README.md, the model card."""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from epanns import __version__
from epanns.errors import CheckpointError
from epanns.labels import LabelSet
from epanns.models.files.storage import STORAGES
from epanns.models.provenance import Provenance
from epanns.models.spec import FUSION_FAMILIES, ModelSpec
from epanns.safe_text import printable
from epanns.strict import ANY_TEXT, SHA256, TABLE, Rule, error_messages, one_of, shown, table_problems
from epanns.text_files import LONGEST_JSON, parse_json, read_json, read_text

FORMAT = "epanns-checkpoint/1"

_REMEDY = "correct the file or write the checkpoint again"
_LONGEST_MESSAGE = 3000  # characters
_NEEDED: Mapping[str, Rule] = {"format": ANY_TEXT, "model": TABLE, "weights_sha256": SHA256, "provenance": TABLE}
_RULES: Mapping[str, Rule] = {**_NEEDED, "storage": one_of(STORAGES)}


@dataclass(frozen=True)
class CheckpointConfig:
    """The content of config.json.

    Attributes:
        spec: The network.
        weights_sha256: Of model.safetensors, in hexadecimal.
        provenance: Where the weights come from; ``sha256`` is that of the weights.
        storage: How model.safetensors holds the weights, one of `storage.STORAGES`.
    """

    spec: ModelSpec
    weights_sha256: str
    provenance: Provenance
    storage: str = "float32"

    def to_json(self) -> str:
        """Return the text of the file.

        Raises:
            CheckpointError: If the provenance has values that JSON cannot hold or `parse` refuses.
        """
        values = {
            "format": FORMAT,
            "model": self.spec.to_dict(),
            "weights_sha256": self.weights_sha256,
            **({} if self.storage == "float32" else {"storage": self.storage}),
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
        problems = table_problems(values, _RULES, required=_NEEDED)
        read_provenance = partial(Provenance.from_dict, sha256=values.get("weights_sha256"))
        for key, read in (("model", ModelSpec.from_dict), ("provenance", read_provenance)):
            if isinstance(values.get(key), dict):
                problems += error_messages(partial(read, values[key]))
        if problems:
            text = "; ".join(problems)
            text = text if len(text) <= _LONGEST_MESSAGE else f"{text[:_LONGEST_MESSAGE]}..."
            raise CheckpointError(f"{source}: {text}: {remedy}")
        spec, provenance = ModelSpec.from_dict(values["model"]), read_provenance(values["provenance"])
        config = cls(spec, values["weights_sha256"], provenance, values.get("storage", "float32"))
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


_LISTED_LABELS = 60  # of longer label sets only the size is shown

_LOG_MEL = (
    "{sample_rate} Hz; window {window_size}, hop {hop_size} samples; {mel_bins} mel bins, {fmin:g} to {fmax:g} Hz"
)

_OUTPUTS = {
    "multi-label": "one sigmoid per class: several classes can be present at once, and scores do not sum to 1",
    "single-label": "a softmax over the classes: each clip has one of them, and scores sum to 1",
}

_CARD = """\
# {name}{pruned}: an audio tagger

A convolutional network {reads} that scores {num_classes} kinds of sound in a clip.
{n_params:,} trainable parameters, {n_bytes:,} bytes of weights{stored}.

{section}## Load it

```python
import epanns

model = epanns.load("PATH/OF/THIS/FOLDER")  # evaluation mode, on the CPU
output = model(waveform)  # (batch, samples) float32 in [-1, 1] at {sample_rate} Hz
output["clipwise_output"]  # (batch, {num_classes}) scores in 0..1
```

From a shell: `epanns info FOLDER`, `epanns tag FOLDER sound.wav`.

## What it is

| | |
|---|---|
| network | {name}, family `{family}`, head `{head}`, {kernels}embedding {embedding_size} |
| input | {input} |
| output | {output} |
| classes | {classes} |

Output channels of each convolution, or of the first of those that are added to each other:

{widths}

## Where it comes from

{origin}

## Use and limits

Meant for tagging sound clips and as a starting point for other tasks. Scores are not calibrated probabilities: choose a
threshold per class on data of your own. It knows only what it was trained on; do not rely on it alone where a missed or
invented sound would do harm.

## Licence

The code of epanns is under the MIT licence. Weights trained with epanns belong to whoever trained them. Weights that
come from released PANNs or E-PANNs files, pruned and fine-tuned ones included, stay under the terms of their publisher:
see https://zenodo.org/record/3987831 (PANNs) and https://zenodo.org/records/7939403 (E-PANNs). Google's weights of
YAMNet are under the Apache licence 2.0: https://github.com/tensorflow/models/tree/master/research/audioset/yamnet.
EfficientAT's weights (mn01 to mn40) are under the MIT licence: https://github.com/fschmid56/EfficientAT. Data sets have
terms of their own, which may reach to weights that were trained on them.
"""


def model_card(config: CheckpointConfig, labels: LabelSet, *, n_params: int, n_bytes: int, section: str = "") -> str:
    """Return the text of the card; `n_bytes` is the size of model.safetensors, `section` is put into it."""
    spec, provenance = config.spec, config.provenance
    front_end = spec.front_end.to_dict()
    whose = {"panns": "", "yamnet": "YAMNet's ", "efficientat": "EfficientAT's "}[spec.front_end.kind]
    logmel = f"{whose}log-mel spectrograms"
    reads_both = spec.family.startswith("wavegram") or spec.family in FUSION_FAMILIES
    reads = f"on the waveform and {logmel}" if reads_both else f"on {logmel}"
    given = _LOG_MEL if spec.reads_logmel else "{sample_rate} Hz"
    rows = ["| layer | channels |", "|---|---|", *(f"| `{layer}` | {width} |" for layer, width in spec.widths.items())]
    listed = ", ".join(map(printable, labels.names)) if len(labels) <= _LISTED_LABELS else "see"
    return _CARD.format(
        **{**spec.to_dict(), **front_end, "widths": "\n".join(rows)},
        reads=reads if spec.reads_logmel else "on the waveform",
        kernels=f"{spec.kernel_size}x{spec.kernel_size} kernels, " if spec.family == "cnn" else "",
        input=given.format(**front_end),
        output=_OUTPUTS[spec.task],
        pruned=" (pruned)" if provenance.plan else "",
        n_params=n_params,
        n_bytes=n_bytes,
        stored="" if config.storage == "float32" else f", matrices and kernels as {config.storage}",
        section=f"{section.strip()}\n\n" if section.strip() else "",
        classes=f"{len(labels)}: {listed} (`labels.csv`)",
        origin=_origin(provenance),
    )


def _origin(provenance: Provenance) -> str:
    plan, recipe = provenance.plan, provenance.recipe
    versions = ", ".join(f"{name} {version}" for name, version in (provenance.versions or {}).items())
    lines = [
        f"- Source: {printable(str(provenance.source))}",
        f"- Parent weights (sha256): {provenance.parent_sha256 or 'none, trained from random weights'}",
        f"- Pruning: criterion `{printable(plan.criterion)}`, plan in `config.json`" if plan else "- Pruning: none",
        "- What was done, in order (settings in `config.json`):" if recipe else "- What was done: nothing recorded",
        *(f"    {number}. {printable(operation.describe())}" for number, operation in enumerate(recipe, start=1)),
        f"- Written with {printable(versions)}",
    ]
    return "\n".join(lines)
