"""Runs `nextquery` as a user would, on a data directory of its own.

It knows nothing about what is measured.
"""

import os
import subprocess
import sys
from pathlib import Path


def nextquery(data_dir: Path, *words: str) -> str:
    """What the command writes to stdout; it must succeed."""
    environment = {**os.environ, "NEXTQUERY_DATA_DIR": str(data_dir), "NEXTQUERY_DATABASE_URL": ""}
    done = subprocess.run(
        [sys.executable, "-m", "service.contract.command_line", *words],
        env=environment,
        capture_output=True,
        text=True,
        check=False,
    )
    if done.returncode:
        raise RuntimeError(f"nextquery {' '.join(words)} ended with {done.returncode}: {done.stderr}")
    return done.stdout
