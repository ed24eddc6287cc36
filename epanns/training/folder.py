"""The folder of a training run: its configuration, states, metrics and, in the end, its best checkpoint."""

import json
import re
import shutil
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager
from fnmatch import fnmatch
from pathlib import Path
from typing import Any

from epanns.atomic import fsync_folder, sha256_of_json, write_json
from epanns.distributed import on_rank_zero, restarts, torchrun_id
from epanns.errors import CheckpointError, OutputError
from epanns.folder_kinds import BEST_NAME, COMMAND, RUN_FILE
from epanns.models.checkpoint import CONFIG, FILES, load_checkpoint, save_checkpoint
from epanns.models.tagger import Tagger
from epanns.training import events, metrics
from epanns.training.config import TrainingConfig
from epanns.training.identity import OF_NETWORK
from epanns.training.learner import Learner
from epanns.training.state import (
    TrainingState,
    earlier_state,
    is_state,
    load_state,
    newest_step,
    save_state,
    saved_states,
)
from epanns.workfolder import LOCK_FILES, Work, WorkFolder, remove

CURVES = tuple(f"{metrics.CURVE}{suffix}" for suffix in (".svg", ".png", ".pdf"))  # drawn by `reporting`, removed here

_RUN, _EARLIER_LOCK = RUN_FILE, "training.lock"
_TORCHRUN = "torchrun"  # key of the first file: under which start of `torchrun` the run was begun, or ended
_FORMAT = 2  # of the first file: 2 tells the network beside its file
_WORK = Work("is no training run", "holds a run with", "a run")
_BESTS = re.compile(rf"{BEST_NAME.pattern}|best(\.next|\.previous)?")  # those of earlier versions too
_HALF = re.compile(r"\.best[-.].*|.*\.partial")  # what a killed writer leaves


class RunFolder:
    """A training run on disk.

    While it runs: ``training.json`` (what was asked), the last two states, the metrics, and the checkpoints
    ``best-<step>`` that the states name as the best so far. When it has ended, the best checkpoint's files stand in the
    folder itself, which is then a checkpoint folder.

    A process may die between any two writes. What a state names is written before it and goes after it; that the run
    has ended is noted before anything is moved, and the moving is made up for when the same run is asked for again.
    """

    def __init__(self, path: Path, asked: Mapping[str, Any], *, fresh: bool = False, command: str = "") -> None:
        """Describe a run.

        Args:
            path: The folder.
            asked: The configuration, in JSON values.
            fresh: Whether to delete an earlier run when the folder is opened.
            command: The command that resumes the run, for people who find the folder.
        """
        self.path, self.asked = path, dict(asked)
        self._fresh, self._command = fresh, command
        self._folder = _work_folder(path)

    @contextmanager
    def opened(self) -> Iterator[dict[str, Any] | None]:
        """Claim the folder for this run and keep others out; yield the result if the run has ended before, else None.

        Raises:
            OutputError: If the folder holds another run or something else, or another process works in it; nothing is
                deleted then.
        """
        fresh = self._fresh and not self._is_begun_by_this_torchrun()
        ended = None if fresh else self._ended()
        if ended is None or _leftovers(self.path):
            with self._folder.locked():
                if fresh:
                    self.start_over()
                ended = self._claim()  # another process may have ended the run meanwhile
                if ended is None:
                    for file in list(self.path.iterdir()):
                        if _HALF.fullmatch(file.name):
                            remove(file)
                    yield None
                    return
                self._put_in_place(ended["best_step"])
        if not (self.path / CONFIG).exists():
            raise OutputError(f"{self.path} holds a run that has ended, but not its checkpoint: give --fresh")
        yield ended

    def start_over(self) -> None:
        """Delete an earlier run, and nothing else; call it under the lock.

        Raises:
            OutputError: If the folder is no training run, or holds something else too; nothing is deleted then.
        """
        self._folder.start_over(_is_own)

    def _ended(self) -> dict[str, Any] | None:
        """Return the result of a run that has ended, without the lock: a folder that is only read needs none."""
        if self._folder.first_file.exists():
            return self._folder.require_same(self.asked, read=self._read)
        self._folder.require_usable()
        return None

    def _claim(self) -> dict[str, Any] | None:
        command = {COMMAND: self._command} if self._command else {}
        return self._folder.begin_or_resume(self.asked, first={**self._first, **command}, read=self._read)

    def _is_begun_by_this_torchrun(self) -> bool:
        """Whether a process left the run that `torchrun` has started anew: it had started over itself."""
        try:
            begun_by = json.loads((self.path / _RUN).read_text(encoding="utf-8")).get(_TORCHRUN) if restarts() else None
        except (OSError, ValueError, AttributeError, RecursionError):
            begun_by = None
        return begun_by is not None and begun_by == torchrun_id()

    @property
    def _first(self) -> dict[str, Any]:
        told = {} if torchrun_id() is None else {_TORCHRUN: torchrun_id()}
        return {"format": _FORMAT, "asked": self.asked, **told}

    def _read(self, found: Any) -> tuple[Any, dict[str, Any] | None]:
        """Return what was asked and the result; earlier versions did not ask which network it is beside its file."""
        if "format" not in found:
            for key in OF_NETWORK:
                self.asked.pop(key, None)
        return found["asked"], found.get("result")

    @property
    def step_settings(self) -> dict[str, Any]:
        """What the recipe of the network keeps of what was asked; the steps before stand in it themselves."""
        return {key: value for key, value in self.asked.items() if key not in OF_NETWORK}

    def resume(self, learner: Learner, log: Callable[[str], None]) -> TrainingState | None:
        """Read the newest state that can be used, with its best checkpoint, as `state.load_state` does."""
        return load_state(self.path, learner, log, run=sha256_of_json(self.asked), check=self._require_best)

    def _require_best(self, state: TrainingState) -> None:
        if state.best_step >= 0:
            best = self.best(state.best_step)
            if not best.is_dir():
                raise CheckpointError(f"its best checkpoint, {best}, is gone")
            try:
                load_checkpoint(best)
            except CheckpointError as error:
                raise CheckpointError(f"its best checkpoint cannot be used: {error}") from error

    def best(self, step: int) -> Path:
        """Return where the checkpoint of a step is kept while it is the best."""
        return self.path / f"best-{step:08d}"

    def save(self, state: TrainingState, learner: Learner) -> None:
        """Write the state, and remove what no state names any more."""
        with self._writing():
            save_state(self.path, state, learner, run=sha256_of_json(self.asked))
            steps = sorted(int(name[1]) for file in self.path.iterdir() if (name := BEST_NAME.fullmatch(file.name)))
            # The state before this one may name the best before this one.
            kept = [step for step in steps if step <= state.best_step][-2:]
            for step in set(steps) - set(kept):
                shutil.rmtree(self.best(step))

    def keep_best(self, model: Tagger, state: TrainingState, chosen_by: str) -> None:
        """Write the weights as the best so far by a score of that name."""
        kept = {"best_step": state.best_step, f"validation_{chosen_by}": state.best_score}
        step = {"step": model.provenance.training_kind, **self.step_settings, **kept}
        with self._writing():
            if self.best(state.best_step).exists():  # of a state that could not be read: the run went back
                shutil.rmtree(self.best(state.best_step))
            save_checkpoint(model, self.best(state.best_step), recipe=step)

    def write_metrics(self, rows: Sequence[Mapping[str, float]]) -> None:
        """Write the rows of the validations, and what else is to be known."""
        with self._writing():
            metrics.write_metrics(self.path, rows)

    def finish(self, result: Mapping[str, Any]) -> None:
        """Note the result, move the best checkpoint up and drop the states.

        Raises:
            CheckpointError: If the best checkpoint is not whole.
        """
        with self._writing():
            load_checkpoint(self.best(result["best_step"]))
            write_json(self.path / _RUN, {**self._first, "result": dict(result)})
            self._put_in_place(result["best_step"])

    def _put_in_place(self, best_step: int) -> None:
        """Make a checkpoint folder of the run's folder; harmless when done twice."""
        best = self.best(best_step)
        # The config last: without it the folder is no checkpoint.
        for name in sorted(FILES, key=lambda name: name == CONFIG):
            if (best / name).exists():
                (best / name).replace(self.path / name)
        fsync_folder(self.path)
        for file in _leftovers(self.path):
            if file.name not in LOCK_FILES:  # which is held, and removed when the folder is released
                remove(file)

    def kept(self) -> str:
        """Say where the run would go on."""
        step = newest_step(self.path)
        if step is None:
            return "no state is saved yet: run the same command again"
        return f"the state of step {step} is saved in {self.path}: run the same command again without --fresh to go on"

    @contextmanager
    def _writing(self) -> Iterator[None]:
        """Say what to do when the disk is full, or the folder may not be written to or is not there any more."""
        if not (self.path / _RUN).exists():
            raise OutputError(
                f"{self.path / _RUN} is gone: the folder was moved or emptied while the run wrote to it; put it back, "
                "then run the same command again"
            )
        try:
            yield
        except OutputError as error:
            raise OutputError(f"{error}; {self.kept()}") from error
        except IsADirectoryError as error:
            place = error.filename2 or error.filename or self.path
            raise OutputError(f"{place}: a folder stands where a file goes: move it away; {self.kept()}") from error
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
    """Refuse what can never be this run's folder now: another's, or one in use; call it before long work.

    `finetune` refuses a run of other clips, or of another network, when it knows them.

    Args:
        path: The folder.
        config: The settings; None where an earlier run is to be deleted.
        model: What is known of the network, in the form of `ModelSpec.to_dict`.
        unknown: Settings that are not known yet.

    Raises:
        OutputError: If there is something else.
    """
    folder = _work_folder(path)
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


def _work_folder(path: Path) -> WorkFolder:
    return WorkFolder(path, _RUN, _WORK)


def _leftovers(path: Path) -> list[Path]:
    """Return the files of a run that has not ended."""
    if not path.is_dir():
        return []
    unfinished = {*LOCK_FILES, _EARLIER_LOCK, earlier_state(path).name, *(state.name for state in saved_states(path))}
    return [
        file
        for file in path.iterdir()
        if file.name in unfinished or _BESTS.fullmatch(file.name) or _HALF.fullmatch(file.name)
    ]


def _is_own(name: str) -> bool:
    """Whether a file or folder (with a slash at the end) is part of a run, finished or not."""
    top, _, inner = name.partition("/")
    if top == events.FOLDER:
        return name == f"{top}/" or fnmatch(inner, events.EVENT_FILES)
    if _BESTS.fullmatch(top) or _HALF.fullmatch(top):
        return True
    finished = {_RUN, *FILES, metrics.TABLE, metrics.LINES, *CURVES}
    return name in finished or is_state(name)
