"""Iterative re-scoring in the workflow: what it adds, and a small study run for real."""

from lm_headroom.artifacts.iterative_ranking import ITERATIVE_RANKING
from lm_headroom.artifacts.ordered import read_ranking
from lm_headroom.artifacts.pruned_eval import PRUNED_EVAL
from lm_headroom.artifacts.ranking import RANKING
from lm_headroom.artifacts.store import read
from tests.support.workflow_studies import drawn, edit, work

PRUNING = {"levels": [0, 5, 50], "controls": ["reversed", "random_1"]}


def recompute(study, **changes):
    study.configure(pruning={**PRUNING, "schedule": "iterative", **changes})


def test_it_adds_its_jobs_and_draws_what_shows_them(study):
    recompute(study)
    plan = study.planned()
    assert work(plan) == {"rank_heads_iteratively": 4, "evaluate_iterative": 4}
    compared = {"draw_prunable_share", "write_criteria"}
    assert drawn(plan) == {"draw_fig05", "write_explorer", "write_findings", "write_losses"} | compared
    study.configure(pruning={**PRUNING, "step": 25})
    assert study.planned() == {}, "without the schedule, the step is no option of any job"


def test_a_study_with_it_runs_and_belongs_together(study):
    # By one outcome alone: the other's figures and tables, which would be stale, show no more of it.
    study.configure(outcomes=["accuracy"])
    for path in list(study.result("tiny").rglob("*gold_probability*")):
        path.unlink()
    recompute(study, step=25)
    targets = [
        "results/tiny/figures/fig05_heads_pruned-seed1234.png",
        "results/tiny/figures/prunable_share-seed1234.png",
        "results/tiny/findings/seed1234.md",
        *(f"results/tiny/tables/{table}-seed1234.csv" for table in ("losses", "criteria")),
    ]
    targets += [f"results/tiny/{page}.html" for page in ("explorer", "index")]
    study.run(*targets)
    cell = "winogrande/0shot-seed1234"
    path = study.result(f"tiny/ranking/heads_iterative/{cell}.parquet")
    order = read_ranking(path, ITERATIVE_RANKING).order
    once = read_ranking(study.result(f"tiny/ranking/heads/{cell}.parquet"), RANKING).order
    assert set(order) == set(once)
    assert order[:3] == once[:3], "a quarter of 12 heads"
    assert sorted(set(read(path, ITERATIVE_RANKING).column("percent").to_pylist())) == [0, 25, 50, 75]
    curves = [
        read(study.result(f"tiny/pruned_eval/heads/{cell}/{name}.parquet"), PRUNED_EVAL).to_pylist()
        for name in ("own", "iterative")
    ]
    assert [row["percent"] for row in curves[1]] == [0, 5, 50]
    assert curves[0][0] == curves[1][0], "the whole model"
    assert "Iterative re-scoring of heads" in study.result("tiny/findings/seed1234.md").read_text()
    assert "heads,iterative," in study.result("tiny/tables/losses-seed1234.csv").read_text()
    assert study.unsound() == {}
    assert study.planned() == {}
    edit(study, "scoring/iterative.py")
    assert work(study.planned()) == {"rank_heads_iteratively": 4, "evaluate_iterative": 4}
    recompute(study, step=50)
    assert work(study.planned())["rank_heads_iteratively"] == 4
