"""Training runs that end at a given point; run as a script by `test_crash.py`.

Arguments: the pack of the clips. Each line of stdin is a run in JSON, for which a process is forked: a real one, so
that a kill is a real one too. Each line of stdout says how it ended.
"""

import hashlib
import json
import os
import resource
import signal
import sys
import traceback
from pathlib import Path

import torch
import torch._dynamo  # what an optimizer would import in every child again

from epanns.audio.frontend import FrontEndSpec
from epanns.data.batches.dataset import PackDataset
from epanns.errors import EpannsError, Interrupted
from epanns.models.families.cnn_2d import Cnn
from epanns.models.modes import evaluation_mode
from epanns.models.spec import ModelSpec, conv_widths
from epanns.training.config import TrainingConfig
from epanns.training.finetune import finetune
from epanns.training.learner import Learner
from epanns.training.loop import RunOptions
from epanns.training.resume import TrainingState
from epanns.training.validation import Validation

_SPEC = ModelSpec(
    name="narrow",
    family="cnn",
    front_end=FrontEndSpec(8_000, 256, 80, 64, 50, 4_000),
    widths=conv_widths(4, 4, 6, 8, 10, 12),
    embedding_size=16,
    num_classes=4,
)
_EVENTS = ("open", "os.", "shutil.", "tempfile.")  # what a process does to files, as Python's audit names it


class Fate:
    """Counts what the process does to the files of its run, and its steps; at one of them it strikes."""

    def __init__(self, out: str, signals: dict[str, int]) -> None:
        self.out, self.signals, self.events = out, {int(at): number for at, number in signals.items()}, 0

    def watch(self, event: str, arguments: tuple[object, ...]) -> None:
        if event.startswith(_EVENTS) and arguments and self.out in str(arguments[0]):
            self.strike()

    def strike(self, *_: object) -> None:
        self.events += 1
        number = self.signals.get(self.events)
        if number == signal.SIGKILL:
            os.kill(os.getpid(), number)
        elif number is not None:
            os.killpg(0, number)  # processes that read clips get it too, as from a terminal or from Slurm


class Life:
    """One run, and what shall happen in it."""

    def __init__(self, run: dict, pack: Path) -> None:
        self.run, self.dataset, self.logged = run, PackDataset([pack]), []
        self.fate = Fate(run["out"], run.get("signals", {}))
        self.steps, self.heard, self.step = 0, 0, 0

    def live(self) -> dict:
        """Train with the given settings; return the outcome."""
        config = TrainingConfig.from_dict(self.run["config"])
        torch.manual_seed(1)
        model = Cnn(_SPEC, self.dataset.labels)
        break_steps(model, self.run.get("broken", []), config.accumulate)
        teacher = Cnn(_SPEC, self.dataset.labels) if config.distil_weight else None
        ways = {name: self.run[name] for name in ("workers", "save_every")}
        ways |= {"fresh": self.run.get("fresh", False), "command": "the command"}
        options = RunOptions(**ways, on_step=self.on_step, on_validation=self.on_validation, log=self.logged.append)
        if "file_limit" in self.run:
            resource.setrlimit(resource.RLIMIT_FSIZE, (self.run["file_limit"], -1))
        sys.addaudithook(self.fate.watch)
        answer = {}
        try:
            where, judge = Path(self.run["out"]), Validation(self.score, {})
            result = finetune(model, self.dataset, config, where, validation=judge, options=options, teacher=teacher)
            answer = {"best_step": result.best_step}
        except EpannsError as error:
            answer = {"error": type(error).__name__, "message": str(error)}
            if isinstance(error, Interrupted):
                answer["exit_code"] = error.exit_code
        resource.setrlimit(resource.RLIMIT_AS, (-1, -1))
        resumed, logged = (
            [line for line in self.logged if line.startswith("resume ") is is_so] for is_so in (True, False)
        )
        counts = {"events": self.fate.events, "steps": self.steps, "heard": self.heard}
        return {**answer, **counts, "logged": logged, "resumed": resumed}

    def on_step(self, state: TrainingState, loss: float) -> None:
        self.steps, self.step = self.steps + 1, state.step
        self.fate.strike()
        if state.step == self.run.get("stop_after"):
            os.kill(os.getpid(), signal.SIGTERM)
        if state.step == self.run.get("lose_after"):
            Path(self.run["out"]).rename(self.run["out"] + "-moved")
        if state.step == self.run.get("starve_after"):
            used = int(Path("/proc/self/statm").read_text().split()[0]) * os.sysconf("SC_PAGE_SIZE")
            resource.setrlimit(resource.RLIMIT_AS, (used + (1 << 20), -1))

    def on_validation(self, state: TrainingState) -> None:
        if state.step == self.run.get("stop_after_validation"):
            os.kill(os.getpid(), signal.SIGTERM)

    def score(self, model: Cnn) -> dict[str, float]:
        """Hear three batches; return a pure function of the weights: what looks random, or rises with the steps."""
        step, number = self.run.get("signal_in_validation", (None, 0))
        self.heard = 0
        with evaluation_mode(model), torch.no_grad():
            for _ in range(3):
                model(torch.zeros(1, 1_000))
                self.heard += 1
                if self.step == step:
                    os.kill(os.getpid(), number)
        digest = hashlib.sha256()
        for value in model.state_dict().values():
            digest.update(value.numpy().tobytes())
        steps = int(model.bn0.num_batches_tracked) if self.run.get("rising") else 0
        return {"mAP": steps + int.from_bytes(digest.digest()[:4]) / 2**32}


def break_steps(model: Cnn, broken: list[int], parts: int) -> None:
    """Let the outputs of the last part of some steps (from 0) be no numbers."""
    do_step, now = Learner.step, {"step": -1, "part": 0}

    def step(self, batch, number, *rest):
        now.update(step=number, part=0)
        return do_step(self, batch, number, *rest)

    def spoil(module, given, output):
        now["part"] += module.training
        if module.training and now["step"] in broken and now["part"] == parts:
            output["clipwise_logits"] = output["clipwise_logits"] * float("nan")

    Learner.step = step
    model.register_forward_hook(spoil)


def main() -> None:
    pack = Path(sys.argv[1])
    torch.set_num_threads(1)
    os.fsync = lambda descriptor: None  # it is for power cuts, and takes most of the time
    for line in sys.stdin:
        reading, writing = os.pipe()
        child = os.fork()
        if child == 0:
            os.dup2(2, 1)
            os.setsid()
            for number in (signal.SIGINT, signal.SIGTERM, signal.SIGUSR1):
                signal.signal(number, signal.SIG_DFL)
            try:
                answer = Life(json.loads(line), pack).live()
            except BaseException as error:
                answer = {"error": type(error).__name__, "message": "".join(traceback.format_exception(error))}
            os.write(writing, json.dumps(answer).encode())
            os._exit(0)
        os.close(writing)
        _, status = os.waitpid(child, 0)
        os.set_blocking(reading, False)  # processes that read clips may hold the other end a little longer
        try:
            said = os.read(reading, 1 << 16)
        except BlockingIOError:
            said = b""
        os.close(reading)
        answer = json.loads(said) if said else {}
        print(json.dumps({**answer, "killed_by": os.WTERMSIG(status) if os.WIFSIGNALED(status) else None}), flush=True)


if __name__ == "__main__":
    main()
