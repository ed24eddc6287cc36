"""The folder of a training run: its identity, states, metrics and, at the end, its best checkpoint."""

import json
import re
import shutil
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager
from fnmatch import fnmatch
from pathlib import Path
from typing import Any

from epanns.atomic import fsync, sha256_of_json, write_json
from epanns.data.batches.dataset import PackDataset
from epanns.distributed import on_rank_zero, restarts, torchrun_id
from epanns.errors import CheckpointError, OutputError
from epanns.models.files.checkpoint import CONFIG, FILES, load_checkpoint, save_checkpoint
from epanns.models.tagger import Tagger
from epanns.models.tensors import weights_digest
from epanns.state_files import newest_step, saved_states
from epanns.text_files import read_json
from epanns.training import metrics
from epanns.training.config import TrainingConfig
from epanns.training.distillation import teacher_sha256
from epanns.training.learner import Learner
from epanns.training.resume import TrainingState, load_state, save_state
from epanns.training.teacher_scores import TeacherScores
from epanns.training.validation import Validation
from epanns.workfolder import BEST_NAME, COMMAND, LOCK_FILES, RUN_FILE, STATE_NAME, Work, WorkFolder, remove

CURVES = tuple(f"{metrics.CURVE}{suffix}" for suffix in (".svg", ".png", ".pdf"))  # drawn by `reporting`, removed here

_TORCHRUN = "torchrun"  # key of the first file: id of the torchrun that began or finished the run
_FORMAT = 2  # of the first file
_WORK = Work("is no training run", "holds a run with", "a run")
_PARTIAL = re.compile(r"\.best[-.].*|.*\.partial")  # names of files of a process that was killed while it wrote

# Keys of the identity that describe how a network differs from its file; a recipe holds this as operations.
_BESIDE_FILE = ("since", "since_plan_sha256", "weights_sha256")
_MEASURED = ("errors", "held_out", "best_step")  # results of a recovery, whose last digits may differ when repeated


def identity_of(
    model: Tagger,
    dataset: PackDataset,
    config: TrainingConfig,
    validation: Validation,
    teacher: Tagger | TeacherScores | None,
) -> dict[str, Any]:
    """Return what identifies a run, as JSON values: settings, clips, validation, teacher and initial network.

    The initial network is identified by its file. Beside it, parameters that were frozen by hand are identified by
    their names, operations since the file was read by their settings (a repetition may differ in the last digits of the
    weights), and weights with a random part (a network without a file, a new classifier) by their checksum.
    """
    identity: dict[str, Any] = {
        "training": config.to_dict(),
        "data": dataset.identity(),
        "validation": dict(validation.data),
        "model": model.spec.to_dict(),
        "parent_sha256": model.provenance.sha256,
    }
    if teacher is not None:
        identity["teacher_sha256"] = teacher_sha256(teacher)
    frozen = [name for name, parameter in model.named_parameters() if not parameter.requires_grad]
    if frozen and not config.freeze_backbone:
        identity["frozen_sha256"] = sha256_of_json(frozen)
    known = model.provenance
    since = {
        f"{number}-{each.kind}": {key: value for key, value in each.settings.items() if key not in _MEASURED}
        for number, each in enumerate(known.since_read, start=1)
    }
    kinds = {each.kind for each in known.since_read}
    if since:
        identity["since"] = json.loads(json.dumps(since))
    if "prune" in kinds and known.plan is not None:
        identity["since_plan_sha256"] = known.plan.digest
    if known.sha256 is None or known.n_read is None or "transfer" in kinds:
        identity["weights_sha256"] = weights_digest(model)
    return identity


class RunFolder:
    """A training run on disk.

    An unfinished run holds ``training.json`` (its identity), the last two states, the metrics, and the checkpoints
    ``best-<step>`` that the states refer to. When the run has finished, the files of the best checkpoint are in the
    folder itself, which is then a checkpoint folder.

    The process may be killed between any two writes. Files that a state refers to are written before it and removed
    after it. The result is written to ``training.json`` before any file is moved, and a call with the same identity
    completes the move.
    """

    def __init__(self, path: Path, identity: Mapping[str, Any], *, fresh: bool = False, command: str = "") -> None:
        """Describe a run of an identity, see `identity_of`; with `fresh`, `opened` deletes an earlier run."""
        self.path, self.identity = path, dict(identity)
        self._fresh, self._command = fresh, command
        self._folder = WorkFolder(path, RUN_FILE, _WORK)
        self._first: dict[str, Any] = {"format": _FORMAT, "asked": self.identity}
        if torchrun_id() is not None:
            self._first[_TORCHRUN] = torchrun_id()

    @contextmanager
    def opened(self) -> Iterator[dict[str, Any] | None]:
        """Claim and lock the folder; yield the result if the run has finished, else None.

        Raises:
            OutputError: If the folder holds another run or other files, or another process works in it; nothing is
                deleted then.
        """
        fresh = self._fresh and not self._was_begun_by_this_torchrun()
        result = None
        if not fresh and self._folder.first_file.exists():  # not locked, since a finished run is only read
            result = self._folder.require_same(self.identity, read=_identity_and_result)
        elif not fresh:
            self._folder.require_usable()
        if result is None or _unfinished_files(self.path):
            with self._folder.locked():
                if fresh:
                    self.start_over()
                command = {COMMAND: self._command} if self._command else {}
                first = {**self._first, **command}
                # Another process may have finished the run before this one had the lock.
                result = self._folder.begin_or_resume(self.identity, first=first, read=_identity_and_result)
                if result is None:
                    for file in [file for file in self.path.iterdir() if _PARTIAL.fullmatch(file.name)]:
                        remove(file)
                    yield None
                    return
                self._put_in_place(result["best_step"])
        if not (self.path / CONFIG).exists():
            raise OutputError(f"{self.path} holds a run that has ended, but not its checkpoint: give --fresh")
        yield result

    def start_over(self) -> None:
        """Delete an earlier run and nothing else; call it under the lock.

        Raises:
            OutputError: If the folder is no training run, or holds other files too; nothing is deleted then.
        """

        def is_own(name: str) -> bool:
            top, _, inner = name.partition("/")
            if top == metrics.TENSORBOARD:
                return name == f"{top}/" or fnmatch(inner, metrics.EVENT_FILES)
            if any(pattern.fullmatch(top) for pattern in (BEST_NAME, _PARTIAL, STATE_NAME)):
                return True
            return name in {RUN_FILE, *FILES, metrics.TABLE, metrics.LINES, *CURVES}

        self._folder.start_over(is_own)

    def _was_begun_by_this_torchrun(self) -> bool:
        """Return whether this torchrun began the run and restarted its processes: they have started over already."""
        if not restarts():
            return False
        try:
            first = read_json(self._folder.first_file, error=OutputError)
        except OutputError:
            return False
        return isinstance(first, dict) and first.get(_TORCHRUN) is not None and first[_TORCHRUN] == torchrun_id()

    @property
    def settings(self) -> dict[str, Any]:
        """The part of the identity that the recipe of the trained network records."""
        return {key: value for key, value in self.identity.items() if key not in _BESIDE_FILE}

    def resume(self, learner: Learner, log: Callable[[str], None]) -> TrainingState | None:
        """Read the newest usable state whose best checkpoint is whole, as `resume.load_state` does."""

        def require_best(state: TrainingState) -> None:
            if state.best_step >= 0:
                best = self.best(state.best_step)
                if not best.is_dir():
                    raise CheckpointError(f"its best checkpoint, {best}, is gone")
                try:
                    load_checkpoint(best)
                except CheckpointError as error:
                    raise CheckpointError(f"its best checkpoint cannot be used: {error}") from error

        return load_state(self.path, learner, log, run=sha256_of_json(self.identity), check=require_best)

    def best(self, step: int) -> Path:
        """Return the folder of the checkpoint of a step while it is the best."""
        return self.path / f"best-{step:08d}"

    def save(self, state: TrainingState, learner: Learner) -> None:
        """Write the state, and remove the checkpoints that no state refers to."""
        with self._writing():
            save_state(self.path, state, learner, run=sha256_of_json(self.identity))
            steps = sorted(int(name[1]) for file in self.path.iterdir() if (name := BEST_NAME.fullmatch(file.name)))
            # The state before this one may refer to the best checkpoint before this one.
            kept = [step for step in steps if step <= state.best_step][-2:]
            for step in set(steps) - set(kept):
                shutil.rmtree(self.best(step))

    def keep_best(self, model: Tagger, state: TrainingState, chosen_by: str) -> None:
        """Write the weights as the best so far by the score of that name."""
        chosen = {"best_step": state.best_step, f"validation_{chosen_by}": state.best_score}
        operation = {"step": model.provenance.training_kind, **self.settings, **chosen}
        with self._writing():
            if self.best(state.best_step).exists():  # of a newer state that could not be read
                shutil.rmtree(self.best(state.best_step))
            save_checkpoint(model, self.best(state.best_step), recipe=operation)

    def write_metrics(self, rows: Sequence[Mapping[str, float]]) -> None:
        """Write the rows of all validations."""
        with self._writing():
            metrics.write_metrics(self.path, rows)

    def finish(self, result: Mapping[str, Any]) -> None:
        """Write the result, move the best checkpoint into the folder and remove the states.

        Raises:
            CheckpointError: If the best checkpoint is not whole.
        """
        with self._writing():
            load_checkpoint(self.best(result["best_step"]))
            write_json(self._folder.first_file, {**self._first, "result": dict(result)})
            self._put_in_place(result["best_step"])

    def _put_in_place(self, best_step: int) -> None:
        """Move the best checkpoint into the folder; a second call has no effect."""
        best = self.best(best_step)
        # The config last: without it the folder is no checkpoint.
        for name in sorted(FILES, key=lambda name: name == CONFIG):
            if (best / name).exists():
                (best / name).replace(self.path / name)
        fsync(self.path)
        for file in _unfinished_files(self.path):
            if file.name not in LOCK_FILES:  # the lock is held, and removed with the release of the folder
                remove(file)

    def kept(self) -> str:
        """Return the end of an error message: the step from which the run resumes, and how."""
        step = newest_step(self.path)
        if step is None:
            return "no state is saved yet: run the same command again"
        return f"the state of step {step} is saved in {self.path}: run the same command again without --fresh to resume"

    @contextmanager
    def _writing(self) -> Iterator[None]:
        """Turn errors about a full disk, missing permissions or a moved folder into one `OutputError`."""
        if not self._folder.is_begun:
            raise OutputError(
                f"{self._folder.first_file} is gone: the folder was moved or emptied while the run wrote to it; put it "
                "back, then run the same command again"
            )
        try:
            yield
        except OutputError as error:
            raise OutputError(f"{error}; {self.kept()}") from error
        except OSError as error:
            reason = error.strerror or str(error)
            raise OutputError(
                f"{self.path}: cannot be written ({reason}): free some space or mend its permissions; {self.kept()}"
            ) from error


def require_run_folder(
    path: Path,
    config: TrainingConfig | None,
    *,
    model: Mapping[str, Any] | None = None,
    unknown: Collection[str] = (),
) -> None:
    """Refuse a folder of another run, or one in use, before long work.

    Compared are the settings that are not in `unknown` and the given part of the specification; `finetune` compares the
    whole identity. Without `config` an earlier run is to be deleted.

    Raises:
        OutputError: If the folder holds another run or other files, or another process works in it.
    """
    folder = WorkFolder(path, RUN_FILE, _WORK)
    folder.require_usable()
    on_rank_zero(folder.require_unlocked)
    if config is None or not folder.is_begun:
        return
    network = dict(model or {})

    def known(training: Mapping[str, Any], of_model: Mapping[str, Any]) -> dict[str, Any]:
        settings = {name: value for name, value in training.items() if name not in unknown}
        return {"training": settings, "model": {name: of_model.get(name) for name in network}}

    def read(found: Any) -> tuple[Any, None]:
        return known(found["asked"]["training"], found["asked"]["model"]), None

    folder.require_same(known(config.to_dict(), network), read=read)


def _identity_and_result(first: Any) -> tuple[Any, dict[str, Any] | None]:
    """Return the identity and the result from the content of the first file."""
    return first["asked"], first.get("result")


def _unfinished_files(path: Path) -> list[Path]:
    """Return the files that an unfinished run has and a finished run has not."""
    if not path.is_dir():
        return []
    states = {state.name for state in saved_states(path)}
    return [
        file
        for file in path.iterdir()
        if file.name in LOCK_FILES
        or file.name in states
        or BEST_NAME.fullmatch(file.name)
        or _PARTIAL.fullmatch(file.name)
    ]
