"""Builds retrieval from a snapshot: split, mine, encode, index, evaluate, publish. GQR section 3.3.

It knows nothing about serving. A build is a directory that a running service takes up:

    <version>/
      manifest.json       what it was built from and what it measured; SHA-256 of every file
      dictionary.lmdb     D_coo: for each query id what people typed next, best first
      index.faiss         vectors of the dictionary's queries, by query id
      encoder/            the model that made them
"""

import asyncio
import hashlib
import json
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from retrieval.dictionaries.mapped import write_dictionary
from retrieval.encoder import Encoder, default_encoder
from retrieval.evaluate import Evaluation, Suggest, evaluate, transitions_of
from retrieval.index import build_index
from retrieval.mined import Mined
from retrieval.mining.day import SearchLog
from retrieval.mining.engine import Engine
from retrieval.mining.mine import mine
from retrieval.mining.report import MiningReport
from retrieval.mining.rules import MiningRules
from retrieval.searcher import KIND, SearchRule, open_searcher
from retrieval.simcse import SimcseConfig, train_encoder
from retrieval.split import split_log
from retrieval.vectors import encode_all
from service.contract.artifact import publish, seal, verify
from service.contract.progress import reporter
from service.contract.query_text import match_key
from service.contract.snapshot import Snapshot

_HELD_OUT_ONE_IN = 10
_HUB_SHARE = 0.003  # a query that more than three transitions in a thousand lead to is a hub


@dataclass(frozen=True, slots=True, kw_only=True)
class BuildConfig:
    """What a build goes by.

    Attributes:
        work: keeps mined days, vectors and the trained encoder between builds.
        encoder: a model by path or hub id, taken as it is; None means the one trained in `work`, or trained now, or the
            start where the log is too small to train on.
        start: what training starts from; None means the encoder that is installed with nextquery.
        damping, half_life_days: see `retrieval/mining/weight.py`.
        test_people: how many held-out people are predicted at most.
        seed: decides who is held out.
    """

    work: Path
    rules: MiningRules = field(default_factory=MiningRules)
    search: SearchRule = field(default_factory=SearchRule)
    encoder: str | None = None
    start: str | None = None
    train: SimcseConfig = field(default_factory=SimcseConfig)
    damping: float = 0.1
    half_life_days: float = 30.0
    test_people: int = 1000
    seed: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class Build:
    """A published build. `is_new`: False when the same one was there already."""

    version: str
    directory: Path
    is_new: bool
    mining: MiningReport
    manifest: Mapping[str, Any]


def build(snapshot: Snapshot, destination: Path, config: BuildConfig, engine: Engine, *, quiet: bool = False) -> Build:
    """Build from `snapshot` and publish under `destination`; the same inputs give the same version.

    Raises:
        ArtifactError: The snapshot or the encoder cannot be used.
    """
    evaluation = evaluate_on(snapshot, config, engine, quiet=quiet)
    report = mine(snapshot, config.work / "mined", config.rules, engine=engine, cache=config.work / "days")
    version = _version(snapshot, config)
    directory = destination / version
    is_new = not directory.exists()
    if is_new:
        window = [snapshot.since.isoformat(), snapshot.until.isoformat()]
        facts = {"window": window, "tenant": snapshot.tenant, "evaluation": asdict(evaluation)}
        with tempfile.TemporaryDirectory(dir=_made(destination), prefix=".build-") as scratch:
            draft = Path(scratch) / "draft"
            assemble(draft, version, Mined(config.work / "mined"), config, quiet=quiet, **facts)
            publish(draft, directory)
    return Build(version=version, directory=directory, is_new=is_new, mining=report, manifest=verify(directory))


def assemble(
    draft: Path, version: str, mined: Mined, config: BuildConfig, *, quiet: bool = False, **facts: Any
) -> None:
    """Make the directory of a build from what was mined, and seal it. `facts` join its manifest."""
    draft.mkdir(parents=True)
    source = encoder_of(config)
    encoder = Encoder(source)
    ids, texts = mined.queries()
    progress = reporter(config.work / "encode.jsonl", quiet=quiet)
    vectors, encoded = encode_all(encoder, ids, texts, config.work / f"vectors-{_sha(source)}.npz", progress)
    entries = mined.entries(damping=config.damping, half_life_days=config.half_life_days)
    known = write_dictionary(draft / "dictionary.lmdb", version, entries)
    kind = build_index(ids, vectors, draft / "index.faiss")
    encoder.model.save_pretrained(str(draft / "encoder"), create_model_card=False)
    seal(
        draft,
        {
            "kind": KIND,
            "version": version,
            "queries": len(ids),
            "known_queries": known,
            "encoded_now": encoded,
            "encoder": "trained" if source == str(_trained(config)) else Path(source).name,
            "dimension": encoder.dimension,
            "index": kind,
            "k": config.rules.k,
            "damping": config.damping,
            "half_life_days": config.half_life_days,
            **facts,
        },
    )


def evaluate_on(snapshot: SearchLog, config: BuildConfig, engine: Engine, *, quiet: bool = False) -> Evaluation:
    """Build from nine people in ten, and predict the others. Trains the encoder where there is none yet.

    The encoder never learns from the held-out people, in later builds neither.
    """
    with tempfile.TemporaryDirectory(dir=_made(config.work), prefix=".evaluate-") as scratch:
        place = Path(scratch)
        learn, sessions = split_log(
            snapshot,
            place / "learn",
            one_in=_HELD_OUT_ONE_IN,
            most=config.test_people,
            silence_minutes=config.rules.silence_minutes,
            seed=config.seed,
        )
        mine(learn, place / "mined", config.rules, engine=engine)
        mined = Mined(place / "mined")
        _train_once(mined, config, quiet=quiet)
        assemble(place / "build", "evaluation", mined, config, quiet=quiet)
        return asyncio.run(_predict(sessions, mined, place / "build", config.search))


async def _predict(sessions: Sequence[Sequence[str]], mined: Mined, directory: Path, rule: SearchRule) -> Evaluation:
    searcher = await open_searcher(directory, rule)
    by_count = mined.by_count()
    transitions = transitions_of(sessions, set(by_count), mined.hubs(_HUB_SHARE))
    popular, texts = mined.popular(20), mined.shareable()

    async def frequency(query: str) -> Sequence[str]:
        return by_count.get(query, ())

    async def neighbours(query: str) -> Sequence[str]:
        return [texts[i] for i, _ in await searcher.nearest(query) if i in texts and match_key(texts[i]) != query]

    async def popularity(query: str) -> Sequence[str]:
        return [text for text in popular if match_key(text) != query]

    others: dict[str, Suggest] = {"frequency": frequency, "popularity": popularity, "neighbours": neighbours}
    try:
        return await evaluate(transitions, searcher, others)
    finally:
        await searcher.close()


def encoder_of(config: BuildConfig) -> str:
    """The encoder of a build: the given one, else the one trained in the work directory, else what training starts from."""
    trained = _trained(config)
    return config.encoder or (str(trained) if trained.exists() else config.start or default_encoder())


def _trained(config: BuildConfig) -> Path:
    return config.work / "encoder"


def _train_once(mined: Mined, config: BuildConfig, *, quiet: bool) -> None:
    if config.encoder or _trained(config).exists():
        return
    with tempfile.TemporaryDirectory(dir=config.work, prefix=".encoder-") as scratch:
        draft = Path(scratch) / "draft"
        queries, pairs = list(mined.shareable().values()), mined.learnable_pairs()
        if train_encoder(config.start or default_encoder(), queries, pairs, draft, config.train, quiet=quiet):
            draft.rename(_trained(config))


def _version(snapshot: Snapshot, config: BuildConfig) -> str:
    """A name that the same inputs give again: the day it ends with, and a hash of all of them."""
    inputs = [
        snapshot.manifest["files"],
        _sha(encoder_of(config)),
        asdict(config.rules),
        config.damping,
        config.half_life_days,
    ]
    digest = hashlib.sha256(json.dumps(inputs, sort_keys=True).encode()).hexdigest()
    return f"cor-{snapshot.until:%Y%m%d}-{digest[:8]}"


def _sha(encoder_source: str) -> str:
    """Hash of the model's files, or of its hub id."""
    files = sorted(path for path in Path(encoder_source).rglob("*") if path.is_file() and path.suffix != ".jsonl")
    digest = hashlib.sha256(encoder_source.encode() if not files else b"")
    for path in files:
        digest.update(path.read_bytes())
    return digest.hexdigest()[:12]


def _made(directory: Path) -> Path:
    directory.mkdir(parents=True, exist_ok=True)
    return directory
