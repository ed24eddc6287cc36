"""The command line: one module per command, and a few modules that commands share."""

import signal
import sys
from pathlib import PurePath

_STARTED = PurePath(sys.argv[0]) if sys.argv else PurePath()
# Whether this process is the program, as opposed to a Python program that imports the package.
IS_PROGRAM = _STARTED.name == "epanns" or _STARTED.parts[-2:] == ("epanns", "__main__.py")

if IS_PROGRAM and signal.getsignal(signal.SIGINT) is signal.default_int_handler:
    # Ctrl-C during the imports ends the process at once, without a traceback: there is nothing to save.
    signal.signal(signal.SIGINT, signal.SIG_DFL)
