"""What one alignment run is given, and where it leaves what it makes.

It knows nothing about models; no torch is imported here.
"""

import json
import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from service.contract.errors import ArtifactError, ConfigurationError
from service.contract.policy import Policy
from trainer.methods.pairs import PairIds

_CLAIM = "run.json"


@dataclass(frozen=True, slots=True, kw_only=True)
class MethodConfig:
    """How a policy is aligned; the defaults suit the starter policy on a CPU.

    `chosen_weight`: of the negative log-likelihood a token of the chosen lists, beside the loss of DPO (RPO; Pang and
    others, 2024); without it, chosen lists may become less likely too, if only rejected ones do more so.
    `batch_size` counts pairs a step over all processes, and `accumulation_steps` cuts a step into as many passes.
    `learning_rate` None: the method's own. `lora_rank` 0 trains every weight. `max_tokens`: a pair with a longer list,
    prompt included, is left out. `kl_pairs`: pairs whose tokens the divergence from the SFT base is measured on.
    """

    beta: float = 0.1
    chosen_weight: float = 1.0
    epochs: float = 4.0
    batch_size: int = 16
    accumulation_steps: int = 1
    learning_rate: float | None = None
    lora_rank: int = 16
    lora_alpha: int = 32
    max_tokens: int = 1024
    seed: int = 7
    save_steps: int = 50
    log_steps: int = 5
    kl_pairs: int = 16


@dataclass(frozen=True, slots=True, kw_only=True)
class Outcome:
    """What a run published. `metrics`: the last figures of `metrics.jsonl`, and the pairs used and left out."""

    metrics: dict[str, float]
    directory: Path
    version: str
    manifest_sha256: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Run:
    """One run of one method. A method trains `policy` on `pairs` and leaves the result in `trained`."""

    method: str
    pairs: Sequence[PairIds]
    policy: Policy
    reference: Policy
    work: Path
    config: MethodConfig
    quiet: bool = False

    @property
    def trained(self) -> Path:
        """Where the method leaves what it trained: an adapter as peft saves it, or a whole model as transformers does."""
        return self.work / "trained"

    @property
    def metrics(self) -> Path:
        """The JSON lines of the run, one a logged step."""
        return self.work / "metrics.jsonl"

    def whole_pairs(self) -> list[PairIds]:
        """The pairs that have both lists, for methods that compare two lists of one prompt.

        Raises:
            ArtifactError: There is none.
        """
        found = [pair for pair in self.pairs if pair.is_whole]
        if not found:
            raise ArtifactError(
                f"Method {self.method!r} compares two lists of one prompt, and none of the {len(self.pairs)} pairs has "
                "both. Give a file of pairs with both, or a method that takes single lists, such as kto."
            )
        return found

    def figures(self) -> dict[str, float]:
        """The last line of `metrics`."""
        last = json.loads(self.metrics.read_text().splitlines()[-1])
        return {key: value for key, value in last.items() if key not in ("done", "eta_s")}

    def claim(self, inputs: dict[str, Any]) -> None:
        """Let `work` belong to these inputs, so that nothing goes on from the checkpoints of others.

        Raises:
            ConfigurationError: It belongs to other inputs already.
        """
        if int(os.environ.get("RANK", "0")) > 0:
            return
        file = self.work / _CLAIM
        there = json.loads(file.read_text()) if file.is_file() else inputs
        if other := sorted(key for key in inputs if there.get(key) != inputs[key]):
            raise ConfigurationError(
                f"{self.work} holds the checkpoints of another run: {', '.join(other)} differ. Give another work "
                "directory, or delete this one."
            )
        self.work.mkdir(parents=True, exist_ok=True)
        draft = self.work / f".{_CLAIM}"
        draft.write_text(json.dumps(inputs, indent=2) + "\n")
        draft.rename(file)
