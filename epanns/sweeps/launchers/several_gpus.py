"""One trial on its GPUs: in this process, or in one process for each of several GPUs, started by ``torchrun``.

``torchrun`` runs this module as ``python -m epanns.sweeps.launchers.several_gpus FOLDER DEVICE``.
"""

import signal
import subprocess
import sys
from contextlib import suppress
from pathlib import Path

from epanns.distributed import process_group
from epanns.errors import Interrupted
from epanns.process import catching_signals
from epanns.sweeps.journal import TrialFolder
from epanns.sweeps.trial import run_trial

_POLL_SECONDS = 0.2  # between two looks at the signals
_STOP_SECONDS = 60
_LONGEST_WAIT = 86_400.0  # seconds that the other processes wait while rank 0 recovers a network


def run_trial_on(folder: TrialFolder, gpus: float) -> bool:
    """Run a trial as `run_trial` on a number of GPUs; 0 is the CPU, a fraction is a share of one GPU."""
    if gpus > 1:
        return run_in_group(folder, round(gpus), "cuda")
    return run_trial(folder, device="cuda" if gpus else "cpu")


def run_in_group(folder: TrialFolder, processes: int, device: str) -> bool:
    """Run a trial as `run_trial`, in several processes that share its training and scoring.

    Args:
        folder: As in `run_trial`.
        processes: Number of processes.
        device: ``cuda`` for a GPU for each process, or ``cpu``.

    Raises:
        Interrupted: As in `run_trial`.
    """
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", f"--nproc-per-node={processes}"]
    command += ["-m", "epanns.sweeps.launchers.several_gpus", str(folder.path), device]
    with catching_signals() as stop:
        process = subprocess.Popen(command, stdout=subprocess.DEVNULL)
        try:
            while process.poll() is None:
                with suppress(subprocess.TimeoutExpired):
                    process.wait(_POLL_SECONDS)
                if stop.signal_number is not None:
                    raise Interrupted(stop.signal_number, f"the trial in {folder.path} was stopped")
        finally:
            process.send_signal(signal.SIGTERM)  # torchrun passes it on; no effect after the end
            with suppress(subprocess.TimeoutExpired):
                process.wait(_STOP_SECONDS)
            process.kill()
    if not folder.is_done and not folder.has_failed:
        folder.fail(RuntimeError(f"the trial's {processes} processes ended with code {process.returncode}"))
    return folder.is_done


def main(folder: str, device: str) -> int:
    """Take part in a trial as one of the processes of ``torchrun``; return the exit code."""
    try:
        with process_group(device, timeout=_LONGEST_WAIT) as own:
            run_trial(TrialFolder(Path(folder)), device=own)
    except Interrupted as stopped:
        return stopped.exit_code
    return 0


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))
