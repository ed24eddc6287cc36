"""A model card for each checkpoint below the folders of a report: its own card, and the scores that records give it."""

import json
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from epanns.errors import CheckpointError, EpannsError
from epanns.feedback import note
from epanns.records import RunRecord, Stage
from epanns.reporting.notation import MISSING, escaped, markdown_table, si
from epanns.safe_text import printable
from epanns.strict import SHA256
from epanns.text_files import read_json, read_text

_LONGEST_CARD = 1 << 20
_DIGITS = 12  # of the sha256 in the record of an evaluation


class Measured(NamedTuple):
    """Scores of a checkpoint on one split: the record, the stage and the split's summary."""

    record: RunRecord
    stage: Stage
    split: str
    scores: Mapping[str, Any]


def model_cards(checkpoints: Sequence[Path], records: Sequence[RunRecord]) -> dict[str, str]:
    """Return the cards by file name, ``NAME.md``; a checkpoint that cannot be read is noted and left out.

    A card begins with the metadata that model hubs read (YAML), among them the measured scores.
    """
    cards: dict[str, str] = {}
    for folder in checkpoints:
        try:
            text = model_card(folder, records)
        except EpannsError as error:
            note(f"{error}; no card is made")
            continue
        stem = "-".join(part for part in folder.resolve().parts[-2:] if part != "checkpoint") or "checkpoint"
        stem = "".join(letter if letter.isascii() and (letter.isalnum() or letter in "._-") else "_" for letter in stem)
        name, number = f"{stem[:100]}.md", 1
        while name in cards:
            number += 1
            name = f"{stem[:100]}-{number}.md"
        cards[name] = text
    return cards


def model_card(folder: Path, records: Sequence[RunRecord]) -> str:
    """Return the card of one checkpoint.

    Args:
        folder: Checkpoint, of which ``config.json`` and ``README.md`` are read; its weights are not.
        records: Records among which those of the checkpoint are found by the sha256 of its weights.

    Raises:
        CheckpointError: If a file is missing or cannot be read.
    """
    config = read_json(folder / "config.json", error=CheckpointError)
    sha256 = config.get("weights_sha256") if isinstance(config, dict) else None
    if not isinstance(sha256, str) or not SHA256.holds(sha256):
        raise CheckpointError(f"{folder / 'config.json'}: has no weights_sha256: write the checkpoint again")
    own = read_text(
        folder / "README.md", error=CheckpointError, limit=_LONGEST_CARD, remedy="write the checkpoint again"
    )
    measured = [*scores_of_checkpoint(sha256, records)]
    body = printable(own, lines=True).rstrip()
    return "\n".join([_metadata(folder.resolve().name, measured), body, "", _scores(measured)])


def scores_of_checkpoint(sha256: str, records: Sequence[RunRecord]) -> Iterator[Measured]:
    """Yield the scores of a checkpoint: of its evaluations, and of the unpruned stage of trials that began with it."""
    for record in records:
        base = record.config.get("base", record.config)
        is_base = isinstance(base, Mapping) and base.get("checkpoint_sha256") == sha256
        evaluated = str(record.config.get("checkpoint", "")).rpartition("@")[2] == sha256[:_DIGITS]
        for stage in record.stages:
            if (stage.name == "dense" and is_base) or (stage.name == "evaluated" and evaluated):
                for split, scores in stage.scores.items():
                    yield Measured(record, stage, split, scores)


def _metadata(name: str, measured: Sequence[Measured]) -> str:
    """Return the metadata of the card; JSON values are YAML too, so that no text can break out of its place."""
    results = [
        {
            "task": {"type": "audio-classification"},
            "dataset": {"name": each.record.dataset, "type": each.record.dataset, "split": each.split},
            "metrics": [
                {"type": score, "value": each.scores[score]}
                for score in ("mAP", "mAUC", "d_prime", "accuracy")
                if each.scores.get(score) is not None
            ],
        }
        for each in {(m.record.dataset, m.split, m.record.protocol): m for m in measured}.values()
    ]
    fields: dict[str, Any] = {
        "library_name": "epanns",
        "pipeline_tag": "audio-classification",
        "tags": ["audio-tagging", "pruning"],
        **({"model-index": [{"name": name, "results": results}]} if results else {}),
    }
    return "\n".join(["---", *(f"{key}: {json.dumps(value)}" for key, value in fields.items()), "---", ""])


def _scores(measured: Sequence[Measured]) -> str:
    """Return the section of measured scores."""
    if not measured:
        return "## Scores\n\nNo record of this report is of this checkpoint.\n"
    header = ["Data", "Split", "Protocol", "MACs", "mAP", "95 % interval", "mAUC", "d'", "Clips"]
    body: dict[tuple[str, ...], None] = {}  # several trials give the same scores of one base
    for record, _, split, scores in measured:
        cells = [
            *(record.dataset, split, record.protocol),
            f"{si(record.cost_after['backbone_macs'])} per {record.clip_seconds:g} s",
            _number(scores.get("mAP")),
            _interval(record.intervals, split),
            *(_number(scores.get("mAUC")), _number(scores.get("d_prime"))),
            str(scores.get("n_clips") or MISSING),
        ]
        body[tuple(map(escaped, cells))] = None
    note_text = "mAP: macro average precision. MACs: convolutions and linear layers, one multiply-add = 1."
    return f"## Scores\n\n{markdown_table(header, body)}\n\n{note_text}\n"


def _number(value: float | None) -> str:
    return MISSING if value is None else f"{value:.4f}"


def _interval(intervals: Mapping[str, Any], split: str) -> str:
    by_clip = intervals.get(split, {})
    ends = by_clip.get("by_clip", {}).get("mAP") if isinstance(by_clip, Mapping) else None
    return f"{ends[0]:.4f} to {ends[1]:.4f}" if isinstance(ends, list) and len(ends) == 2 else MISSING
