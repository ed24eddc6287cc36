"""`epanns import`: from a file, from a name, and the messages when neither works."""

import hashlib
import json
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import ClassVar

import pytest
from click.testing import CliRunner

from epanns.cli.import_ import command
from epanns.errors import CheckpointError, ConfigError, DataError, OutputError
from epanns.labels import LabelSet
from epanns.models.files import download
from epanns.models.files.checkpoint import load_checkpoint, save_checkpoint
from epanns.models.files.load import load
from epanns.models.files.released import export_panns
from epanns.models.spec import HEADS
from epanns.models.zoo import build_model
from tests.builders import make_network, output_of


@pytest.fixture
def released(tmp_path: Path) -> Path:
    export_panns(build_model("Cnn6", num_classes=2, width=0.05), tmp_path / "Cnn6.pth")
    return tmp_path / "Cnn6.pth"


run = partial(output_of, command)


def test_file_becomes_a_checkpoint_of_the_same_weights(released: Path, tmp_path: Path) -> None:
    text = run(released, "--out", tmp_path / "out")
    assert text.startswith(f"{tmp_path / 'out'}: Cnn6, head clip, ")
    assert "2 classes at 32000 Hz" in text
    expected = load(released).state_dict()
    assert all((tensor == expected[name]).all() for name, tensor in load(tmp_path / "out").state_dict().items())


def test_json_is_one_object_with_the_spec_and_where_it_went(released: Path, tmp_path: Path) -> None:
    result = json.loads(run(released, "--out", tmp_path / "out", "--json"))
    assert result["out"] == str(tmp_path / "out")
    assert result["widths"] == {f"conv_block{block}.conv1": width for block, width in enumerate((3, 6, 13, 26), 1)}
    assert result["weights_sha256"] == load(tmp_path / "out").provenance.sha256


def test_options_reach_the_checkpoint(released: Path, tmp_path: Path) -> None:
    labels = tmp_path / "labels.csv"
    labels.write_text(LabelSet.of(["dog", "rain"]).to_csv())
    run(released, "--out", tmp_path / "out", "--head", "decision_max", "--labels", labels, "--sample-rate", 32_000)
    model = load(tmp_path / "out")
    assert model.labels.names == ("dog", "rain")
    assert model.spec.head == "decision_max"


def test_a_single_label_file_is_imported_as_one(released: Path, tmp_path: Path) -> None:
    assert run(released, "--out", tmp_path / "out", "--task", "single-label").endswith("32000 Hz, single-label\n")
    assert load(tmp_path / "out").spec.task == "single-label"


def test_an_assumed_head_is_logged_with_the_remedy(tmp_path: Path) -> None:
    export_panns(build_model("Cnn14_DecisionLevelMax", num_classes=2, width=0.05), tmp_path / "renamed.pth")
    arguments = [str(tmp_path / "renamed.pth"), "--out", str(tmp_path / "out")]
    result = CliRunner().invoke(command, arguments, catch_exceptions=False)
    assert "renamed.pth: head clip is assumed: " in result.stderr
    assert "`epanns import --head` chooses" in result.stderr
    arguments = [arguments[0], "--out", str(tmp_path / "told"), "--head", "decision_max"]
    result = CliRunner().invoke(command, arguments, catch_exceptions=False)
    assert result.stderr == ""
    assert load(tmp_path / "told").spec.head == "decision_max"


def test_head_choices_are_those_of_the_library() -> None:
    (option,) = (parameter for parameter in command.params if parameter.name == "head")
    assert tuple(option.type.choices) == HEADS


def test_existing_out_is_refused_before_anything_else(tmp_path: Path) -> None:
    with pytest.raises(OutputError, match=r"exists already: choose another --out"):
        run("Cnn14", "--out", tmp_path)


def test_wrong_sample_rate_is_refused_and_nothing_is_written(released: Path, tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match=r"front end is that of 32000 Hz, not of sample_rate=16000"):
        run(released, "--out", tmp_path / "out", "--sample-rate", 16_000)
    assert not (tmp_path / "out").exists()


def test_broken_label_file_is_named(released: Path, tmp_path: Path) -> None:
    (tmp_path / "labels.csv").write_text("dog\n")
    with pytest.raises((DataError, ConfigError), match=r"labels.csv: first line must be"):
        run(released, "--out", tmp_path / "out", "--labels", tmp_path / "labels.csv")


def test_unknown_name_is_refused_with_the_nearest(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match=r"Cnn41: neither a file nor a released one \(did you mean 'Cnn14'\?\)"):
        run("Cnn41", "--out", tmp_path / "out")


@pytest.mark.parametrize("has_checksum", [True, False])
def test_name_is_downloaded_into_the_cache(
    has_checksum: bool, released: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    content = released.read_bytes()
    digest = hashlib.sha256(content).hexdigest() if has_checksum else None
    real = download.released_file("Cnn6")
    ours = replace(real, url=released.as_uri(), bytes=len(content), sha256=digest)
    monkeypatch.setattr(download, "released_files", lambda: (ours,))
    monkeypatch.setattr(download, "_open", lambda *_: FakeResponse(content))
    monkeypatch.setenv("EPANNS_CACHE", str(tmp_path / "cache"))
    result = CliRunner().invoke(command, ["Cnn6", "--out", str(tmp_path / "out")], catch_exceptions=False)
    assert result.exit_code == 0
    assert (tmp_path / "cache" / real.name).read_bytes() == content
    assert load(tmp_path / "out").provenance.source.startswith(real.name)
    assert ("unverified: no sha256 of this file is published" in result.stderr) is not has_checksum


class FakeResponse:
    """The part of http.client.HTTPResponse that the download uses."""

    status = 200
    chunked = False
    headers: ClassVar[dict[str, str]] = {}

    def __init__(self, content: bytes) -> None:
        self.content, self.length = content, len(content)

    def __enter__(self) -> "FakeResponse":
        return self

    def __exit__(self, *_: object) -> None:
        pass

    def read(self, size: int) -> bytes:
        chunk, self.content = self.content[:size], self.content[size:]
        return chunk


def test_a_checkpoint_is_stored_as_float16_with_its_task_and_classes(epanns, tmp_path):
    network = make_network(labels=LabelSet.of(["dog", "rain", "bell", "sea"]))
    network.set_task("single-label")
    save_checkpoint(network, tmp_path / "net")
    code, out, _ = epanns("import", tmp_path / "net", "--storage", "float16", "--out", tmp_path / "half")
    assert code == 0 and out.endswith("single-label, stored as float16\n")
    half = load_checkpoint(tmp_path / "half")
    assert (half.storage, half.spec, half.labels) == ("float16", network.spec, network.labels)
    assert half.provenance.parent_sha256 == load_checkpoint(tmp_path / "net").provenance.sha256
    _, out, _ = epanns("info", tmp_path / "half")
    assert f"sha256 {half.provenance.sha256}; matrices and kernels stored as float16" in out


def test_a_checkpoint_keeps_its_labels_when_it_is_stored_again(epanns, tmp_path):
    save_checkpoint(make_network(labels=LabelSet.of(["dog", "rain", "bell", "sea"])), tmp_path / "net")
    (tmp_path / "labels.csv").write_text("index,mid,display_name\n0,,a\n1,,b\n2,,c\n3,,d\n")
    options = ["--storage", "float16", "--labels", tmp_path / "labels.csv", "--out", tmp_path / "half"]
    code, _, err = epanns("import", tmp_path / "net", *options)
    assert code == 1 and "has labels of its own: leave it out" in err
    code, _, err = epanns("import", tmp_path / "net", "--out", tmp_path / "half")
    assert code == 1 and "a checkpoint folder needs no import, except to store it as float16" in err
    assert not (tmp_path / "half").exists()
