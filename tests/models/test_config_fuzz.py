"""A config.json of any values gives a usable checkpoint or an error of one line."""

import copy
import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from epanns.cli.info import describe
from epanns.errors import EpannsError
from epanns.models.files.checkpoint import Checkpoint, load_checkpoint, save_checkpoint
from epanns.models.files.checkpoint_texts import CheckpointConfig, model_card
from epanns.models.files.load import find_unpruned
from epanns.models.pruning_plan import PruningPlan
from epanns.models.zoo import build_model
from epanns.safe_text import printable

VALUES = st.sampled_from(
    [None, True, False, 0, 1, -1, 3, 65_536, 2**63, 10**400, 0.5, -0.0, 1e308, float("nan"), float("inf"), "", "clip"]
    + ["\x1b[31m", "\ud800", "\u202e", "a\nb", "é" * 1000, [], {}, [[]], {"a": 1}, [1], [None], {"step": "train"}]
)
KEYS = st.sampled_from(["x", "", "step", "training", "\x1b[2J", "\ud800", "conv_block9.conv1"])


def places(value: Any, path: tuple[Any, ...] = ()) -> list[tuple[Any, ...]]:
    """Return the path of each value below this one."""
    items = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    return [place for key, inner in items for place in [(*path, key), *places(inner, (*path, key))]]


def at(value: Any, path: tuple[Any, ...]) -> Any:
    for key in path:
        value = value[key]
    return value


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A pruned checkpoint without checksums.json, with each kind of step in its recipe."""
    path = tmp_path_factory.mktemp("fuzz") / "saved"
    model = build_model("Cnn6", num_classes=3, width=0.05)
    base = model.spec.with_widths({layer: width + 2 for layer, width in model.spec.widths.items()})
    ratios = dict.fromkeys(base.widths, 0.2)
    plan = PruningPlan(
        base, {layer: tuple(range(width)) for layer, width in model.spec.widths.items()}, "l1", ratios, 0
    )
    training = {"iterations": 3, "seed": 0, "distil_weight": 0.5}
    budget = {"kind": "macs", "asked": 10_000, "reached": 900.0, "allocate": "greedy"}
    recipe = [
        {"step": "train", "training": training, "teacher_sha256": "a" * 64, "best_step": 2},
        {"step": "prune", "criterion": "l1", "ratios": ratios, "seed": 0, "budget": budget},
        {
            "step": "recover",
            "method": "ls",
            "clips": 10,
            "errors": {"a": 0.1},
            "ridge": 0.1,
            "steps": 9,
            "best_step": 3,
        },
        {"step": "transfer", "kept": {"dog": "dogs"}, "new": ["rain"]},
        {"step": "finetune", "training": training, "validation_mAP": 0.5},
    ]
    save_checkpoint(model, path, plan=plan, recipe=recipe)
    (path / "checksums.json").unlink()
    return path


@st.composite
def mutants(draw: st.DrawFn, good: dict[str, Any]) -> bytes:
    """Draw the text of a config in which one to three values are removed, added, replaced, moved, or a byte changed."""
    value = copy.deepcopy(good)
    for _ in range(draw(st.integers(1, 3))):
        *path, key = draw(st.sampled_from(places(value)))
        table = at(value, tuple(path))
        kind = draw(st.sampled_from(["remove", "add", "replace", "replace", "move"]))
        if kind == "remove":
            del table[key]
        elif kind == "add" and isinstance(table, dict):
            table[draw(KEYS)] = copy.deepcopy(draw(VALUES))
        elif kind == "move":
            table[key] = copy.deepcopy(at(good, draw(st.sampled_from(places(good)))))
        else:
            table[key] = copy.deepcopy(draw(VALUES))
        if not places(value):
            break
    text = bytearray(json.dumps(value).encode())
    if draw(st.integers(0, 9)) == 0:
        text[draw(st.integers(0, len(text) - 1))] = draw(st.integers(0, 255))
    return bytes(text)


def use(folder: Path) -> Checkpoint:
    """Do what commands do with what a config holds."""
    found = load_checkpoint(folder)
    summary = {"path": str(folder), **found.summary()}
    json.dumps(summary, ensure_ascii=False, allow_nan=False).encode()
    text = describe(summary, found.provenance)
    assert printable(text, lines=True) == text
    config = CheckpointConfig(found.spec, "a" * 64, found.provenance)
    card = model_card(config, found.labels, n_params=1, n_bytes=1)
    assert printable(card, lines=True) == card
    config.to_json().encode()
    find_unpruned(folder)
    found.build()
    return found


# Mel banks of damaged front ends have empty bins.
@pytest.mark.filterwarnings("ignore::epanns.feedback.Note")
@given(st.data())
def test_any_config_can_be_used_or_is_refused_in_one_short_line(folder: Path, data: st.DataObject) -> None:
    original = (folder / "config.json").read_bytes()
    try:
        (folder / "config.json").write_bytes(data.draw(mutants(json.loads(original))))
        use(folder)
    except EpannsError as error:
        assert len(printable(str(error))) < 6_000
    finally:
        (folder / "config.json").write_bytes(original)
