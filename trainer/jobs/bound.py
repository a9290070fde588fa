"""Becomes another command that dies with the job: `python bound.py PARENT WORDS...`.

It knows nothing about the command. Without it, a killed job would leave a stage at work beside the next run. It imports
nothing of ours, because it is started for every sub-process.
"""

import ctypes
import os
import signal
import sys

_PR_SET_PDEATHSIG = 1  # linux/prctl.h; service/engines/lifeline.py does the same for engines

if __name__ == "__main__":
    if sys.platform.startswith("linux"):
        ctypes.CDLL(None, use_errno=True).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0)
    if os.getppid() != int(sys.argv[1]):  # it died before the call above
        sys.exit(1)
    os.execvp(sys.argv[2], sys.argv[2:])  # noqa: S606 - the words are ours
