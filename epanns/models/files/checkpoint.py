"""Checkpoints of epanns: a folder of config.json, model.safetensors, labels.csv, README.md and checksums.json.

checksums.json holds the sha256 of the other four files and is checked on load: a folder whose labels, settings or
weights were changed is refused. A change of README.md, the model card, is only noted, and so is a missing
checksums.json.
"""

import functools
import json
import shutil
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from safetensors import SafetensorError, safe_open
from safetensors.torch import load_file, save_file
from torch import Tensor

from epanns.atomic import fsync, new_folder, sha256_of
from epanns.errors import CheckpointError, ConfigError, DataError, OutputError
from epanns.feedback import note
from epanns.labels import LabelSet
from epanns.models.files.checkpoint_texts import CheckpointConfig, is_config, model_card
from epanns.models.files.included import included_folder
from epanns.models.files.storage import STORAGES, from_storage, stored_forms, to_storage
from epanns.models.provenance import Provenance
from epanns.models.pruning_plan import PruningPlan
from epanns.models.spec import ModelSpec
from epanns.models.tagger import Tagger
from epanns.models.tensors import TensorForm, difference, expected_forms, forms_of, parameters_of
from epanns.models.zoo import build_model, known_labels
from epanns.packages import versions
from epanns.strict import SHA256, one_of, shown, table_problems
from epanns.text_files import read_json, read_text
from epanns.workfolder import describe_other_folder

CONFIG, WEIGHTS, LABELS, CARD = _HASHED = ("config.json", "model.safetensors", "labels.csv", "README.md")
CHECKSUMS = "checksums.json"
FILES = (*_HASHED, CHECKSUMS)
_NEEDED = (CONFIG, WEIGHTS, LABELS)

_CHECKSUMS_FORMAT = "epanns-checksums/1"
_LONGEST_CHECKSUMS = 64 << 10  # bytes
_REMEDY = f"copy the whole checkpoint again or, where a file was changed on purpose, delete {CHECKSUMS}"
_PACKAGES = ("torch", "torchaudio", "torch-pruning", "numpy", "safetensors")
_LABEL_BYTES = 1024  # most bytes of a class in labels.csv, on average
_LABELS_BYTES = 1 << 20  # a shorter labels.csv is read whatever the number of classes
_DTYPES = {"F32": "float32", "F16": "float16", "I64": "int64"}  # names in safetensors -> names in torch


@dataclass(frozen=True)
class Checkpoint:
    """A network as data, with its weights on the CPU.

    Attributes:
        spec: The architecture.
        weights: The state dict, with the names of PANNs.
        labels: Names of the classes, in output order.
        provenance: Where the weights come from.
        notes: Changes made while a released file was read, one phrase each.
        storage: How the file holds the weights, one of `storage.STORAGES`; `weights` are float32.
    """

    spec: ModelSpec
    weights: Mapping[str, Tensor]
    labels: LabelSet
    provenance: Provenance
    notes: tuple[str, ...] = ()
    storage: str = "float32"

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
            "storage": self.storage,
            "provenance": self.provenance.summary(),
        }


def checkpoint_folder(path: str | Path) -> Path:
    """Return the folder of a checkpoint if `path` is one of its files or the name of an included one, else `path`."""
    if (included := included_folder(path)) is not None:
        return included
    path = Path(path)
    is_part = path.name in FILES and path.is_file() and is_config(path.parent / CONFIG)
    return path.parent if is_part else path


def labels_for(path: Path, spec: ModelSpec, labels: LabelSet | None) -> LabelSet:
    """Return the labels given for the network of a file; by default those of `zoo.known_labels`.

    Raises:
        CheckpointError: If there is not one label per class.
    """
    if labels is not None and len(labels) != spec.num_classes:
        raise CheckpointError(f"{path}: {spec.num_classes} classes, but {len(labels)} labels given: give one per class")
    return labels or known_labels(spec)


def load_checkpoint(folder: str | Path) -> Checkpoint:
    """Read a checkpoint folder; all files are checked before the weights are loaded.

    A missing checksums.json and a changed model card give a `feedback.Note`.

    Raises:
        CheckpointError: If a file is missing, damaged, changed, or contradicts another file.
    """
    folder = Path(folder)
    _require_files(folder)
    config = CheckpointConfig.read(folder / CONFIG)
    path, num_classes = folder / LABELS, config.spec.num_classes
    limit = max(_LABELS_BYTES, _LABEL_BYTES * num_classes)
    text = read_text(path, error=CheckpointError, limit=limit, remedy="give one line per class")
    try:
        labels = LabelSet.from_csv_text(text, str(path))
    except DataError as error:
        raise CheckpointError(str(error)) from error
    if len(labels) != num_classes:
        raise CheckpointError(
            f"{path}: {len(labels)} labels for a network of {num_classes} classes: give one line per class"
        )
    _check_weights(folder / WEIGHTS, config)
    _check_checksums(folder, config.weights_sha256)
    weights = from_storage(load_file(folder / WEIGHTS))
    return Checkpoint(config.spec, weights, labels, config.provenance, storage=config.storage)


def save_checkpoint(
    model: Tagger,
    folder: str | Path,
    *,
    plan: PruningPlan | Mapping[str, Any] | None = None,
    recipe: Mapping[str, Any] | Sequence[Mapping[str, Any]] | None = None,
    overwrite: bool = False,
    storage: str = "float32",
    card: str = "",
) -> str:
    """Write a checkpoint folder, completely or not at all.

    Args:
        model: The network, with its labels and provenance.
        folder: Folder to write; must not exist unless `overwrite`.
        plan: Channels kept from the unpruned network; by default the plan in the model's provenance.
        recipe: One operation, as in config.json, to append to the recipe of the model's provenance, or a list of
            operations in its place; by default the recipe of the provenance.
        overwrite: Replace an existing checkpoint; other folders are never replaced.
        storage: ``float32``, or ``float16`` to store matrices and kernels in half as many bytes; they are rounded, and
            read as float32.
        card: Markdown to add to the model card, behind its introduction, such as scores and the licence of the data.

    Returns:
        The sha256 of model.safetensors.

    Raises:
        OutputError: If the folder exists and may not be replaced, or cannot be written.
        CheckpointError: If tensors or labels are not those of the model's `spec`, the recipe or plan is invalid, or a
            weight is beyond the range of float16.
        ConfigError: If there is no such storage.
    """
    if problem := one_of(STORAGES).problem("storage", storage):
        raise ConfigError(problem)
    folder = Path(folder)
    known = model.provenance
    if recipe is not None:
        known = known.with_entry(recipe) if isinstance(recipe, Mapping) else known.with_recipe(recipe)
    provenance = replace(
        known,
        source=f"{model.spec.name}, built from random weights with epanns" if known.source is None else known.source,
        parent_sha256=known.sha256,
        plan=PruningPlan.from_dict(plan) if isinstance(plan, Mapping) else plan or known.plan,
        versions=versions(*_PACKAGES),
    )
    write = functools.partial(_write, model, provenance=provenance, storage=storage, card=card)
    if not overwrite:
        with new_folder(folder) as partial:
            return write(partial, place=folder)
    staged, previous = _sibling(folder, ".next"), _sibling(folder, ".previous")
    _recover_swap(folder, staged, previous)
    with new_folder(staged) as partial:
        digest = write(partial, place=folder)
    if folder.exists():
        folder.replace(previous)
    staged.replace(folder)
    fsync(folder.parent)
    _remove(previous)
    return digest


save = save_checkpoint


def _sibling(folder: Path, suffix: str) -> Path:
    return folder.with_name(folder.name + suffix)


def _recover_swap(folder: Path, staged: Path, previous: Path) -> None:
    """Refuse to overwrite other folders, and complete or remove what an interrupted swap left."""
    if previous.exists() and not folder.exists():
        previous.replace(folder)
    for place in (folder, staged, previous):
        if not place.exists():
            continue
        files = {file.name for file in place.iterdir()} if place.is_dir() else {""}
        is_being_removed = place != folder and not files  # by a process that was killed
        if not is_being_removed and not (files <= set(FILES) and is_config(place / CONFIG)):
            raise OutputError(
                f"{place} is not a checkpoint of epanns, or holds other files too, and is not overwritten: "
                "choose another place or move it away"
            )
    _remove(staged)
    _remove(previous)


def _remove(folder: Path) -> None:
    """Delete a checkpoint, config.json last: what a killed process leaves is still recognised as a checkpoint."""
    with suppress(OSError):
        for name in sorted(FILES, key=lambda name: name == CONFIG):
            (folder / name).unlink(missing_ok=True)
        folder.rmdir()


def _write(model: Tagger, folder: Path, *, place: Path, provenance: Provenance, storage: str, card: str) -> str:
    """Write the files into `folder`, which becomes `place`; return the sha256 of the weights."""
    if len(model.labels) != model.spec.num_classes:
        raise CheckpointError(
            f"this {model.spec.name} has {len(model.labels)} labels for {model.spec.num_classes} classes and would not "
            "load again: set model.labels to one label per class"
        )
    labels = model.labels.to_csv()
    try:
        LabelSet.from_csv_text(labels, LABELS)
    except DataError as error:
        raise CheckpointError(f"the labels of this {model.spec.name} cannot be saved ({error}): rename them") from error
    tensors = {name: tensor.detach().cpu().contiguous() for name, tensor in model.state_dict().items()}
    if problem := difference(forms_of(tensors), expected_forms(model.spec)):
        raise CheckpointError(f"this {model.spec.name} does not fit its own spec and would not load again: {problem}")
    tensors = to_storage(tensors, storage)
    try:
        save_file(tensors, folder / WEIGHTS, metadata={"format": "pt"})
    except (SafetensorError, OSError) as error:
        raise OutputError(
            f"{place}: {WEIGHTS} cannot be written ({error}): free some space, or choose a folder that can be written"
        ) from error
    digest = sha256_of(folder / WEIGHTS)
    n_params = sum(parameter.numel() for parameter in model.parameters())
    n_bytes = (folder / WEIGHTS).stat().st_size
    config = CheckpointConfig(model.spec, digest, provenance, storage)
    card = model_card(config, model.labels, n_params=n_params, n_bytes=n_bytes, section=card)
    for name, text in {LABELS: labels, CARD: card, CONFIG: config.to_json()}.items():
        (folder / name).write_text(text, encoding="utf-8", newline="\n")
    table = {"format": _CHECKSUMS_FORMAT, "sha256": {name: sha256_of(folder / name) for name in _HASHED}}
    (folder / CHECKSUMS).write_text(json.dumps(table, indent=2) + "\n", encoding="utf-8", newline="\n")
    shutil.copymode(folder / CONFIG, folder / WEIGHTS)  # safetensors ignores the umask: only the owner could read
    return digest


def _require_files(folder: Path) -> None:
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


def _check_weights(path: Path, config: CheckpointConfig) -> None:
    """Compare the header of a safetensors file with the network, and its bytes with their sha256."""
    try:
        with safe_open(path, framework="pt") as file:
            slices = {name: file.get_slice(name) for name in file.keys()}  # noqa: SIM118 (not a dict)
            found = {
                name: TensorForm(tuple(part.get_shape()), _DTYPES.get(part.get_dtype(), part.get_dtype()))
                for name, part in slices.items()
            }
    except (SafetensorError, OSError) as error:
        raise CheckpointError(f"{path}: damaged or not safetensors ({error}): copy or write it again") from error
    if problem := difference(found, stored_forms(expected_forms(config.spec), config.storage)):
        raise CheckpointError(
            f"{path} does not fit {CONFIG} ({config.spec.name}): {problem}; get a whole copy, or save it again"
        )
    if sha256_of(path) != config.weights_sha256:
        raise CheckpointError(
            f"{path}: its bytes differ from the sha256 in {CONFIG}: the file is damaged or was changed"
        )


def _check_checksums(folder: Path, weights_sha256: str) -> None:
    """Compare the files of a folder with checksums.json; the sha256 of the weights is known."""
    path = folder / CHECKSUMS
    if not path.exists():
        note(f"{folder}: has no {CHECKSUMS}, so that changes of its labels and settings cannot be found")
        return
    stored = _read_checksums(path)
    if missing := [name for name in _NEEDED if name not in stored]:
        raise CheckpointError(f"{path}: no sha256 of {', '.join(missing)}: {_REMEDY}")
    for name in _NEEDED:
        if (weights_sha256 if name == WEIGHTS else sha256_of(folder / name)) != stored[name]:
            raise CheckpointError(
                f"{folder / name}: its sha256 is not the one in {CHECKSUMS}: the file is damaged or was changed: "
                f"{_REMEDY}"
            )
    if CARD in stored and (folder / CARD).is_file() and sha256_of(folder / CARD) != stored[CARD]:
        note(f"{folder / CARD}: was changed after it was written; the network does not depend on it")


def _read_checksums(path: Path) -> dict[str, str]:
    values = read_json(path, error=CheckpointError, limit=_LONGEST_CHECKSUMS, remedy=_REMEDY)
    found = values.get("format") if isinstance(values, dict) else None
    if found != _CHECKSUMS_FORMAT:
        raise CheckpointError(f"{path}: format {shown(found)} is unknown, must be {_CHECKSUMS_FORMAT!r}: {_REMEDY}")
    stored = values.get("sha256")
    if not isinstance(stored, dict) or set(values) != {"format", "sha256"}:
        raise CheckpointError(f"{path}: must hold 'format' and a table 'sha256' and no more: {_REMEDY}")
    if problems := table_problems(stored, dict.fromkeys(_HASHED, SHA256), prefix="sha256 of "):
        raise CheckpointError(f"{path}: {'; '.join(problems[:3])}: {_REMEDY}")
    return stored
