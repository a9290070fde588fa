"""Algorithm 1's loop: when it goes on, when it stops, which policy is taken, and how a killed run goes on."""

import json
from dataclasses import replace

import pytest

from service.contract.errors import ArtifactError
from service.contract.policy import load_policy, seal_policy
from service.contract.tokenizer import TextFormat
from service.contract.types import PromptContext
from tests.tiny_models import make_tokenizer
from tests.trainer.known_policy import KnownEngine, KnownPredictor, words_of_topic
from trainer.candidates import SearchConfig
from trainer.methods import Outcome
from trainer.prompts import prompt_of
from trainer.rounds import Engines, Rounds, RoundsConfig, taken

PROMPTS = [prompt_of("suggest", PromptContext(n=3, query=query)) for query in ("rice", "tea")]
TESTED = [prompt_of("suggest", PromptContext(n=3, query=query)) for query in ("salt", "soup")]
CONFIG = RoundsConfig(
    max_rounds=3, search=SearchConfig(near_duplicate=None, beams=2, expansions=4, random_lists=6, rejected=2)
)


class World:
    """Policies whose test lists earn what `p` says of their version; training publishes the next and learns nothing."""

    def __init__(self, place, p, *, test_list="a<sep>b<sep>c"):
        self.place, self.p, self.test_list = place, p, test_list
        self.serving, self.trained, self.searched = "sft", [], 0
        self.fail_in_training = False
        publish(place / "sft", "sft")

    def rounds(self, config=CONFIG):
        self.engines = Engines(self._engine)
        judge = KnownPredictor(lambda query, above: self.p[self.serving] if query in "abc" else 0.1)
        searching = KnownPredictor()
        return Rounds(
            self.engines, searching, judge, similar=None, overlap=None, config=config, train=self._train, quiet=True
        )

    async def align(self, config=CONFIG):
        sft = load_policy(self.place / "sft")
        return await self.rounds(config).align(
            sft, sft, PROMPTS, TESTED, version="dpo", output=self.place, work=self.place / "work"
        )

    def _engine(self, directory):
        self.serving = directory.name

        def write(query, so_far, sampling):
            if query in ("salt", "soup"):
                return [self.test_list]
            self.searched += 1
            return words_of_topic(query, so_far, sampling)

        return KnownEngine(write, load_policy(directory).tokenizer)

    def _train(self, method, pairs, *, policy, reference, output, work, version, config, quiet):
        if self.fail_in_training:
            raise RuntimeError("killed")
        self.trained.append((policy.version, reference.version, version))
        publish(output, version)
        return Outcome(metrics={"kl": 0.1}, directory=output, version=version, manifest_sha256="")


def publish(directory, version):
    directory.mkdir()
    make_tokenizer(directory)
    seal_policy(
        directory,
        version=version,
        text_format=TextFormat(separator="<sep>", separator_is_token=True),
        training={"figures": {"kl": 0.1}},
    )


def aec(rounds):
    return [round(each.assessment.aec["judge"], 4) for each in rounds]


async def test_rounds_go_on_from_the_policy_before_until_the_gain_is_small(tmp_path):
    world = World(tmp_path, {"sft": 0.1, "dpo-r1": 0.2, "dpo-r2": 0.2001})

    found = await world.align()

    assert world.trained == [("sft", "sft", "dpo-r1"), ("dpo-r1", "dpo-r1", "dpo-r2")]
    assert aec(found) == [0.271, 0.488, 0.4882]  # 1 - (1 - p)**3
    assert taken(found).version == "dpo-r2"
    assert [each.parent for each in found] == [None, "sft", "dpo-r1"]


async def test_the_reference_may_stay_the_sft_policy(tmp_path):
    world = World(tmp_path, {"sft": 0.1, "dpo-r1": 0.2, "dpo-r2": 0.3, "dpo-r3": 0.4})

    found = await world.align(replace(CONFIG, reference="sft"))

    assert [reference for _, reference, _ in world.trained] == ["sft"] * 3
    assert len(found) == 4  # max_rounds


async def test_a_round_that_the_judge_likes_less_than_sft_is_not_taken(tmp_path):
    world = World(tmp_path, {"sft": 0.2, "dpo-r1": 0.1})

    found = await world.align()

    assert "judge" in found[1].stopped
    assert taken(found).version == "sft"


@pytest.mark.parametrize(
    ("test_list", "why"), [("a<sep>a<sep>b", "repeat"), ("a<sep>b<sep>c and many more words in it than before", "long")]
)
async def test_repetition_and_length_stop_the_loop(tmp_path, test_list, why):
    world = World(tmp_path, {"sft": 0.1, "dpo-r1": 0.2})
    world.rounds()
    make = world._engine

    def engine(directory):
        world.test_list = test_list if directory.name == "dpo-r1" else "a<sep>b<sep>c"
        return make(directory)

    world._engine = engine
    found = await world.align()

    assert why in found[1].stopped
    assert taken(found).version == "sft"


async def test_a_run_that_was_killed_in_training_goes_on_with_what_it_found(tmp_path):
    world = World(tmp_path, {"sft": 0.1, "dpo-r1": 0.2, "dpo-r2": 0.2})
    world.fail_in_training = True
    with pytest.raises(RuntimeError, match="killed"):
        await world.align()
    searched, world.fail_in_training = world.searched, False

    await world.align(replace(CONFIG, max_rounds=1))
    once_more = await world.align(replace(CONFIG, max_rounds=1))

    assert world.searched == searched > 0
    assert world.trained == [("sft", "sft", "dpo-r1")]
    assert json.loads((tmp_path / "work/round-1/figures.json").read_text())["version"] == once_more[1].version


async def test_a_policy_published_before_the_kill_is_not_trained_again(tmp_path):
    world = World(tmp_path, {"sft": 0.1, "dpo-r1": 0.2})
    await world.align(replace(CONFIG, max_rounds=1))
    (tmp_path / "work/round-1/figures.json").unlink()

    found = await world.align(replace(CONFIG, max_rounds=1))

    assert len(world.trained) == 1
    assert found[1].training == {"kl": 0.1}


async def test_lists_that_all_earn_the_same_leave_nothing_published(tmp_path):
    world = World(tmp_path, {"sft": 0.1})
    rounds = Rounds(
        Engines(world._engine),
        KnownPredictor(lambda query, above: 0.1),
        KnownPredictor(),
        similar=None,
        overlap=None,
        config=CONFIG,
        train=world._train,
    )
    sft = load_policy(tmp_path / "sft")

    with pytest.raises(ArtifactError, match="same probability"):
        await rounds.align(sft, sft, PROMPTS, TESTED, version="dpo", output=tmp_path, work=tmp_path / "work")

    assert world.trained == []
