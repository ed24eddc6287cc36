"""Prune the released Cnn14 and score it on AudioSet and FSD50K: from the released file to the table, with one command.

    python experiments/panns/run.py --audioset FOLDER --fsd50k FOLDER --out runs/panns
    python experiments/panns/run.py --synthetic --out runs/panns-trial

One of the data sets is enough. The same command resumes: steps that are finished are not repeated.
docs/tutorials/panns.md describes the data, the rows and the expected time.
"""

import argparse
import json
import os
import shlex
import shutil
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path

from panns_forecast import MEMORY_GB, Hours
from panns_generated import WEIGHTS, Counts
from panns_steps import DataSet, Settings, Step, audioset, fsd50k, pending, run_steps, steps_of

from epanns.atomic import sha256_of
from epanns.errors import CheckpointError, ConfigError, DataError, EpannsError, OutputError
from epanns.models.files.download import known_file, released_file

RELEASED = "Cnn14_mAP=0.431.pth"
LISTS = ("balanced_train_segments.csv", "eval_segments.csv")
TRIAL = Counts(train=24, val=4, test=12)
TRIAL_CALIBRATION, TRIAL_VALIDATION, TRIAL_STEPS = 12, 4, 20


def parser() -> argparse.ArgumentParser:
    """Return the parser of the command line."""
    made = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    made.add_argument("--out", type=Path, required=True, help="folder of the experiment")
    made.add_argument(
        "--checkpoint", default=RELEASED, help=f"file, or name of a file to download (default: {RELEASED})"
    )
    made.add_argument("--audioset", type=Path, help=f"folder of AudioSet, with {' and '.join(LISTS)}")
    made.add_argument("--fsd50k", type=Path, help="folder of FSD50K")
    made.add_argument("--device", default="cpu", help="cpu, cuda or cuda:N")
    made.add_argument("--jobs", type=int, default=os.cpu_count() or 1, help="processes that decode and read clips")
    made.add_argument("--calibration-clips", type=int, default=400, help="unlabelled clips for the recovery")
    made.add_argument("--finetune", type=int, default=0, metavar="STEPS", help="also fine-tune every network")
    made.add_argument("--dry-run", action="store_true", help="print the steps that would be run")
    made.add_argument("--synthetic", action="store_true", help="generated sound, random weights")
    made.add_argument("--width", type=float, default=1.0, help="factor on Cnn14's widths, with --synthetic")
    return made


def settings_of(asked: argparse.Namespace) -> Settings:
    """Return the settings of a command line.

    Raises:
        EpannsError: If the data are not there, or options contradict each other.
    """
    if asked.synthetic:
        if asked.audioset or asked.fsd50k or asked.checkpoint != RELEASED:
            raise ConfigError("--synthetic generates the data and the weights: leave out the folders and --checkpoint")
        root = asked.out / "generated"
        sets = (audioset(root / "AudioSet", [root / "AudioSet" / name for name in LISTS]), fsd50k(root / "FSD50K"))
        counts = TRIAL._asdict()
        generated = (str(root), *(word for name, count in counts.items() for word in (f"--{name}", str(count))))
        data = tuple(DataSet(**{**vars(each), "clips": counts}) for each in sets)
        checkpoint = str(root / WEIGHTS)
        n_calibration, n_validation = min(asked.calibration_clips, TRIAL_CALIBRATION), TRIAL_VALIDATION
    else:
        if asked.width != 1.0:
            raise ConfigError(f"--width {asked.width:g}: the released network has width 1; give it with --synthetic")
        data, generated = data_sets(asked.audioset, asked.fsd50k), ()
        checkpoint = asked.checkpoint
        check_checkpoint(checkpoint)
        n_calibration, n_validation = asked.calibration_clips, Settings.validation
    for name in ("finetune", "calibration_clips"):
        if getattr(asked, name) < (name != "finetune"):
            option = f"--{name.replace('_', '-')}"
            raise ConfigError(f"{option} {getattr(asked, name)}: must be at least {int(name != 'finetune')}")
    return Settings(
        asked.out,
        checkpoint,
        data,
        device=asked.device,
        jobs=max(1, asked.jobs),
        calibration=n_calibration,
        validation=n_validation,
        finetune=asked.finetune,
        width=asked.width,
        generated=generated,
        method=("--recover", f"align:{TRIAL_STEPS}") if asked.synthetic else (),
    )


def data_sets(audioset_root: Path | None, fsd50k_root: Path | None) -> tuple[DataSet, ...]:
    """Return the data sets whose folders are given.

    Raises:
        ConfigError: If there is none.
        DataError: If a folder lacks its lists.
    """
    found = []
    if audioset_root is not None:
        lists = []
        for name in LISTS:
            places = [audioset_root / name, *sorted(audioset_root.glob(f"*/{name}"))]
            path = next((path for path in places if path.is_file()), None)
            if path is None:
                raise DataError(
                    f"{audioset_root}: no {name} in it or in a folder of it; download it from "
                    "https://research.google.com/audioset/download.html into that folder"
                )
            lists.append(path)
        found.append(audioset(audioset_root, lists))
    if fsd50k_root is not None:
        if not any(fsd50k_root.glob("**/vocabulary.csv")):
            raise DataError(
                f"{fsd50k_root}: no vocabulary.csv below it; extract FSD50K.ground_truth, FSD50K.dev_audio and "
                "FSD50K.eval_audio of https://zenodo.org/records/4060432 into that folder"
            )
        found.append(fsd50k(fsd50k_root))
    if not found:
        raise ConfigError("no data: give --audioset FOLDER, --fsd50k FOLDER, or both; --synthetic is a trial without")
    return tuple(found)


def check_checkpoint(checkpoint: str) -> None:
    """Check that a file has the sha256 of the released Cnn14; the name of a file that does not exist is downloaded.

    Raises:
        CheckpointError: If the file is another one.
    """
    wanted = released_file(RELEASED)
    if not (path := Path(checkpoint)).exists():
        if released_file(checkpoint) != wanted:
            raise CheckpointError(f"{checkpoint}: must be {RELEASED}: the rows of the table are those of Cnn14")
        return
    if known_file(path, found := sha256_of(path)) != wanted:
        raise CheckpointError(
            f"{path}: sha256 {found}, must be {wanted.sha256} of {RELEASED}: download it again from {wanted.url}"
        )


def check_disk(steps: Sequence[Step], out: Path) -> None:
    """Check that the products of the steps fit on the disk.

    Raises:
        OutputError: If they do not.
    """
    needed = sum(step.gigabytes for step in steps)
    place = next(folder for folder in (out.resolve(), *out.resolve().parents) if folder.exists())
    if needed > (free := shutil.disk_usage(place).free / 1e9):
        raise OutputError(f"{out}: {free:.0f} GB are free; must be {needed:.0f} GB; free space or choose another --out")


def forecast_of(steps: Sequence[Step]) -> str:
    """Return the steps, and expected hours, disk and memory, as text."""
    lines = [f"{number:3d}  {in_words(step.hours)}  {shown(step)}" for number, step in enumerate(steps, start=1)]
    total = Hours(*(sum(hours) for hours in zip(*(step.hours for step in steps), strict=True))) if steps else Hours()
    disk = sum(step.gigabytes for step in steps)
    lines += [
        f"{len(steps)} steps; expected: {total.laptop:.1f} h on two cores of a CPU, {total.gpu:.1f} h on one V100; "
        f"{disk:.0f} GB of disk, {MEMORY_GB:.0f} GB of memory"
    ]
    return "\n".join(["step  CPU/GPU hours", *lines])


def in_words(hours: Hours) -> str:
    """Return the two numbers of hours in a column."""
    return f"{hours.laptop:6.2f} /{hours.gpu:6.2f}"


def shown(step: Step) -> str:
    """Return the command of a step as a shell reads it."""
    return shlex.join(step.command)


def run_step(step: Step, out: Path) -> None:
    """Run a step in a process of its own; add its time and memory to ``costs.jsonl`` in `out`.

    Raises:
        EpannsError: If the command fails.
    """
    program = ["-m", "epanns"] if step.command[0] == "epanns" else [step.command[0]]
    print(f"$ {shown(step)}", file=sys.stderr, flush=True)
    started = time.perf_counter()
    process = subprocess.Popen([sys.executable, *program, *step.command[1:]])
    try:
        _, status, usage = os.wait4(process.pid, 0)
    except KeyboardInterrupt:  # the command has received the signal too, and saves its state
        process.wait()
        raise
    process.returncode = os.waitstatus_to_exitcode(status)
    if process.returncode:
        raise EpannsError(
            f"{shown(step)}: exit code {process.returncode}; correct the cause and run the same command again"
        )
    cost = {
        "command": list(step.command),
        "seconds": round(time.perf_counter() - started, 1),
        "cpu_seconds": round(usage.ru_utime + usage.ru_stime, 1),
        "peak_bytes": usage.ru_maxrss * 1024,
    }
    with (out / "costs.jsonl").open("a", encoding="utf-8") as file:
        file.write(json.dumps(cost) + "\n")


def main(arguments: Sequence[str] | None = None) -> None:
    """Check, print the forecast, and run the steps that are not finished."""
    asked = parser().parse_args(arguments)
    try:
        settings = settings_of(asked)
        steps = steps_of(settings)
        print(forecast_of(pending(steps)), flush=True)
        check_disk(pending(steps), settings.out)
        if asked.dry_run:
            return
        settings.out.mkdir(parents=True, exist_ok=True)
        run_steps(steps, lambda step: run_step(step, settings.out))
    except EpannsError as error:
        raise SystemExit(f"error: {error}") from None
    print(f"{settings.out / 'report' / 'table.md'}: done", flush=True)


if __name__ == "__main__":
    main()
