"""What a run publishes is served: vLLM generates with the adapter as transformers does."""

import shutil
from importlib.util import find_spec

import pytest
import torch

from service.contract.engine import Sampling
from service.contract.policy import load_policy
from service.contract.settings import STARTER, Settings
from service.engines import create_engine
from tests.trainer.methods.conftest import pair_rows, write_pairs
from trainer.methods import MethodConfig, align
from trainer.methods.models import fresh
from trainer.methods.pairs import read_pairs

GREEDY = Sampling(max_tokens=24, temperature=0.0)
CONFIG = MethodConfig(
    batch_size=8, lora_rank=16, lora_alpha=32, learning_rate=5e-3, epochs=2.0
)  # moves the greedy tokens


@pytest.mark.slow
@pytest.mark.timeout(600)
@pytest.mark.skipif(find_spec("vllm") is None, reason="vllm is not installed")
async def test_vllm_writes_the_tokens_of_transformers_with_an_adapter_on_the_starter(tmp_path, monkeypatch):
    starter = load_policy(STARTER)
    rows = write_pairs(tmp_path / "pairs", pair_rows(starter, 16))
    shutil.copytree(STARTER, tmp_path / starter.version)
    models = {"policy": starter, "reference": starter, "work": tmp_path / "work"}
    align("sft", rows, **models, output=tmp_path / "aligned", version="aligned", config=CONFIG, quiet=True)
    policy = load_policy(tmp_path / "aligned")
    prompts = [pair.prompt for pair in read_pairs(rows, starter.tokenizer, 1024)[0]][:6]
    engine = create_engine("vllm_local", policy.model_directory, Settings(engine_dtype="float32"))

    await engine.start()
    try:
        changed = 0
        for number, prompt in enumerate(prompts):
            adapted = (await engine.generate(f"a{number}", prompt, GREEDY, policy.adapter))[0].token_ids
            plain = (await engine.generate(f"p{number}", prompt, GREEDY))[0].token_ids

            assert adapted == _greedy(policy, prompt)
            assert plain == _greedy(starter, prompt)
            changed += adapted != plain
        assert changed >= 2  # else the adapter may as well not be there
    finally:
        await engine.close()


def _greedy(policy, prompt):
    model, ids = fresh(policy), torch.tensor([prompt])
    end = policy.tokenizer.eos_ids[0]
    with torch.no_grad():
        for _ in range(GREEDY.max_tokens):
            chosen = model(input_ids=ids).logits[0, -1].argmax()
            if chosen == end:
                break
            ids = torch.cat([ids, chosen.view(1, 1)], dim=1)
    return tuple(ids[0, len(prompt) :].tolist())
