"""What the tests of the trainer share: a tokenizer trained in a second, and a model of one layer."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from service.contract.tokenizer import PromptTokenizer
from tests.trainer.tiny_llama import TINY
from trainer.export import export_policy
from trainer.pretrain import new_model
from trainer.tokenizer import FORMAT, train_tokenizer


@pytest.fixture(scope="module")
def one_thread() -> Iterator[None]:
    """Two threads gain nothing on so small a model, and wait for each other on a busy machine."""
    import torch

    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


@pytest.fixture(scope="session")
def tokenizer_directory(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tokenizer trained on few examples."""
    directory = tmp_path_factory.mktemp("tokenizer")
    train_tokenizer(directory, examples=400)
    return directory


@pytest.fixture(scope="session")
def tokenizer(tokenizer_directory: Path) -> PromptTokenizer:
    """The same, as serving reads it."""
    return PromptTokenizer(tokenizer_directory, FORMAT)


@pytest.fixture(scope="session")
def tiny_policy(
    tmp_path_factory: pytest.TempPathFactory, tokenizer_directory: Path, tokenizer: PromptTokenizer
) -> Path:
    """A sealed policy with random weights."""
    import torch

    torch.manual_seed(0)
    directory = tmp_path_factory.mktemp("policies") / "tiny"
    model = new_model(tokenizer, TINY)
    export_policy(model, tokenizer_directory, directory, version="tiny", text_format=FORMAT, card="# tiny\n")
    return directory
