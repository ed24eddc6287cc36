"""The model card, README.md of a checkpoint folder: network, origin, use and limits."""

from epanns.labels import LabelSet
from epanns.models.provenance import Provenance
from epanns.models.spec import FUSION_FAMILIES, ModelSpec
from epanns.safe_text import printable

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
{n_params:,} trainable parameters, {n_bytes:,} bytes of weights.

## Load it

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
"""


def model_card(spec: ModelSpec, labels: LabelSet, provenance: Provenance, *, n_params: int, n_bytes: int) -> str:
    """Return the text of the card.

    Args:
        spec: The network.
        labels: Its classes.
        provenance: As in config.json.
        n_params: Trainable parameters.
        n_bytes: Size of model.safetensors.
    """
    front_end = spec.front_end.to_dict()
    given = _LOG_MEL if spec.reads_logmel else "{sample_rate} Hz"
    rows = ["| layer | channels |", "|---|---|", *(f"| `{layer}` | {width} |" for layer, width in spec.widths.items())]
    listed = ", ".join(map(printable, labels.names)) if len(labels) <= _LISTED_LABELS else "see"
    return _CARD.format(
        **{**spec.to_dict(), **front_end, "widths": "\n".join(rows)},
        reads=_reads(spec),
        kernels=f"{spec.kernel_size}x{spec.kernel_size} kernels, " if spec.family == "cnn" else "",
        input=given.format(**front_end),
        output=_OUTPUTS[spec.task],
        pruned=" (pruned)" if provenance.plan else "",
        n_params=n_params,
        n_bytes=n_bytes,
        classes=f"{len(labels)}: {listed} (`labels.csv`)",
        origin=_origin(provenance),
    )


def _reads(spec: ModelSpec) -> str:
    if not spec.reads_logmel:
        return "on the waveform"
    both = spec.family.startswith("wavegram") or spec.family in FUSION_FAMILIES
    logmel = "YAMNet's log-mel spectrograms" if spec.front_end.is_yamnet else "log-mel spectrograms"
    return f"on the waveform and {logmel}" if both else f"on {logmel}"


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
