"""Who serves is one row, changed by compare-and-set, and only to files that are as they were registered."""

import asyncio
from pathlib import Path

import pytest
from sqlalchemy.ext.asyncio import AsyncEngine

from service.contract import database, registry
from service.contract.artifact import seal
from service.contract.errors import ArtifactError, DatabaseError, RegistryConflict
from service.contract.settings import STARTER
from tests.conftest import TIMEOUTS


def model(root: Path, version: str, weights: bytes = b"weights", base: str | None = None) -> Path:
    directory = root / version
    directory.mkdir()
    (directory / "model.safetensors").write_bytes(weights)
    stands_on = {"base": {"version": base, "manifest_sha256": "0" * 64}} if base else {}
    seal(directory, {"version": version, "kind": "policy", **stands_on})
    return directory


async def registered(
    engine: AsyncEngine, root: Path, version: str, task: str = "*", base: str | None = None
) -> registry.ModelVersion:
    directory = model(root, version, base=base)
    return await registry.register(engine, version=version, kind="policy", task=task, directory=directory)


async def test_a_registered_model_is_shown_and_listed(engine: AsyncEngine, tmp_path: Path) -> None:
    directory = model(tmp_path, "v1")

    made = await registry.register(
        engine, version="v1", kind="policy", task="suggest", directory=directory, parent="v0", metrics={"loss": 1.5}
    )

    assert await registry.show(engine, "v1") == made
    assert await registry.list_versions(engine) == [made]
    assert await registry.list_versions(engine, "ctr") == []
    assert (made.directory, made.parent, made.metrics, made.task) == (directory, "v0", {"loss": 1.5}, "suggest")


async def test_registering_the_same_again_changes_nothing(engine: AsyncEngine, tmp_path: Path) -> None:
    first = await registered(engine, tmp_path, "v1")

    again = await registry.register(engine, version="v1", kind="policy", task="*", directory=tmp_path / "v1")

    assert again == first


async def test_other_files_under_the_same_version_are_a_conflict(engine: AsyncEngine, tmp_path: Path) -> None:
    first = await registered(engine, tmp_path, "v1")
    (tmp_path / "other").mkdir()

    with pytest.raises(RegistryConflict, match="never changes"):
        await registry.register(
            engine, version="v1", kind="policy", task="*", directory=model(tmp_path / "other", "v1", b"others")
        )

    assert await registry.show(engine, "v1") == first


async def test_an_altered_model_is_neither_registered_nor_promoted(engine: AsyncEngine, tmp_path: Path) -> None:
    await registered(engine, tmp_path, "v1")
    (tmp_path / "v1" / "model.safetensors").write_bytes(b"Weights")

    with pytest.raises(ArtifactError):
        await registry.register(engine, version="v2", kind="policy", task="*", directory=tmp_path / "v1")
    with pytest.raises(ArtifactError):
        await registry.promote(engine, "policy", "*", "v1", expected_revision=0)
    assert await registry.champion(engine, "policy", "*") is None


async def test_a_model_that_was_sealed_anew_is_not_the_one_registered(engine: AsyncEngine, tmp_path: Path) -> None:
    made = await registered(engine, tmp_path, "v1")
    (made.directory / "model.safetensors").write_bytes(b"others")
    seal(made.directory, {"version": "v1"})

    with pytest.raises(ArtifactError, match="not what was registered"):
        await registry.promote(engine, "policy", "*", "v1", expected_revision=0)


async def test_a_task_without_a_champion_of_its_own_gets_that_of_all(engine: AsyncEngine, tmp_path: Path) -> None:
    await registered(engine, tmp_path, "all")
    await registered(engine, tmp_path, "own", task="hint")
    await registry.promote(engine, "policy", "*", "all", expected_revision=0)
    await registry.promote(engine, "policy", "hint", "own", expected_revision=0)

    found = [await registry.champion(engine, "policy", task) for task in ("hint", "suggest")]

    assert [champion and champion.version for champion in found] == ["own", "all"]
    assert await registry.champion(engine, "ctr", "hint") is None
    assert [champion.task for champion in await registry.list_champions(engine)] == ["*", "hint"]


async def test_a_model_of_another_kind_or_task_is_not_promoted(engine: AsyncEngine, tmp_path: Path) -> None:
    await registered(engine, tmp_path, "v1", task="hint")

    with pytest.raises(RegistryConflict):
        await registry.promote(engine, "policy", "suggest", "v1", expected_revision=0)
    with pytest.raises(RegistryConflict):
        await registry.promote(engine, "ctr", "hint", "v1", expected_revision=0)
    with pytest.raises(RegistryConflict, match="no model version"):
        await registry.promote(engine, "policy", "hint", "v9", expected_revision=0)


async def test_of_two_who_promote_at_once_one_loses(engine: AsyncEngine, tmp_path: Path) -> None:
    for version in ("v1", "v2", "v3"):
        await registered(engine, tmp_path, version)
    await registry.promote(engine, "policy", "*", "v1", expected_revision=0)

    results = await asyncio.gather(
        registry.promote(engine, "policy", "*", "v2", expected_revision=1),
        registry.promote(engine, "policy", "*", "v3", expected_revision=1),
        return_exceptions=True,
    )

    (winner,) = [result for result in results if isinstance(result, registry.Champion)]
    assert [type(result) for result in results if result is not winner] == [RegistryConflict]
    assert await registry.champion(engine, "policy", "*") == winner
    assert (winner.revision, winner.previous) == (2, "v1")


@pytest.mark.parametrize("revision", [0, 2, 7])
async def test_a_promotion_from_another_revision_is_refused(engine: AsyncEngine, tmp_path: Path, revision: int) -> None:
    await registered(engine, tmp_path, "v1")
    await registered(engine, tmp_path, "v2")
    first = await registry.promote(engine, "policy", "*", "v1", expected_revision=0)

    with pytest.raises(RegistryConflict, match=f"revision {revision}"):
        await registry.promote(engine, "policy", "*", "v2", expected_revision=revision)

    assert await registry.champion(engine, "policy", "*") == first


async def test_a_rollback_returns_to_the_previous_champion(engine: AsyncEngine, tmp_path: Path) -> None:
    await registered(engine, tmp_path, "v1")
    await registered(engine, tmp_path, "v2")
    await registry.promote(engine, "policy", "*", "v1", expected_revision=0)
    with pytest.raises(RegistryConflict, match="no earlier"):
        await registry.roll_back(engine, "policy", "*")
    await registry.promote(engine, "policy", "*", "v2", expected_revision=1)

    back = await registry.roll_back(engine, "policy", "*")

    assert (back.version, back.previous, back.revision) == ("v1", "v2", 3)


async def test_the_shipped_policy_becomes_champion_once(engine: AsyncEngine, tmp_path: Path) -> None:
    starter = model(tmp_path, "starter-1")

    found = await asyncio.gather(*(registry.ensure_starter(engine, starter) for _ in range(4)))

    assert {(champion.version, champion.revision) for champion in found} == {("starter-1", 1)}


async def test_the_shipped_policy_leaves_another_champion_alone(engine: AsyncEngine, tmp_path: Path) -> None:
    await registered(engine, tmp_path, "v1")
    champion = await registry.promote(engine, "policy", "*", "v1", expected_revision=0)

    assert await registry.ensure_starter(engine, model(tmp_path, "starter-1")) == champion


async def test_the_path_of_the_shipped_policy_moves_with_the_checkout(
    engine: AsyncEngine, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for place in ("here", "there"):
        (tmp_path / place).mkdir()
        model(tmp_path / place, "sft")
    monkeypatch.setattr(registry, "STARTER", tmp_path / "here" / "sft")
    made = await registry.ensure_starter(engine, tmp_path / "here" / "sft")

    monkeypatch.setattr(registry, "STARTER", tmp_path / "there" / "sft")
    found = await registry.ensure_starter(engine, tmp_path / "there" / "sft")

    assert made.directory == tmp_path / "here" / "sft"
    assert found.directory == tmp_path / "there" / "sft"
    assert found.revision == 1


async def test_a_newly_shipped_policy_replaces_the_one_that_was_shipped_before(
    engine: AsyncEngine, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    starter = model(tmp_path, "sft")
    monkeypatch.setattr(registry, "STARTER", starter)
    await registry.ensure_starter(engine, starter)
    (starter / "model.safetensors").write_bytes(b"better")
    seal(starter, {"version": "sft-2", "kind": "policy"})

    found = await registry.ensure_starter(engine, starter)

    assert (found.version, found.revision) == ("sft-2", 2)


async def test_a_database_that_is_away_is_a_database_error() -> None:
    engine = database.create("postgresql+psycopg://nobody@127.0.0.1:1/none", TIMEOUTS)

    with pytest.raises(DatabaseError):
        await registry.champion(engine, "policy", "*")


def test_the_shipped_policy_is_looked_for_inside_the_checkout() -> None:
    assert STARTER.parts[-3:] == ("deploy", "starter", "sft")


async def test_a_new_base_retires_the_adapters_on_the_old_one(engine: AsyncEngine, tmp_path: Path) -> None:
    await registry.put_in_front(engine, await registered(engine, tmp_path, "sft-1"))
    new = await registered(engine, tmp_path, "sft-2")
    for task, version, base in (("suggest", "dpo-1", "sft-1"), ("hint", "dpo-2", "sft-2"), ("predict", "other", None)):
        await registry.put_in_front(engine, await registered(engine, tmp_path, version, task, base))
    before = await registry.retired(engine, ["dpo-1", "dpo-2", "other", "sft-2"])

    await registry.put_in_front(engine, new)

    serving = {each.task: each.version for each in await registry.list_champions(engine)}
    assert before == set()  # while its own task is served by an adapter on sft-2, that model serves
    assert serving == {"*": "sft-2", "hint": "dpo-2", "predict": "other"}
    assert await registry.retired(engine, ["dpo-1", "dpo-2", "other", "sft-2"]) == {"dpo-1"}


async def test_an_adapter_for_all_keeps_those_on_its_own_base_only(engine: AsyncEngine, tmp_path: Path) -> None:
    for version, task, base in (("sft", "*", None), ("one", "suggest", "sft"), ("two", "hint", "another")):
        await registry.put_in_front(engine, await registered(engine, tmp_path, version, task, base))
    assert await registry.retired(engine, ["one", "two"]) == set()

    await registry.put_in_front(engine, await registered(engine, tmp_path, "for-all", "*", "sft"))

    serving = {each.task: each.version for each in await registry.list_champions(engine)}
    assert serving == {"*": "for-all", "suggest": "one"}


async def test_an_adapter_retired_by_a_promotion_that_lost_the_race_serves_on(
    engine: AsyncEngine, tmp_path: Path
) -> None:
    for version, task, base in (("sft-1", "*", None), ("dpo-1", "suggest", "sft-1")):
        await registry.put_in_front(engine, await registered(engine, tmp_path, version, task, base))
    await registered(engine, tmp_path, "sft-2")

    with pytest.raises(RegistryConflict, match="somebody else"):
        await registry.promote(engine, "policy", "*", "sft-2", expected_revision=7)

    found = await registry.champion(engine, "policy", "suggest")
    assert found is not None
    assert found.version == "dpo-1"
