"""Run one trial in a process of its own: ``python -m epanns.sweeps.child trials/ID``."""

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


def main(folder: Path) -> int:
    """Run one trial, at most until the process of the sweep ends; the exit code is 0 if it has its result."""
    parent = os.getppid()

    def stop_with_parent() -> None:  # as by SIGTERM, which saves the state
        while os.getppid() == parent:
            time.sleep(_POLL_SECONDS)
        os.kill(os.getpid(), signal.SIGTERM)

    # Ctrl-C reaches the whole process group, Slurm's warning every process; the sweep passes both on as SIGTERM.
    for number in (signal.SIGINT, signal.SIGUSR1):
        signal.signal(number, signal.SIG_IGN)
    threading.Thread(target=stop_with_parent, daemon=True).start()

    import torch

    from epanns.sweeps.runner import attempt

    keep_freed_memory()
    torch.set_num_threads(int(os.environ.get("OMP_NUM_THREADS", "1")))
    try:
        return 0 if attempt(TrialFolder(folder)) else 1
    except Interrupted as stopped:
        return stopped.exit_code


if __name__ == "__main__":
    sys.exit(main(Path(sys.argv[1])))
