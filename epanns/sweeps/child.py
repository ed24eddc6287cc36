"""Run one trial in a process of its own: ``python -m epanns.sweeps.child trials/ID``."""

import os
import signal
import sys
import threading
import time
from pathlib import Path

from epanns.allocator import keep_freed_memory
from epanns.errors import Interrupted
from epanns.sweeps.journal import TrialFolder

_POLL_SECONDS = 0.5


def main(folder: Path) -> int:
    """Run one trial; the exit code is 0 if it has its result."""
    import torch

    from epanns.sweeps.runner import attempt

    keep_freed_memory()
    torch.set_num_threads(int(os.environ.get("OMP_NUM_THREADS", "1")))
    try:
        return 0 if attempt(TrialFolder(folder)) else 1
    except Interrupted as stopped:
        return stopped.exit_code


def _stop_after(parent: int) -> None:
    """Stop as by SIGTERM, which saves the state, when the process of the sweep has ended."""
    while os.getppid() == parent:
        time.sleep(_POLL_SECONDS)
    os.kill(os.getpid(), signal.SIGTERM)


if __name__ == "__main__":
    # Ctrl-C reaches the whole process group, Slurm's warning every process; the sweep passes both on as SIGTERM.
    for number in (signal.SIGINT, signal.SIGUSR1):
        signal.signal(number, signal.SIG_IGN)
    threading.Thread(target=_stop_after, args=(os.getppid(),), daemon=True).start()
    sys.exit(main(Path(sys.argv[1])))
