"""Checkpoint folders: round trips, errors that name the problem, and saves that harm no earlier file."""

import json
import os
import re
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from epanns.atomic import sha256_of
from epanns.errors import CheckpointError, OutputError, PruningError
from epanns.labels import LabelSet
from epanns.models.families.cnn_2d import Cnn
from epanns.models.files import checkpoint as checkpoint_module
from epanns.models.files.checkpoint import FILES, load_checkpoint, save, save_checkpoint
from epanns.models.files.load import load, read_checkpoint
from epanns.models.provenance import Provenance
from epanns.models.zoo import build_model, list_models, spec_of
from epanns.pruning.prune import prune

LABELS = LabelSet.of(["dog", "rain", "sea, waves"])
CONV = "conv_block1.conv1.weight"


def tiny(name: str = "Cnn6", **widths: int) -> Cnn:
    """Return a narrow network whose batch norms hold no default values."""
    spec = spec_of(name, num_classes=3, width=0.05)
    model = build_model(spec.with_widths({layer.replace("_conv", ".conv"): width for layer, width in widths.items()}))
    model.labels = LABELS
    for tensor in model.state_dict().values():
        tensor.copy_(torch.rand(tensor.shape) * 100)
    return model


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    save_checkpoint(tiny(), tmp_path / "saved")
    return tmp_path / "saved"


def edit_config(folder: Path, *path: str, value: object) -> None:
    config = json.loads((folder / "config.json").read_text())
    table = config
    for key in path[:-1]:
        table = table[key]
    table[path[-1]] = value
    (folder / "config.json").write_text(json.dumps(config))


def edit_weights(folder: Path, **changes: torch.Tensor | None) -> None:
    """Replace, add or (None) remove tensors; `__` stands for a dot."""
    tensors = load_file(folder / "model.safetensors")
    for name, tensor in changes.items():
        tensors.pop(name.replace("__", "."), None)
        if tensor is not None:
            tensors[name.replace("__", ".")] = tensor
    save_file(tensors, folder / "model.safetensors")


def contents(folder: Path) -> dict[str, bytes]:
    return {file.name: file.read_bytes() for file in folder.iterdir()}


@pytest.mark.parametrize("name", list_models())
def test_round_trip_is_bit_exact(name: str, tmp_path: Path) -> None:
    model = tiny(name)
    save_checkpoint(model, tmp_path / "saved")
    again = load(tmp_path / "saved")
    assert again.spec == model.spec
    assert again.labels == LABELS
    assert not again.training
    before, after = model.state_dict(), again.state_dict()
    assert list(before) == list(after)
    assert all(torch.equal(before[tensor], after[tensor]) for tensor in before)


def test_saving_again_gives_the_same_weight_file(folder: Path, tmp_path: Path) -> None:
    digest = save_checkpoint(load(str(folder)), tmp_path / "again")
    assert digest == sha256_of(folder / "model.safetensors") == sha256_of(tmp_path / "again" / "model.safetensors")


@pytest.mark.parametrize("umask", [0o022, 0o077])
def test_all_files_of_a_checkpoint_have_the_same_permissions(tmp_path: Path, umask: int) -> None:
    before = os.umask(umask)
    try:
        save_checkpoint(tiny("Cnn14"), tmp_path / "saved")
    finally:
        os.umask(before)
    assert {file.stat().st_mode & 0o777 for file in (tmp_path / "saved").iterdir()} == {0o666 & ~umask}


def test_epanns_save_is_save_checkpoint() -> None:
    assert save is save_checkpoint


def test_pruned_checkpoint_loads_in_a_new_process_without_torch_pruning_and_compiler(tmp_path: Path) -> None:
    """Importing either takes seconds; surgery alone imports Torch-Pruning."""
    model, _ = prune(tiny("Cnn14"), ratio=0.5, layers=["conv_block6"])
    save_checkpoint(model.eval(), tmp_path / "pruned")
    torch.manual_seed(0)
    waveform = torch.rand(1, 16_000) - 0.5
    torch.save(waveform, tmp_path / "waveform.pt")
    program = (
        "import sys, torch, epanns, epanns.pruning.prune, epanns.pruning.surgery\n"
        f"model = epanns.load({str(tmp_path / 'pruned')!r})\n"
        f"waveform = torch.load({str(tmp_path / 'waveform.pt')!r}, weights_only=True)\n"
        "with torch.no_grad():\n"
        f"    torch.save(model(waveform)['clipwise_logits'], {str(tmp_path / 'logits.pt')!r})\n"
        "assert not {'torch_pruning', 'torch._dynamo'} & {*sys.modules}\n"
    )
    subprocess.run([sys.executable, "-c", program], check=True, cwd=Path(__file__).parents[3])
    with torch.no_grad():
        expected = model(waveform)["clipwise_logits"]
    torch.testing.assert_close(torch.load(tmp_path / "logits.pt", weights_only=True), expected, rtol=1e-5, atol=1e-5)


def test_provenance_names_the_parent_and_keeps_plan_and_recipe(tmp_path: Path) -> None:
    recipe = {"step": "recover", "method": "bn", "clips": 3}
    pruned, plan = prune(tiny(), ratio=0.5, layers=["conv_block1"])
    pruned.provenance = Provenance()
    first = save_checkpoint(pruned, tmp_path / "first", plan=plan)
    second = save_checkpoint(load(tmp_path / "first"), tmp_path / "second", recipe=recipe)
    provenance = load(tmp_path / "second").provenance
    assert provenance.parent_sha256 == first
    assert provenance.sha256 == second
    assert (provenance.plan, provenance.to_dict()["recipe"]) == (plan, [recipe])
    assert "torch" in provenance.versions


def test_one_operation_is_appended_to_the_recipe_and_a_list_replaces_it(tmp_path: Path) -> None:
    train, recover = {"step": "train"}, {"step": "recover", "method": "bn", "clips": 3}
    save_checkpoint(tiny(), tmp_path / "first", recipe=train)
    save_checkpoint(load(tmp_path / "first"), tmp_path / "second", recipe=recover)
    assert load(tmp_path / "second").provenance.to_dict()["recipe"] == [train, recover]
    save_checkpoint(load(tmp_path / "second"), tmp_path / "kept")
    assert load(tmp_path / "kept").provenance.to_dict()["recipe"] == [train, recover]
    save_checkpoint(load(tmp_path / "second"), tmp_path / "third", recipe=[recover])
    assert load(tmp_path / "third").provenance.to_dict()["recipe"] == [recover]


def test_a_recipe_that_could_not_be_read_again_is_not_written(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match=r"recipe, operation 1: step='tune'.*give operations such as"):
        save_checkpoint(tiny(), tmp_path / "saved", recipe={"step": "tune"})
    assert not list(tmp_path.iterdir())


def test_a_wrong_number_of_labels_is_not_written(tmp_path: Path) -> None:
    model = tiny()
    model.labels = LabelSet.of(["dog"])
    with pytest.raises(CheckpointError, match=r"has 1 labels for 3 classes and would not load again: set model"):
        save_checkpoint(model, tmp_path / "saved")
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("overwrite", [False, True])
def test_a_full_disk_is_an_output_error(overwrite: bool, tmp_path: Path) -> None:
    program = (
        "import resource, sys\n"
        "from epanns.errors import OutputError\n"
        "from epanns.models.files.checkpoint import save_checkpoint\n"
        "from epanns.models.zoo import build_model\n"
        "model = build_model('Cnn6', num_classes=3, width=0.05)\n"
        "resource.setrlimit(resource.RLIMIT_FSIZE, (10_000, 10_000))\n"
        "try:\n"
        f"    save_checkpoint(model, sys.argv[1], overwrite={overwrite})\n"
        "except OutputError as error:\n"
        "    print(error)\n"
    )
    command = [sys.executable, "-c", program, str(tmp_path / "saved")]
    done = subprocess.run(command, check=True, cwd=Path(__file__).parents[3], capture_output=True, text=True)
    assert done.stdout.startswith(f"{tmp_path / 'saved'}: model.safetensors cannot be written (")
    assert done.stdout.endswith("): free some space, or choose a folder that can be written\n")
    assert not list(tmp_path.iterdir())


def test_a_plan_may_be_given_as_json_values(tmp_path: Path) -> None:
    pruned, plan = prune(tiny(), ratio=0.5, layers=["conv_block1"])
    save_checkpoint(pruned, tmp_path / "saved", plan=plan.to_dict() | {"criterion": "l2"})
    assert load_checkpoint(tmp_path / "saved").provenance.plan == replace(plan, criterion="l2")


def test_an_invalid_plan_or_one_of_other_widths_is_refused(tmp_path: Path) -> None:
    _, plan = prune(tiny(), ratio=0.5, layers=["conv_block1"])
    with pytest.raises(PruningError, match="pruning plan of format None"):
        save_checkpoint(tiny(), tmp_path / "saved", plan={"criterion": "l2"})
    with pytest.raises(CheckpointError, match="this Cnn6 cannot be saved: provenance.plan leads to other widths than"):
        save_checkpoint(tiny(), tmp_path / "saved", plan=plan)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("name", "reads", "network", "given"),
    [
        ("ResNet22", "on log-mel spectrograms", "`resnet22`, head `clip`, embedding 20", "64 mel bins, 50 to 14000 Hz"),
        ("LeeNet11", "on the waveform", "`leenet11`, head `clip`, embedding 5", "| 32000 Hz |"),
        (
            "Wavegram_Logmel_Cnn14",
            "on the waveform and log-mel spectrograms",
            "`wavegram_logmel_cnn14`, head `clip`, embedding 20",
            "64 mel bins, 50 to 14000 Hz",
        ),
    ],
)
def test_the_card_describes_the_input_of_every_family(
    name: str, reads: str, network: str, given: str, tmp_path: Path
) -> None:
    save_checkpoint(build_model(name, num_classes=2, width=0.01), tmp_path / "saved")
    card = (tmp_path / "saved" / "README.md").read_text()
    assert f"A convolutional network {reads} that scores 2 kinds" in card
    assert f"family {network} |" in card
    assert f"{given}" in card


def test_the_card_describes_the_network_and_how_to_load_it(tmp_path: Path) -> None:
    pruned, _ = prune(tiny(), ratio=0.5, layers=["conv_block1"])
    save_checkpoint(pruned, tmp_path / "saved", recipe=[])
    card = (tmp_path / "saved" / "README.md").read_text()
    n_params = sum(parameter.numel() for parameter in pruned.parameters())
    for part in ("# Cnn6 (pruned)", "epanns.load(", f"{n_params:,} trainable", "sigmoid", "32000 Hz", "dog, rain"):
        assert part in card
    assert f"`conv_block1.conv1` | {pruned.spec.widths['conv_block1.conv1']} |" in card
    assert "criterion `l1`" in card
    assert "nothing recorded" in card
    save_checkpoint(
        tiny(), tmp_path / "steps", recipe=[{"step": "train"}, {"step": "recover", "method": "bn", "clips": 3}]
    )
    card = (tmp_path / "steps" / "README.md").read_text()
    assert "    1. train: no settings recorded\n    2. recover: bn on 3 clips\n" in card
    assert "terms of their publisher" in card


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"fc1__bias": None}, "1 missing: fc1.bias"),
        ({"fc2__bias": torch.zeros(3)}, "1 unexpected: fc2.bias"),
        ({"fc1__bias": torch.zeros(9)}, "1 of another shape or type: fc1.bias is (9,) float32, must be (26,) float32"),
        (
            {"fc1__bias": torch.zeros(26, dtype=torch.float16)},
            "1 of another shape or type: fc1.bias is (26,) float16, must be (26,) float32",
        ),
    ],
    ids=["missing", "extra", "misshapen", "mistyped"],
)
def test_load_refuses_tensors_that_do_not_fit_and_names_them(
    changes: dict[str, torch.Tensor | None], message: str, folder: Path
) -> None:
    edit_weights(folder, **changes)
    with pytest.raises(
        CheckpointError, match=re.escape(f"model.safetensors does not fit config.json (Cnn6): {message}")
    ):
        load_checkpoint(folder)


def test_message_about_many_tensors_stays_one_short_line(folder: Path) -> None:
    save_file({"other": torch.zeros(1)}, folder / "model.safetensors")
    with pytest.raises(CheckpointError, match=r"33 missing: bn0.weight, .* and 29 more; 1 unexpected: other") as caught:
        load_checkpoint(folder)
    assert "\n" not in str(caught.value)


def test_load_refuses_a_flipped_bit(folder: Path) -> None:
    data = bytearray((folder / "model.safetensors").read_bytes())
    data[-1] ^= 1
    (folder / "model.safetensors").write_bytes(data)
    with pytest.raises(CheckpointError, match=r"model.safetensors: its bytes differ from the sha256 in config.json"):
        load_checkpoint(folder)


@pytest.mark.parametrize("length", [0, 7, 100, -1])
def test_load_refuses_a_cut_weight_file(length: int, folder: Path) -> None:
    data = (folder / "model.safetensors").read_bytes()
    (folder / "model.safetensors").write_bytes(data[:length])
    with pytest.raises(
        CheckpointError, match=r"model.safetensors: damaged or not safetensors .*: copy or write it again"
    ):
        load_checkpoint(folder)


def test_load_refuses_labels_of_another_length(folder: Path) -> None:
    (folder / "labels.csv").write_text(LabelSet.of(["dog", "rain"]).to_csv())
    with pytest.raises(CheckpointError, match=r"labels.csv: 2 labels for a network of 3 classes: give one line per"):
        load_checkpoint(folder)


def test_load_refuses_a_broken_label_file(folder: Path) -> None:
    (folder / "labels.csv").write_text("dog\n")
    with pytest.raises(CheckpointError, match=r"labels.csv: first line must be index,mid,display_name"):
        load_checkpoint(folder)


@pytest.mark.parametrize(
    ("path", "value", "message"),
    [
        (("format",), "epanns-checkpoint/2", r"format 'epanns-checkpoint/2' is unknown, .*: update epanns"),
        (("extra",), 1, r"unknown key 'extra'"),
        (("model",), None, r"model=None: must be a table"),
        (("weights_sha256",), "0" * 63, r"weights_sha256='000.*: must be 64 hexadecimal digits"),
        (("provenance", "sourse"), "x", r"unknown key 'provenance.sourse' \(did you mean 'source'\?\)"),
        (
            ("provenance", "parent_sha256"),
            "me",
            r"provenance.parent_sha256='me': must be null or 64 hexadecimal digits",
        ),
        (("provenance", "plan"), [], r"provenance.plan=\[\]: must be null or a table"),
        (
            ("provenance", "recipe"),
            {"iterations": 3},
            r"provenance.recipe={'iterations': 3}: must be a list of operations",
        ),
        (
            ("provenance", "recipe"),
            [{"step": "prun"}],
            r"provenance.recipe, operation 1: step='prun' \(did you mean 'prune",
        ),
        (("provenance", "width"), 9, r"provenance.width=9: must be null or a number in \(0, 8\]"),
        (("provenance", "assumed"), "x", r"provenance.assumed='x': must be a list of text"),
        (("model", "depth"), 3, r"unknown key 'depth'"),
        (("model", "num_classes"), "3", r"num_classes='3': must be a whole number"),
        (("model", "family"), "resnet", r"family='resnet'.*: must be one of cnn"),
        (
            ("model", "widths", "conv_block1.conv1"),
            10**9,
            r"\['conv_block1.conv1'\]=1000000000: must be a whole number",
        ),
        (("model", "widths", "conv_block9.conv1"), 8, r"widths must name conv_block1.conv1 and on"),
        (
            ("model", "front_end", "window_size"),
            10**9,
            r"window_size=1000000000: must be a whole number in \[1, 65536\]",
        ),
    ],
)
def test_load_refuses_a_wrong_config_with_every_problem(
    path: tuple[str, ...], value: object, message: str, folder: Path
) -> None:
    edit_config(folder, *path, value=value)
    with pytest.raises(CheckpointError, match=r"config.json: .*" + message):
        load_checkpoint(folder)


def test_load_allocates_nothing_for_widths_the_weights_do_not_have(folder: Path) -> None:
    for layer in load_checkpoint(folder).spec.widths:
        edit_config(folder, "model", "widths", layer, value=65_536)  # 12 x 65,536 x 65,536 x 25 numbers, if believed
    with pytest.raises(CheckpointError, match=re.escape(f"{CONV} is (3, 1, 5, 5) float32, must be (65536, 1, 5, 5)")):
        load_checkpoint(folder)


def test_any_value_in_a_config_is_read_or_is_a_checkpoint_error(folder: Path) -> None:
    good = json.loads((folder / "config.json").read_text())

    def leaves(table: dict[str, object], path: tuple[str, ...] = ()) -> list[tuple[str, ...]]:
        below = [leaves(value, (*path, key)) for key, value in table.items() if isinstance(value, dict)]
        return [(*path, key) for key in table] + [leaf for some in below for leaf in some]

    for leaf in leaves(good):
        for value in (None, True, -1, 0, 1.5, 1e308, "x", [], ["x"], {}, {"x": {}}):
            (folder / "config.json").write_text(json.dumps(good))
            edit_config(folder, *leaf, value=value)
            try:
                load_checkpoint(folder)
            except CheckpointError as error:
                assert "\n" not in str(error)


@pytest.mark.parametrize("text", ["", "{", "[" * 100_000, "\ud800"], ids=["empty", "cut", "deep", "not utf-8"])
def test_load_refuses_a_config_that_is_no_json(text: str, folder: Path) -> None:
    (folder / "config.json").write_text(text, errors="surrogatepass")
    with pytest.raises(CheckpointError, match=r"config.json: (cannot be read as JSON|byte 0 is not UTF-8)"):
        load_checkpoint(folder)


@pytest.mark.parametrize("name", ["config.json", "model.safetensors", "labels.csv"])
def test_load_names_a_missing_file(name: str, folder: Path) -> None:
    (folder / name).unlink()
    with pytest.raises(CheckpointError, match=rf"saved is not a checkpoint: {name} missing; a checkpoint holds"):
        load(folder)


def test_load_names_a_missing_folder(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match=r"absent: no such file or folder"):
        load(tmp_path / "absent")


@pytest.mark.parametrize(("option", "value"), [("sample_rate", 16_000), ("head", "decision_max")])
def test_read_refuses_arguments_that_contradict_the_checkpoint(option: str, value: object, folder: Path) -> None:
    with pytest.raises(CheckpointError, match=rf"saved: {option}={value}: the checkpoint has .*leave it out"):
        read_checkpoint(folder, **{option: value})
    assert read_checkpoint(folder, sample_rate=32_000, head="clip").spec.name == "Cnn6"


def test_save_refuses_an_existing_folder_and_leaves_it(tmp_path: Path) -> None:
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "thesis.tex").write_text("years of work")
    for overwrite in (False, True):
        with pytest.raises(OutputError, match=r"mine (exists already|is not a checkpoint of epanns)"):
            save_checkpoint(tiny(), tmp_path / "mine", overwrite=overwrite)
    assert contents(tmp_path / "mine") == {"thesis.tex": b"years of work"}


def test_overwrite_replaces_a_checkpoint_without_other_files(folder: Path) -> None:
    old = contents(folder)
    digest = save_checkpoint(tiny(), folder, overwrite=True)
    assert load_checkpoint(folder).provenance.sha256 == digest
    assert contents(folder) != old
    assert [entry.name for entry in folder.parent.iterdir()] == ["saved"]


def test_overwrite_writes_a_new_folder_too(tmp_path: Path) -> None:
    save_checkpoint(tiny(), tmp_path / "new", overwrite=True)
    assert load_checkpoint(tmp_path / "new").labels == LABELS


def test_overwrite_refuses_a_checkpoint_with_a_file_of_someone_else(folder: Path) -> None:
    (folder / "notes.txt").write_text("keep me")
    with pytest.raises(OutputError, match=r"saved is not a checkpoint of epanns, or holds other files too"):
        save_checkpoint(tiny(), folder, overwrite=True)
    assert (folder / "notes.txt").read_text() == "keep me"


def test_overwrite_refuses_a_folder_that_only_looks_like_a_checkpoint(folder: Path) -> None:
    (folder / "config.json").write_text('{"architectures": ["SomebodyElses"]}')
    with pytest.raises(OutputError, match=r"saved is not a checkpoint of epanns"):
        save_checkpoint(tiny(), folder, overwrite=True)


@pytest.mark.parametrize("overwrite", [False, True])
def test_a_failed_save_leaves_the_earlier_checkpoint(
    overwrite: bool, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    old = contents(folder)

    def full_disk(*_: object, **__: object) -> str:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(checkpoint_module, "model_card", full_disk)
    with pytest.raises(OSError, match="No space left"):
        save_checkpoint(tiny(), folder if overwrite else folder.with_name("other"), overwrite=overwrite)
    assert contents(folder) == old
    assert [entry.name for entry in folder.parent.iterdir()] == ["saved"]


def test_a_save_interrupted_between_its_renames_can_be_repeated(folder: Path) -> None:
    old = contents(folder)
    folder.rename(folder.with_name("saved.previous"))
    with pytest.raises(CheckpointError, match=r"an interrupted save left .*saved.previous: rename it"):
        load_checkpoint(folder)
    with pytest.raises(CheckpointError, match="does not fit its own spec"):
        save_checkpoint(misfit(), folder, overwrite=True)
    assert contents(folder) == old
    save_checkpoint(tiny(), folder, overwrite=True)
    assert [entry.name for entry in folder.parent.iterdir()] == ["saved"]


@pytest.mark.parametrize("left", range(len(FILES) + 1))
def test_a_save_killed_while_it_removed_the_earlier_checkpoint_can_be_repeated(
    left: int, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    unlink, removed = Path.unlink, []

    def killed(path: Path, missing_ok: bool = False) -> None:
        if path.parent.name == "saved.previous":
            if len(removed) == left:
                raise KeyboardInterrupt
            removed.append(path)
        unlink(path, missing_ok)

    monkeypatch.setattr(Path, "unlink", killed)
    monkeypatch.setattr(Path, "rmdir", lambda path: killed(path))
    with pytest.raises(KeyboardInterrupt):
        save_checkpoint(tiny(), folder, overwrite=True)
    monkeypatch.undo()
    load_checkpoint(folder)
    save_checkpoint(tiny(), folder, overwrite=True)
    assert [entry.name for entry in folder.parent.iterdir()] == ["saved"]


def misfit() -> Cnn:
    model = tiny()
    model.spec = model.spec.with_widths({"conv_block1.conv1": 9})
    return model


def test_save_refuses_a_network_that_would_not_load_again(tmp_path: Path) -> None:
    with pytest.raises(
        CheckpointError, match=re.escape(f"{CONV} is (3, 1, 5, 5) float32, must be (9, 1, 5, 5) float32")
    ):
        save_checkpoint(misfit(), tmp_path / "saved")
    assert not list(tmp_path.iterdir())
