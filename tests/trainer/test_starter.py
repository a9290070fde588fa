"""The whole recipe of the starter policy, in small: two processes, a model of one layer, a few lists."""

from dataclasses import replace

import pytest

from service.contract.errors import ArtifactError
from service.contract.policy import load_policy
from tests.trainer.tiny_llama import TINY
from trainer import starter
from trainer.sft import SftConfig
from trainer.starter import StarterConfig, make_starter


def test_a_finished_starter_policy_is_never_overwritten(tmp_path):
    (tmp_path / "base").mkdir()
    (tmp_path / "sft").mkdir()

    with pytest.raises(ArtifactError, match="already"):
        make_starter(StarterConfig(work=tmp_path / "work", destination=tmp_path))


@pytest.mark.slow
@pytest.mark.timeout(300)
def test_one_call_makes_both_checkpoints_with_their_cards(tmp_path, monkeypatch):
    monkeypatch.setattr(starter, "_HELD_OUT", 2)
    monkeypatch.setattr(starter, "_MADE_UP", 1)
    monkeypatch.setattr(starter, "_KNOWN", 3)
    config = StarterConfig(
        work=tmp_path / "work",
        destination=tmp_path / "starter",
        engine="transformers_local",
        processes=2,
        pretrain=replace(TINY, total_tokens=4_000),
        sft=SftConfig(lists_per_task=1, rewrites=0),
    )

    qualities = make_starter(config, quiet=True)

    assert set(qualities) == {"base", "sft"}
    for name in qualities:
        policy = load_policy(tmp_path / "starter" / name)
        assert policy.version == f"starter-1-{name}"
        card = (policy.directory / "README.md").read_text()
        assert "3 `suggest` queries" in card
        assert "Muon" in card
