"""Opens the two click predictors of an alignment: one steers, the other, of other days and another seed, judges.

It knows nothing about what they are asked.
"""

from pathlib import Path

from ctr.predictor import Predictor, open_predictor
from service.contract.errors import ConfigurationError


def open_two(steering: Path, judging: Path) -> tuple[Predictor, Predictor]:
    """Both predictors.

    Raises:
        ConfigurationError: They are one and the same.
        ArtifactError: One cannot be trusted.
    """
    found = open_predictor(steering), open_predictor(judging)
    if found[0].sha256 == found[1].sha256:
        raise ConfigurationError(
            f"{steering} would search or reward, and judge: what a policy exploits of it would count as a gain. Train a "
            "second predictor on other days with another seed."
        )
    return found
