"""The command line: a module for each command, and the modules that commands share."""

import signal
import sys
from pathlib import PurePath

_STARTED = PurePath(sys.argv[0]) if sys.argv else PurePath()
# Whether this process is the program, and not one that imports the package.
IS_PROGRAM = _STARTED.name == "epanns" or _STARTED.parts[-2:] == ("epanns", "__main__.py")

if IS_PROGRAM and signal.getsignal(signal.SIGINT) is signal.default_int_handler:
    # Ctrl-C while modules are imported ends the process at once: there is nothing to save, and no traceback to show.
    signal.signal(signal.SIGINT, signal.SIG_DFL)
