"""Checkpoints of epanns: a folder of config.json, model.safetensors, labels.csv, README.md and checksums.json.

checksums.json holds the sha256 of the other four files and is checked on load: a folder whose labels, settings or
weights were changed is refused. A change of README.md, the model card, is only noted, and so is a missing
checksums.json.
"""

import json
import re
import shutil
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from safetensors import SafetensorError, safe_open
from safetensors.torch import load_file, save_file
from torch import Tensor

from epanns.atomic import fsync_folder, new_folder, sha256_of
from epanns.errors import CheckpointError, DataError, OutputError
from epanns.feedback import note
from epanns.folder_kinds import describe_other_folder
from epanns.labels import LabelSet
from epanns.models.card import model_card
from epanns.models.checkpoint_config import CheckpointConfig, is_config
from epanns.models.provenance import Operation, Provenance, recipe_problems
from epanns.models.pruning_plan import PruningPlan
from epanns.models.spec import ModelSpec
from epanns.models.tagger import Tagger
from epanns.models.tensors import TensorForm, difference, expected_forms, forms_of, parameters_of
from epanns.models.zoo import build_model
from epanns.packages import versions
from epanns.text_files import read_json, read_text

CHECKSUMS = "checksums.json"

_FORMAT = "epanns-checksums/1"
_LONGEST = 64 << 10  # bytes
_REMEDY = f"copy the whole checkpoint again or, where a file was changed on purpose, delete {CHECKSUMS}"


def write_checksums(folder: Path, names: tuple[str, ...]) -> None:
    """Write the sha256 of files of a folder that holds them already."""
    table = {"format": _FORMAT, "sha256": {name: sha256_of(folder / name) for name in names}}
    (folder / CHECKSUMS).write_text(json.dumps(table, indent=2) + "\n", encoding="utf-8", newline="\n")


def check_files(folder: Path, *, required: tuple[str, ...], free: tuple[str, ...], known: Mapping[str, str]) -> None:
    """Compare the files of a checkpoint folder with their checksums.

    A folder without checksums.json, as earlier versions wrote them and as some tools copy them, gets a note and no
    more. So does a changed file that nothing reads, the model card, which people edit by hand.

    Args:
        folder: The checkpoint.
        required: Names of the files that a network is made of; each must have a checksum and fit it.
        free: Names of the files that may be changed or removed.
        known: sha256 of files that were read already, which are not read again.

    Raises:
        CheckpointError: If checksums.json is damaged, lacks a required file, or a file differs from its checksum.
    """
    path = folder / CHECKSUMS
    if not path.exists():
        note(f"{folder}: has no {CHECKSUMS}, so that changes of its labels and settings cannot be found")
        return
    stored = _read(path, names={*required, *free})
    if missing := [name for name in required if name not in stored]:
        raise CheckpointError(f"{path}: no sha256 of {', '.join(missing)}: {_REMEDY}")
    for name in required:
        if (known.get(name) or sha256_of(folder / name)) != stored[name]:
            raise CheckpointError(
                f"{folder / name}: its sha256 is not the one in {CHECKSUMS}: the file is damaged or was changed: "
                f"{_REMEDY}"
            )
    for name in free:
        if name in stored and (folder / name).is_file() and sha256_of(folder / name) != stored[name]:
            note(f"{folder / name}: was changed after it was written; the network does not depend on it")


def _read(path: Path, *, names: set[str]) -> dict[str, str]:
    values = read_json(path, error=CheckpointError, limit=_LONGEST, remedy=_REMEDY)
    found = values.get("format") if isinstance(values, dict) else None
    if found != _FORMAT:
        raise CheckpointError(f"{path}: format {str(found)[:60]!r} is unknown, must be {_FORMAT!r}: {_REMEDY}")
    stored = values.get("sha256")
    if not isinstance(stored, dict) or set(values) != {"format", "sha256"}:
        raise CheckpointError(f"{path}: must hold 'format' and a table 'sha256' and no more: {_REMEDY}")
    for name, digest in stored.items():
        if name not in names or not isinstance(digest, str) or not re.fullmatch("[0-9a-f]{64}", digest):
            raise CheckpointError(
                f"{path}: sha256 of {name[:60]!r} is {str(digest)[:80]!r}: must be 64 hexadecimal digits for one of "
                f"{', '.join(sorted(names))}: {_REMEDY}"
            )
    return stored


CONFIG, WEIGHTS, LABELS, CARD = _HASHED = ("config.json", "model.safetensors", "labels.csv", "README.md")
FILES = (*_HASHED, CHECKSUMS)
_NEEDED = (CONFIG, WEIGHTS, LABELS)

_PACKAGES = ("torch", "torchaudio", "torch-pruning", "numpy", "safetensors")
_LABEL_BYTES = 1024  # of one class in labels.csv at most, on average; a short file is read whatever its lines are
_LABELS_BYTES = 1 << 20
_DTYPES = {"F32": "float32", "I64": "int64"}  # safetensors' names of what our networks hold


@dataclass(frozen=True)
class Checkpoint:
    """A network and its weights, on the CPU.

    Attributes:
        spec: What to build.
        weights: The state dict, by PANNs' names.
        labels: Names of the classes, in output order.
        provenance: Where the weights come from.
        notes: What was left out or filled in while a released file was read, one phrase each.
    """

    spec: ModelSpec
    weights: Mapping[str, Tensor]
    labels: LabelSet
    provenance: Provenance
    notes: tuple[str, ...] = ()

    def build(self) -> Tagger:
        """Return the network with its weights, in evaluation mode."""
        model = build_model(self.spec, labels=self.labels)
        model.load_state_dict(self.weights)
        model.provenance = self.provenance
        return model.eval()

    def summary(self) -> dict[str, Any]:
        """Return the keys of ``epanns info --json``: spec, task, sample rate, parameters, label names, provenance."""
        size = parameters_of(self.spec)
        return self.spec.to_dict() | {
            "task": self.spec.task,
            "sample_rate": self.spec.front_end.sample_rate,
            "n_params": size.trainable,
            "n_params_with_statistics": size.with_statistics,
            "n_params_folded": size.folded,
            "labels": list(self.labels.names),
            "provenance": self.provenance.summary(),
        }


def checkpoint_folder(path: str | Path) -> Path:
    """Return the checkpoint folder that a path names, where it is a file of one; every other path as it is."""
    path = Path(path)
    is_part = path.name in FILES and path.is_file() and is_config(path.parent / CONFIG)
    return path.parent if is_part else path


def load_checkpoint(folder: str | Path) -> Checkpoint:
    """Read a checkpoint folder; everything is checked before the weights are loaded.

    A folder without checksums.json, and a changed model card, give a `notes.Note`.

    Raises:
        CheckpointError: If a file is missing, damaged, changed or does not fit the others; the message names it.
    """
    folder = Path(folder)
    _check_files(folder)
    config = CheckpointConfig.read(folder / CONFIG)
    labels = _read_labels(folder / LABELS, config.spec)
    _check_weights(folder / WEIGHTS, config)
    check_files(folder, required=_NEEDED, free=(CARD,), known={WEIGHTS: config.weights_sha256})
    return Checkpoint(config.spec, load_file(folder / WEIGHTS), labels, config.provenance)


def save_checkpoint(
    model: Tagger,
    folder: str | Path,
    *,
    plan: PruningPlan | Mapping[str, Any] | None = None,
    recipe: Mapping[str, Any] | Sequence[Mapping[str, Any]] | None = None,
    overwrite: bool = False,
) -> str:
    """Write a checkpoint folder, whole or not at all.

    Args:
        model: The network; its `provenance` says what it was made of.
        folder: Where to; must not exist unless `overwrite`.
        plan: Which channels were kept, for a pruned network; by default that of the model's provenance.
        recipe: What was done to the weights: one step (`models.recipe`), which goes behind those of the model's
            provenance, or all steps, in their place; by default those of the provenance.
        overwrite: Take the place of an older checkpoint (and of nothing else).

    Returns:
        The sha256 of model.safetensors.

    Raises:
        OutputError: If the folder exists and may not be replaced, or the disk does not take the weights.
        CheckpointError: If the model's tensors or labels are not those of its `spec`, or the recipe is none.
    """
    folder = Path(folder)
    known = model.provenance
    provenance = replace(
        known,
        source=f"{model.spec.name}, built from random weights with epanns" if known.source is None else known.source,
        parent_sha256=known.sha256,
        plan=PruningPlan.from_dict(plan) if isinstance(plan, Mapping) else plan or known.plan,
        recipe=known.recipe if recipe is None else _recipe(known, recipe),
        versions=versions(*_PACKAGES),
    )
    if not overwrite:
        with new_folder(folder) as partial:
            return _write(model, partial, folder, provenance)
    staged, previous = _sibling(folder, ".next"), _sibling(folder, ".previous")
    _settle(folder, staged, previous)
    with new_folder(staged) as partial:
        digest = _write(model, partial, folder, provenance)
    if folder.exists():
        folder.replace(previous)
    staged.replace(folder)
    fsync_folder(folder.parent)
    _remove(previous)
    return digest


save = save_checkpoint


def _sibling(folder: Path, suffix: str) -> Path:
    return folder.with_name(folder.name + suffix)


def _settle(folder: Path, staged: Path, previous: Path) -> None:
    """Refuse a folder that is not a checkpoint, and tidy what an interrupted swap left."""
    if previous.exists() and not folder.exists():
        previous.replace(folder)
    for place in (folder, staged, previous):
        is_removed = place != folder and place.is_dir() and not any(place.iterdir())  # by a process that was killed
        if place.exists() and not (is_removed or _is_only_a_checkpoint(place)):
            raise OutputError(
                f"{place} is not a checkpoint of epanns, or holds other files too, and is not overwritten: "
                "choose another place or move it away"
            )
    _remove(staged)
    _remove(previous)


def _remove(folder: Path) -> None:
    """Delete a checkpoint; its config last, so that what a killed process leaves is still known as a checkpoint."""
    with suppress(OSError):
        for name in sorted(FILES, key=lambda name: name == CONFIG):
            (folder / name).unlink(missing_ok=True)
        folder.rmdir()


def _is_only_a_checkpoint(folder: Path) -> bool:
    return folder.is_dir() and {file.name for file in folder.iterdir()} <= set(FILES) and is_config(folder / CONFIG)


def _write(model: Tagger, folder: Path, place: Path, provenance: Provenance) -> str:
    """Write the files into `folder`, which becomes `place`."""
    if len(model.labels) != model.spec.num_classes:
        raise CheckpointError(
            f"this {model.spec.name} has {len(model.labels)} labels for {model.spec.num_classes} classes and would not "
            "load again: set model.labels to one label per class"
        )
    labels = _labels_text(model)
    tensors = {name: tensor.detach().cpu().contiguous() for name, tensor in model.state_dict().items()}
    if problem := difference(forms_of(tensors), expected_forms(model.spec)):
        raise CheckpointError(f"this {model.spec.name} does not fit its own spec and would not load again: {problem}")
    try:
        save_file(tensors, folder / WEIGHTS, metadata={"format": "pt"})
    except (SafetensorError, OSError) as error:
        raise OutputError(
            f"{place}: {WEIGHTS} cannot be written ({error}): free some space, or choose a folder that can be written"
        ) from error
    digest = sha256_of(folder / WEIGHTS)
    n_params = sum(parameter.numel() for parameter in model.parameters())
    n_bytes = (folder / WEIGHTS).stat().st_size
    config = CheckpointConfig(model.spec, digest, provenance).to_json()
    card = model_card(model.spec, model.labels, provenance, n_params=n_params, n_bytes=n_bytes)
    for name, text in {LABELS: labels, CARD: card, CONFIG: config}.items():
        (folder / name).write_text(text, encoding="utf-8", newline="\n")
    write_checksums(folder, _HASHED)
    shutil.copymode(folder / CONFIG, folder / WEIGHTS)  # safetensors writes for the owner alone, whatever the umask
    return digest


def _recipe(known: Provenance, given: Mapping[str, Any] | Sequence[Mapping[str, Any]]) -> tuple[Operation, ...]:
    """Return the known recipe with a given operation behind it, or a given recipe in its place."""
    entries = [given] if isinstance(given, Mapping) else given
    if problems := recipe_problems(entries):
        raise CheckpointError(f"{'; '.join(problems)}: give operations such as {{'step': 'recover', ...}}")
    operations = tuple(map(Operation.from_dict, entries))
    return (*known.recipe, *operations) if isinstance(given, Mapping) else operations


def _check_files(folder: Path) -> None:
    if not folder.is_dir():
        previous = _sibling(folder, ".previous")
        hint = f"; an interrupted save left {previous}: rename it" if previous.is_dir() else ""
        raise CheckpointError(f"{folder}: no such file or folder{hint}")
    missing = [name for name in _NEEDED if not (folder / name).is_file()]
    if missing:
        if other := describe_other_folder(folder):
            raise CheckpointError(f"{folder} is not a checkpoint: it {other}")
        raise CheckpointError(
            f"{folder} is not a checkpoint: {', '.join(missing)} missing; "
            f"a checkpoint holds {', '.join(FILES)}, as `epanns import` or `epanns train` write them"
        )


def _read_labels(path: Path, spec: ModelSpec) -> LabelSet:
    limit = max(_LABELS_BYTES, _LABEL_BYTES * spec.num_classes)
    text = read_text(path, error=CheckpointError, limit=limit, remedy="give one line per class")
    try:
        labels = LabelSet.from_csv_text(text, str(path))
    except DataError as error:
        raise CheckpointError(str(error)) from error
    if len(labels) != spec.num_classes:
        raise CheckpointError(
            f"{path}: {len(labels)} labels for a network of {spec.num_classes} classes: give one line per class"
        )
    return labels


def _labels_text(model: Tagger) -> str:
    """Return the text of labels.csv, from which the same labels can be read again."""
    text = model.labels.to_csv()
    try:
        is_readable = LabelSet.from_csv_text(text, LABELS) == model.labels
    except DataError as error:
        raise CheckpointError(f"the labels of this {model.spec.name} cannot be saved ({error}): rename them") from error
    if not is_readable:
        raise CheckpointError(f"the labels of this {model.spec.name} would be others when read again: rename them")
    return text


def _check_weights(path: Path, config: CheckpointConfig) -> None:
    """Compare the header of a safetensors file with what the network needs, then its bytes with their sha256."""
    try:
        with safe_open(path, framework="pt") as file:
            slices = {name: file.get_slice(name) for name in file.keys()}  # noqa: SIM118 (not a dict)
            found = {
                name: TensorForm(tuple(part.get_shape()), _DTYPES.get(part.get_dtype(), part.get_dtype()))
                for name, part in slices.items()
            }
    except (SafetensorError, OSError) as error:
        raise CheckpointError(f"{path}: damaged or not safetensors ({error}): copy or write it again") from error
    if problem := difference(found, expected_forms(config.spec)):
        raise CheckpointError(
            f"{path} does not fit {CONFIG} ({config.spec.name}): {problem}; get a whole copy, or save it again"
        )
    if sha256_of(path) != config.weights_sha256:
        raise CheckpointError(
            f"{path}: its bytes differ from the sha256 in {CONFIG}: the file is damaged or was changed"
        )
