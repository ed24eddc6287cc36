"""A run that was killed, stopped, or lost memory, disk space or files ends with the bytes of an undisturbed run."""

import csv
import json
import os
import pickle
import random
import re
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from epanns.atomic import sha256_of
from epanns.data.batches.dataset import PackDataset
from epanns.errors import TrainingError
from epanns.models.files.checkpoint import save_checkpoint
from epanns.models.zoo import build_model
from epanns.state_files import newest_step, saved_states
from epanns.training.config import TrainingConfig
from epanns.training.memory import memory_errors_explained
from epanns.training.run_folder import RunFolder

ROOT = Path(__file__).parents[2]
SETTINGS = [
    {"accumulate": 2, "ema_decay": 0.9},
    {"mixup_alpha": 0.0, "crop_seconds": 0.3, "sampler": "weighted", "schedule": "cosine"},
    {"precision": "bfloat16", "head_iterations": 3, "backbone_rate": 0.1, "clip_norm": 0.5},
    {"freeze_backbone": True, "distil_weight": 0.5, "feature_weight": 0.1, "spec_augment": False},
]
DEATHS = [signal.SIGKILL, signal.SIGTERM, signal.SIGINT, signal.SIGUSR1]
UNLUCKY = {"broken": [1, 2, 4]}  # steps whose outputs are no numbers, in the last part alone

RISING = {"rising": True}  # scores rise: each validation's checkpoint is the best


class Mortals:
    """Runs in processes of their own; see `mortal.py`."""

    def __init__(self, pack: Path, folder: Path) -> None:
        command = [sys.executable, str(Path(__file__).with_name("mortal.py")), str(pack)]
        # Every large block from the system, which can then refuse it.
        environment = {**os.environ, "OMP_NUM_THREADS": "1", "MALLOC_MMAP_THRESHOLD_": "65536"}
        environment["PYTHONPATH"] = f"{ROOT}{os.pathsep}{os.environ.get('PYTHONPATH', '')}"
        self.process = subprocess.Popen(
            command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env=environment
        )
        self.folder, self._whole = folder, {}

    def run(self, out: Path, config: dict, **fate) -> dict:
        fixed = {"iterations": 6, "batch_size": 4, "validate_every": 2, "learning_rate": 5e-3}
        asked = {"out": str(out), "config": fixed | config, "workers": 0, "save_every": 1} | fate
        self.process.stdin.write(json.dumps(asked) + "\n")
        self.process.stdin.flush()
        return json.loads(self.process.stdout.readline())

    def undisturbed(self, config: dict, **fate) -> tuple[dict, int]:
        """What a run leaves that nothing happens to, and the number of its events."""
        key = json.dumps([config, fate])
        if key not in self._whole:
            out = self.folder / f"whole-{len(self._whole)}"
            events = self.run(out, config, **fate)["events"]
            self._whole[key] = contents(out), events
        return self._whole[key]


@pytest.fixture(scope="module")
def mortals(tiny_packs, tmp_path_factory):
    runs = Mortals(tiny_packs["train"], tmp_path_factory.mktemp("whole"))
    with runs.process:
        yield runs


@pytest.fixture
def out(tmp_path) -> Path:
    return tmp_path / "run"


def contents(out: Path) -> dict[str, object]:
    """The bytes of every file, but for the seconds that a run took, and the curve, which is drawn of the rows."""
    found: dict[str, object] = {file.name: file.read_bytes() for file in out.iterdir() if file.stem != "learning_curve"}
    ended = json.loads((out / "training.json").read_text())
    del ended["result"]["seconds"]
    return found | {"training.json": ended} | metrics_of(out)


def metrics_of(out: Path) -> dict[str, list[dict]]:
    files = {name: out / name for name in ("metrics.csv", "metrics.jsonl")}
    texts = {name: file.read_text() if file.exists() else "" for name, file in files.items()}
    rows = {
        "metrics.csv": csv.DictReader(texts["metrics.csv"].splitlines()),
        "metrics.jsonl": map(json.loads, texts["metrics.jsonl"].splitlines()),
    }
    return {
        name: [{key: value for key, value in row.items() if "seconds" not in key} for row in found]
        for name, found in rows.items()
    }


lives = st.lists(
    st.fixed_dictionaries(
        {
            "at": st.floats(0, 1),  # of the events of an undisturbed run
            "death": st.sampled_from([signal.SIGKILL, *DEATHS]),
            "again": st.integers(0, 3),  # events later another signal, if the first one was noticed
            "workers": st.sampled_from([0, 0, 1, 2]),
            "save_every": st.integers(1, 4),
        }
    ),
    min_size=1,
    max_size=4,
)


def assert_dies_and_ends_the_same(mortals: Mortals, config: dict, fate: dict, lives: list[dict]) -> None:
    whole, n_events = mortals.undisturbed(config, **fate)
    folder = Path(tempfile.mkdtemp(dir=mortals.folder))
    out = folder / "run"
    for life in lives:
        at = 1 + round(life["at"] * n_events)
        signals = {at: life["death"], at + life["again"]: life["death"]}
        ways = {name: life[name] for name in ("workers", "save_every")}
        answer = mortals.run(out, config, **fate, **ways, signals=signals)
        if "exit_code" in answer:
            assert answer["exit_code"] == 128 + life["death"]
        else:
            assert answer["killed_by"] in (life["death"], None) and "error" not in answer, answer
        for name, rows in metrics_of(out).items():
            assert rows == whole[name][: len(rows)]
    answer = mortals.run(out, config, **fate)
    assert "error" not in answer, answer
    assert contents(out) == whole
    shutil.rmtree(folder)


@given(config=st.sampled_from(SETTINGS), fate=st.sampled_from([{}, UNLUCKY]), lives=lives)
@settings(max_examples=3, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_a_run_that_dies_anywhere_ends_with_the_same_bytes(mortals, config, fate, lives):
    assert_dies_and_ends_the_same(mortals, config, fate, lives)


@pytest.mark.slow
@given(config=st.sampled_from(SETTINGS), fate=st.sampled_from([{}, UNLUCKY]), lives=lives)
@settings(max_examples=100, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_a_run_that_dies_anywhere_ends_with_the_same_bytes_often(mortals, config, fate, lives):
    assert_dies_and_ends_the_same(mortals, config, fate, lives)


@pytest.mark.slow
def test_a_run_killed_at_each_of_its_events_ends_with_the_same_bytes(mortals, tmp_path):
    whole, n_events = mortals.undisturbed(SETTINGS[0])
    for event in range(1, n_events + 1):
        out = tmp_path / f"killed-{event}"
        assert mortals.run(out, SETTINGS[0], signals={event: signal.SIGKILL})["killed_by"] == signal.SIGKILL
        mortals.run(out, SETTINGS[0])
        assert contents(out) == whole, event
        shutil.rmtree(out)


def stopped(mortals: Mortals, out: Path, step: int, config: dict | None = None, **fate) -> list[Path]:
    """Let a signal stop a run after a step, and its validation; return its states, the newest first."""
    answer = mortals.run(out, config or {}, **{"stop_after" if step % 2 else "stop_after_validation": step}, **fate)
    assert answer["exit_code"] == 143, answer
    return saved_states(out)


def flip(path: Path, *, byte: int) -> None:
    content = bytearray(path.read_bytes())
    content[byte] ^= 1
    path.write_bytes(content)


def with_its_checksum(path: Path) -> None:
    """Give a file the name of the state that it is not."""
    path.rename(path.with_name(f"{path.stem.rpartition('-')[0]}-{sha256_of(path)[:16]}.pt"))


def another_networks(path: Path) -> None:
    saved = torch.load(path, weights_only=True)
    saved["model"] = {"conv1.weight": torch.zeros(3)}
    torch.save(saved, path)
    with_its_checksum(path)


def another_runs(path: Path) -> None:
    saved = torch.load(path, weights_only=True)
    torch.save({**saved, "run": "other"}, path)
    with_its_checksum(path)


def a_tensor(path: Path) -> None:
    torch.save(torch.zeros(3), path)
    with_its_checksum(path)


class Evil:
    def __reduce__(self):
        return (os.system, ("touch evil",))


def a_pickle(path: Path) -> None:
    path.write_bytes(pickle.dumps(Evil()))
    with_its_checksum(path)


def a_list(path: Path) -> None:
    torch.save([1, 2], path)
    with_its_checksum(path)


def a_network(path: Path) -> None:
    torch.save({"model": {}}, path)
    with_its_checksum(path)


BROKEN = {
    "cut": lambda path: path.write_bytes(path.read_bytes()[:-1]),
    "empty": lambda path: path.write_bytes(b""),
    "first byte": lambda path: flip(path, byte=0),
    "middle byte": lambda path: flip(path, byte=path.stat().st_size // 2),
    "another network's": another_networks,
    "another run's": another_runs,
    "a tensor": a_tensor,
    "a foreign pickle": a_pickle,
    "a link to nothing": lambda path: (path.unlink(), path.symlink_to("nothing")),
    "gone": Path.unlink,
}


@pytest.fixture(scope="module")
def at_4(mortals, tmp_path_factory) -> Path:
    """A run that was stopped at step 4: its newest state names a best checkpoint that the one before does not know."""
    out = tmp_path_factory.mktemp("stopped") / "run"
    newest, older = stopped(mortals, out, 4, **RISING)
    assert (newest.name[6:14], older.name[6:14]) == ("00000004", "00000003")
    assert sorted(folder.name for folder in out.glob("best-*")) == ["best-00000002", "best-00000004"]
    return out


@pytest.fixture
def stopped_run(at_4, out) -> Path:
    return shutil.copytree(at_4, out)


@pytest.mark.parametrize("broken", BROKEN)
def test_an_unusable_state_is_logged_and_the_state_before_it_is_used(mortals, stopped_run, broken):
    whole, _ = mortals.undisturbed({}, **RISING)
    BROKEN[broken](saved_states(stopped_run)[0])
    answer = mortals.run(stopped_run, {}, **RISING)
    logged, resumed = answer["logged"], answer["resumed"]
    assert resumed == ["resume at step 3 of 6"]
    assert [line.endswith("the state before it, of step 3, is taken") for line in logged] == [True] * (broken != "gone")
    assert contents(stopped_run) == whole


@pytest.mark.parametrize("file", ["model.safetensors", "config.json", ""])
def test_a_state_without_its_best_checkpoint_cannot_be_used(mortals, stopped_run, file):
    whole, _ = mortals.undisturbed({}, **RISING)
    best = stopped_run / "best-00000004" / file
    shutil.rmtree(best) if best.is_dir() else flip(best, byte=best.stat().st_size - 2)
    (line,) = mortals.run(stopped_run, {}, **RISING)["logged"]
    assert re.search(r"state-00000004-\w+.pt: .*best-00000004.*: the state before it, of step 3, is taken", line)
    assert contents(stopped_run) == whole


def refused(mortals: Mortals, run: Path) -> str:
    """The message of a run that cannot go on; only starting over helps."""
    answer = mortals.run(run, {}, **RISING)
    assert answer["steps"] == 0
    RunFolder(run, {}).start_over()
    assert not list(run.iterdir())
    return answer["message"]


def test_without_a_usable_state_the_error_has_a_remedy(mortals, stopped_run):
    for state in saved_states(stopped_run):
        flip(state, byte=10)
    assert re.fullmatch(
        r".*/state-00000004-\w{16}.pt: this training state cannot be resumed \(damaged: its sha256 begins with "
        r"\w{16}\): no state of this run can be used; put it back whole, or run again with --fresh to start over",
        refused(mortals, stopped_run),
    )


def test_without_a_best_checkpoint_it_is_named(mortals, stopped_run):
    for best in stopped_run.glob("best-*"):
        shutil.rmtree(best)
    assert re.fullmatch(
        rf".*/state-00000004-\w{{16}}.pt: this training state cannot be resumed \(its best checkpoint, {stopped_run}/"
        r"best-00000004, is gone\): no state of this run can be used; put it back whole, or run again with --fresh to "
        "start over",
        refused(mortals, stopped_run),
    )


@pytest.mark.parametrize("saved", [a_pickle, a_list, a_network])
def test_a_foreign_file_is_no_training_state(mortals, stopped_run, saved):
    newest = saved_states(stopped_run)[0]
    saved(newest)
    (line,) = mortals.run(stopped_run, {}, **RISING)["logged"]
    assert re.search(r": this training state cannot be resumed \(is no training state\): the state before it, ", line)


def test_a_run_with_an_unreadable_first_file_is_refused(mortals, stopped_run):
    (stopped_run / "training.json").write_text("{")
    assert re.search("training.json: cannot be read .*: give --fresh or another --out", refused(mortals, stopped_run))


def test_a_finished_run_without_its_checkpoint_is_refused(mortals, out):
    mortals.run(out, {})
    (out / "config.json").unlink()
    assert mortals.run(out, {})["message"] == f"{out} holds a run that has ended, but not its checkpoint: give --fresh"


@pytest.mark.parametrize("death", DEATHS[1:])
def test_a_signal_ends_a_validation_before_its_next_batch_and_the_validation_is_repeated(mortals, out, death):
    whole, _ = mortals.undisturbed({})
    answer = mortals.run(out, {}, signal_in_validation=[4, death])
    assert answer["message"] == (
        f"stopped by signal {death:d} at step 4 of 6; the state of step 4 is saved in {out}: run the same command "
        "again without --fresh to resume"
    )
    assert (answer["exit_code"], answer["heard"]) == (128 + death, 1)
    assert [row["step"] for row in metrics_of(out)["metrics.jsonl"]] == [0, 2]
    mortals.run(out, {})
    assert contents(out) == whole


def test_a_failed_run_fails_again_without_repeating_steps(mortals, out):
    """It is stopped first in the middle of the row of steps."""
    config, fate = {"accumulate": 2, "ema_decay": 0.5}, {"broken": [1, 2, 3, 4, 5], "save_every": 4} | RISING
    stopped(mortals, out, 3, config, **fate)
    answers = [mortals.run(out, config, **fate) for _ in range(2)]
    assert answers[0]["message"] == answers[1]["message"]
    assert re.match(
        r"loss or gradient was not finite 5 times in a row, in steps 2 to 6: the best checkpoint so far is "
        rf"{out}/best-00000002; the newest state has the weights of step 1, from which no later step was finite; "
        r"the same command stops here again: choose --learning-rate below 0.005 and give --fresh or another --out; "
        r"clips of step 6: (clip-\d+.wav(, |$)){8}$",
        answers[0]["message"],
    )
    assert [answer["steps"] for answer in answers] == [len(answer["logged"]) for answer in answers] == [2, 0]
    rows = metrics_of(out)["metrics.jsonl"]
    assert [(row["step"], row["skipped"], row["loss"] is None) for row in rows] == [
        (0, 0, True),
        (2, 1, False),
        (4, 3, True),
        (6, 5, True),  # the step that was one too many: logged, but neither scored nor saved
    ]
    assert [row["mAP"] is None for row in rows] == [False, False, False, True]


def test_skipped_steps_leave_the_weights_of_a_run_without_them(mortals, out, tmp_path):
    """Steps 2 to 5 are skipped: the last good weights are in the state, and nothing else has changed."""
    stopped(mortals, out, 5, {"accumulate": 2, "ema_decay": 0.5}, broken=[1, 2, 3, 4])
    stopped(mortals, tmp_path / "one", 1, {"accumulate": 2, "ema_decay": 0.5})
    skipped, good = (torch.load(saved_states(run)[0], weights_only=True) for run in (out, tmp_path / "one"))
    assert (skipped["state"]["skipped_in_a_row"], good["state"]["skipped_in_a_row"]) == (4, 0)
    for part in ("model", "average"):
        assert all(torch.equal(skipped[part][name], value) for name, value in good[part].items())


@pytest.mark.parametrize("precision", ["float32", "bfloat16"])
def test_out_of_memory_errors_propose_options_that_need_less(mortals, out, precision):
    config = {"batch_size": 6, "precision": precision}
    whole, _ = mortals.undisturbed(config)
    answer = mortals.run(out, config, starve_after=3, save_every=2)
    options = "--accumulate 2, " + ("--precision bfloat16, " if precision == "float32" else "")
    assert re.fullmatch(
        rf"out of memory with --batch-size 6 \(12 clips, mixed in pairs\), --accumulate 1 and --precision {precision} "
        rf"\(.+\); the state of step 2 is saved in {out}: run the same command again without --fresh "
        rf"to resume where more memory is free, or use {options}a shorter --crop-seconds or --batch-size 3 with "
        "another --out: that is another run, "
        "so nothing is changed by itself",
        answer["message"],
    )
    assert mortals.run(out, config)["best_step"] >= 0
    assert contents(out) == whole


@pytest.mark.parametrize(
    "error",
    [
        torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB"),
        RuntimeError("cuDNN error: CUDNN_STATUS_ALLOC_FAILED"),
        MemoryError(),
    ],
    ids=str,
)
def test_a_full_gpu_gives_the_same_error(error):
    config = TrainingConfig(batch_size=1, precision="bfloat16", mixup_alpha=0.0)
    lower = "--batch-size 1, .*; nothing is saved where .* or use a shorter --crop-seconds with"
    with pytest.raises(TrainingError, match=lower), memory_errors_explained(config, lambda: "nothing is saved"):
        raise error
    with pytest.raises(RuntimeError, match="shape"), memory_errors_explained(config, lambda: ""):
        raise RuntimeError("shape mismatch")
    with pytest.raises(RuntimeError, match="primitive$"), memory_errors_explained(config, lambda: ""):
        raise RuntimeError("could not create a primitive")  # oneDNN says this of shapes it cannot do too


FULL = "free some space"


def test_a_disk_that_fills_up_loses_nothing(mortals, out):
    """The file system takes files up to a size; it is too small first for the weights and then for the state."""
    whole, _ = mortals.undisturbed({})
    for limit in (10_000, 40_000):
        message = mortals.run(out, {}, file_limit=limit)["message"]
        assert FULL in message and message.endswith("no state is saved yet: run the same command again"), message
    mortals.run(out, {}, stop_after=3)
    before = [state.read_bytes() for state in saved_states(out)]
    for limit in (10_000, 40_000):
        message = mortals.run(out, {}, file_limit=limit)["message"]
        assert message.endswith(
            f"the state of step 3 is saved in {out}: run the same command again without --fresh to resume"
        ), message
        assert [state.read_bytes() for state in saved_states(out)] == before
    mortals.run(out, {})
    assert contents(out) == whole


@pytest.fixture
def small_disk(tmp_path):
    """Mount a file system of a few kilobytes, and grow it."""
    place = tmp_path / "small"
    place.mkdir()

    def mount(kilobytes: int, *options: str) -> subprocess.CompletedProcess:
        remount = ["remount"] if os.path.ismount(place) else []
        asked = ",".join([*remount, *options, f"size={kilobytes}k"])
        return subprocess.run(["mount", "-t", "tmpfs", "-o", asked, "tmpfs", str(place)], capture_output=True)

    if os.geteuid() != 0 or mount(64).returncode != 0:
        pytest.skip("only root may mount a file system here")
    yield place, mount
    subprocess.run(["umount", str(place)], check=True)


@pytest.mark.slow
def test_on_a_full_disk_a_run_resumes_whenever_space_is_freed(mortals, small_disk):
    place, mount = small_disk
    whole, _ = mortals.undisturbed({})
    messages, kilobytes = [], 64
    while "message" in (answer := mortals.run(place / "run", {})):
        messages.append(answer["message"])
        assert FULL in answer["message"] and "run the same command again" in answer["message"], answer
        kilobytes += 48
        mount(kilobytes)
    assert len(messages) > 2 and any("the state of step" in message for message in messages)
    assert contents(place / "run") == whole


def test_a_read_only_folder_gives_an_error(mortals, small_disk):
    place, mount = small_disk
    mount(4096)
    whole, _ = mortals.undisturbed({})
    stopped(mortals, place / "run", 3)
    mount(4096, "ro")
    message = (
        f"{place}/run: cannot be written (Read-only file system): choose another --out, or correct its permissions "
    )
    assert mortals.run(place / "run", {})["message"] == f"{message}or its disk"
    mount(4096, "rw")
    mortals.run(place / "run", {})
    assert contents(place / "run") == whole


def test_a_moved_folder_gives_an_error_and_can_be_put_back(mortals, out):
    whole, _ = mortals.undisturbed({})
    message = f"{out}/training.json is gone: the folder was moved or emptied while the run wrote to it; put it back, "
    assert mortals.run(out, {}, lose_after=3)["message"] == f"{message}then run the same command again"
    assert not out.exists()
    out.with_name("run-moved").rename(out)
    mortals.run(out, {})
    assert contents(out) == whole


def test_a_second_process_is_refused_until_the_first_is_killed(mortals, out):
    """Processes that the first one has forked, such as those that read clips, do not hold the folder."""
    whole, _ = mortals.undisturbed({})
    stopped(mortals, out, 3)
    code = f"""
import os, time
from epanns.workfolder import WorkFolder
from pathlib import Path
with WorkFolder(Path({str(out)!r})).locked():
    if os.fork():
        print("locked", flush=True)
    time.sleep(10)
"""
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    with subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, text=True, env=environment) as holder:
        assert holder.stdout.readline() == "locked\n"
        files = {file: file.stat().st_mtime_ns for file in out.rglob("*")}
        for way in ({}, {"fresh": True}):
            message = mortals.run(out, {}, **way)["message"]
            assert message.startswith(f"{out} is in use by process {holder.pid} on "), message
            assert {file: file.stat().st_mtime_ns for file in out.rglob("*")} == files
        holder.kill()
        holder.wait()
        assert mortals.run(out, {})["resumed"] == ["resume at step 3 of 6"]
    assert contents(out) == whole


def test_lock_files_of_killed_processes_are_removed_with_the_run(mortals, out):
    whole, _ = mortals.undisturbed({})
    stopped(mortals, out, 3)
    assert json.loads((out / "training.json").read_text())["command"] == "the command"
    (out / "epanns.lock").touch()
    mortals.run(out, {})
    assert contents(out) == whole
    (out / "epanns.lock").touch()
    assert mortals.run(out, {})["steps"] == 0
    assert contents(out) == whole
    assert mortals.run(out, {}, fresh=True)["steps"] == 6
    assert contents(out) == whole


@pytest.mark.slow
@pytest.mark.parametrize(
    "options",
    [
        ("--accumulate", "2", "--ema-decay", "0.9"),
        ("--crop-seconds", "0.3", "--precision", "bfloat16", "--schedule", "cosine", "--head-iterations", "20"),
    ],
    ids=" ".join,
)
def test_a_command_killed_at_random_moments_ends_with_the_same_bytes(tiny_packs, tmp_path, options):
    chance = random.Random(0)
    network = build_model("Cnn14_8k", width=0.03, labels=PackDataset([tiny_packs["train"]]).labels)
    save_checkpoint(network, tmp_path / "base")
    command = [sys.executable, "-m", "epanns", "finetune", str(tmp_path / "base"), *options, "--iterations", "60"]
    command += ["--train", str(tiny_packs["train"]), "--val", str(tiny_packs["val"]), "--batch-size", "4"]
    command += ["--validate-every", "7", "--save-every", "3"]

    def run(out: Path, workers: int, *, dies_at: int | None = None) -> int:
        """Return the exit code; a process that is to die does so soon after it has saved the state of a step."""
        death = chance.choice([signal.SIGKILL, signal.SIGKILL, signal.SIGUSR1])
        asked = [*command, "--out", str(out), "--workers", str(workers)]
        with subprocess.Popen(asked, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL) as process:
            while dies_at is not None and process.poll() is None:
                if (newest_step(out) or 0) >= dies_at:
                    time.sleep(chance.uniform(0, 0.3))
                    process.send_signal(death)
                    break
                time.sleep(0.005)
            code = process.wait()
        assert code in (0, -death, 138 if death == signal.SIGUSR1 else -death)  # before there is a run it dies of it
        return code

    assert run(tmp_path / "whole", 0) == 0
    out, kills = tmp_path / "killed", 0
    for step in sorted(chance.sample(range(60), 5)):
        kills += run(out, chance.choice([0, 1, 2]), dies_at=step) != 0
    assert run(out, 1) == 0
    assert kills >= 3
    assert contents(out) == contents(tmp_path / "whole")
