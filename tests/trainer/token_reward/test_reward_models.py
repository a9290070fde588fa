"""Reward models of both levels: what they learn, that padding and batches change nothing, and what is refused."""

from dataclasses import replace

import numpy as np
import pytest
import torch

from service.contract.errors import ArtifactError, ConfigurationError, PromptMismatch
from service.contract.policy import load_policy
from service.contract.settings import STARTER
from trainer.token_reward.measure import Scored, calibration_error, figures, scored
from trainer.token_reward.model import load_model, new_model, save_model, scores
from trainer.token_reward.rows import RewardRow
from trainer.token_reward.train import RewardConfig, train_reward

pytestmark = pytest.mark.usefixtures("one_thread")

CONFIG = RewardConfig(epochs=4, batch_size=16, learning_rate=1e-2, held_out=0.2, evaluations=2)
SAME = 1e-5


@pytest.fixture(scope="module")
def policy(tiny_policy):
    return load_policy(tiny_policy)


def _rows(count=300, seed=1, mixed=True):
    """Even tokens are relevant, odd ones are not, 200 is none; a response is relevant when most of it is.

    Not `mixed`: all tokens of a response are even, or all are odd.
    """
    generator = torch.Generator().manual_seed(seed)
    rows = []
    for number in range(count):
        length = int(torch.randint(3, 9, (1,), generator=generator))
        ids = torch.randint(200, 220, (length,), generator=generator).tolist()
        ids = [*(ids if mixed else [token - token % 2 + number % 2 for token in ids]), 2]
        classes = [0 if token in (200, 2) else 2 - token % 2 for token in ids]
        words = [kind for kind in classes if kind]
        whole = sum(kind == 2 for kind in words) * 2 > len(words)
        prompt = tuple(torch.randint(100, 150, (int(3 + number % 5),), generator=generator).tolist())
        rows.append(
            RewardRow(prompt_id=str(number), prompt=prompt, response=tuple(ids), classes=tuple(classes), whole=whole)
        )
    return rows


@pytest.mark.parametrize("looks_ahead", [True, False])
def test_a_token_model_learns_which_tokens_are_relevant(policy, tmp_path, looks_ahead):
    config = replace(CONFIG, looks_ahead=looks_ahead)

    told = train_reward(_rows(), policy, tmp_path / "rm", tmp_path / "work", config, version="rm", quiet=True)

    assert told["token_auc"] > 0.95
    assert told["sentence_auc"] > 0.85
    assert {each.name for each in (tmp_path / "work").glob("*.png")} == {"auc.png", "calibration.png"}
    model = load_model(tmp_path / "rm", policy)
    [classes] = scores(model, [(100,)], [(202, 203, 200, 2)])
    assert classes.argmax(-1).tolist()[:2] == [2, 1]


def test_a_sentence_model_learns_which_responses_are(policy, tmp_path):
    config = replace(CONFIG, level="sentence", epochs=8)

    told = train_reward(
        _rows(mixed=False), policy, tmp_path / "rm", tmp_path / "work", config, version="rm", quiet=True
    )

    assert told["sentence_auc"] > 0.95
    assert "token_auc" not in told
    good, bad = scores(load_model(tmp_path / "rm", policy), [(100,)] * 2, [(202, 204, 206, 2), (203, 205, 207, 2)])
    assert good > bad


@pytest.mark.parametrize("level", ["token", "sentence"])
@pytest.mark.parametrize("looks_ahead", [True, False])
def test_what_is_scored_beside_a_response_changes_nothing(policy, level, looks_ahead):
    model = new_model(policy, level, looks_ahead=looks_ahead).eval()
    rows = _rows(7)
    prompts, responses = [row.prompt for row in rows], [row.response for row in rows]

    together = scores(model, prompts, responses)

    for number in range(len(rows)):
        [alone] = scores(model, [prompts[number]], [responses[number]])
        assert torch.allclose(alone, together[number], atol=SAME)


def test_only_a_model_that_looks_ahead_sees_what_follows(policy):
    ahead, back = (new_model(policy, "token", looks_ahead=each).eval() for each in (True, False))
    back.load_state_dict(ahead.state_dict())

    def first(model, ids):
        return scores(model, [(100, 101)], [ids])[0][0]

    assert torch.allclose(first(back, (202, 203)), first(back, (202, 207)), atol=SAME)
    assert not torch.allclose(first(ahead, (202, 203)), first(ahead, (202, 207)), atol=SAME)


def test_a_killed_training_goes_on_and_ends_alike(policy, tmp_path, monkeypatch):
    from trainer.token_reward import train as module

    rows = _rows(120)
    whole = train_reward(rows, policy, tmp_path / "one", tmp_path / "w1", CONFIG, version="a", quiet=True)
    real, calls = module.loss_of, []

    def dies(*given):
        calls.append(1)
        if len(calls) > 16:
            raise RuntimeError("killed")
        return real(*given)

    monkeypatch.setattr(module, "loss_of", dies)
    with pytest.raises(RuntimeError, match="killed"):
        train_reward(rows, policy, tmp_path / "two", tmp_path / "w2", CONFIG, version="a", quiet=True)
    monkeypatch.setattr(module, "loss_of", real)

    resumed = train_reward(rows, policy, tmp_path / "two", tmp_path / "w2", CONFIG, version="a", quiet=True)

    assert resumed == pytest.approx(whole, abs=1e-3)


def test_figures_by_hand():
    # Tokens .9 .8 .3 .1 of which the first and third are relevant: of four pairs three are in order.
    found = Scored(
        of_tokens=np.array([0.9, 0.8, 0.3, 0.1]),
        tokens=np.array([True, False, True, False]),
        of_rows=np.array([0.7, 0.6, 0.2, 0.1]),
        wholes=np.array([True, True, False, False]),
    )

    told = figures(found)

    assert told["token_auc"] == 0.75
    assert told["sentence_auc"] == 1.0
    # Four bins of one: |.9 - 1|, |.8 - 0|, |.3 - 1|, |.1 - 0|.
    assert told["token_ece"] == pytest.approx((0.1 + 0.8 + 0.7 + 0.1) / 4)
    assert calibration_error(np.array([0.55, 0.55]), np.array([True, False])) == pytest.approx(0.05)


def test_a_response_without_a_word_scores_between():
    class Sure:
        def __init__(self):
            self.properties = type("P", (), {"level": "token"})()
            self.head = torch.nn.Linear(1, 1)

        def __call__(self, sequences):
            logits = torch.full((*sequences.tokens.shape, 3), -50.0)
            logits[..., 0] = 50.0
            return logits

    row = RewardRow(prompt_id="1", prompt=(1,), response=(2,), classes=(0,), whole=False)

    assert scored(Sure(), [row]).of_rows.tolist() == [0.5]


def test_too_few_labels_are_refused(policy, tmp_path):
    with pytest.raises(ArtifactError, match="Label more responses"):
        train_reward(_rows(20), policy, tmp_path / "rm", tmp_path / "work", CONFIG, version="rm", quiet=True)


def test_a_loss_that_is_no_number_publishes_nothing(policy, tmp_path, monkeypatch):
    from trainer.token_reward import train as module

    monkeypatch.setattr(module, "loss_of", lambda model, batch, config: next(model.parameters()).sum() * float("nan"))

    with pytest.raises(ArtifactError, match="so training stopped and nothing is published"):
        train_reward(_rows(), policy, tmp_path / "rm", tmp_path / "work", CONFIG, version="rm", quiet=True)

    assert not (tmp_path / "rm").exists()


@pytest.mark.parametrize("wrong", [{"level": "word"}, {"local_weight": 2.0}, {"held_out": 0.0}, {"most_frequent": 0.5}])
def test_what_cannot_be_trained_is_refused(wrong):
    with pytest.raises(ConfigurationError):
        RewardConfig(**wrong)


def test_a_reward_model_reads_the_tokens_of_its_own_policies_only(policy, tmp_path):
    save_model(new_model(policy, "token", looks_ahead=True), policy, tmp_path / "rm", version="rm", card="# rm\n")

    with pytest.raises(PromptMismatch, match="Train one for this policy"):
        load_model(tmp_path / "rm", load_policy(STARTER))
    with pytest.raises(ArtifactError, match="is no reward model"):
        load_model(STARTER, policy)
