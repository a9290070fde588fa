"""Shows how a training goes: a live line in a terminal, plain lines elsewhere, and JSON lines in a file.

It knows nothing about models or data.
"""

import json
import sys
import time
from collections.abc import Callable
from pathlib import Path

Report = Callable[[float, dict[str, float]], None]


def reporter(metrics: Path | None, *, every_s: float = 15.0, quiet: bool = False) -> Report:
    """A function to call after each step with the done share (0..1) and figures; it writes and prints now and then.

    `metrics`: the file of JSON lines; None writes none.

    The remaining time is taken from the speed since the first call, so it holds for a resumed run as well.
    """
    from rich.console import Console

    console = Console(stderr=True)
    live = console.is_terminal and not quiet
    began: list[float] = []
    last = [0.0]
    if metrics is not None:
        metrics.parent.mkdir(parents=True, exist_ok=True)

    def report(done: float, figures: dict[str, float]) -> None:
        now = time.monotonic()
        began[:] = began or [now, done]
        if done < 1.0 and now - last[0] < every_s:
            return
        last[0] = now
        gained = done - began[1]
        eta_s = (1.0 - done) * (now - began[0]) / gained if gained > 0 else float("nan")
        if metrics is not None:
            with metrics.open("a") as file:
                file.write(json.dumps({"done": round(done, 5), **figures, "eta_s": round(eta_s, 1)}) + "\n")
        if quiet:
            return
        line = f"{done:6.1%}  " + "  ".join(f"{k} {v:,.4g}" for k, v in figures.items())
        line += f"  ETA {eta_s / 60:.1f} min" if gained > 0 else ""
        if live:
            console.print(line, end="\r" if done < 1.0 else "\n", highlight=False)
        else:
            print(line, file=sys.stderr, flush=True)

    return report


def forget_after(metrics: Path, step: int) -> None:
    """Drop the lines of later steps from a file of a `reporter`, and one that a kill cut short: they will come again."""
    if not metrics.is_file():
        return
    whole = [line for line in metrics.read_text().splitlines(keepends=True) if line.endswith("}\n")]
    metrics.write_text("".join(line for line in whole if json.loads(line)["step"] <= step))
