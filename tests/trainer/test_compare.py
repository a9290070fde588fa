"""A comparison: every row of the table is made the same way, one that cannot be made says why, and a killed run goes on."""

import json
from dataclasses import replace
from datetime import timedelta
from pathlib import Path

import pytest

from service.contract.engine import Sampling
from service.contract.errors import ConfigurationError, JudgeError
from service.contract.policy import load_policy
from service.contract.settings import STARTER
from service.contract.tasks import get_task
from service.contract.types import PromptContext
from tests.ctr.small_log import FIRST_DAY, Shown, snapshot_of
from tests.trainer.known_policy import KnownEngine, KnownPredictor, known_policy, words_of_topic
from tests.trainer.test_rounds import publish
from trainer import comparators
from trainer.candidates import SearchConfig
from trainer.comparators import Contestant, get_comparator
from trainer.comparators.few_shot import EXAMPLES, selected
from trainer.compare import Row, WithExamples, compare, lists_of, written_for
from trainer.compare_plots import plot
from trainer.encoding import encode
from trainer.list_judges import Rating, Relatedness
from trainer.methods import MethodConfig, Outcome
from trainer.prompts import prompt_of
from trainer.rounds import Engines, RoundsConfig
from trainer.workshop import Materials, Workshop

ROWS = [
    "few_shot", "sft",
    "sft_clk", "kto_clk", "simpo_clk", "dpo_clk",
    "sft_ctr", "kto_ctr", "simpo_ctr", "dpo_ctr", "iter_dpo_ctr",
]  # fmt: skip
TESTED = [prompt_of("suggest", PromptContext(n=3, query=query)) for query in ("salt", "soup", "tea")]


def materials(place: Path, *, clicked: int = 70) -> Materials:
    log = [
        Shown(f"{k:06d}", 0, f"rice {k}", (f"a {k}", f"b {k}", f"c {k}"), (2,) if k < clicked else ())
        for k in range(200)
    ]
    place.mkdir(exist_ok=True)
    publish(place / "sft", "sft")
    sft = load_policy(place / "sft")
    return Materials(
        task="suggest",
        snapshot=snapshot_of(place / "log", log),
        sft=sft,
        few_shot=sft,
        searching=KnownPredictor(),
        judging=KnownPredictor(lambda query, above: 0.2 if "price" in query else 0.1),
        learnt=TESTED[:1],
        tested=TESTED,
        click_days=[FIRST_DAY, FIRST_DAY + timedelta(days=1)],
        lists=80,
        work=place / "work",
        output=place,
        version="v",
    )


def writes(query: str, so_far: str, sampling: Sampling) -> list[str]:
    """A whole list whatever stands before; examples have lists of their own."""
    return words_of_topic(query, "", sampling)


class Agrees:
    """Finds every pair of lists equal."""

    name, spent = "agrees", {}

    def ratings(self, pairs):
        one = Rating((Relatedness.HIGH,), (frozenset(),))
        return [(one, one) for _ in pairs]


class Trains:
    """Publishes a policy for every training and remembers what it was asked. Engines write random lists about the query."""

    def __init__(self, of: Materials) -> None:
        self.asked: list[tuple[str, str, str]] = []
        self.engines: list[str] = []
        self.workshop = Workshop(of, quiet=True, engines_named=self._engines, train=self._train)

    def _engines(self, name: str) -> Engines:
        self.engines.append(name)
        return Engines(lambda directory: KnownEngine(writes, load_policy(directory).tokenizer))

    def _train(self, method, pairs, *, policy, reference, output, work, version, config, quiet):
        self.asked.append((method, pairs.name, version))
        publish(output, version)
        return Outcome(metrics={}, directory=output, version=version, manifest_sha256="")


def test_the_table_has_the_papers_eleven_rows_in_its_order():
    assert comparators.names() == ROWS


@pytest.mark.parametrize("name", ROWS)
def test_a_row_says_what_it_learns_from(name):
    comparator = get_comparator(name)

    assert comparator.category == name.rpartition("_")[2] if name.endswith(("clk", "ctr")) else "baseline"
    assert comparator.rank > 0


def test_an_unknown_row_is_refused_with_those_there_are():
    with pytest.raises(ConfigurationError, match=r"no row 'wish'.*iter_dpo_ctr"):
        get_comparator("wish")


async def test_clicked_rows_train_each_method_on_its_own_file(tmp_path):
    trains = Trains(materials(tmp_path))

    rows = await compare(trains.workshop, ["sft_clk", "kto_clk", "simpo_clk", "dpo_clk"], [])

    assert trains.asked == [
        ("sft", "lists.parquet", "v-sft-clk"),
        ("kto", "lists.parquet", "v-kto-clk"),
        ("simpo", "pairs.parquet", "v-simpo-clk"),
        ("dpo", "pairs.parquet", "v-dpo-clk"),
    ]
    assert [row.name for row in rows] == ["sft", "sft_clk", "kto_clk", "simpo_clk", "dpo_clk"]
    assert all(row.assessment and row.assessment.prompts == 3 and row.problem is None for row in rows)


async def test_rows_have_aec_by_both_predictors_and_their_growth_over_sft(tmp_path):
    rows = await compare(Trains(materials(tmp_path)).workshop, ["sft_clk"], [])

    assert set(rows[0].assessment.aec) == {"search", "judge"}
    doubled = replace(
        rows[1], assessment=replace(rows[1].assessment, aec={"judge": 2 * rows[0].assessment.aec["judge"]})
    )
    assert rows[0].improvement(rows[0]) == 0.0
    assert doubled.improvement(rows[0]) == pytest.approx(1.0)
    assert replace(rows[1], assessment=None).improvement(rows[0]) is None


async def test_too_few_clicks_leave_rows_with_the_counts_and_the_others_go_on(tmp_path):
    trains = Trains(materials(tmp_path, clicked=5))

    rows = await compare(trains.workshop, ["few_shot", "sft_clk", "dpo_clk"], [])

    assert [row.assessment is None for row in rows] == [False, False, True, True]
    assert all("Not enough data: of 200 lists" in row.problem and " 5 were clicked" in row.problem for row in rows[2:])
    assert trains.asked == []


async def test_a_judge_that_refuses_leaves_the_row_with_the_count_and_is_asked_again_later(tmp_path):
    class Refuses(Agrees):
        name = "refuses"

        def ratings(self, pairs):
            raise JudgeError("It refused to judge.")

    of = materials(tmp_path)
    _, row = await compare(Trains(of).workshop, ["sft_clk"], [Refuses()])
    assert row.problem == "Not enough data: the judge refuses gave no verdict on 3 pairs. It refused to judge."
    assert row.assessment is not None

    class Answers(Agrees):
        name = "refuses"

    _, row = await compare(Trains(of).workshop, ["sft_clk"], [Answers()])
    assert row.problem is None
    assert row.quality["refuses"]["relatedness_ties"] == 3.0


async def test_a_killed_comparison_trains_and_writes_nothing_twice(tmp_path):
    of = materials(tmp_path)
    first = await compare(Trains(of).workshop, ["sft_clk"], [])
    again = Trains(of)

    second = await compare(again.workshop, ["sft_clk", "kto_clk"], [])

    assert again.asked == [("kto", "lists.parquet", "v-kto-clk")]
    assert second[:2] == first


async def test_a_work_directory_of_another_comparison_is_refused(tmp_path):
    of = materials(tmp_path)
    await compare(Trains(of).workshop, [], [])

    with pytest.raises(ConfigurationError, match="another comparison: lists differ"):
        await compare(Trains(replace(of, lists=99)).workshop, [], [])


async def test_lists_come_back_as_they_were_written(tmp_path):
    trains = Trains(materials(tmp_path))
    await compare(trains.workshop, [], [])

    found = written_for(trains.workshop.materials, "sft")

    assert found == await lists_of(trains.workshop, Contestant(policy=trains.workshop.materials.sft), TESTED)
    with pytest.raises(ConfigurationError, match="dpo_clk has no lists"):
        written_for(trains.workshop.materials, "dpo_clk")


async def test_rows_are_drawn_and_a_row_that_could_not_be_made_is_left_out(tmp_path):
    rows = await compare(Trains(materials(tmp_path, clicked=5)).workshop, ["few_shot", "sft_clk"], [Agrees()])

    drawn = plot(rows, tmp_path)

    assert [path.name for path in drawn] == ["aec.png", "quality-agrees.png"]
    assert all(path.stat().st_size > 5_000 for path in drawn)
    assert plot([row for row in rows if row.assessment is None], tmp_path) == []


@pytest.mark.parametrize("task", ["suggest", "snippets", "hint"])
def test_examples_are_five_short_lists_about_five_kinds_of_things(task):
    examples = selected(task)

    assert len({example.kind for example in examples}) == len(examples) == EXAMPLES
    assert {example.context.n for example in examples} == {get_task(task).default_n}
    assert sum(len(encode(example, load_policy(STARTER).tokenizer)) for example in examples) < 600


async def test_examples_stand_before_every_prompt_as_far_as_they_fit():
    policy, examples, asked = known_policy(), selected("suggest"), []

    class Listens(KnownEngine):
        async def generate(self, request_id, prompt_token_ids, sampling, adapter=None):
            asked.append(list(prompt_token_ids))
            return await super().generate(request_id, prompt_token_ids, sampling, adapter)

    engine = WithExamples(Listens(writes), policy, examples)
    sampling = policy.sampling(PromptContext(n=3, query="rice"), max_tokens=100)
    for prompt in ([7, 8, 9], [7] * 800):
        await engine.generate("r", prompt, sampling)

    encoded = [encode(example, policy.tokenizer) for example in examples]
    before = [token for each in encoded for token in (*each.prompt, *each.response)]
    assert asked[0] == [*before, 7, 8, 9]
    assert asked[1][-800:] == [7] * 800
    assert len(asked[1]) <= 1024 - 100
    assert 800 < len(asked[1]) < len(asked[0]) + 800


async def test_few_shot_runs_on_the_engine_that_was_named(tmp_path):
    trains = Trains(replace(materials(tmp_path), few_shot_engine="openai_http"))

    await compare(trains.workshop, ["few_shot"], [])

    assert trains.engines == ["auto", "openai_http"]


@pytest.mark.slow
@pytest.mark.timeout(480)  # eight trainings; two minutes on two slow cores
async def test_every_row_is_made_of_the_starter_policy_by_the_real_methods(tmp_path):
    starter = load_policy(STARTER)
    quick = RoundsConfig(
        max_rounds=1,
        search=SearchConfig(beams=3, expansions=6, random_lists=6, rejected=3),
        training=MethodConfig(epochs=1.0, batch_size=4, lora_rank=4, lora_alpha=8, kl_pairs=2),
    )
    of = replace(
        materials(tmp_path),
        sft=starter,
        few_shot=load_policy(STARTER.parent / "base"),
        learnt=[
            prompt_of("suggest", PromptContext(n=3, query=f"how to cook {each}"))
            for each in ("rice", "beans", "kale", "lentils", "salmon", "eggs")
        ],
        overlap=None,
        engine="transformers_local",
        few_shot_engine="transformers_local",
        rounds=quick,
    )
    workshop = Workshop(of, quiet=True)

    try:
        rows = await compare(workshop, comparators.names(), [])
    finally:
        await workshop.close()

    assert sorted(row.name for row in rows) == sorted(ROWS)
    assert [row.problem for row in rows] == [None] * 11
    versions = {row.name: row.version for row in rows}
    assert versions["kto_ctr"] == "v-kto-ctr"
    assert versions["dpo_ctr"] == "v-iter-dpo-r1"
    for row in rows:
        assert isinstance(row, Row)
        assert row.assessment is not None
        assert json.loads((of.work / "rows" / f"{row.name}.json").read_text())["name"] == row.name
