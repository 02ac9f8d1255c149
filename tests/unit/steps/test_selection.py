"""What judges chooses nothing: with the defaults no ranking depends on an evaluation document."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import yaml

from lm_headroom.artifacts.prompts import EVALUATION, IMPORTANCE, PROMPTS
from lm_headroom.artifacts.schemas import SCHEMAS
from lm_headroom.artifacts.store import ArtifactError, provenance, read, write
from lm_headroom.errors import HeadroomError
from lm_headroom.models.embedded import prepare_data
from lm_headroom.models.resolve import resolve
from lm_headroom.options import AggregatedCells, EvaluationSettings
from lm_headroom.steps.aggregate_ffns import aggregate_ffns
from lm_headroom.steps.aggregate_heads import aggregate_heads
from lm_headroom.steps.correlate_tasks import correlate_tasks
from lm_headroom.steps.rank_heads_iteratively import rank_heads_iteratively
from lm_headroom.steps.render_prompts import render_prompts
from lm_headroom.steps.score_ffns import score_ffns
from lm_headroom.steps.score_heads import score_heads
from lm_headroom.study.config import Study
from tests.support.paths import ROOT
from tests.support.records import write_records
from tests.support.tiny_models import tiny_model

TASKS, CELL = ("arc_easy", "piqa"), "0shot-seed1234.parquet"


@pytest.fixture(params=["embedded", "mirror"])
def prompts(request: pytest.FixtureRequest, tmp_path: Path) -> Path:
    """A folder with prompts of two tasks, rendered as a study does, with shots off."""
    data = tmp_path / "data"
    if request.param == "mirror":
        write_records(data)
    else:
        packages = request.getfixturevalue("packages")
        for task in TASKS:
            prepare_data(packages["data"], task, data / task)
    for task in TASKS:
        limits = {"limit_importance": 5, "limit_evaluation": 6}
        render_prompts(task=task, shots=0, data=str(data), **limits, out=tmp_path / "prompts" / task / CELL)
    return tmp_path / "prompts"


@pytest.fixture
def model(tmp_path: Path, tokenizer: Any) -> Path:
    """The record of a tiny model."""
    checkpoint = tmp_path / "checkpoint"
    tiny_model("llama").float().save_pretrained(checkpoint)
    tokenizer.save_pretrained(checkpoint)
    resolve("tiny", str(checkpoint), None, tmp_path / "model.json")
    return tmp_path / "model.json"


def rank(model: Path, prompts: Path, out: Path) -> dict[str, dict[str, list[Any]]]:
    """All scores and rankings that choose what is pruned, by path."""
    settings = EvaluationSettings(model=model, device="cpu", threads=1)
    for task in TASKS:
        of_task: Any = {"settings": settings, "prompts": prompts / task / CELL}
        score_heads(**of_task, out=out / "head_importance" / task / CELL, ranking=out / "ranking/heads" / task / CELL)
        score_ffns(**of_task, out=out / "ffn_importance" / task / CELL, ranking=out / "ranking/ffns" / task / CELL)
        rank_heads_iteratively(**of_task, pruning_step=50, out=out / "ranking/heads_iterative" / task / CELL)
    cells = AggregatedCells(results=out, tasks=list(TASKS), shots=0, seed=1234)
    for component, aggregate in (("head", aggregate_heads), ("ffn", aggregate_ffns)):
        places = (f"{component}_importance", f"ranking/{component}s")
        scores, ranking = (out / place / "aggregate" / CELL for place in places)
        aggregate(cells=cells, out=scores, ranking=ranking)
    correlate_tasks(cells=cells, out=out / "correlation/cross_task" / CELL)
    schemas = {schema.name: schema for schema in SCHEMAS}
    return {
        path.relative_to(out).as_posix(): read(path, schemas[provenance(path)["kind"]]).to_pydict()
        for path in sorted(out.rglob("*.parquet"))
    }


def change(prompts: Path, purpose: str, out: Path) -> Path:
    """A copy of the prompts in which documents of one purpose are other ones, and another choice is right."""
    for path in prompts.rglob("*.parquet"):
        rows = read(path, PROMPTS).to_pylist()
        for row in rows:
            if row["purpose"] == purpose:
                row["context"] = f"Rain fell on document {row['doc_id']} of the river,"
                row["gold"] = not row["gold"]
        columns = {name: [row[name] for row in rows] for name in rows[0]}
        write(out / path.relative_to(prompts), PROMPTS, columns, provenance(path))
    return out


def test_rankings_do_not_depend_on_evaluation_documents(prompts, model, tmp_path):
    ranked = rank(model, prompts, tmp_path / "results")
    assert len(ranked) == 15
    judged_otherwise = rank(model, change(prompts, EVALUATION, tmp_path / "judged"), tmp_path / "other")
    assert judged_otherwise == ranked
    scored_otherwise = rank(model, change(prompts, IMPORTANCE, tmp_path / "scored"), tmp_path / "third")
    # Three FFNs may keep their order.
    same = [path for path in ranked if ranked[path] == scored_otherwise[path]]
    assert [path for path in same if not path.startswith("ranking/ffns")] == []


def test_no_document_scores_and_is_evaluated(prompts):
    for path in prompts.rglob("*.parquet"):
        rows = read(path, PROMPTS).to_pylist()
        for names in (("split", "doc_id"), ("split", "question"), ("context", "continuation")):
            scored, judged = (
                {tuple(row[name] for name in names) for row in rows if row["purpose"] == purpose}
                for purpose in (IMPORTANCE, EVALUATION)
            )
            assert scored
            assert judged
            assert scored.isdisjoint(judged), (path, names)


def test_evaluation_documents_rank_ffns_where_a_study_says_so(prompts, model, tmp_path):
    """The paper's way, which the test above would not pass."""
    settings, of_task = EvaluationSettings(model=model, device="cpu", threads=1), prompts / "piqa" / CELL
    outs = {}
    for name, folder in (("as they are", prompts), ("changed", change(prompts, EVALUATION, tmp_path / "judged"))):
        outs[name] = tmp_path / f"{name}.parquet"
        of_task = folder / "piqa" / CELL
        score_ffns(settings=settings, prompts=of_task, metric="loss", selection="evaluation", out=outs[name])
    (ffns,) = (schema for schema in SCHEMAS if schema.name == "ffn_importance")
    first, second = (read(path, ffns)["score"].to_pylist() for path in outs.values())
    assert first != second


def test_heads_that_tasks_score_differently_or_aggregate_otherwise_are_refused(prompts, model, tmp_path):
    settings, out = EvaluationSettings(model=model, device="cpu", threads=1), tmp_path / "results"
    for task, criterion in zip(TASKS, ("token", "loss_rise"), strict=True):
        of_task = {"settings": settings, "prompts": prompts / task / CELL, "criterion": criterion}
        score_heads(**of_task, out=out / "head_importance" / task / CELL)
    cells = AggregatedCells(results=out, tasks=list(TASKS), shots=0, seed=1234)
    places = {"out": out / "head_importance/aggregate" / CELL, "ranking": tmp_path / "ranking.parquet"}
    with pytest.raises(ArtifactError, match="criteria, {'arc_easy': 'token', 'piqa': 'loss_rise'}; run"):
        aggregate_heads(cells=cells, **places)
    score_heads(settings=settings, prompts=prompts / "piqa" / CELL, out=out / "head_importance/piqa" / CELL)
    aggregate_heads(cells=cells, **places)
    with pytest.raises(ArtifactError, match="aggregate mean, expected mean_rank"):
        correlate_tasks(cells=replace(cells, aggregate="mean_rank"), out=tmp_path / "cross_task.parquet")


def test_a_control_that_a_task_does_not_define_is_refused_before_anything_is_computed(prompts, model, tmp_path):
    """As LAMBADA has one continuation each: all losses would be 0, and the ranking the order of layers."""
    path = prompts / "piqa" / CELL
    rows = [row for row in read(path, PROMPTS).to_pylist() if row["gold"]]
    write(path, PROMPTS, {name: [row[name] for row in rows] for name in rows[0]}, provenance(path))
    settings, out = EvaluationSettings(model=model, device="cpu", threads=1), tmp_path / "scores.parquet"
    of_task = {"settings": settings, "prompts": path, "out": out, "curve": tmp_path / "own.parquet"}
    with pytest.raises(HeadroomError, match="by oracle_gold_probability: .*; take oracle_accuracy or oracle_loss"):
        score_ffns(**of_task, controls=["oracle_loss", "oracle_gold_probability"])
    assert not out.exists()
    score_ffns(**of_task, levels=[0, 50], controls=["oracle_loss"])


def test_studies_say_which_documents_rank_ffns():
    assert Study().ffn.selection == "scoring"
    for path in (ROOT / "workflow" / "studies").glob("*.yaml"):
        assert "selection" in yaml.safe_load(path.read_text()).get("ffn", {}), path.name
