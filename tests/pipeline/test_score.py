"""Lists are scored beside the event loop, and a predictor is replaced without a restart, never by a damaged one."""

import asyncio
import subprocess
import sys
import time
from collections.abc import Awaitable, Callable
from pathlib import Path

import pytest
import torch

from service.contract.errors import ArtifactError, DatabaseError, NextQueryError, PredictionError
from service.contract.types import PromptContext
from service.pipeline.looking import Looking
from service.pipeline.score import ClickPrediction, Scorer, open_scorer
from tests.ctr.tiny_predictor import tiny_predictor
from tests.fakes import KnowingPredictor

RICE = PromptContext(n=3, query="rice")
ROOT = Path(__file__).parents[2]


def half(_: object, __: str) -> float:
    return 0.5


def scorer_of(predictor: KnowingPredictor) -> Scorer:
    return Scorer(predictor)  # type: ignore[arg-type]


async def test_the_event_loop_turns_while_lists_are_scored() -> None:
    predictor = KnowingPredictor(half, delay_s=0.2)
    scorer = scorer_of(predictor)
    scoring = asyncio.create_task(scorer.p_click([(RICE, ["brown rice", "wild rice"])]))
    turns = 0
    while not scoring.done():
        turns += 1
        await asyncio.sleep(0.005)

    assert await scoring == [(0.5, 0.5)]
    assert turns > 10
    assert predictor.threads == {"ctr_0"}
    await scorer.close()


async def test_all_lists_that_wait_are_one_batch_and_each_asker_gets_its_own() -> None:
    predictor = KnowingPredictor(lambda _, text: len(text) / 100, delay_s=0.02)
    scorer = scorer_of(predictor)

    answers = await asyncio.gather(*(scorer.p_click([(RICE, ["a" * k]), (RICE, ["b", "c"])]) for k in range(1, 21)))

    assert answers == [[(k / 100,), (0.01, 0.01)] for k in range(1, 21)]
    assert len(predictor.asked) == 1
    await scorer.close()


async def test_a_batch_is_bounded_so_that_the_first_need_not_wait_for_the_last() -> None:
    predictor = KnowingPredictor(half, delay_s=0.05)
    scorer = scorer_of(predictor)
    asking = [asyncio.create_task(scorer.p_click([(RICE, ["a"] * 20)] * 2)) for _ in range(3)]

    await asyncio.wait(asking, return_when=asyncio.FIRST_COMPLETED)

    assert [task.done() for task in asking] == [True, True, False]  # 80 rows are over the bound, a whole list is kept
    await asyncio.wait(asking)
    assert [len(lists) for lists in predictor.asked] == [4, 2]
    await scorer.close()


async def test_a_question_that_was_given_up_is_never_asked() -> None:
    predictor = KnowingPredictor(half, delay_s=0.1)
    scorer = scorer_of(predictor)
    first = asyncio.create_task(scorer.p_click([(RICE, ["first"])]))
    await asyncio.sleep(0.02)

    with pytest.raises(TimeoutError):
        async with asyncio.timeout(0.02):
            await scorer.p_click([(RICE, ["given up"])])
    await first
    await scorer.p_click([(RICE, ["last"])])

    assert predictor.asked == [[["first"]], [["last"]]]
    await scorer.close()


@pytest.mark.parametrize("wrong", [float("nan"), float("inf"), -0.1, 1.1, RuntimeError("torch's own"), IndexError()])
async def test_what_is_no_probability_is_an_error_and_the_next_question_is_answered(wrong: float | Exception) -> None:
    scorer = scorer_of(KnowingPredictor(lambda _, text: wrong if text == "bad" else 0.5))

    with pytest.raises(PredictionError):
        await scorer.p_click([(RICE, ["good", "bad"])])

    assert await scorer.p_click([(RICE, ["good"])]) == [(0.5,)]
    await scorer.close()


async def test_another_number_of_probabilities_than_queries_is_an_error() -> None:
    predictor = KnowingPredictor(half)
    predictor.p_click_lists = lambda lists: [[0.5] for _ in lists]  # type: ignore[method-assign]
    scorer = scorer_of(predictor)

    with pytest.raises(PredictionError):
        await scorer.p_click([(RICE, ["a", "b"])])

    await scorer.close()


class Registry:
    """Has a champion for each task, which the test changes; opening one may fail."""

    def __init__(self) -> None:
        self.champions: dict[str, KnowingPredictor] = {}
        self.failure: Exception | None = None
        self.away = False
        self.opened = 0

    def prediction(self, *tasks: str) -> ClickPrediction:
        return ClickPrediction({task: lambda task=task: self.newest(task) for task in tasks})  # type: ignore[misc]

    async def newest(self, task: str) -> tuple[str, Callable[[], Awaitable[Scorer]]] | None:
        if self.away:
            raise DatabaseError("The database is away.")
        predictor = self.champions.get(task)

        async def open_it() -> Scorer:
            assert predictor
            self.opened += 1
            if self.failure:
                raise self.failure
            return scorer_of(predictor)

        return (predictor.version, open_it) if predictor else None


async def p_of(made: ClickPrediction, task: str = "suggest") -> float | None:
    scorer = made.of(task)
    return (await scorer.p_click([(RICE, ["brown rice"])]))[0][0] if scorer else None


async def test_a_new_predictor_is_taken_up_and_the_old_one_still_answers_who_has_it() -> None:
    registry = Registry()
    made = registry.prediction("*")
    await made.refresh()
    before = await p_of(made)
    registry.champions["*"] = KnowingPredictor(lambda *_: 0.1, version="ctr-1")
    await made.refresh()
    await made.refresh()
    then, held = await p_of(made), made.of("suggest")
    registry.champions["*"] = KnowingPredictor(lambda *_: 0.2, version="ctr-2")
    await made.refresh()

    after = await p_of(made)

    assert (before, then, after) == (None, 0.1, 0.2)
    assert (registry.opened, made.versions, made.problem) == (2, {"*": "ctr-2"}, None)
    assert held
    assert await held.p_click([(RICE, ["brown rice"])]) == [(0.1,)]  # a request may still be asking it
    await made.close()


@pytest.mark.parametrize("failure", [ArtifactError("It is damaged."), NextQueryError("Anything of ours.")])
async def test_a_damaged_predictor_leaves_the_good_one_in_service(failure: Exception) -> None:
    registry = Registry()
    registry.champions["*"] = KnowingPredictor(half, version="ctr-1")
    made = registry.prediction("*")
    await made.refresh()
    registry.champions["*"], registry.failure = KnowingPredictor(half, version="ctr-2"), failure

    await made.refresh()

    assert (made.versions, made.problem) == ({"*": "ctr-1"}, str(failure))
    registry.failure = None
    await made.refresh()
    assert (made.versions, made.problem) == ({"*": "ctr-2"}, None)
    await made.close()


async def test_a_directory_that_holds_another_version_is_refused() -> None:
    registry = Registry()
    good, swapped = KnowingPredictor(half, version="ctr-1"), KnowingPredictor(half, version="ctr-2")
    registry.champions["*"] = good
    made = registry.prediction("*")
    await made.refresh()
    registry.champions["*"] = swapped

    swapped_in_place = registry.newest

    async def newest(task: str) -> tuple[str, Callable[[], Awaitable[Scorer]]] | None:
        found = await swapped_in_place(task)
        return ("ctr-3", found[1]) if found else None

    registry.newest = newest  # type: ignore[method-assign]
    await made.refresh()

    assert made.versions == {"*": "ctr-1"}
    assert "holds ctr-2" in str(made.problem)
    await made.close()


async def test_a_task_has_its_own_predictor_before_that_of_all() -> None:
    registry = Registry()
    registry.champions = {"*": KnowingPredictor(lambda *_: 0.1, version="all")}
    made = registry.prediction("*", "hint", "suggest")
    await made.refresh()
    alone = await p_of(made, "hint"), await p_of(made, "suggest")
    registry.champions["hint"] = KnowingPredictor(lambda *_: 0.2, version="own")

    await made.refresh()

    assert alone == (0.1, 0.1)
    assert (await p_of(made, "hint"), await p_of(made, "suggest")) == (0.2, 0.1)
    assert made.versions == {"*": "all", "hint": "own"}
    await made.close()


async def test_looking_goes_on_whatever_happens() -> None:
    registry = Registry()
    made, looking = registry.prediction("*"), Looking()
    registry.away = True
    looking.begin(made.refresh, 0.01)
    await asyncio.sleep(0.05)
    away = made.problem
    registry.away, registry.failure = False, RuntimeError("torch's own")
    registry.champions["*"] = KnowingPredictor(half)
    await asyncio.sleep(0.05)
    broken = made.problem
    registry.failure = None

    await asyncio.sleep(0.05)

    assert (away, broken) == ("The database is away.", "RuntimeError: torch's own")
    assert made.versions == {"*": "ctr-1"}
    await looking.end(1)
    await made.close()


def test_a_service_that_scores_nothing_imports_neither_the_predictor_nor_torch() -> None:
    code = (
        "import sys, service.app\n"
        "from service.contract.settings import Settings\n"
        "service.app.create_app(Settings(_env_file=None))\n"
        "print([name for name in sys.modules if name.split('.')[0] in ('ctr', 'torch', 'numpy')])"
    )

    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)

    assert done.stdout.strip() == "[]"


async def test_a_predictor_computes_in_its_thread_alone() -> None:
    threads: list[int] = []
    scorer = scorer_of(KnowingPredictor(lambda *_: threads.append(torch.get_num_threads()) or 0.5))

    await scorer.p_click([(RICE, ["brown rice"])])

    assert threads == [1]
    await scorer.close()


async def test_a_predictor_that_is_not_ready_in_time_is_refused_with_the_way_out(tmp_path: Path) -> None:
    directory = tiny_predictor(tmp_path / "ctr-1", version="ctr-1")

    with pytest.raises(PredictionError, match="NEXTQUERY_TIMEOUTS__CTR_OPEN_S"):
        await open_scorer(directory, "*", timeout_s=0.001)


@pytest.mark.alone
async def test_closing_does_not_wait_for_a_predictor_that_hangs() -> None:
    scorer = scorer_of(KnowingPredictor(half, delay_s=0.5))
    asking = asyncio.create_task(scorer.p_click([(RICE, ["brown rice"])]))
    await asyncio.sleep(0.05)
    started = time.monotonic()

    await scorer.close()

    assert time.monotonic() - started < 0.1
    asking.cancel()
