"""Token-level PPO against clicks, beside Iter-DPO: the same predictor, prompts, starter policy, scenes and people.

It knows nothing about bars. Iter-DPO is what the short form of `tests.bench.alignment` made; every CTR is simulated.
"""

import asyncio
import json
import time
from pathlib import Path

from service.contract.engine import Engine
from service.contract.policy import Policy, load_policy
from service.contract.settings import STARTER
from tests.bench.alignment import SHORT, SHORT_PROMPTS, short_figures, short_work
from tests.bench.alignment_truth import draw_scenes, prompts_for, true_ctr
from tests.bench.ctr import TABLE
from tests.bench.simulated_logs import TEST_DAYS, simulated_log
from tests.bench.tppo_run import Work
from trainer.align import engines_of
from trainer.assess import write
from trainer.audience.audience import Audience
from trainer.audience.constants import FIRST
from trainer.ppo.config import PpoConfig
from trainer.ppo.rollout import sample
from trainer.ppo.run import PpoRun, run_ppo
from trainer.prompt_files import KnownPrompt
from trainer.prompts import AlignmentPrompt, prompts_of
from trainer.relevance import divergence

_STEPS = 80
_VERSION = "tppo-ctr"


def against_clicks(work: Work) -> dict[str, float]:
    """CTR of SFT, token-level PPO, Iter-DPO and the oracle, KL of both methods from SFT, and the minutes that they took."""
    rounds = short_work()
    figures = short_figures()
    policy, minutes = _trained(work, rounds)
    scenes = draw_scenes(Audience(FIRST), SHORT, SHORT_PROMPTS, seed=0)
    prompts = prompts_for(scenes)
    taken = _taken(rounds)

    async def run() -> tuple[float, float, float]:
        engines = engines_of("auto")
        try:
            engine = await engines.of(policy)
            ctr = float(true_ctr(Audience(FIRST), scenes, await write(engine, policy, prompts, seed=1)).mean())
            return ctr, await _kl(engine, policy, prompts), await _kl(engine, taken, prompts)
        finally:
            await engines.close()

    ctr, kl, kl_dpo = asyncio.run(run())
    sft, oracle = figures[f"sft_{SHORT}"], figures[f"oracle_{SHORT}"]
    return {
        "ctr_sft": sft,
        "ctr_tppo": ctr,
        "ctr_iter_dpo": figures[f"iter_dpo_{SHORT}"],
        "ctr_oracle": oracle,
        "ctr_gap_closed": (ctr - sft) / (oracle - sft),
        "ctr_gap_closed_iter_dpo": figures[f"gap_closed_{SHORT}"],
        "ctr_kl_tppo": kl,
        "ctr_kl_iter_dpo": kl_dpo,
        "ctr_minutes_tppo": minutes,
        "ctr_minutes_iter_dpo": _minutes(rounds),
    }


def _trained(work: Work, rounds: Path) -> tuple[Policy, float]:
    log = TABLE[SHORT]
    snapshot, output = simulated_log(SHORT, log.window, log.people_a_list), work.place / "policies" / _VERSION
    tested = {prompt.prompt_id for prompt in prompts_for(draw_scenes(Audience(FIRST), SHORT, SHORT_PROMPTS, seed=0))}
    days = list(snapshot.files("impressions"))[-TEST_DAYS:]
    learnt = [
        prompt
        for prompt in prompts_of(snapshot, SHORT, days, most=SHORT_PROMPTS + len(tested), seed=0)
        if prompt.prompt_id not in tested
    ][:SHORT_PROMPTS]
    note = work.place / "minutes.json"
    if not output.exists():
        began = time.monotonic()
        run_ppo(
            PpoRun(
                policy=load_policy(STARTER),
                prompts=[KnownPrompt(prompt=prompt) for prompt in learnt],
                output=output,
                work=work.place / "ppo-work",
                version=_VERSION,
                rewards={"ctr": 1.0},
                predictor=_predictor(rounds),
                suggested_length=1.0,  # clicks have no length
                missing_cost=0.0,
                engine="vllm_local",
                config=PpoConfig(steps=_STEPS),
            )
        )
        note.write_text(json.dumps((time.monotonic() - began) / 60.0))
    return load_policy(output), float(json.loads(note.read_text()))


async def _kl(engine: Engine, policy: Policy, prompts: list[AlignmentPrompt]) -> float:
    written = await sample(engine, policy, prompts, seed=5, max_tokens=64, adapter=policy.adapter)
    return divergence(policy, written)


def _predictor(rounds: Path) -> Path:
    """The predictor that searched."""
    [manifest] = (rounds / "search").glob("*/manifest.json")
    return manifest.parent


def _taken(rounds: Path) -> Policy:
    """The policy that Iter-DPO came to."""
    done = [json.loads(path.read_text()) for path in sorted((rounds / "rounds").glob("round-*/figures.json"))]
    return load_policy(next(each["directory"] for each in reversed(done) if each["stopped"] is None))


def _minutes(rounds: Path) -> float:
    """From the end of round 0 to that of the last."""
    ends = [path.stat().st_mtime for path in sorted((rounds / "rounds").glob("round-*/figures.json"))]
    return (ends[-1] - ends[0]) / 60.0
