"""Capacity retained, against values counted by hand."""

import subprocess
import sys

import numpy as np
import pytest

from lm_headroom.analysis.capacity import capacity, retained
from lm_headroom.analysis.ranking import as_columns
from lm_headroom.artifacts.capacity import CAPACITY
from lm_headroom.artifacts.copying import COPYING
from lm_headroom.artifacts.prefix_matching import PREFIX_MATCHING
from lm_headroom.artifacts.ranking import RANKING
from lm_headroom.artifacts.store import provenance, read, write
from lm_headroom.errors import HeadroomError

SCORES = np.array([[0.1, 0.4], [0.3, 0.2]])
RANKING_OF_HEADS = [(1, 1), (0, 0), (1, 0), (0, 1)]


def test_the_share_left_after_each_head():
    np.testing.assert_allclose(retained(SCORES, RANKING_OF_HEADS), [1, 0.8, 0.7, 0.4, 0], atol=1e-15)


def test_the_ends_are_exact():
    scores = np.random.default_rng(0).random((64, 72))
    shares = retained(scores, [(layer, head) for layer in range(64) for head in range(72)])
    assert shares[0] == 1
    assert shares[-1] == 0
    assert (np.diff(shares) < 0).all()


def test_columns_name_task_score_and_percent():
    columns = capacity({"prefix_matching": SCORES, "copying": np.ones((2, 2))}, {"copa": RANKING_OF_HEADS})
    assert columns["task"] == ["copa"] * 10
    assert columns["score"] == ["prefix_matching"] * 5 + ["copying"] * 5
    assert columns["n_pruned"].tolist() == [0, 1, 2, 3, 4] * 2
    assert columns["percent"].tolist() == [0, 25, 50, 75, 100] * 2
    np.testing.assert_allclose(columns["retained"], [1, 0.8, 0.7, 0.4, 0, 1, 0.75, 0.5, 0.25, 0], atol=1e-15)


def test_nothing_to_retain_names_score_and_task():
    with pytest.raises(HeadroomError, match="copying under the ranking of copa: the scores of all heads add up to 0;"):
        capacity({"prefix_matching": SCORES, "copying": np.zeros((2, 2))}, {"copa": RANKING_OF_HEADS})


@pytest.mark.parametrize("ranking", [RANKING_OF_HEADS[:3], [(0, 0), (0, 1), (0, 2), (0, 3)]])
def test_a_ranking_of_another_model_is_refused(ranking):
    with pytest.raises(HeadroomError, match="2 layers x 2 heads cannot be pruned by a ranking of"):
        retained(SCORES, ranking)


MODEL = {"name": "tiny", "digest": "d"}
# What `lm-headroom retain-capacity` imports and runs, in a process of its own that must do without torch.
COMMAND = """
import sys
from lm_headroom.cli import main
code = main(sys.argv[1:])
assert "torch" not in sys.modules
sys.exit(code)
"""


def test_the_command_writes_the_artifact_without_torch(tmp_path):
    for kind, scores in ((PREFIX_MATCHING, SCORES), (COPYING, SCORES.T)):
        columns = {"layer": [0, 0, 1, 1], "head": [0, 1, 0, 1], "mean": scores.ravel(), "variance": [None] * 4}
        path = tmp_path / "induction" / f"{kind.name}.parquet"
        write(path, kind, {**columns, "n_sequences": [1] * 4}, {"model": MODEL})
    for task, ranking in (("copa", RANKING_OF_HEADS), ("aggregate", RANKING_OF_HEADS[::-1])):
        path = tmp_path / "ranking" / "heads" / task / "5shot-seed7.parquet"
        write(path, RANKING, as_columns(ranking, SCORES), {"model": MODEL, "task": task, "shots": 5, "seed": 7})
    out = tmp_path / "capacity.parquet"
    arguments = ["retain-capacity", "--results", tmp_path, "--tasks", "copa", "--shots", 5, "--seed", 7, "--out", out]
    done = subprocess.run([sys.executable, "-c", COMMAND, *map(str, arguments)], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    table = read(out, CAPACITY)
    rows = {
        (task, score): [r["retained"] for r in table.to_pylist() if (r["task"], r["score"]) == (task, score)]
        for task in ("copa", "aggregate")
        for score in ("prefix_matching", "copying")
    }
    assert table.num_rows == 20
    np.testing.assert_allclose(rows["copa", "prefix_matching"], [1, 0.8, 0.7, 0.4, 0], atol=1e-15)
    np.testing.assert_allclose(rows["aggregate", "prefix_matching"], [1, 0.6, 0.3, 0.2, 0], atol=1e-15)
    np.testing.assert_allclose(rows["copa", "copying"], [1, 0.8, 0.7, 0.3, 0], atol=1e-15)
    record = provenance(out)
    assert record["model"] == MODEL
    assert (record["shots"], record["seed"]) == (5, 7)
    assert set(record["inputs"]) == {"prefix_matching", "copying", "copa", "aggregate"}
