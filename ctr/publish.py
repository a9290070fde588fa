"""Writes the directory of a click predictor, registers it, and puts it to the front when it is asked to.

It knows nothing about how it was trained.
"""

import json
import math
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from sqlalchemy.ext.asyncio import AsyncEngine

from ctr.evaluate import OURS, Evaluation
from ctr.model_card import model_card
from ctr.plots import plot_reliability, plot_roc
from ctr.predictor import KIND, load_verified
from service.contract import registry
from service.contract.artifact import seal
from service.contract.errors import ArtifactError
from service.contract.fence import Fence

_NEEDED = ("auc", "logloss", "normalised_entropy", "pcoc", "ece")


def write_draft(
    draft: Path,
    model: Any,
    tokenizer: Any,
    labels: NDArray[np.integer],
    predictions: Mapping[str, NDArray[np.float64]],
    evaluation: Evaluation,
    facts: Mapping[str, Any],
) -> None:
    """Write model, tokenizer, card, figures and plots into `draft`, and seal it. `facts` become its manifest.

    `labels` (R,) and `predictions` (R,) are of the test rows, for the plots.
    """
    from transformers.utils import logging

    logging.disable_progress_bar()
    measured = asdict(evaluation)
    model.save_pretrained(draft)
    tokenizer.save_pretrained(draft)
    plot_reliability(np.asarray(labels), predictions, draft / "reliability.png")
    plot_roc(np.asarray(labels), predictions, draft / "roc.png")
    (draft / "metrics.json").write_text(json.dumps(measured, indent=2) + "\n")
    (draft / "calibration.json").write_text(json.dumps(facts["calibration"]) + "\n")
    (draft / "README.md").write_text(model_card(model.config, evaluation, facts))
    seal(draft, {**facts, "evaluation": {"methods": measured["methods"], "diff_ctr": measured["diff_ctr"]}})


async def register(database: AsyncEngine, directory: Path) -> registry.ModelVersion:
    """Record the predictor in `directory` after it was loaded and looked at.

    Raises:
        ArtifactError: It is damaged, or not fit to score.
        RegistryConflict: That version is registered already, with other files.
    """
    *_, manifest = load_verified(directory)
    return await registry.register(
        database,
        version=str(manifest["version"]),
        kind=KIND,
        task=str(manifest["task"]),
        directory=directory,
        metrics=_metrics(manifest),
    )


async def promote(
    database: AsyncEngine, directory: Path, *, expected_revision: int | None = None, fence: Fence | None = None
) -> registry.Champion:
    """Register the predictor in `directory` and make it the one that serves its task.

    `expected_revision`, `fence`: see `service.contract.registry.put_in_front`.

    Raises:
        ArtifactError: It is damaged, or its figures are not finite, or its AUC is not above a half: nothing is registered.
        RegistryConflict: Somebody else promoted another one meanwhile.
    """
    *_, manifest = load_verified(directory)
    refuse_useless(_metrics(manifest), str(manifest["version"]))
    model = await register(database, directory)
    return await registry.put_in_front(database, model, expected_revision=expected_revision, fence=fence)


def refuse_useless(metrics: Mapping[str, Any], version: str) -> None:
    """Raise ArtifactError where a figure is missing or not finite, or where the AUC is not above a half."""
    for name in _NEEDED:
        value = metrics.get(name)
        if value is None or not math.isfinite(value):
            raise ArtifactError(
                f"Predictor {version} cannot serve: its {name} on the test days is {value}. Train it anew on a longer "
                "snapshot."
            )
    if metrics["auc"] <= 0.5:
        raise ArtifactError(
            f"Predictor {version} cannot serve: its AUC on the test days is {metrics['auc']:.3f}, no better than chance. "
            "Train it on more days, or look at what changed in the log."
        )


def _metrics(manifest: Mapping[str, Any]) -> dict[str, Any]:
    evaluation = manifest["evaluation"]
    return {**evaluation["methods"][OURS], "diff_ctr": evaluation["diff_ctr"][OURS]}
