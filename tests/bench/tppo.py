"""Token-level PPO: its arithmetic, what it gains over sentence-level PPO and SFT, and what it costs.

`python -m tests.bench.tppo --json` checks the arithmetic and measures one small run within 20 minutes. `--full` makes three
runs of the paper's sizes, the ablations, and a run against clicks beside Iter-DPO; each is stored in `tests/bench/rows/tppo`
and counts until the code changes. People are simulated; relevance is what a second judge says, on whom nothing was trained.
"""

import subprocess
import sys
from collections.abc import Mapping, Sequence
from functools import partial
from statistics import fmean, pvariance

import numpy as np
from scipy.stats import binomtest

from tests.bench import tppo_run
from tests.bench.alignment import OF as OF_ALIGNMENT
from tests.bench.report import ROOT, Bar, Cell, main
from tests.bench.tppo_ctr import against_clicks
from tests.bench.tppo_curves import draw_ablations, draw_run
from tests.bench.tppo_run import Sizes, Verdicts, Work, auc_gain, measured, prepared, reward_model, steps_of, trained
from trainer.token_reward.train import RewardConfig

OF = (
    "trainer/ppo",
    "trainer/token_reward",
    "trainer/rewards",
    "trainer/word_judges",
    "trainer/words.py",
    "trainer/labels.py",
    "trainer/histories_to_prompts.py",
    "trainer/relevance.py",
    "trainer/audience",
    "trainer/catalogue",
    "deploy/starter/sft",
    "service/contract/tasks/predict.py",
    "tests/bench/tppo_run.py",
)
SEEDS = (0, 1, 2)
FULL = Sizes(labels=10_000, steps=312, prompts=2_000, milestones=(78, 156, 234, 312))  # 20k responses, as the paper
SHORT = Sizes(labels=1_500, steps=24, prompts=500, milestones=(12, 24))
_MATHS = (
    "tests/trainer/ppo/test_maths.py",
    "tests/trainer/ppo/test_loop.py",
    "tests/trainer/ppo/test_sentence_reference.py",
    "tests/trainer/token_reward/test_losses.py",
    "tests/trainer/test_words.py",
    "tests/trainer/rewards/test_ctr.py",
)
_THIRD = 3
# What each ablation changes: weight of the local loss, or how tokens are paid.
ABLATED = Sizes(labels=4_000, steps=60, prompts=1_000, milestones=(60,))
LOCAL_WEIGHTS = (0.0, 0.5, 1.0)
PAID = {
    "paper_alpha_none": ("--values", "published", "--alpha", "-1"),
    "paper_alpha_05": ("--values", "published", "--alpha", "0.5"),
    "paper_alpha_1": ("--values", "published", "--alpha", "1"),
}
_CURVES = {
    **{f"local weight {weight:g}": f"local-{weight:g}" for weight in LOCAL_WEIGHTS},
    **{paid.replace("_", " "): paid for paid in PAID},
}

BARS = [
    Bar("maths", "holds", ">=", 1),
    Bar("relevance_gain_over_ppo", "points", ">=", 2.35),
    Bar("relevance_gain_over_ppo_p", "p", "<=", 0.01),
    Bar("relevance_gain_over_sft", "points", ">=", 8.75),
    Bar("relevance_gain_over_sft_p", "p", "<=", 0.01),
    Bar("relevance_prompts", "prompts", ">=", 5_000),
    *(Bar(f"relevance_{name}", "share") for name in ("sft", "ppo", "tppo")),
    *(Bar(f"kl_{name}", "nats") for name in ("ppo", "tppo")),
    *(Bar(f"tokens_{name}", "tokens") for name in ("sft", "ppo", "tppo")),
    *(Bar(f"failures_{name}", "share") for name in ("base", "sft", "ppo", "tppo")),
    Bar("relevance_variance_ratio", "ratio", "<=", 0.9999),
    Bar("relevance_last_third_gain", "points", ">=", 0),
    Bar("rm_sentence_auc_gain", "AUC"),
    Bar("rm_sentence_auc_gain_low", "AUC", ">", 0),
    Bar("step_overhead_share", "share", "<=", 0.1),
    Bar("full_run_minutes", "min", "<=", 60),
    Bar("peak_rss_gb", "GiB", "<=", 8),
    *(
        Bar(f"local_{weight:g}_{name}", unit)
        for weight in LOCAL_WEIGHTS
        for name, unit in (
            ("token_auc", "AUC"),
            ("sentence_auc", "AUC"),
            ("sentence_accuracy", "share"),
            ("relevance", "share"),
            ("kl", "nats"),
        )
    ),
    *(
        Bar(f"{paid}_{name}", unit)
        for paid in PAID
        for name, unit in (("tokens", "tokens"), ("relevance", "share"), ("kl", "nats"))
    ),
    Bar("ctr_gap_closed", "share", ">=", 0.5),
    *(Bar(f"ctr_{name}", "simulated CTR") for name in ("sft", "tppo", "iter_dpo", "oracle")),
    Bar("ctr_gap_closed_iter_dpo", "share"),
    *(Bar(f"ctr_kl_{name}", "nats") for name in ("tppo", "iter_dpo")),
    *(Bar(f"ctr_minutes_{name}", "min") for name in ("tppo", "iter_dpo")),
    *(Bar(f"short_{name}", "points") for name in ("relevance_gain_over_ppo", "relevance_gain_over_sft")),
]


def _maths() -> dict[str, float]:
    """Whether every test of the arithmetic holds, the slow one with two processes too."""
    done = subprocess.run([sys.executable, "-m", "pytest", "-q", *_MATHS], cwd=ROOT, check=False, capture_output=True)
    print(done.stdout.decode()[-400:], file=sys.stderr)
    return {"maths": float(done.returncode == 0)}


def _work(sizes: Sizes, seed: int) -> Work:
    return Work(ROOT / ".bench" / "tppo-work" / f"{sizes.labels}-{sizes.steps}-{seed}")


def _run(sizes: Sizes, seed: int) -> dict[str, float]:
    """Both methods, and what is measured of them, by names without the seed."""
    work = _work(sizes, seed)
    prepared(work, sizes, seed)
    for method in tppo_run.METHODS:
        trained(work, sizes, seed, method, method)
    found = measured(work, sizes, seed, list(tppo_run.METHODS))
    draw_run(work)
    gain, low, high = auc_gain(work)
    parts = [work.command(name) for name in ("label-prompts", "label", "reward-token", "ppo-prompts", "tppo")]
    return {
        **_compared(found),
        **_steady(work),
        "rm_sentence_auc_gain": gain,
        "rm_sentence_auc_gain_low": low,
        "rm_sentence_auc_gain_high": high,
        "step_overhead_share": _overhead(steps_of(work, "tppo")),
        "full_run_minutes": sum(part["seconds"] for part in parts) / 60.0,
        "peak_rss_gb": max(part["peak_rss_mb"] for part in parts) / 1024.0,
    }


def _compared(found: Mapping[str, Sequence[Verdicts]]) -> dict[str, float]:
    """TPPO beside PPO and SFT at one KL: that of the nearer of their last policies; rates between milestones by a line."""
    sft = found["sft"][0]
    at = min(found["tppo"][-1].kl, found["ppo"][-1].kl)
    rate = {name: _rate_at(sft, found[name], at) for name in ("tppo", "ppo")}
    nearest = {name: min(found[name], key=lambda each: abs(each.kl - at)) for name in ("tppo", "ppo")}
    counts = {
        **_pairs("over_ppo", nearest["tppo"], nearest["ppo"]),
        **_pairs("over_sft", nearest["tppo"], sft),
    }
    return {
        "relevance_gain_over_ppo": 100 * (rate["tppo"] - rate["ppo"]),
        "relevance_gain_over_sft": 100 * (rate["tppo"] - sft.rate),
        "relevance_prompts": float(len(sft.relevant)),
        "relevance_sft": sft.rate,
        "tokens_sft": sft.tokens,
        "failures_sft": sft.failures,
        "failures_base": found["base"][0].failures,
        **{f"relevance_{name}": found[name][-1].rate for name in ("tppo", "ppo")},
        **{f"kl_{name}": found[name][-1].kl for name in ("tppo", "ppo")},
        **{f"tokens_{name}": found[name][-1].tokens for name in ("tppo", "ppo")},
        **{f"failures_{name}": found[name][-1].failures for name in ("tppo", "ppo")},
        **counts,
    }


def _rate_at(sft: Verdicts, milestones: Sequence[Verdicts], kl: float) -> float:
    """The relevance rate of a method at a KL, on the line through SFT and its milestones in the order of their KL."""
    points = sorted([(0.0, sft.rate), *((each.kl, each.rate) for each in milestones)])
    return float(np.interp(kl, [x for x, _ in points], [y for _, y in points]))


def _pairs(name: str, mine: Verdicts, theirs: Verdicts) -> dict[str, float]:
    """Prompts on which only one of two is relevant, for McNemar over all seeds."""
    pairs = list(zip(mine.relevant, theirs.relevant, strict=True))
    return {
        f"gained_{name}": float(sum(a and not b for a, b in pairs)),
        f"lost_{name}": float(sum(b and not a for a, b in pairs)),
    }


def _steady(work: Work) -> dict[str, float]:
    """Of the relevance that the second judge saw in the last third of the steps: ratio of variances, and gain of the mean."""
    last = {name: [step["relevance"] for step in steps_of(work, name)] for name in tppo_run.METHODS}
    last = {name: rates[-(len(rates) // _THIRD) :] for name, rates in last.items()}
    return {
        "relevance_variance_ratio": pvariance(last["tppo"]) / pvariance(last["ppo"]),
        "relevance_last_third_gain": 100 * (fmean(last["tppo"]) - fmean(last["ppo"])),
    }


def _overhead(steps: Sequence[Mapping[str, float]]) -> float:
    """Share of a step in which nobody wrote, scored, looked back or learnt; watching is no part of it."""
    whole = sum(step["step_s"] - step.get("watch_s", 0.0) for step in steps)
    parts = sum(step[f"{part}_s"] for step in steps for part in ("write", "reward", "forward", "learn"))
    return (whole - parts) / whole


def _short() -> dict[str, float]:
    found = _run(SHORT, 0)
    told = ("rm_sentence_auc_gain", "rm_sentence_auc_gain_low", "step_overhead_share")
    gains = ("relevance_gain_over_ppo", "relevance_gain_over_sft")
    return {**{name: found[name] for name in told}, **{f"short_{name}": found[name] for name in gains}}


def _full(seed: int) -> dict[str, float]:
    return {f"{name}@{seed}": value for name, value in _run(FULL, seed).items()}


def _local_weight(weight: float) -> dict[str, float]:
    """A reward model with this weight of the local loss, and a policy that is trained on it."""
    work, name = _work(ABLATED, 0), f"local-{weight:g}"
    prepared(work, ABLATED, 0)
    if weight == RewardConfig().local_weight:
        model, told = "rewards/token", work.command("reward-token")
    else:
        model, told = f"rewards/{name}", reward_model(work, 0, name, "--local-weight", str(weight))
    trained(work, ABLATED, 0, "tppo", name, model=model)
    draw_ablations(work, _CURVES)
    [found] = measured(work, ABLATED, 0, [name])[name]
    figures = {each: told[each] for each in ("token_auc", "sentence_auc", "sentence_accuracy") if each in told}
    return {f"local_{weight:g}_{each}": value for each, value in (*figures.items(), *_ends(found))}


def _paid(paid: str) -> dict[str, float]:
    """A policy whose tokens are paid another way."""
    work = _work(ABLATED, 0)
    prepared(work, ABLATED, 0)
    trained(work, ABLATED, 0, "tppo", paid, *PAID[paid])
    draw_ablations(work, _CURVES)
    [found] = measured(work, ABLATED, 0, [paid])[paid]
    return {f"{paid}_{each}": value for each, value in (*_ends(found), ("tokens", found.tokens))}


def _ends(found: Verdicts) -> tuple[tuple[str, float], ...]:
    return ("relevance", found.rate), ("kl", found.kl)


def _clicks() -> dict[str, float]:
    return against_clicks(Work(ROOT / ".bench" / "tppo-work" / "clicks"))


def _summary(values: dict[str, float]) -> dict[str, float]:
    """The figures of three runs: means, sums of prompts, and McNemar over all of them."""
    names = {name.partition("@")[0] for name in values if "@" in name}
    whole = {
        name: [values[f"{name}@{seed}"] for seed in SEEDS]
        for name in names
        if all(f"{name}@{seed}" in values for seed in SEEDS)
    }
    if not whole:
        return {}
    found = {name: fmean(listed) for name, listed in whole.items()}
    found["relevance_prompts"] = sum(whole["relevance_prompts"])
    found["peak_rss_gb"] = max(whole["peak_rss_gb"])
    for name in ("over_ppo", "over_sft"):
        gained, lost = (int(sum(whole[f"{side}_{name}"])) for side in ("gained", "lost"))
        found[f"relevance_gain_{name}_p"] = float(binomtest(gained, gained + lost).pvalue) if gained + lost else 1.0
    return found


def _cells() -> list[Cell]:
    short = [
        Cell("maths", _maths, of=(*OF, *_MATHS), about_s=120),
        Cell("short", _short, of=OF, about_s=900),
    ]
    endless = {"of": OF, "about_s": float("inf"), "stored": True}
    return [
        *short,
        *(Cell(f"seed-{seed}", partial(_full, seed), **endless) for seed in SEEDS),
        *(Cell(f"local-{weight:g}", partial(_local_weight, weight), **endless) for weight in LOCAL_WEIGHTS),
        *(Cell(paid.replace("_", "-"), partial(_paid, paid), **endless) for paid in PAID),
        Cell(
            "clicks",
            _clicks,
            of=(*OF, *OF_ALIGNMENT, "tests/bench/tppo_ctr.py"),
            about_s=float("inf"),
            stored=True,
        ),
    ]


if __name__ == "__main__":
    sys.exit(main("tppo", BARS, _cells(), within_s=1200, summary=_summary))
