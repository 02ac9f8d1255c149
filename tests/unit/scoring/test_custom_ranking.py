"""Scores of the user's own: files and functions that rank, and each way in which one is refused."""

import json
import sys

import numpy as np
import pyarrow as pa
import pyarrow.csv
import pyarrow.parquet as pq
import pytest

from lm_headroom.errors import HeadroomError
from lm_headroom.scoring.custom_ranking import call_function, read_file

HEADS = [(layer, head, 10.0 * layer - head) for layer in range(2) for head in range(3)]
FFNS = [(0, 2.0), (1, -1.0)]


def table(rows, names=("layer", "head", "score")):
    return dict(zip(names, map(list, zip(*rows, strict=True)), strict=True))


def written(folder, columns, suffix="parquet"):
    path = folder / f"mine.{suffix}"
    (pyarrow.csv.write_csv if suffix == "csv" else pq.write_table)(pa.table(columns), path)
    return path


@pytest.mark.parametrize("suffix", ["parquet", "csv"])
def test_a_file_in_any_order_of_rows_and_columns_gives_its_scores(suffix, tmp_path):
    columns = table(HEADS[::-1])
    path = written(tmp_path, {name: columns[name] for name in ("score", "layer", "head")}, suffix)
    np.testing.assert_array_equal(read_file(path, (2, 3)), [[0, -1, -2], [10, 9, 8]])
    path = written(tmp_path, table(FFNS, ("layer", "score")), suffix)
    np.testing.assert_array_equal(read_file(path, (2,)), [2, -1])


@pytest.mark.parametrize(
    ("rows", "shape", "message"),
    [
        (HEADS[:-1], (2, 3), "layer 1, head 2 is missing; the model has 2 x 3 heads, 6 rows, and the file has 5"),
        ([*HEADS, (1, 0, 4.0)], (2, 3), "layer 1, head 0 is in rows 4 and 7; keep one of them"),
        (HEADS, (2, 2), "row 3: head 2 is none of the model's, which are 0 to 1 (they count from 0)"),
        (HEADS, (1, 3), "row 4: layer 1 is none of the model's, which are 0 to 0"),
        ([(0, -1, 1.0), *HEADS[1:]], (2, 3), "row 1: head -1 is none"),
        ([*HEADS[:2], (0, 2, float("nan")), *HEADS[3:]], (2, 3), "row 3: score nan is not a finite number"),
        ([*HEADS[:2], (0, 2, float("-inf")), *HEADS[3:]], (2, 3), "row 3: score -inf is not a finite number"),
        ([*HEADS[:2], (0, 2, None), *HEADS[3:]], (2, 3), "row 3: score None is not a finite number"),
        ([(0, None, 1.0), *HEADS[1:]], (2, 3), "row 1: head None is none of the model's"),
        ([(layer, head, "high") for layer, head, _ in HEADS], (2, 3), "row 1: score 'high' is not a finite number"),
        ([(layer + 0.5, head, s) for layer, head, s in HEADS], (2, 3), "row 1: layer 0.5 is none of the model's"),
    ],
    ids=lambda value: value[:40] if isinstance(value, str) else "",
)  # fmt: skip
def test_a_row_that_does_not_fit_the_model_is_named(rows, shape, message, tmp_path):
    path = written(tmp_path, table(rows))
    with pytest.raises(HeadroomError) as refused:
        read_file(path, shape)
    assert message in str(refused.value)
    assert str(path) in str(refused.value)


@pytest.mark.parametrize(
    ("columns", "shape", "message"),
    [
        ({**table(HEADS), "note": [""] * 6}, (2, 3), "column 'note' is unknown; expected layer, head and score"),
        ({"layer": [0], "haed": [0], "score": [1.0]}, (1, 1), "column 'haed' is unknown (did you mean 'head'?)"),
        (table(FFNS, ("layer", "score")), (2, 3), "column 'head' is missing; expected layer, head and score; for a "
         "ranking of FFNs, set component: ffns"),
        ({"layer": [0], "head": [0]}, (1, 1), "column 'score' is missing"),
        (table(HEADS), (2,), "has a column 'head', but the study says that it ranks FFNs; expected layer and score"),
    ],
    ids=lambda value: value[:40] if isinstance(value, str) else "",
)  # fmt: skip
def test_columns_that_are_not_the_rankings_are_named(columns, shape, message, tmp_path):
    with pytest.raises(HeadroomError) as refused:
        read_file(written(tmp_path, columns), shape)
    assert message in str(refused.value)


def test_a_file_that_is_no_table_is_refused(tmp_path):
    (tmp_path / "mine.parquet").write_text("layer,head,score")
    with pytest.raises(HeadroomError, match=r"mine\.parquet: it cannot be read as a table"):
        read_file(tmp_path / "mine.parquet", (2, 3))
    (tmp_path / "mine.csv").write_text("layer,head,score\n0,0\n0,1,2,3\n")
    with pytest.raises(HeadroomError, match=r"mine\.csv: it cannot be read as a table"):
        read_file(tmp_path / "mine.csv", (2, 3))


MODULE = """
import numpy as np
import torch


def good(loaded, documents):
    return torch.arange(6, requires_grad=True, dtype=torch.float32).reshape(2, 3)


def counting(loaded, documents):
    return [[loaded, len(documents), 0], [0, 0, 0]]


def wrong(loaded, documents):
    return np.zeros((3, 2))


def undefined(loaded, documents):
    return [[0, 0, 0], [0, float("nan"), 0]]


def words(loaded, documents):
    return "high"


def nothing(loaded, documents):
    return None


def fails(loaded, documents):
    return documents[99]


score = 3
"""


@pytest.fixture
def module(tmp_path, monkeypatch):
    """A module in a package of the working folder."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", [*sys.path])
    before = dict(sys.modules)
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "scores.py").write_text(MODULE)
    yield "mine.scores"
    for name in [name for name in sys.modules if name.partition(".")[0] == "mine"]:
        del sys.modules[name]
    # Modules whose names the tests' own took. What these imported, such as torch, stays: it cannot be imported twice.
    sys.modules.update(before)


def test_a_function_is_given_the_model_and_the_documents(module):
    np.testing.assert_array_equal(call_function(f"{module}:good", (2, 3), None, []), [[0, 1, 2], [3, 4, 5]])
    np.testing.assert_array_equal(call_function(f"{module}:counting", (2, 3), 7, [1, 1])[0], [7, 2, 0])


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("wrong", "mine.scores:wrong returned an array of shape [3, 2]; the ranking of heads needs [2, 3]"),
        ("undefined", "mine.scores:undefined returned nan for layer 1, head 1; scores must be finite"),
        ("words", "mine.scores:words returned str; return an array of numbers"),
        ("nothing", "mine.scores:nothing returned an array of shape []"),
        ("fails", "mine.scores:fails raised IndexError: list index out of range"),
        ("godo", "mine/scores.py has no function 'godo' (did you mean 'good'?)"),
        ("score", "mine/scores.py has no function 'score'"),
    ],
)
def test_a_function_that_gives_no_scores_is_refused_by_name(name, message, module):
    with pytest.raises(HeadroomError) as refused:
        call_function(f"{module}:{name}", (2, 3), None, [])
    assert message in str(refused.value)


def test_a_module_that_is_missing_or_broken_is_refused(module, tmp_path):
    with pytest.raises(HeadroomError, match=r"ranking source 'absent:f': absent\.py is not there"):
        call_function("absent:f", (2, 3), None, [])
    (tmp_path / "broken.py").write_text("import nothing_of_this_name\n")
    with pytest.raises(HeadroomError, match=r"broken\.py cannot be imported: ModuleNotFoundError: No module named"):
        call_function("broken:f", (2, 3), None, [])


def test_the_module_that_runs_is_the_file_that_is_tracked(module, tmp_path):
    (tmp_path / "json.py").write_text("def score(loaded, documents):\n    return [[1, 2, 3], [4, 5, 6]]\n")
    assert call_function("json:score", (2, 3), None, [])[1, 2] == 6
    assert json.loads("1") == 1
