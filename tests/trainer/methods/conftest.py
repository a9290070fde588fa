"""What the tests of alignment methods share: a small policy with the starter's tokenizer, and pairs of lists."""

import json
from itertools import islice
from pathlib import Path
from typing import Any

import pytest

from service.contract.logged_context import as_logged
from service.contract.policy import Policy, load_policy
from service.contract.settings import STARTER
from service.contract.tasks import get_task
from service.contract.types import PromptContext
from trainer.catalogue.catalogue import load_catalogue
from trainer.catalogue.compose import compose
from trainer.export import export_policy


@pytest.fixture(scope="module", autouse=True)
def _one_thread(one_thread: None) -> None:
    """Every test here trains a small model."""


@pytest.fixture(scope="session")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A policy of 2 layers x 64 with random weights and the starter's tokenizer; its version is its folder."""
    import torch
    from transformers import AutoConfig, AutoModelForCausalLM

    torch.manual_seed(0)
    shape = {"hidden_size": 64, "intermediate_size": 96, "num_hidden_layers": 2}
    config = AutoConfig.from_pretrained(STARTER, num_attention_heads=1, num_key_value_heads=1, **shape)
    directory = tmp_path_factory.mktemp("policies") / "base"
    model = AutoModelForCausalLM.from_config(config, dtype=torch.float32)
    text_format = load_policy(STARTER).tokenizer.format
    export_policy(model, STARTER, directory, version="base", text_format=text_format, card="# base\n")
    return directory


@pytest.fixture(scope="session")
def base_policy(base: Path) -> Policy:
    return load_policy(base)


@pytest.fixture(scope="session")
def pairs(tmp_path_factory: pytest.TempPathFactory, base_policy: Policy) -> Path:
    """16 pairs of two tasks, as the preference stage writes them: the chosen list is the rejected one backwards."""
    return write_pairs(tmp_path_factory.mktemp("pairs") / "pairs.parquet", pair_rows(base_policy, 16))


def pair_rows(policy: Policy, count: int) -> list[dict[str, Any]]:
    """Rows of a file of pairs, half `suggest` and half `clarify`."""
    rows = []
    for task in ("suggest", "clarify"):
        for number, example in enumerate(islice(compose(load_catalogue(), 5, task=task), count // 2)):
            write = get_task(task).response
            lists = [list(example.queries), list(reversed(example.queries))]
            chosen, rejected = (write(queries, example.texts, policy.tokenizer.format) for queries in lists)
            row = {"prompt_id": f"{task}-{number}", "task": task, "context": _with_query(example.context)}
            rewards = {"chosen_reward": 0.4, "rejected_reward": 0.1, "chosen_tokens": 9, "rejected_tokens": 9}
            rows.append({**row, "chosen": chosen, "rejected": rejected, **rewards})
    return rows


def write_pairs(file: Path, rows: list[dict[str, Any]]) -> Path:
    import pyarrow
    import pyarrow.parquet

    pyarrow.parquet.write_table(pyarrow.Table.from_pylist(rows), file)
    return file


def _with_query(context: PromptContext) -> str:
    return json.dumps({**as_logged(context), "query": context.query, "n": context.n})
