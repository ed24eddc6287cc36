"""A pack that is read in another process, to which it is passed by fork or, as a pickle, by spawn."""

import multiprocessing
import pickle
import subprocess
import sys
from pathlib import Path

import numpy as np

# A new interpreter in place of multiprocessing's spawn, which could not import the module of a test.
_READ = """
import pickle, sys
import numpy as np
source = pickle.load(sys.stdin.buffer)
waveform = np.empty(source.clip_samples, np.int16)
for index in range(len(source)):
    source.read_into(index, waveform)
    sys.stdout.buffer.write(waveform.tobytes())
"""


def read_here(source) -> bytes:
    """All waveforms, one after the other."""
    waveforms = np.empty((len(source), source.clip_samples), np.int16)
    for index, row in enumerate(waveforms):
        source.read_into(index, row)
    return waveforms.tobytes()


def read_elsewhere(source, method: str) -> bytes:
    """`read_here` of another process."""
    if method == "spawn":
        root = Path(__file__).parents[2]
        command = [sys.executable, "-c", _READ]
        return subprocess.run(command, input=pickle.dumps(source), stdout=subprocess.PIPE, cwd=root, check=True).stdout
    context = multiprocessing.get_context(method)
    ours, theirs = context.Pipe(duplex=False)
    process = context.Process(target=lambda: theirs.send_bytes(read_here(source)))
    process.start()
    content = ours.recv_bytes()
    process.join()
    return content
