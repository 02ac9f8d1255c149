"""A study of a model whose first and last layers have short convolutions in the place of attention."""

import csv
import json

import pytest

from lm_headroom.artifacts.ffn_importance import FFN_IMPORTANCE
from lm_headroom.artifacts.head_importance import HEAD_IMPORTANCE
from lm_headroom.artifacts.prefix_matching import PREFIX_MATCHING
from lm_headroom.artifacts.pruned_eval import PRUNED_EVAL
from lm_headroom.artifacts.store import read
from tests.support.workflow_studies import tiny_study

CELL = "arc_easy/0shot-seed1234"


@pytest.fixture(scope="module")
def study(tmp_path_factory, tokenizer):
    """A tiny study of LFM2 with an oracle of heads, run to all its figures, tables and pages."""
    keys = {
        "models": {"tiny": {"source": "tiny-lfm2"}},
        "outcomes": ["accuracy"],
        "pruning": {"levels": [0, 50, 100], "controls": ["random_1", "output_norm"]},
        "head_oracle": {"tasks": ["arc_easy"], "heads": "all"},
    }
    written = tiny_study(tmp_path_factory.mktemp("hybrid") / "study", tokenizer, **keys)
    written.run()
    return written


def test_heads_are_those_of_the_one_layer_with_attention(study):
    record = json.loads(study.result("tiny/model.json").read_text())
    assert record["without_heads"] == [0, 2]
    heads = read(study.result(f"tiny/head_importance/{CELL}.parquet"), HEAD_IMPORTANCE).to_pylist()
    assert [(row["layer"], row["head"]) for row in heads] == [(1, head) for head in range(4)]
    matching = read(study.result("tiny/induction/prefix_matching.parquet"), PREFIX_MATCHING).to_pylist()
    assert {(row["layer"], row["head"]) for row in matching} == {(1, head) for head in range(4)}


def test_percentages_are_of_the_heads_that_there_are(study):
    for name in ("own", "random_1", "output_norm"):
        rows = read(study.result(f"tiny/pruned_eval/heads/{CELL}/{name}.parquet"), PRUNED_EVAL).to_pylist()
        assert [(row["percent"], row["n_pruned"]) for row in rows] == [(0, 0), (50, 2), (100, 4)]


def test_ffns_are_those_of_all_layers(study):
    ffns = read(study.result(f"tiny/ffn_importance/{CELL}.parquet"), FFN_IMPORTANCE).to_pylist()
    assert [row["layer"] for row in ffns] == [0, 1, 2]


def test_nothing_is_left_and_all_is_sound(study):
    assert study.planned() == {}
    assert study.unsound() == {}
    rows = list(csv.DictReader(study.result("tiny/tables/oracle-seed1234.csv").read_text().splitlines()))
    assert {row["component"] for row in rows} == {"heads", "FFNs"}
