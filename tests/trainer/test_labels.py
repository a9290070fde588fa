"""Labels: every word has its verdict, a killed run goes on, and no missing verdict is taken for one."""

import pytest

from service.contract.errors import ArtifactError, ConfigurationError, JudgeError
from service.contract.types import EventSource, HistoryEvent, PromptContext
from tests.trainer.known_policy import KnownEngine, known_policy
from trainer.labels import label_to, read_labels, report_of
from trainer.prompt_files import KnownPrompt
from trainer.prompts import prompt_of
from trainer.token_reward.rows import apart, rows_of
from trainer.word_judges import Judgement


def _prompts(count):
    def context(number):
        return PromptContext(n=2, history=(HistoryEvent(source=EventSource.SEARCH, text=f"rice {number}"),))

    return [KnownPrompt(prompt=prompt_of("predict", context(number))) for number in range(count)]


class LikesRice:
    """A word is relevant when it is `rice`; the first query decides about the whole, so that order matters to it."""

    name = "likes_rice"

    def __init__(self, silent_about="never", fails_after=None):
        self.spent = {"requests": 0}
        self._silent, self._fails_after = silent_about, fails_after

    def judge(self, asked):
        if self._fails_after is not None and self.spent["requests"] >= self._fails_after:
            raise JudgeError("The judge is away.")
        self.spent = {"requests": self.spent["requests"] + len(asked)}
        return [self._judged(each) for each in asked]

    def _judged(self, asked):
        if any(self._silent in event.text for event in asked.context.history):
            return None
        words = tuple(tuple(word == "rice" for word in words) for words in asked.words)
        return Judgement(words, bool(words) and words[0][0])


def _engine(text="rice cooker<sep>zebra crossing"):
    return KnownEngine(lambda query, so_far, sampling: [text])


async def _label(directory, judge, count=70, text="rice cooker<sep>zebra crossing", seed=0):
    return await label_to(directory, _prompts(count), known_policy(), _engine(text), judge, seed=seed)


async def test_every_word_of_every_response_has_a_verdict(tmp_path):
    report = await _label(tmp_path, LikesRice())

    labels = read_labels(tmp_path)
    assert len(labels) == 70
    assert {(label.relevant, label.whole) for label in labels} == {(((True, False), (False, False)), True)}
    assert (report.responses, report.words, report.relevant_words, report.relevant) == (70, 280, 0.25, 1.0)


async def test_a_sample_is_judged_with_its_queries_in_reverse_and_agreement_is_told(tmp_path):
    report = await _label(tmp_path, LikesRice())

    assert report.swapped == 8  # one in ten of 64, and of 6
    assert report.swapped_words_agree == 1.0
    assert report.swapped_agree == 0.0  # the judge goes by what comes first
    assert report.spent == {"requests": 78}


async def test_a_response_without_a_verdict_is_counted_and_never_learnt_from(tmp_path):
    report = await _label(tmp_path, LikesRice(silent_about="rice 1"), count=20)

    assert report.unjudged == 11  # rice 1, and rice 10 to 19
    assert report.relevant == 1.0
    assert len(read_labels(tmp_path)) == 9


async def test_a_killed_run_goes_on_and_costs_are_added_up(tmp_path):
    with pytest.raises(JudgeError):
        await _label(tmp_path, LikesRice(fails_after=71))

    report = await _label(tmp_path, LikesRice())

    assert report.responses == 70
    assert report.spent == {"requests": 78}  # of the second run only the second part
    assert report == report_of(tmp_path)


async def test_labels_of_something_else_are_not_mixed(tmp_path):
    await _label(tmp_path, LikesRice(), count=5)

    with pytest.raises(ConfigurationError, match="cannot take these labels"):
        await _label(tmp_path, LikesRice(), count=5, seed=1)


@pytest.mark.parametrize("text", ["", "<sep>", "!!"])
async def test_a_response_that_says_nothing_is_no_word_and_no_relevant_whole(tmp_path, text):
    report = await _label(tmp_path, LikesRice(), count=3, text=text)

    assert (report.failures, report.words, report.relevant) == (3, 0, 0.0)
    assert all(not any(row.classes) and not row.whole for row in rows_of(read_labels(tmp_path), known_policy()))


async def test_a_response_without_a_separator_is_one_query(tmp_path):
    await _label(tmp_path, LikesRice(), count=3, text="best rice cooker")

    assert read_labels(tmp_path)[0].relevant == ((False, True, False),)


async def test_rows_have_the_class_of_each_token_and_no_prompt_on_both_sides(tmp_path):
    await _label(tmp_path, LikesRice())
    policy = known_policy()

    rows = rows_of(read_labels(tmp_path), policy)
    learnt, held_out = apart(rows, 0.2)

    row = rows[0]
    assert len(row.classes) == len(row.response)
    separator = row.response.index(policy.tokenizer.separator_ids[0])
    assert row.classes[0] == 2
    assert row.classes[separator] == 0
    assert row.classes[-1] == 0
    assert set(row.classes[separator + 1 : -1]) == {1}
    assert not {each.prompt_id for each in learnt} & {each.prompt_id for each in held_out}
    assert len(held_out) > 3


def test_a_folder_without_labels_is_refused(tmp_path):
    with pytest.raises(ArtifactError, match="nextquery train label"):
        read_labels(tmp_path)
