"""What follows from the rows of the table: orders, ablations and correlations, on figures worked out by hand."""

import pytest

from tests.bench import table3
from trainer import comparators

RISING = {name: 0.1 + 0.02 * k for k, name in enumerate(comparators.names())}  # _clk rows stand before _ctr rows


def figures(true, aec=None):
    found = {}
    for name in comparators.names():
        found |= {f"{name}_true": true[name], f"{name}_aec": (aec or true)[name]}
        found |= {f"{name}_relatedness_net": 3.0, f"{name}_exclusivity_net": -2.0}
    return found


def test_rows_in_the_papers_order_hold_all_eight_comparisons():
    found = table3._conclusions(figures(RISING), "suggest")

    assert found["order"] == found["order_aec"] == 8
    assert found["iter_dpo_first"] == 1
    assert found["relatedness_net"] == 3.0
    assert found["exclusivity_net"] == -2.0


def test_each_row_out_of_order_costs_its_comparisons():
    swapped = RISING | {
        "kto_ctr": RISING["sft_ctr"],
        "sft_ctr": RISING["kto_ctr"],
    }  # sft over kto, the twins still hold
    found = table3._conclusions(figures(swapped), "suggest")
    assert found["order"] == 7

    worse = RISING | {"iter_dpo_ctr": 0.0}
    found = table3._conclusions(figures(worse, aec=RISING), "suggest")
    assert (found["order"], found["order_aec"], found["iter_dpo_first"]) == (7, 8, 0)


def test_a_row_that_could_not_be_made_is_never_beaten():
    short = {name: value for name, value in figures(RISING).items() if not name.startswith("dpo_clk")}

    assert table3._conclusions(short, "suggest")["order"] == 7


def test_without_the_whole_chain_nothing_is_concluded():
    short = {name: value for name, value in figures(RISING).items() if not name.startswith("iter_dpo")}

    assert table3._conclusions(short, "suggest") == {}


def test_ablations_are_judged_against_the_whole():
    found = figures(RISING) | {"without_cor_over_whole": -0.01, "without_bs_over_whole": 0.02}
    found |= {"without_rf_aec": 0.9, "without_rf_exclusivity_net": -9.0}

    told = table3._conclusions(found, "suggest")

    assert (told["ablation_cor"], told["ablation_bs"], told["ablation_rf"]) == (1, 0, 1)
    assert table3._conclusions(found | {"without_rf_aec": 0.0}, "suggest")["ablation_rf"] == 0


def test_relatedness_of_snippets_is_not_guessed():
    assert "relatedness_net" not in table3._conclusions(figures(RISING), "snippets")


def test_the_full_table_needs_every_seed_and_the_short_one_stands_for_none():
    short = figures(RISING)
    one_seed = {f"{name}@hint-0": value for name, value in short.items()}
    all_seeds = {f"{name}@hint-{seed}": value + seed for name, value in short.items() for seed in table3.SEEDS}

    assert not any(name.endswith("_hint") for name in table3._summary(short | one_seed))
    found = table3._summary(all_seeds)
    assert found["sft_true_hint"] == pytest.approx(RISING["sft"] + 1.0)
    assert found["order_hint"] == 8
    assert "order" not in found
    assert "aec_true_rank_correlation_full" not in found


def test_the_correlation_is_over_all_rows_and_tasks():
    every = {
        f"{name}@{task}-{seed}": value
        for task in table3.TASKS
        for seed in table3.SEEDS
        for name, value in figures(RISING).items()
    }

    found = table3._summary(every | figures(RISING, aec={name: -value for name, value in RISING.items()}))

    assert found["aec_true_rank_correlation"] == pytest.approx(-1.0)
    assert found["aec_true_rank_correlation_full"] == pytest.approx(1.0)


def test_beams_matter_most_for_snippets_when_their_loss_is_the_larger_share():
    every = {
        f"{name}@{task}-{seed}": value
        for task, loss in (("suggest", -0.02), ("snippets", -0.05))
        for seed in table3.SEEDS
        for name, value in {"dpo_ctr_true": 0.4, "dpo_ctr_aec": 0.4, "without_bs_over_whole": loss}.items()
    }

    assert table3._summary(every)["ablation_bs_most_on_snippets"] == 1


def test_every_bar_of_the_issue_has_its_name():
    names = {bar.name for bar in table3._bars()}

    assert {"order", "ablation_cor", "ablation_bs", "ablation_rf", "relatedness_net", "exclusivity_net"} <= names
    assert {"order_suggest", "order_snippets", "order_hint", "aec_true_rank_correlation"} <= names
    assert len(names) == len(table3._bars())


def test_every_row_is_of_one_cell_and_none_is_forgotten():
    named = [row for rows in table3._ROWS.values() for row in rows]

    assert sorted(named) == sorted(comparators.names())
