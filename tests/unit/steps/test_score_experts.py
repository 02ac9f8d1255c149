"""Experts that are scored and not pruned: those behind a router over groups."""

import pytest

from lm_headroom.artifacts.expert_importance import EXPERT_IMPORTANCE
from lm_headroom.artifacts.pruned_eval import PRUNED_EVAL
from lm_headroom.artifacts.ranking import EXPERT_RANKING
from lm_headroom.artifacts.store import read
from lm_headroom.scoring import expert_gradient
from tests.errors.bench import Bench
from tests.support.tiny_models import tiny_model


@pytest.fixture
def score(tmp_path, capfd, monkeypatch, tokenizer):
    """Score the experts of a tiny DeepSeek-V3 whose routers choose among two groups."""
    bench = Bench(tmp_path, capfd, monkeypatch, tokenizer, None)
    record, prompts = bench.record(bench.save(tiny_model("deepseek_v3"))), bench.prompts()

    def run(*options):
        outputs = [part for name in ("out", "ranking", "curve") for part in (f"--{name}", tmp_path / f"{name}.parquet")]
        return bench.headroom(
            "score-experts", "--model", record, "--prompts", prompts, "--device", "cpu", *options, *outputs
        )

    return run


def test_without_pruning_they_are_scored_and_ranked(score, tmp_path):
    outcome = score("--levels", 0, "--controls", "usage", "random_1")
    assert outcome.status == 0, outcome.printed
    scores = read(tmp_path / "out.parquet", EXPERT_IMPORTANCE).to_pylist()
    assert [(row["layer"], row["expert"]) for row in scores] == [(1 + i // 4, i % 4) for i in range(8)]
    assert all(row["token"] > 0 or row["usage"] == 0 for row in scores)
    assert any(row["token"] > 0 for row in scores)
    assert len(read(tmp_path / "ranking.parquet", EXPERT_RANKING)) == 8
    for name in ("curve", "usage", "random_1"):
        rows = read(tmp_path / f"{name}.parquet", PRUNED_EVAL).to_pylist()
        assert [(row["percent"], row["n_pruned"]) for row in rows] == [(0, 0)]


@pytest.mark.parametrize("options", [("--levels", 25), ("--levels", 0, "--controls", "oracle_loss")])
def test_what_would_prune_them_is_refused_before_anything_is_computed(score, tmp_path, monkeypatch, options):
    monkeypatch.setattr(expert_gradient, "expert_products", pytest.fail)
    outcome = score(*options)
    assert outcome.status == 1
    assert "its router chooses among 2 groups of experts, whose sizes must stay equal" in outcome.printed
    assert not (tmp_path / "out.parquet").exists()
