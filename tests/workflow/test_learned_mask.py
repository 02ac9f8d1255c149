"""A learned mask in the workflow: its rankings and curves, and what a changed option reruns."""

import csv

import pytest

from lm_headroom.artifacts.learned_ranking import LEARNED_RANKING
from lm_headroom.artifacts.store import provenance, read
from lm_headroom.audit import verify
from lm_headroom.study.reading import read_study
from tests.support.workflow_studies import tiny_study, work

MODEL = "tiny"
CELL = "arc_easy/0shot-seed1234"
SHOWN = (
    "curves",
    f"results/{MODEL}/tables/gains-seed1234.csv",
    f"results/{MODEL}/figures/fig05_heads_pruned-seed1234.png",
    f"results/{MODEL}/figures/fig06_ffns_pruned-seed1234.png",
)


@pytest.fixture(scope="module")
def study(tmp_path_factory, tokenizer):
    """A tiny study with a mask of heads and one of FFNs, run to its tables and figures."""
    keys = {
        "models": {MODEL: {"source": "tiny-opt"}},
        "tasks": ["arc_easy"],
        "shots": [0],
        "outcomes": ["accuracy"],
        "pruning": {"levels": [0, 50], "controls": ["random_1"]},
        "learned_mask": {"components": ["heads", "ffns"], "passes": 2, "batch": 3},
    }
    written = tiny_study(tmp_path_factory.mktemp("learned") / "study", tokenizer, **keys)
    written.run(*SHOWN)
    return written


def test_its_rankings_stand_beside_the_others(study):
    for component, n_rows in (("heads", 12), ("ffns", 3)):
        path = study.result(f"{MODEL}/ranking/{component}_learned/{CELL}.parquet")
        rows = read(path, LEARNED_RANKING).to_pylist()
        assert [row["rank"] for row in rows] == list(range(n_rows))
        assert [row["score"] for row in rows] == sorted(row["score"] for row in rows)
        assert {row["head"] for row in rows} == ({0, 1, 2, 3} if component == "heads" else {None})
        options = {"passes": 2, "batch": 3, "learning_rate": 0.1, "mask_seed": 1, "add_bos": False}
        assert provenance(path)["options"] == options
        assert study.result(f"{MODEL}/pruned_eval/{component}/{CELL}/learned.parquet").is_file()
    with study.result(f"{MODEL}/tables/gains-seed1234.csv").open() as file:
        gains = {(row["component"], row["ranking"]) for row in csv.DictReader(file)}
    assert {("heads", "learned"), ("ffns", "learned")} <= gains
    assert study.unsound() == {}


def test_another_seed_reruns_the_masks_and_their_curves_alone(study, tmp_path):
    copy = study.copy(tmp_path / "study")
    assert copy.planned("curves") == {}
    copy.configure(learned_mask={**study.config["learned_mask"], "seed": 2})
    assert work(copy.planned("curves")) == {"learn_mask": 2, "evaluate_learned": 2}
    files = verify.verify(copy.folder / "results", read_study(copy.config_path))
    assert any("mask_seed" in str(file.reasons) for file in files if "heads_learned" in file.path)
