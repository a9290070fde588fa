"""Ties an engine process to the process that started it: when the parent dies, even by kill -9, so does it.

It knows nothing about the engine. vLLM calls `die_with_parent` through the entry point `vllm.general_plugins`.
"""

import ctypes
import multiprocessing
import os
import signal
import sys
from typing import Protocol, cast

_PR_SET_PDEATHSIG = 1  # linux/prctl.h


class _Starter(Protocol):
    def is_alive(self) -> bool: ...


def die_with_parent() -> None:
    """Ask the kernel to kill this process when its parent dies. Does nothing in a process nobody spawned.

    The parent is the process that forked this one: the service, or the fork server, which dies with the service.
    """
    starter = cast(_Starter | None, multiprocessing.parent_process())
    if starter is None:
        return
    bind_to_parent()
    if not starter.is_alive():  # it died before the call above
        os._exit(1)


def bind_to_parent() -> None:
    """Tell the kernel: SIGKILL for this process when its parent dies. Linux alone can do that."""
    if sys.platform.startswith("linux"):
        ctypes.CDLL(None, use_errno=True).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0)
