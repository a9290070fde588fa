"""Pairs: eq. 6 worked out by hand, against the slow obvious way, and what becomes of prompts that give none."""

import os

import pyarrow.parquet as pq
import pytest
from hypothesis import given
from hypothesis import strategies as st

from service.contract.errors import ArtifactError, ConfigurationError
from service.contract.types import EventSource, HistoryEvent, PromptContext
from trainer.candidates import Candidates, ScoredList
from trainer.judges import OverlapJudge
from trainer.preferences import LEAST_MARGIN, STEPS, Pair, make_pairs, read_pairs, write_pairs
from trainer.prompts import AlignmentPrompt


class Marked(OverlapJudge):
    """Finds an overlap in every list that says so."""

    name = "marked"

    def __init__(self) -> None:
        self.batches: list[int] = []

    def overlaps_many(self, questions):
        self.batches.append(len(questions))
        return [["overlap" in queries for queries in lists] for _, lists in questions]


def _list(tokens: int, reward: float, text: str = "", *, queries: tuple[str, ...] = ("q",)) -> ScoredList:
    return ScoredList(queries=queries, texts={}, reward=reward, response=text or f"{tokens} {reward}", tokens=tokens)


def _candidates(chosen, rejected, name: str = "p") -> Candidates:
    prompt = AlignmentPrompt(prompt_id=name, task="suggest", context=PromptContext(n=1, query="rice"))
    return Candidates(prompt=prompt, chosen=tuple(chosen), rejected=tuple(rejected))


GOOD = _candidates([_list(9, 0.5)], [_list(9, 0.1)], "good")


def _only(chosen, rejected, **options) -> Pair:
    pairs, _ = make_pairs([_candidates(chosen, rejected)], None, **options)
    (pair,) = pairs
    return pair


def test_the_pair_has_the_most_similar_lengths():
    # |len| differences: 20-11=9, 20-14=6; 15-11=4, 15-14=1 <- least; 30-11=19, 30-14=16
    chosen = [_list(20, 0.9), _list(15, 0.7), _list(30, 0.8)]
    rejected = [_list(11, 0.1), _list(14, 0.3)]

    pair = _only(chosen, rejected)

    assert (pair.chosen, pair.rejected) == (chosen[1], rejected[1])


def test_without_length_matching_it_is_the_best_and_the_worst():
    chosen = [_list(15, 0.7), _list(20, 0.9), _list(30, 0.8)]
    rejected = [_list(14, 0.3), _list(11, 0.1)]

    pair = _only(chosen, rejected, match_length=False)

    assert (pair.chosen, pair.rejected) == (chosen[1], rejected[1])


def test_among_equal_lengths_the_better_chosen_wins():
    # 12-10 = 2 and 10-8 = 2; .8 is above .6
    chosen = [_list(12, 0.6), _list(10, 0.8)]
    rejected = [_list(8, 0.3), _list(14, 0.1)]

    pair = _only(chosen, rejected)

    assert (pair.chosen, pair.rejected) == (chosen[1], rejected[0])


def test_among_equal_lengths_and_chosen_lists_the_worse_rejected_wins():
    # 12-10 = 2 and 14-12 = 2; .1 is below .3
    rejected = [_list(10, 0.3), _list(14, 0.1)]

    assert _only([_list(12, 0.6)], rejected).rejected == rejected[1]


def test_the_nearest_lengths_are_passed_over_where_the_reward_is_not_higher():
    # 10 and 10 are nearest, but .4 is not above .4; next is 10 and 12
    pair = _only([_list(10, 0.4)], [_list(10, 0.4, "other"), _list(12, 0.1)])

    assert pair.rejected.tokens == 12


def test_a_reward_within_rounding_is_no_higher_reward():
    with pytest.raises(ConfigurationError):
        _only([_list(10, 0.4 + LEAST_MARGIN / 2)], [_list(10, 0.4, "other")])

    assert _only([_list(10, 0.4 + 2 * LEAST_MARGIN)], [_list(10, 0.4, "other")])


def test_the_same_text_is_no_pair():
    pair = _only([_list(10, 0.9, "same")], [_list(10, 0.1, "same"), _list(99, 0.2)])

    assert pair.rejected.tokens == 99


def test_a_reward_that_is_no_number_makes_no_pair():
    nan = float("nan")

    with pytest.raises(ConfigurationError, match="1 had no chosen list that is better"):
        _only([_list(10, nan), _list(11, 0.5)], [_list(10, nan, "other")])


def test_overlapping_lists_are_not_chosen_and_the_judge_is_asked_once():
    judge = Marked()
    best, second = _list(9, 0.9, queries=("overlap", "a")), _list(5, 0.5, queries=("a", "b"))
    rejected = _list(9, 0.1, queries=("overlap", "c"))

    pairs, report = make_pairs([_candidates([best, second], [rejected]), GOOD], judge)

    assert [pair.chosen for pair in pairs] == [second, GOOD.chosen[0]]
    assert judge.batches == [2]
    assert (report.chosen, report.overlapping) == (3, 1)


def test_without_a_judge_nothing_is_filtered():
    best = _list(9, 0.9, queries=("overlap", "a"))

    pairs, report = make_pairs([_candidates([best], [_list(9, 0.1)])], None)

    assert pairs[0].chosen == best
    assert report.overlapping == 0


def test_the_report_says_what_became_of_every_prompt():
    overlapping = _list(9, 0.9, queries=("overlap",))
    candidates = [
        _candidates([], [_list(9, 0.1)]),
        _candidates([overlapping, overlapping], [_list(9, 0.1)]),
        _candidates([_list(9, 0.5)], []),
        _candidates([_list(9, 0.5, "same")], [_list(9, 0.1, "same")]),
        _candidates([_list(9, 0.1)], [_list(9, 0.1, "other")]),
        _candidates([_list(10, 0.4)], [_list(12, 0.1)], "first"),
        _candidates([_list(20, 0.6)], [_list(16, 0.3)], "second"),
        _candidates([_list(9, 0.1)], [_list(9, 0.2)]),
    ]

    pairs, report = make_pairs(candidates, Marked())

    assert [pair.prompt.prompt_id for pair in pairs] == ["first", "second"]
    assert (report.prompts, report.pairs) == (8, 2)
    assert report.dropped == {"no_chosen": 1, "overlap": 1, "no_rejected": 1, "same_text": 1, "reward": 2}
    assert report.shares == {
        "no_chosen": 1 / 8,
        "overlap": 1 / 8,
        "no_rejected": 1 / 8,
        "same_text": 1 / 8,
        "reward": 1 / 4,
    }
    assert (report.chosen, report.overlapping) == (8, 2)
    assert (report.chosen_tokens, report.rejected_tokens) == (15, 14)
    assert (report.chosen_reward, report.rejected_reward) == pytest.approx((0.5, 0.2))
    figures = report.figures()
    assert (figures["pairs"], figures["dropped_reward"], figures["dropped_reward_share"]) == (2, 2, 1 / 4)
    assert all(isinstance(value, float) for value in figures.values())


def test_no_pair_at_all_is_an_error_that_names_every_step():
    candidates = [
        *[_candidates([_list(9, 0.9, queries=("overlap",))], [_list(9, 0.1)])] * 3,
        _candidates([], []),
        *[_candidates([_list(9, 0.2)], [_list(9, 0.2, "other")])] * 2,
    ]

    with pytest.raises(ConfigurationError) as caught:
        make_pairs(candidates, Marked())

    said = str(caught.value)
    assert said.startswith("No preference pair is left of 6 prompts (judge marked): 1 had no chosen list")
    assert "3 had only chosen lists with an overlap" in said
    assert "2 had no chosen list that is better than a rejected one: usually the predictor scores all alike" in said


def test_no_candidates_are_an_error_too():
    with pytest.raises(ConfigurationError, match="no candidates"):
        make_pairs([], None)


_LISTS = st.lists(
    st.builds(
        lambda tokens, reward, text: _list(tokens, reward, text),
        st.integers(1, 6),
        st.sampled_from([0.1, 0.2, 0.3, 0.4]),
        st.text("ab", min_size=1, max_size=2),
    ),
    max_size=4,
)


def _slow(chosen, rejected, match_length: bool):
    """Eq. 6 with the tie-breaks, one pair after the other out of the game."""
    left = [(c, r) for c in chosen for r in rejected if c.response != r.response and c.reward > r.reward]
    if match_length:
        gaps = [abs(c.tokens - r.tokens) for c, r in left]
        left = [pair for pair, gap in zip(left, gaps, strict=True) if gap == min(gaps)]
    left = [pair for pair in left if pair[0].reward == max(c.reward for c, _ in left)]
    left = [pair for pair in left if pair[1].reward == min(r.reward for _, r in left)]
    return left[0] if left else None


@given(st.lists(st.tuples(_LISTS, _LISTS), max_size=4), st.booleans())
def test_pairs_are_those_of_the_slow_obvious_way(prompts, match_length):
    # GOOD stands at the end, so that there is always a pair
    expected = [found for each in prompts if (found := _slow(*each, match_length))]

    pairs, report = make_pairs([*(_candidates(*each) for each in prompts), GOOD], None, match_length=match_length)

    assert [(pair.chosen, pair.rejected) for pair in pairs[:-1]] == expected
    assert report.pairs + sum(report.dropped.values()) == report.prompts == len(prompts) + 1
    assert list(report.dropped) == list(STEPS)


def _pair(name: str = "7f") -> Pair:
    context = PromptContext(
        n=2,
        query="rīce 東京",
        session=("what is rice", "rice"),
        history=(HistoryEvent(source=EventSource.PURCHASE, text="a pot"),),
        answer='Boil it,\n"slowly".',
        documents=("d1",),
        co_queries=("rice cooker", "basmati"),
    )
    return Pair(
        prompt=AlignmentPrompt(prompt_id=name, task="snippets", context=context),
        chosen=ScoredList(
            queries=("shorter", "in rhyme"), texts={"guide": "How?", "prefix": "make it"}, reward=0.1 + 0.2,
            response="guide: How?\nprefix: make it\nsuffix:\nshorter<sep>in rhyme", tokens=17,
        ),
        rejected=_list(16, 0.05),
    )  # fmt: skip


def test_pairs_come_back_from_their_file_as_they_were(tmp_path):
    pairs = [_pair("7f"), _pair("80"), GOOD_PAIR]

    write_pairs(pairs, tmp_path / "a" / "pairs.parquet")

    assert read_pairs(tmp_path / "a" / "pairs.parquet") == pairs
    assert os.listdir(tmp_path / "a") == ["pairs.parquet"]


GOOD_PAIR = Pair(prompt=GOOD.prompt, chosen=GOOD.chosen[0], rejected=GOOD.rejected[0])


def test_the_same_pairs_give_the_same_bytes_and_replace_what_was_there(tmp_path):
    first, second = tmp_path / "1.parquet", tmp_path / "2.parquet"
    write_pairs([GOOD_PAIR], second)

    write_pairs([_pair()], first)
    write_pairs([_pair()], second)

    assert first.read_bytes() == second.read_bytes()


def test_the_hugging_face_library_reads_the_file(tmp_path):
    from datasets import load_dataset

    write_pairs([_pair(), GOOD_PAIR], tmp_path / "pairs.parquet")

    loaded = load_dataset(
        "parquet", data_files=str(tmp_path / "pairs.parquet"), split="train", cache_dir=str(tmp_path / "cache")
    )

    assert len(loaded) == 2
    row = loaded[0]
    assert (row["prompt_id"], row["task"]) == ("7f", "snippets")
    assert row["chosen"].endswith("shorter<sep>in rhyme")
    assert (row["chosen_queries"], row["chosen_reward"], row["chosen_tokens"]) == (
        ["shorter", "in rhyme"],
        0.1 + 0.2,
        17,
    )
    assert row["rejected_tokens"] == 16


def test_the_context_is_written_as_the_log_has_it(tmp_path):
    write_pairs([GOOD_PAIR], tmp_path / "pairs.parquet")

    (context,) = pq.read_table(tmp_path / "pairs.parquet")["context"].to_pylist()
    assert context == ('{"answer":null,"co_queries":[],"documents":[],"history":[],"n":1,"query":"rice","session":[]}')


def test_a_place_that_cannot_be_written_is_a_sentence_and_leaves_nothing(tmp_path):
    (tmp_path / "file").write_text("x")
    (tmp_path / "directory.parquet").mkdir()

    for place in (tmp_path / "file" / "pairs.parquet", tmp_path / "directory.parquet"):
        with pytest.raises(ConfigurationError, match="cannot be written"):
            write_pairs([GOOD_PAIR], place)

    assert sorted(os.listdir(tmp_path)) == ["directory.parquet", "file"]


def test_a_disk_that_fills_up_leaves_the_old_pairs(tmp_path, monkeypatch):
    path = tmp_path / "pairs.parquet"
    write_pairs([GOOD_PAIR], path)

    def full(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(ConfigurationError, match="No space left on device"):
        write_pairs([_pair()], path)

    assert read_pairs(path) == [GOOD_PAIR]
    assert os.listdir(tmp_path) == ["pairs.parquet"]


def test_what_is_no_file_of_pairs_is_refused(tmp_path):
    (tmp_path / "text.parquet").write_text("no Parquet")
    pq.write_table(pq.read_table(_written(tmp_path)).drop_columns(["context"]), tmp_path / "other.parquet")

    for name in ("text.parquet", "other.parquet", "missing.parquet"):
        with pytest.raises(ArtifactError, match=f"{name} cannot be read"):
            read_pairs(tmp_path / name)


def _written(directory):
    write_pairs([GOOD_PAIR], directory / "whole.parquet")
    return directory / "whole.parquet"
