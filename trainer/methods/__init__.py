"""One file per alignment method, found by its file name: a policy is trained on pairs of lists and published.

They know nothing about clicks, predictors or rounds. A method is a file here that defines `train(run)`; it leaves what
it trained in `run.trained`. All that methods share lies in the other files.
"""

import os
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path

from service.contract.artifact import MANIFEST, manifest_sha256
from service.contract.errors import ArtifactError
from service.contract.plugins import files_that_define, plugin
from service.contract.policy import Policy
from trainer.methods.pairs import file_sha256, read_pairs
from trainer.methods.run import MethodConfig, Outcome, Run

__all__ = ["MethodConfig", "Outcome", "align", "names"]


def names() -> list[str]:
    """Every method there is: the files here that define `train`."""
    return files_that_define("train", __file__)


def align(
    method: str,
    pairs: Path,
    *,
    policy: Policy,
    reference: Policy,
    output: Path,
    work: Path,
    version: str,
    config: MethodConfig = MethodConfig(),  # noqa: B008  # it is frozen
    quiet: bool = False,
) -> Outcome:
    """Train `policy` further on the pairs of a Parquet file and publish the result at `output`.

    `reference` is what DPO keeps near to: the SFT base or the previous policy. With LoRA the result is one adapter on
    the base of `policy`, also where `policy` is an adapter on it; with `lora_rank` 0 it is a whole model. Goes on from
    the newest checkpoint in `work`, where metrics and plots go too. Under `torchrun` and `accelerate launch` the first
    process publishes; the others return an outcome without figures and digest.

    Raises:
        ArtifactError: Something is at `output` already, no pair can be trained on, the model came out broken, or the
            policy or reference is not what it says. Nothing is published then.
        ConfigurationError: There is no such method, the configuration does not fit the policy, or `work` belongs to
            another run.
    """
    train = _find(method)
    if output.exists():
        raise ArtifactError(f"{output} exists already, and a version never changes. Give another output directory.")
    read, too_long = read_pairs(pairs, policy.tokenizer, config.max_tokens)
    run = Run(method=method, pairs=read, policy=policy, reference=reference, work=work, config=config, quiet=quiet)
    which = {"pairs": file_sha256(pairs), "policy": _identity(policy), "reference": _identity(reference)}
    run.claim({"method": method, **which, **asdict(config)})
    train(run)
    if int(os.environ.get("RANK", "0")) > 0:
        return Outcome(metrics={}, directory=output, version=version, manifest_sha256="")
    from trainer.methods.plots import plot
    from trainer.methods.publish import publish

    plot(run.metrics, work)
    figures = {"pairs": float(len(read)), "pairs_too_long": float(too_long), **run.figures()}
    digest = publish(run, output, version, figures, pairs_sha256=which["pairs"])
    return Outcome(metrics=figures, directory=output, version=version, manifest_sha256=digest)


def _find(method: str) -> Callable[[Run], None]:
    found: Callable[[Run], None] = plugin(method, "train", __file__, __name__, one="method", several="methods")
    return found


def _identity(policy: Policy) -> str:
    has_manifest = (policy.directory / MANIFEST).is_file()
    return manifest_sha256(policy.directory) if has_manifest else str(policy.directory.resolve())
