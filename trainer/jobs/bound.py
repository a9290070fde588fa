"""Becomes another command that dies with the job: `python -m trainer.jobs.bound PARENT WORDS...`.

It knows nothing about the command. Without it, a killed job would leave a stage at work beside the next run.
"""

import os
import sys

from service.engines.lifeline import bind_to_parent

if __name__ == "__main__":
    bind_to_parent()
    if os.getppid() != int(sys.argv[1]):  # it died before the call above
        sys.exit(1)
    os.execvp(sys.argv[2], sys.argv[2:])  # noqa: S606 - the words are ours
