"""A process that runs trials one after the other: ``python -m epanns.sweeps.launchers.worker GPUS``.

Each line of standard input is the folder of a trial as a JSON string. The answer on standard output is one empty line
when the trial has ended, as its files state. One process for many trials imports torch once.
"""

import json
import os
import signal
import sys
import threading
import time
from pathlib import Path

from epanns.errors import Interrupted
from epanns.process import keep_freed_memory
from epanns.sweeps.journal import TrialFolder

_POLL_SECONDS = 0.5


def main(gpus: float) -> int:
    """Run trials until standard input ends, at most until the process of the sweep ends.

    Args:
        gpus: Number of GPUs of each trial; 0 for the CPU.

    Returns:
        The exit code.
    """
    parent = os.getppid()

    def stop_with_parent() -> None:  # as by SIGTERM, which saves the state
        while os.getppid() == parent:
            time.sleep(_POLL_SECONDS)
        os.kill(os.getpid(), signal.SIGTERM)

    # Ctrl-C reaches the whole process group, Slurm's warning every process; the sweep passes both on as SIGTERM.
    for number in (signal.SIGINT, signal.SIGUSR1):
        signal.signal(number, signal.SIG_IGN)
    threading.Thread(target=stop_with_parent, daemon=True).start()
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)  # what a library prints is no answer

    import torch

    from epanns.sweeps.launchers.several_gpus import run_trial_on

    keep_freed_memory()
    torch.set_num_threads(int(os.environ.get("OMP_NUM_THREADS", "1")))
    for line in sys.stdin:
        try:
            run_trial_on(TrialFolder(Path(json.loads(line))), gpus)
        except Interrupted as stopped:
            return stopped.exit_code
        answers.write("\n")
        answers.flush()
    return 0


if __name__ == "__main__":
    sys.exit(main(float(sys.argv[1])))
