"""The artifacts of three models of a study and, by the command line, what compares them."""

import atexit
import shutil
import tempfile
from functools import cache
from pathlib import Path

from lm_headroom.artifacts.store import write_json
from lm_headroom.cli import main
from lm_headroom.results.matrix import ResultsMatrix
from lm_headroom.study.compared import COMPARISONS, ComparedModel
from tests.support.small_study import Values, write_study

TASKS, SHOTS, SEED = ("piqa", "copa", "record"), (0, 5), 7
# early and late have the same shape, deep another. Early is inconclusive: it is right as often as by chance.
MODELS = {
    "early": Values(right=lambda k, *key: [4, 4, 4, 4]),
    # Questions enough to show a share.
    "late": Values(offset=1000, repeat=40, selection="scoring"),
    "deep": Values(shape=(7, 4), lost=lambda task: [1, 0, 2, 0, -1, 4, 0], offset=2000),
}
LABELS = (ComparedModel("early", "m", 0), ComparedModel("late", "m", 1000), ComparedModel("deep", "deep"))
PARAMETERS = {"early": 10**6, "late": 10**6}


def write_compared(folder):
    """Write the artifacts below a results folder, which is returned."""
    shutil.copytree(_written_once(), folder, dirs_exist_ok=True)
    return folder


@cache
def _written_once():
    """A results folder with the artifacts, which is copied: writing them takes seconds, for each test."""
    folder = Path(tempfile.mkdtemp(prefix="compared-study-"))
    atexit.register(shutil.rmtree, folder, ignore_errors=True)
    for name, values in MODELS.items():
        write_study(ResultsMatrix(folder / name, TASKS, SHOTS, SEED), values)
        layers, heads = values.shape
        record = {"name": name, "family": "opt", "digest": f"{name:x>64}", "layers": layers, "heads": heads}
        write_json(folder / name / "model.json", record)
        if name in PARAMETERS:
            place = {"path": "x", "source": "x", "sizes": {"parameters": PARAMETERS[name]}}
            write_json(folder / name / ".model.json", place)
    for what in ("models", *COMPARISONS):
        assert run(folder, "compare", what) == 0
    return folder


def run(folder, command, what, labels=LABELS):
    compared = what.removeprefix("compare_")
    by_seed = compared not in ("models", "induction")
    matrix = ["--tasks", *TASKS, "--shots", "0", "5", "--seed", str(SEED)] if by_seed else []
    matrix += ["--outcomes", "accuracy=2", "gold_probability=1"] if (command, what) == ("compare", "prunable") else []
    path = folder / "comparison" / (f"{what}/seed{SEED}.parquet" if by_seed else f"{what}.parquet")
    figure = f"{compared}-seed{SEED}" if by_seed else compared
    out = path if command == "compare" else folder / "comparison" / "figures" / figure
    models = [str(label) for label in labels]
    return main([command, what, "--results", str(folder), "--models", *models, *matrix, "--out", str(out)])
