"""Ties an engine process to the process that started it: when the parent dies, even by kill -9, so does it.

It knows nothing about the engine. vLLM calls `die_with_parent` through the entry point `vllm.general_plugins`.
"""

import ctypes
import multiprocessing
import os
import signal
import sys

_PR_SET_PDEATHSIG = 1  # linux/prctl.h


def die_with_parent() -> None:
    """Ask the kernel to kill this process when its parent dies. Does nothing in a process nobody spawned."""
    parent = multiprocessing.parent_process()
    if parent is None or not sys.platform.startswith("linux"):
        return
    ctypes.CDLL(None, use_errno=True).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0)
    if os.getppid() != parent.pid:  # it died before the call above
        os._exit(1)
