"""Training learns what there is to learn, stops in time, and a killed run ends with the same weights."""

import json
import math
import os
import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from transformers import BertConfig, BertModel

from ctr.build import logits_of
from ctr.dataset import DataConfig, Dataset, build_dataset
from ctr.features import Variant
from ctr.metrics import auc
from ctr.train import train
from service.contract.errors import ArtifactError
from tests.ctr.conftest import TINY
from tests.ctr.small_log import Shown, small_log, snapshot_of

ROOT = Path(__file__).parents[2]
SHORT = replace(TINY, epochs=1, batch_size=32)


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory, tokenizer: Any) -> Dataset:
    """Four days of 300 lists."""
    place = tmp_path_factory.mktemp("data")
    return build_dataset(
        snapshot_of(place / "log", small_log(4, 300)), tokenizer, place / "data", DataConfig(task="suggest")
    )


def weights_of(model: Any) -> dict[str, Any]:
    return {name: tensor.clone() for name, tensor in model.state_dict().items()}


def assert_same(one: dict[str, Any], other: dict[str, Any]) -> None:
    assert [name for name in one if not torch.equal(one[name], other[name])] == []


def tiny_encoder(directory: Path, tokenizer: Any) -> str:
    """The path of an encoder to set out from."""
    torch.manual_seed(0)
    shape = BertConfig(vocab_size=len(tokenizer), hidden_size=32, num_hidden_layers=1, num_attention_heads=2)
    BertModel(shape).save_pretrained(directory)
    return str(directory)


def test_a_model_from_scratch_goes_on_to_its_end_where_it_turns_to_the_clicks(tmp_path, data, tokenizer):
    config = replace(SHORT, patience=1, checks_per_epoch=20, learning_rate=1.0)  # most looks are no gain

    trained = train(data, tokenizer, tmp_path, config, quiet=True)

    assert trained.steps == math.ceil(len(data.train) / 32)


def test_an_interrupted_run_ends_with_the_same_weights(tmp_path, data, tokenizer):
    whole = train(data, tokenizer, tmp_path / "whole", SHORT, quiet=True)

    train(data, tokenizer, tmp_path / "parts", SHORT, max_steps=7, quiet=True)
    train(data, tokenizer, tmp_path / "parts", SHORT, max_steps=20, quiet=True)
    resumed = train(data, tokenizer, tmp_path / "parts", SHORT, quiet=True)

    assert resumed.steps == whole.steps == math.ceil(len(data.train) / 32)
    assert resumed.validation_logloss == whole.validation_logloss
    assert_same(weights_of(whole.model), weights_of(resumed.model))


KILLED = """
import sys
from dataclasses import replace
from pathlib import Path
import torch
from ctr.dataset import _open
from ctr.tokenizer import default_tokenizer, load_tokenizer
from ctr.train import train
from tests.ctr.test_train import SHORT
torch.set_num_threads(1)
train(_open(Path(sys.argv[1])), load_tokenizer(default_tokenizer()), Path(sys.argv[2]), SAVES_OFTEN, quiet=True)
"""


@pytest.mark.slow
def test_a_run_that_was_killed_ends_with_the_same_weights(tmp_path, tokenizer):
    snapshot = snapshot_of(tmp_path / "log", small_log(4, 300))
    data = build_dataset(snapshot, tokenizer, tmp_path / "data", DataConfig(task="suggest"))
    config = replace(SHORT, epochs=6, patience=100)
    whole = train(data, tokenizer, tmp_path / "whole", config, quiet=True)
    code = KILLED.replace("SAVES_OFTEN", "replace(SHORT, epochs=6, patience=100, save_every_s=0.05)")
    run = subprocess.Popen([sys.executable, "-c", code, tmp_path / "data", tmp_path / "killed"], cwd=ROOT)
    until = time.monotonic() + 60
    while not (tmp_path / "killed" / "state.pt").is_file() and run.poll() is None and time.monotonic() < until:
        time.sleep(0.01)

    os.kill(run.pid, signal.SIGKILL)
    run.wait()
    saved = torch.load(tmp_path / "killed" / "state.pt", weights_only=True)["state"]["step"]
    resumed = train(data, tokenizer, tmp_path / "killed", config, quiet=True)

    assert 0 < saved < whole.steps
    assert resumed.steps == whole.steps
    assert_same(weights_of(whole.model), weights_of(resumed.model))


def test_training_stops_when_the_later_day_gains_no_more_and_returns_its_best(tmp_path, tokenizer):
    random = np.random.default_rng(0)
    log = [
        Shown(f"{n:04}", n // 100, f"q {random.integers(99)}", (f"w {random.integers(99)}",), clicked)
        for n, clicked in enumerate([(1,) if random.random() < 0.3 else () for _ in range(400)])
    ]  # fmt: skip
    data = build_dataset(snapshot_of(tmp_path / "log", log), tokenizer, tmp_path / "data", DataConfig(task="suggest"))
    start = tiny_encoder(tmp_path / "start", tokenizer)
    config = replace(TINY, start=start, epochs=200, batch_size=16, patience=3, checks_per_epoch=1)

    trained = train(data, tokenizer, tmp_path / "work", config, quiet=True)

    logits = logits_of(trained.model, tokenizer, data.validation).astype(np.float64)
    loss = np.mean(np.log1p(np.exp(-np.where(data.validation.label[:] == 1, logits, -logits))))
    assert trained.steps < 0.5 * 200 * math.ceil(len(data.train) / 16)
    assert trained.validation_logloss == pytest.approx(loss, rel=1e-5)


def test_what_is_new_beside_a_trained_encoder_learns_at_its_own_pace(tmp_path, data, tokenizer):
    config = replace(SHORT, start=tiny_encoder(tmp_path / "start", tokenizer), learning_rate=1e-9)

    before = weights_of(train(data, tokenizer, tmp_path / "before", config, max_steps=0, quiet=True).model)
    after = weights_of(train(data, tokenizer, tmp_path / "after", config, quiet=True).model)

    # Adam moves a weight by about its rate a step: 30 steps of 1e-9, which float32 near 1 cannot hold, or of 1e-3 at most.
    moved = {name: float((before[name] - after[name]).abs().max()) for name in before}
    new = {name for name in moved if not name.startswith("backbone.")}
    assert {"mlp.0.weight", "mlp.3.weight", "domain_embeddings.weight"} <= new
    assert min(moved[name] for name in new) > 1e-3
    assert max(moved[name] for name in moved.keys() - new) < 1e-6


def test_weights_that_became_nan_are_refused(tmp_path, data, tokenizer):
    with pytest.raises(ArtifactError, match="became NaN"):
        train(data, tokenizer, tmp_path, replace(SHORT, learning_rate=1e30), quiet=True)


def test_progress_is_written_as_json_lines(tmp_path, data, tokenizer):
    train(data, tokenizer, tmp_path, SHORT, quiet=True)

    last = json.loads((tmp_path / "metrics.jsonl").read_text().splitlines()[-1])
    assert last["done"] == 1.0
    assert math.isfinite(last["loss"])
    assert last["validation"] < 0.7


def tea_after(place: Path, tokenizer: Any, asked: int) -> Dataset:
    """The second query is clicked when the first was red; people ask `asked` queries in turn."""
    random = np.random.default_rng(0)
    log = []
    for number in range(4_000):
        before = str(random.choice(["red", "blue"]))
        clicked = (2,) if random.random() < (0.6 if before == "red" else 0.1) else ()
        log.append(Shown(f"{number:04}", number // 1_000, f"colour {number % asked}", (before, "tea"), clicked))
    return build_dataset(snapshot_of(place / "log", log), tokenizer, place / "data", DataConfig(task="suggest"))


@pytest.mark.slow
def test_what_stands_before_is_learnt_by_ctx_only(tmp_path, tokenizer):
    # Neither plain nor pid can know what stood before: of one question they see equal rows only.
    one, several = (tea_after(tmp_path / str(asked), tokenizer, asked) for asked in (1, 40))
    small = replace(TINY, size="small", learning_rate=None, epochs=8)  # a tiny model stays on a plateau

    found = {}
    for variant, data, config in ((Variant.PLAIN, one, TINY), (Variant.PID, one, TINY), (Variant.CTX, several, small)):
        trained = train(data, tokenizer, tmp_path / variant, replace(config, variant=variant), quiet=True)
        second = np.flatnonzero(data.test.position[:] == 2)
        found[variant] = auc(data.test.label[second], logits_of(trained.model, tokenizer, data.test)[second])

    # Of clicks .6 / .7 follow red, of other rows .4 / 1.3: the rule itself has AUC .857 * .692 + (.857 * .308 + .143 *
    # .692) / 2 = .775, which of 1,000 rows has a standard error of about .016. Constant scores have exactly a half.
    assert found[Variant.CTX] > 0.7
    assert found[Variant.PLAIN] == pytest.approx(0.5, abs=0.01)  # rounding may order equal rows
    assert found[Variant.PID] == pytest.approx(0.5, abs=0.01)
