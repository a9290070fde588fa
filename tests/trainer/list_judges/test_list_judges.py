"""What every judge of lists must keep, and what that of embeddings says of lists whose quality is plain."""

import pytest

from service.contract.errors import ConfigurationError
from service.contract.settings import Settings
from service.contract.types import PromptContext
from trainer.judges.embedding import installed_embedder
from trainer.list_judges import Pair, Rating, Relatedness, get_list_judge, names
from trainer.list_judges.embedding import EmbeddingListJudge

LOW, MODERATE, HIGH = Relatedness
RICE = PromptContext(
    n=3, query="how to cook brown rice", answer="Rinse it well. Brown rice takes forty minutes to cook."
)


def rated(context: PromptContext, *queries: str, task: str = "suggest") -> Rating:
    judge = EmbeddingListJudge(installed_embedder())
    [found] = judge.ratings([Pair(task=task, context=context, first=queries, second=("anything",))])
    assert found is not None
    return found[0]


def test_the_judges_are_found_by_their_files():
    assert names() == ["embedding", "openai_http"]
    assert get_list_judge("embedding", Settings()).name == "embedding"


def test_an_unknown_judge_is_refused_with_those_there_are():
    with pytest.raises(ConfigurationError, match=r"no judge of lists 'dice'.*embedding, openai_http"):
        get_list_judge("dice", Settings())


def test_levels_follow_the_subject():
    found = rated(RICE, "how to cook brown rice in a pot", "white rice price", "cheap flights to rome")

    assert found.related == (HIGH, MODERATE, LOW)
    assert found.relatedness == 1.0


def test_each_kind_of_repetition_is_told():
    found = rated(
        RICE,
        "how to cook brown rice",
        "how long does brown rice take to cook",
        "brown rice price",
        "price of brown rice",
    )

    assert "query" in found.repeats[0]
    assert found.repeats[1] & {"answer", "query"}
    assert found.repeats[2] == frozenset()
    assert found.repeats[3] == {"list"}
    assert found.exclusivity == 0.25


def test_snippets_are_not_rated_for_what_their_cosine_does_not_tell():
    found = rated(PromptContext(n=2, query="write a poem about autumn"), "shorter", "more cheerful", task="snippets")

    assert found.related == ()
    assert found.relatedness is None
    assert found.exclusivity == 1.0


def test_a_list_without_a_query_has_no_rating():
    found = rated(RICE)

    assert (found.relatedness, found.exclusivity) == (None, None)


def test_without_a_query_the_session_says_what_was_asked():
    found = rated(PromptContext(n=1, session=("cheap flights", "brown rice")), "brown rice recipe", task="hint")

    assert found.related == (HIGH,)
