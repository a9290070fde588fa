"""Lists of a log become material: the clicked ones to write, others not to, and nothing is made up."""

import json
from datetime import date, timedelta

import pyarrow.parquet as pq
import pytest

from service.contract.errors import NotEnoughData
from service.contract.types import PromptContext
from tests.ctr.small_log import FIRST_DAY, Shown, small_log, snapshot_of
from tests.trainer.known_policy import KnownEngine, known_policy
from trainer.clicked import LEAST, feedback, write_click_pairs, write_single_lists

DAYS = [FIRST_DAY, FIRST_DAY + timedelta(days=1)]


def clicked_log(count: int, *, clicked: int, day: int = 0, late: int = 0) -> list[Shown]:
    return [
        Shown(f"{k:06d}", day, f"rice {k}", (f"a {k}", f"b {k}", f"c {k}"), (2,) if k < clicked else (), late)
        for k in range(count)
    ]


def test_clicked_lists_are_chosen_and_as_many_others_are_rejected(tmp_path):
    log = snapshot_of(tmp_path, clicked_log(300, clicked=100))

    found = feedback(log, "suggest", DAYS, most=80)

    assert len(found.clicked) == len(found.unclicked) == 80
    assert all(each.clicked == (each.queries[1],) for each in found.clicked)
    assert not any(each.clicked for each in found.unclicked)
    assert found == feedback(log, "suggest", DAYS, most=80)
    assert found != feedback(log, "suggest", DAYS, most=80, seed=1)


def test_fewer_clicks_than_wanted_take_as_many_others(tmp_path):
    found = feedback(snapshot_of(tmp_path, clicked_log(300, clicked=70)), "suggest", DAYS, most=1000)

    assert (len(found.clicked), len(found.unclicked)) == (70, 70)


def test_too_few_clicks_are_refused_with_their_count(tmp_path):
    log = snapshot_of(tmp_path, clicked_log(300, clicked=LEAST - 1))

    with pytest.raises(NotEnoughData, match=rf"of 300 lists of task 'suggest' on 2 days {LEAST - 1} were clicked"):
        feedback(log, "suggest", DAYS, most=80)


def test_a_click_days_later_counts_and_one_of_another_day_or_task_does_not(tmp_path):
    late = clicked_log(LEAST, clicked=LEAST, late=3)
    other_day = [Shown(f"f{k:05d}", 5, f"tea {k}", ("x", "y", "z"), (1,)) for k in range(50)]
    other_task = [Shown(f"e{k:05d}", 0, None, ("x",), (1,), task="hint", session=("tea",)) for k in range(50)]

    found = feedback(snapshot_of(tmp_path, [*late, *other_day, *other_task]), "suggest", DAYS, most=500)

    assert len(found.clicked) == LEAST
    assert {each.prompt.task for each in found.clicked} == {"suggest"}


def test_only_whole_lists_that_a_model_wrote_are_taken(tmp_path):
    log = clicked_log(LEAST + 3, clicked=LEAST + 3)
    spoilt = [{"served_by": "popular"}, {"candidates": '[{"text": null, "position": 1}]'}, {"context": "nothing"}]
    log[:3] = [
        Shown(each.impression_id, each.day, each.user_query, each.queries, each.clicked, replaced=replaced)
        for each, replaced in zip(log, spoilt, strict=False)
    ]

    found = feedback(snapshot_of(tmp_path, log), "suggest", DAYS, most=500)

    assert len(found.clicked) == LEAST


def test_a_file_of_single_lists_has_other_prompts_in_its_rejected_rows(tmp_path):
    found = feedback(snapshot_of(tmp_path / "log", clicked_log(200, clicked=70)), "suggest", DAYS, most=70)

    count = write_single_lists(found, known_policy().tokenizer.format, tmp_path / "lists.parquet")

    rows = pq.read_table(tmp_path / "lists.parquet").to_pylist()
    assert count == len(rows) == 140
    assert [row["rejected"] for row in rows[:70]] == [None] * 70
    assert [row["chosen"] for row in rows[70:]] == [None] * 70
    assert not {row["prompt_id"] for row in rows[:70]} & {row["prompt_id"] for row in rows[70:]}
    assert rows[0]["chosen"] == "<sep>".join(found.clicked[0].queries)


def test_what_a_policy_is_to_read_besides_is_filled_in(tmp_path):
    log = snapshot_of(tmp_path, clicked_log(LEAST, clicked=LEAST))

    def fill(context: PromptContext) -> PromptContext:
        return PromptContext(n=context.n, query=context.query, co_queries=("often",))

    found = feedback(log, "suggest", DAYS, most=500, fill=fill)
    write_single_lists(found, known_policy().tokenizer.format, tmp_path / "lists.parquet")

    contexts = [json.loads(row) for row in pq.read_table(tmp_path / "lists.parquet")["context"].to_pylist()]
    assert all(context["co_queries"] == ["often"] for context in contexts)
    assert found.clicked[0].prompt.context.co_queries == ("often",)


async def test_a_rejected_list_has_no_clicked_query_and_is_asked_for_again_until_one_has_not(tmp_path):
    found = feedback(snapshot_of(tmp_path / "log", clicked_log(LEAST, clicked=LEAST)), "suggest", DAYS, most=500)
    seen: set[str] = set()

    def writes(query, so_far, sampling):
        number, first = query.removeprefix("rice "), query not in seen
        seen.add(query)
        return [f"a {number}<sep>b {number}<sep>d" if first else f"d {number}<sep>e<sep>f"]

    policy = known_policy()
    count = await write_click_pairs(found, KnownEngine(writes), policy, tmp_path / "pairs.parquet")

    rows = pq.read_table(tmp_path / "pairs.parquet").to_pylist()
    assert count == len(rows) == LEAST
    for row in rows:
        number = json.loads(row["context"])["query"].removeprefix("rice ")
        assert row["chosen"] == f"a {number}<sep>b {number}<sep>c {number}"
        assert row["rejected"] == f"d {number}<sep>e<sep>f"


async def test_a_policy_that_always_writes_the_clicked_query_gives_no_pairs(tmp_path):
    found = feedback(snapshot_of(tmp_path / "log", clicked_log(LEAST, clicked=LEAST)), "suggest", DAYS, most=500)

    def writes(query, so_far, sampling):
        return [f"b {query.removeprefix('rice ')}<sep>x<sep>y"]

    with pytest.raises(NotEnoughData, match=rf"of {LEAST} clicked lists 0 have a list beside them"):
        await write_click_pairs(found, KnownEngine(writes), known_policy(), tmp_path / "pairs.parquet")
    assert not (tmp_path / "pairs.parquet").exists()


def test_a_log_with_real_chances_gives_both_kinds(tmp_path):
    log = snapshot_of(tmp_path, small_log(3, 200))

    found = feedback(log, "suggest", [date.fromordinal(FIRST_DAY.toordinal() + k) for k in range(3)], most=100)

    assert (len(found.clicked), len(found.unclicked)) == (100, 100)
