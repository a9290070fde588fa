"""What a policy writes is read as it stands: texts before the list, early ends, odd tokens, a literal separator."""

from dataclasses import replace

import pytest

from service.contract.engine import Sampling
from service.contract.tasks import get_task
from service.contract.tokenizer import TextFormat
from service.contract.types import PromptContext
from tests.fakes import chat_tokenizer, own_tokenizer
from tests.trainer.known_policy import PLAIN, RICE, KnownEngine, KnownPredictor, chosen, known_policy, search_with
from trainer.candidates import CandidateSearch
from trainer.prompts import prompt_of

SNIPPETS = "guide: {0}\nprefix: write it\nsuffix:\n"


@pytest.mark.parametrize("n", [1, 3])
async def test_texts_come_first_one_set_a_prompt(n):
    def write(query: str, so_far: str, sampling: Sampling) -> list[str]:
        rest = "<sep>".join(["shorter", "longer", "in rhyme", "sadly"][so_far.count("<sep>") :])
        return [f"guide: broken\n{rest}", SNIPPETS.format("which tone?") + rest] if not so_far else [rest, "with love"]

    engine = KnownEngine(write)
    prompt = prompt_of("snippets", PromptContext(n=n, query="write a poem"))

    (found,) = await search_with(engine, KnownPredictor()).search([prompt])

    texts = {"guide": "which tone?", "prefix": "write it", "suffix": ""}
    so_far = [so_far for _, so_far, _ in engine.asked]
    assert so_far[:2] == [
        "",
        " guide: which tone?\n prefix: write it\n suffix:\n",
    ]  # our tokenizer begins words with a space
    assert all(each.startswith(so_far[1]) for each in so_far[1:])
    assert {tuple(each.texts.items()) for each in (*found.chosen, *found.rejected)} == {tuple(texts.items())}
    for each in (*found.chosen, *found.rejected):
        assert each.response == get_task("snippets").response(list(each.queries), texts, own_tokenizer().format)
        assert own_tokenizer().encode_response(each.response)[:4] == own_tokenizer().encode("guide: which tone?")[:4]


async def test_without_a_whole_set_of_texts_nothing_is_chosen_and_it_is_counted():
    search = search_with(KnownEngine(lambda *_: ["guide: broken\nshorter<sep>longer"]), KnownPredictor())

    (found,) = await search.search([prompt_of("snippets", PromptContext(n=2, query="write a poem"))])

    assert (found.chosen, found.rejected) == ((), ())
    assert (search.report.without_texts, search.report.unreadable) == (1, 16)


async def test_a_list_that_the_policy_ends_early_competes_by_its_reward():
    def write(query: str, so_far: str, sampling: Sampling) -> list[str]:
        return ["tea gold", "tea iron<sep>x"] if not so_far else ["tea tin<sep>x"]

    p = {"tea gold": 0.4, "tea iron": 0.2, "tea tin": 0.1}
    engine = KnownEngine(write)
    search = search_with(engine, KnownPredictor(lambda query, _: p.get(query, 0.01)))

    (found,) = await search.search([prompt_of("suggest", PromptContext(n=2, query="tea"))])

    assert chosen(found) == [("tea gold",), ("tea iron", "tea tin")]
    assert [each.reward for each in found.chosen] == pytest.approx([0.4, 1 - 0.8 * 0.9])
    assert [so_far.strip() for _, so_far, _ in engine.asked[1:]] == ["", "tea iron<sep>"]  # what ended does not go on


async def test_an_end_of_sequence_where_a_query_should_stand_ends_the_list():
    def write(query: str, so_far: str, sampling: Sampling) -> list[str]:
        return [""] if so_far else ["tea gold<sep>x", "tea iron<sep>x"]

    (found,) = await search_with(KnownEngine(write), KnownPredictor()).search([RICE])

    assert sorted(chosen(found)) == [("tea gold",), ("tea iron",)]


async def test_a_query_that_some_samples_end_with_goes_on():
    def write(query: str, so_far: str, sampling: Sampling) -> list[str]:
        return ["tea tin<sep>x"] if so_far else ["tea gold", "tea gold<sep>x", "tea gold"]

    (found,) = await search_with(KnownEngine(write), KnownPredictor()).search(
        [prompt_of("suggest", PromptContext(n=2, query="tea"))]
    )

    assert chosen(found) == [("tea gold", "tea tin")]


async def test_a_query_that_is_cut_or_unreadable_is_left_out_and_counted():
    def write(query: str, so_far: str, sampling: Sampling) -> list[str]:
        return ["word " * 40 + "<sep>x", "###<sep>x", "tea gold<sep>x"] if sampling.n == 3 else ["tea gold"]

    search = search_with(KnownEngine(write), KnownPredictor(), replace(PLAIN, expansions=3))

    (found,) = await search.search([prompt_of("suggest", PromptContext(n=1, query="tea"))])

    assert chosen(found) == [("tea gold",)]
    assert search.report.unreadable == 2


async def test_partial_responses_go_on_from_the_ids_that_the_policy_wrote():
    odd = halves_of(" how")
    separator = own_tokenizer().separator_ids

    prompts: list[tuple[int, ...]] = []

    class Odd(KnownEngine):
        async def generate(self, request_id, prompt_token_ids, sampling, adapter=None):
            prompts.append(tuple(prompt_token_ids))
            written = await super().generate(request_id, prompt_token_ids, sampling, adapter)
            return [replace(each, token_ids=odd) for each in written] if len(prompts) == 2 else written

    engine = Odd(lambda *_: ["x<sep>y", "z<sep>y"])

    await search_with(engine, KnownPredictor()).search([prompt_of("suggest", PromptContext(n=2, query="tea"))])

    assert own_tokenizer().encode(own_tokenizer().decode(odd)) != list(odd)
    assert prompts[2] == (*prompts[0], *odd, *separator)


def halves_of(word: str) -> tuple[int, int]:
    """A word that is one token, in two: as a policy may write it, and the tokenizer never does."""
    text = {own_tokenizer().decode((token,)): token for token in range(4, 1000)}
    assert word in text
    return next((text[word[:k]], text[word[k:]]) for k in range(1, len(word)) if {word[:k], word[k:]} <= text.keys())


async def test_a_literal_separator_is_sampled_and_cut_by_the_parser():
    tokenizer = chat_tokenizer()
    assert tokenizer.format == TextFormat(separator=" <SEP> ", separator_is_token=False, chat=True)

    def write(query: str, so_far: str, sampling: Sampling) -> list[str]:
        listed = ["how to cook", "1. best rice", "cheap pots"]
        return [" <SEP> ".join(listed[so_far.count("<SEP>") :])] if "best" not in so_far else ["cheap pots"]

    engine, predictor = KnownEngine(write, tokenizer), KnownPredictor()

    (found,) = await CandidateSearch(known_policy(tokenizer), engine, predictor, PLAIN).search([RICE])

    assert chosen(found) == [("how to cook", "best rice", "cheap pots")]
    assert found.chosen[0].response == "how to cook <SEP> best rice <SEP> cheap pots"
    so_far = [so_far.partition("<|assistant|>\n")[2] for _, so_far, _ in engine.asked[1:]]
    assert so_far == ["", "how to cook <SEP> ", "how to cook <SEP> 1. best rice <SEP> "]
