"""What the tests of the click predictor share: the installed tokenizer, and one predictor of the small log."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch

from ctr.build import Build, BuildConfig, build
from ctr.dataset import DataConfig
from ctr.tokenizer import default_tokenizer, load_tokenizer
from ctr.train import TrainConfig
from tests.ctr.small_log import small_log, snapshot_of

TINY = TrainConfig(size="tiny", epochs=4, batch_size=64, learning_rate=3e-3, seed=1)


@pytest.fixture(scope="package", autouse=True)
def one_thread() -> Iterator[None]:
    """Tiny models on one thread: two wait for each other far longer than they compute when the machine is busy."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture(scope="package")
def tokenizer() -> Any:
    """The tokenizer that is installed with nextquery."""
    return load_tokenizer(default_tokenizer())


@pytest.fixture(scope="package")
def built(one_thread: None, tmp_path_factory: pytest.TempPathFactory) -> Build:
    """A predictor of six thousand lists, of which training kept half of those without a click."""
    place = tmp_path_factory.mktemp("ctr")
    log = snapshot_of(place / "snapshot", small_log(12, 500))
    config = BuildConfig(work=place / "work", data=DataConfig(task="suggest", keep_share=0.5), train=TINY)
    return build(log, place / "ctr", config, quiet=True)


@pytest.fixture(scope="package")
def place_of_log(built: Build) -> Path:
    """The snapshot that the predictor was made from."""
    return built.directory.parent.parent / "snapshot"
