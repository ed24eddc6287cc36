"""checksums.json: changes of a checkpoint folder are found; a folder without it loads with a note."""

import json
import re
import warnings
from pathlib import Path

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from epanns.cli.info import command
from epanns.errors import CheckpointError
from epanns.feedback import Note
from epanns.labels import LabelSet
from epanns.models.files.checkpoint import FILES, load_checkpoint, save_checkpoint
from epanns.models.files.load import load, read_checkpoint
from epanns.models.files.released import read_released
from epanns.models.provenance import Provenance
from epanns.models.zoo import build_model
from epanns.safe_text import printable
from tests.builders import output_of

LABELS = LabelSet.of(["dog", "rain", "sea, waves"])


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    save_checkpoint(build_model("Cnn6", num_classes=3, width=0.05, labels=LABELS), tmp_path / "saved")
    return tmp_path / "saved"


def refused(folder: Path, name: str) -> None:
    with pytest.raises(CheckpointError) as caught:
        load(folder)
    assert str(caught.value) == (
        f"{folder / name}: its sha256 is not the one in checksums.json: the file is damaged or was changed: copy the "
        "whole checkpoint again or, where a file was changed on purpose, delete checksums.json"
    )


def test_a_saved_folder_has_all_five_files_and_loads_without_a_note(folder: Path) -> None:
    assert {file.name for file in folder.iterdir()} == set(FILES)
    assert set(json.loads((folder / "checksums.json").read_text())["sha256"]) == set(FILES) - {"checksums.json"}
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        load(folder)


def test_two_swapped_labels_are_refused(folder: Path) -> None:
    text = (folder / "labels.csv").read_text()
    (folder / "labels.csv").write_text(text.replace("0,,dog\n1,,rain", "0,,rain\n1,,dog"))
    refused(folder, "labels.csv")


def test_a_setting_that_was_changed_is_refused(folder: Path) -> None:
    text = (folder / "config.json").read_text()
    (folder / "config.json").write_text(text.replace('"fmin": 50', '"fmin": 60'))
    refused(folder, "config.json")


def test_weights_and_config_changed_together_are_refused(folder: Path, tmp_path: Path) -> None:
    torch.manual_seed(1)
    save_checkpoint(build_model("Cnn6", num_classes=3, width=0.05, labels=LABELS), tmp_path / "other")
    for name in ("model.safetensors", "config.json"):
        (tmp_path / "other" / name).replace(folder / name)
    refused(folder, "config.json")


def test_a_folder_of_an_earlier_version_loads_with_one_note(folder: Path) -> None:
    (folder / "checksums.json").unlink()
    with pytest.warns(Note, match="saved: has no checksums.json, so that changes of its labels and settings cannot"):
        model = load(folder)
    assert model.labels == LABELS


def test_commands_write_the_note_to_stderr_once(folder: Path, runner) -> None:
    (folder / "checksums.json").unlink()
    result = runner.invoke(command, [str(folder)], catch_exceptions=False)
    assert (
        result.stderr
        == f"{folder}: has no checksums.json, so that changes of its labels and settings cannot be found\n"
    )
    assert result.stdout.startswith(f"{folder}\n")


def test_the_card_may_be_edited_or_removed(folder: Path) -> None:
    (folder / "README.md").write_text("mine")
    with pytest.warns(Note, match=r"README.md: was changed after it was written; the network does not depend on it$"):
        load(folder)
    (folder / "README.md").unlink()
    load(folder)
    assert "network" in output_of(command, folder)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("", r"cannot be read as JSON \(Expecting value"),
        ("[]", "format None is unknown, must be 'epanns-checksums/1'"),
        ('{"format": "epanns-checksums/2"}', "format 'epanns-checksums/2' is unknown"),
        ('{"format": "epanns-checksums/1", "sha256": []}', "must hold 'format' and a table 'sha256' and no more"),
        ('{"format": "epanns-checksums/1", "sha256": {}}', "no sha256 of config.json, model.safetensors, labels.csv"),
        ('{"format": "epanns-checksums/1", "sha256": {"../x": 1}}', r"unknown key 'sha256 of ../x'"),
        ("[" * 70_000, "70,000 bytes, must be at most 65,536"),
    ],
)
def test_invalid_checksum_files_are_refused(content: str, message: str, folder: Path) -> None:
    (folder / "checksums.json").write_text(content)
    with pytest.raises(CheckpointError, match=rf"checksums.json: {message}.*: copy the whole checkpoint again or"):
        load(folder)


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=settings().max_examples // 2)
@given(st.data())
def test_every_changed_byte_is_detected(folder: Path, data: st.DataObject) -> None:
    name = data.draw(st.sampled_from(["config.json", "labels.csv", "model.safetensors"]))
    content = (folder / name).read_bytes()
    place = data.draw(st.integers(0, len(content) - 1))
    changed = bytes([data.draw(st.integers(0, 255).filter(lambda value: value != content[place]))])
    try:
        (folder / name).write_bytes(content[:place] + changed + content[place + 1 :])
        with pytest.raises(CheckpointError) as caught:
            load_checkpoint(folder)
        assert "\n" not in str(caught.value)
    finally:
        (folder / name).write_bytes(content)


@pytest.mark.parametrize("name", FILES)
def test_the_path_of_a_file_of_a_checkpoint_selects_its_folder(name: str, folder: Path) -> None:
    assert read_checkpoint(folder / name).provenance.sha256 == load_checkpoint(folder).provenance.sha256


@pytest.mark.parametrize("name", FILES)
def test_a_file_of_a_checkpoint_is_not_imported(name: str, folder: Path) -> None:
    with pytest.raises(CheckpointError, match=rf"saved/{name} is a file of the checkpoint .*saved, which needs"):
        read_released(folder / name)


def test_labels_are_read_within_a_limit(folder: Path) -> None:
    with (folder / "labels.csv").open("wb") as file:
        file.truncate(8 << 30)
    with pytest.raises(CheckpointError, match=r"labels.csv: 8,589,934,592 bytes, must be at most 1,048,576: give one"):
        load(folder)


def test_control_characters_in_names_are_escaped_in_the_card_and_by_info(tmp_path: Path) -> None:
    model = build_model("Cnn6", num_classes=2, width=0.05, labels=LabelSet.of(["\x1b[2Jdog\nx", "\u202erain"]))
    model.provenance = Provenance(source="\x1b]0;title\x07")
    save_checkpoint(model, tmp_path / "saved", recipe={"step": "train", "\x1b": "\x9b"})
    for text in (output_of(command, tmp_path / "saved"), (tmp_path / "saved" / "README.md").read_text()):
        assert printable(text, lines=True) == text
        assert r"\x1b[2Jdog\nx" in text and r"\u202erain" in text and r"\x1b]0;title\x07" in text
    assert load(tmp_path / "saved").labels == model.labels


@pytest.mark.parametrize("name", ["a\rb", "x" * 140_000], ids=["return", "long"])
def test_labels_that_could_not_be_read_again_are_not_saved(name: str, tmp_path: Path) -> None:
    model = build_model("Cnn6", num_classes=1, width=0.05, labels=LabelSet.of([name]))
    try:
        save_checkpoint(model, tmp_path / "saved")
    except CheckpointError as error:
        assert re.match(r"the labels of this Cnn6 cannot be saved .*: rename them", str(error))
        assert not list(tmp_path.iterdir())
    else:  # from Python 3.13 on, the csv module quotes a carriage return
        assert load(tmp_path / "saved").labels == model.labels
        assert len(name) < 140_000


@pytest.mark.parametrize("value", [float("nan"), "\ud800", 2**64, {1, 2}], ids=["nan", "surrogate", "large", "set"])
def test_provenance_that_could_not_be_read_again_is_not_saved(value: object, tmp_path: Path) -> None:
    model = build_model("Cnn6", num_classes=3, width=0.05)
    recipe = {"step": "train", "score": value}
    with pytest.raises(
        CheckpointError, match=r"^this Cnn6 cannot be saved: .*: give model.provenance, plan and recipe"
    ):
        save_checkpoint(model, tmp_path / "saved", recipe=recipe)
    assert not list(tmp_path.iterdir())
