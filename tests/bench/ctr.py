"""Click prediction: Table 2 of GQR on simulated clicks, how near it comes to the truth, real clicks, and speed.

`python -m tests.bench.ctr --json` ends within 20 minutes; `--full` measures every row of the table, and goes on where it was
cut off. The clicks of `table2`, `auc_share`, `pcoc` and `ece_share` are simulated, on lists that the starter policy wrote.
"""

import sys
import tempfile
from dataclasses import dataclass, replace
from functools import cache, partial
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
from numpy.typing import NDArray

from ctr.build import calibrate, logits_of
from ctr.dataset import DataConfig, Dataset, build_dataset
from ctr.evaluate import evaluate
from ctr.features import Variant
from ctr.metrics import reliability
from ctr.tokenizer import default_tokenizer, load_tokenizer
from ctr.train import TrainConfig, train
from service.contract.snapshot import Snapshot
from service.contract.tasks import get_task
from tests.bench import ctr_real, ctr_speed
from tests.bench.intervals import auc_interval
from tests.bench.report import Bar, Cell, main
from tests.bench.simulated_logs import DAYS, TEST_DAYS, place, simulated_log

BACKBONES = ("bert", "roberta", "albert")
VARIANTS = {"suggest": tuple(Variant), "snippets": tuple(Variant), "hint": (Variant.PLAIN,)}
_OF = (
    "ctr",
    "trainer/audience",
    "trainer/catalogue",
    "deploy/starter/sft",
    "service/contract/tasks",
    "tests/bench/ctr.py",
    "tests/bench/simulated_logs.py",
)


@dataclass(frozen=True, slots=True)
class Log:
    """A simulated log: `window` impressions in the 14 days that are learnt from, half as many in the 7 after them."""

    task: str
    window: int
    people_a_list: int
    epochs: int
    batch_size: int = 64
    size: str = "small"

    def training(self, variant: Variant, backbone: str = "bert") -> TrainConfig:
        """How a predictor is trained on it."""
        return TrainConfig(
            variant=variant,
            backbone=backbone,
            size=self.size,
            epochs=self.epochs,
            batch_size=self.batch_size,
            checks_per_epoch=2,
            validation_rows=20_000,
        )


TABLE = {
    "suggest": Log("suggest", 30_000, 6, epochs=4, batch_size=128),
    "snippets": Log("snippets", 30_000, 8, epochs=2, batch_size=128),
    "hint": Log("hint", 30_000, 6, epochs=6),
}
LARGE = Log("suggest", 200_000, 8, epochs=5)


def _bars() -> list[Bar]:
    rows = [f"{task}_{row}" for task in TABLE for row in _rows(task)]
    return [
        Bar("table2_rows", "rows", ">=", 21),
        Bar("table2_gap_suggest", "AUC", ">", 0),
        Bar("table2_gap_snippets", "AUC", ">", 0),
        Bar("auc_share", "share", ">=", 0.9),
        Bar("auc_best", "AUC"),
        Bar("auc_expected", "AUC"),
        Bar("auc_position", "AUC"),
        Bar("auc_hashed_words", "AUC"),
        Bar("pcoc_low_margin", "ratio", ">=", 0.98),
        Bar("pcoc", "ratio", "<=", 1.02),
        Bar("ece_share", "share", "<=", 0.05),
        *ctr_real.BARS,
        *ctr_speed.BARS,
        *(Bar(f"table2_{row}_{name}", unit, digits=6) for row in rows for name, unit in _COLUMNS.items()),
    ]


_COLUMNS = {"auc": "AUC", "low": "AUC", "high": "AUC", "logloss": "nats", "diff_ctr": "CTR", "diff_ctr_true": "CTR"}


def _rows(task: str) -> list[str]:
    return [f"{backbone}_{variant.value}" for backbone in BACKBONES for variant in VARIANTS[task]]


def _cells() -> list[Cell]:
    table = [
        Cell(
            f"table2-{task}-{backbone}-{variant.value}",
            partial(_row, task, backbone, variant),
            of=_OF,
            about_s=_about_s(TABLE[task]),
            stored=True,
        )
        for task in TABLE
        for backbone in BACKBONES
        for variant in VARIANTS[task]
    ]
    large = Cell("large", _large, of=_OF, about_s=_about_s(LARGE), stored=True)
    return [*ctr_speed.CELLS, *ctr_real.CELLS, *table, large]


def _about_s(log: Log) -> float:
    """What a cell takes on two cores: training, and writing its log where that is not there yet."""
    written_s = (
        0.0
        if place(log.task, log.window, log.people_a_list).exists()
        else 0.03 * log.window * DAYS / (DAYS - TEST_DAYS) / log.people_a_list
    )
    rows = log.window * get_task(log.task).default_n
    return written_s + 60.0 + 0.001 * rows * log.epochs / log.people_a_list + 0.0002 * rows


def summary(values: dict[str, float]) -> dict[str, float]:
    """What the rows say together: how many there are, and how far the best with positions is above the best plain one.

    The gap is the low end of the former's 95 % interval minus the high end of the latter's.
    """
    found = {"table2_rows": float(sum(name.startswith("table2_") and name.endswith("_auc") for name in values))}
    for task in ("suggest", "snippets"):
        rows = [f"table2_{task}_{row}" for row in _rows(task)]
        if all(f"{row}_auc" in values for row in rows):
            plain = max((row for row in rows if row.endswith("plain")), key=lambda row: values[f"{row}_auc"])
            best = max((row for row in rows if not row.endswith("plain")), key=lambda row: values[f"{row}_auc"])
            found[f"table2_gap_{task}"] = values[f"{best}_low"] - values[f"{plain}_high"]
    return found


def _row(task: str, backbone: str, variant: Variant) -> dict[str, float]:
    """One row of Table 2: AUC with its interval, logloss and diff_ctr beside that of the true probabilities."""
    log = TABLE[task]
    data, truth = _data(log)
    if task == LARGE.task:  # measured on more lists: the days after the window of the large log, which has other scenes
        more, truth = _data(LARGE)
        data = replace(data, test=more.test)
    p = _predict(data, log.training(variant, backbone))
    measured = evaluate(data, {"ours": p, "truth": truth[:, 0]})
    low, high = auc_interval(data.test.label, p, data.test.row_list)
    found = {
        "auc": measured.methods["ours"].auc,
        "low": low,
        "high": high,
        "logloss": measured.methods["ours"].logloss,
        "diff_ctr": measured.diff_ctr["ours"],
        "diff_ctr_true": measured.diff_ctr["truth"],
    }
    return {f"table2_{task}_{backbone}_{variant.value}_{name}": float(value or 0.0) for name, value in found.items()}


def _large() -> dict[str, float]:
    """The best row at 200,000 impressions, against the expectation of the truth given what a predictor sees."""
    from ctr.baselines.hashed_words import HashedWords
    from ctr.baselines.position import Position

    data, truth = _data(LARGE)
    labels = np.asarray(data.test.label)
    p = _predict(data, LARGE.training(Variant.PID))
    methods = {"best": p, "expected": truth[:, 1]}
    for baseline in (Position(), HashedWords()):
        baseline.fit(data.train)
        methods[baseline.name] = baseline.predict(data.test)
    auc = {name: float(each.auc or 0.0) for name, each in evaluate(data, methods).methods.items()}
    true = truth[:, 0]
    off = sum(abs(predicted - real) * rows for predicted, real, rows in reliability(true, p)) / len(true)
    ratio = float(p.sum() / true.sum())
    return {
        "auc_share": (auc["best"] - 0.5) / (auc["expected"] - 0.5),
        **{f"auc_{name}": value for name, value in auc.items()},
        "pcoc": ratio,
        "pcoc_low_margin": ratio,
        "ece_share": off / float(labels.mean()),
    }


def _predict(data: Dataset, config: TrainConfig) -> NDArray[np.float64]:
    """Calibrated probabilities of the test rows, (R,)."""
    tokenizer = load_tokenizer(default_tokenizer())
    with tempfile.TemporaryDirectory() as work:
        model = train(data, tokenizer, Path(work), config).model
    platt = calibrate(model, tokenizer, data)
    return platt.probabilities(logits_of(model, tokenizer, data.test))


@cache
def _scratch() -> tempfile.TemporaryDirectory[str]:
    """Where rows lie until this process ends."""
    return tempfile.TemporaryDirectory(prefix="ctr-rows-")


@cache
def _data(log: Log) -> tuple[Dataset, NDArray[np.float64]]:
    """The rows of a log, and for each test row the true probability of its person and its expectation, (R, 2)."""
    snapshot = simulated_log(log.task, log.window, log.people_a_list)
    directory = Path(_scratch().name) / snapshot.directory.name
    config = DataConfig(task=log.task, days=DAYS - TEST_DAYS, test_days=TEST_DAYS)
    data = build_dataset(snapshot, load_tokenizer(default_tokenizer()), directory, config)
    return data, _truth(snapshot, data)


def _truth(snapshot: Snapshot, data: Dataset) -> NDArray[np.float64]:
    """Truth in the order of the test rows; the labels must be those of the log, or the orders differ."""
    path = snapshot.directory.with_name(f"{snapshot.directory.name}.truth.parquet")
    true = {(row["impression_id"], row["position"]): row for row in pq.read_table(path).to_pylist()}
    clicked = {
        (row["impression_id"], row["position"])
        for file in snapshot.files("clicks").values()
        for row in pq.read_table(file, columns=["impression_id", "position"]).to_pylist()
    }
    keys = [
        (row["impression_id"], position)
        for day, file in snapshot.files("impressions").items()
        if day.isoformat() in data.days["test"]
        for row in pq.read_table(file, columns=["impression_id", "n_shown"]).to_pylist()
        for position in range(1, row["n_shown"] + 1)
    ]
    if [key in clicked for key in keys] != data.test.label.astype(bool).tolist():
        raise RuntimeError("The truth and the rows are not in the same order.")
    return np.array([(true[key]["p_click"], true[key]["expected"]) for key in keys])


if __name__ == "__main__":
    sys.exit(main("ctr", _bars(), _cells(), within_s=1100, summary=summary))
