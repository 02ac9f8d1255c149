"""Several models in one study: two families and a second checkpoint, run to the end and compared."""

import json
import re

import numpy as np
import pytest

from lm_headroom.analysis.correlation import srcc
from lm_headroom.artifacts.comparison import (
    COMPARED_INDUCTION,
    COMPARED_MODELS,
    COMPARED_PROFILES,
    COMPARED_PRUNABLE,
    COMPARED_RANKINGS,
)
from lm_headroom.artifacts.head_importance import HEAD_IMPORTANCE
from lm_headroom.artifacts.store import provenance, read
from lm_headroom.audit.verify import verify
from lm_headroom.study.compared import COMPARISONS
from tests.support.workflow_studies import tiny_study

CELL = "0shot-seed1234"
MODELS = {
    "opt-step0": {"source": "opt-0", "group": "opt", "step": 0},
    "opt-step1000": {"source": "opt-1", "group": "opt", "step": 1000},
    "llama": {"source": "llama"},
}


@pytest.fixture(scope="module")
def compared(tmp_path_factory, tokenizer):
    """A study of three tiny models that has run as far as comparing them takes. Copy it before changing anything."""
    study = tiny_study(
        tmp_path_factory.mktemp("compared") / "checkout",
        tokenizer,
        models=MODELS,
        limits={"importance": 4, "evaluation": 6},
        pruning={"levels": [0, 50], "controls": []},
        joint={"heads": []},
    )
    study.log = study.run("comparison")
    return study


def test_the_models_are_what_their_records_and_the_study_say(compared):
    rows = read(compared.result("comparison/models.parquet"), COMPARED_MODELS).to_pylist()
    assert [(r["model"], r["group"], r["step"], r["family"]) for r in rows] == [
        ("opt-step0", "opt", 0, "opt"),
        ("opt-step1000", "opt", 1000, "opt"),
        ("llama", "llama", None, "llama"),
    ]
    for row in rows:
        place = json.loads(compared.result(f"{row['model']}/.model.json").read_text())
        assert row["parameters"] == place["sizes"]["parameters"] > 10_000
    assert rows[0]["parameters"] == rows[1]["parameters"]


def test_every_comparison_has_its_artifact_and_its_figure(compared):
    names = list(MODELS)
    for what, kind in (
        ("prunable/seed1234", COMPARED_PRUNABLE),
        ("rankings/seed1234", COMPARED_RANKINGS),
        ("induction", COMPARED_INDUCTION),
        ("profiles/seed1234", COMPARED_PROFILES),
    ):
        path = compared.result(f"comparison/{what}.parquet")
        table = read(path, kind)
        assert table.num_rows
        assert provenance(path)["options"]["models"] == names
        for suffix in ("pdf", "svg", "png"):
            assert compared.result(f"comparison/figures/{what.replace('/', '-')}.{suffix}").stat().st_size > 10_000
    # The three have equally many layers and heads; a task and the aggregate.
    pairs = read(compared.result("comparison/rankings/seed1234.parquet"), COMPARED_RANKINGS).to_pylist()
    assert len(pairs) == 3 * 2
    scores = [
        np.array(
            read(compared.result(f"{name}/head_importance/arc_easy/{CELL}.parquet"), HEAD_IMPORTANCE)
            .sort_by([("layer", "ascending"), ("head", "ascending")])
            .column("score")
        )
        for name in names[:2]
    ]
    assert pairs[0]["srcc"] == pytest.approx(srcc(*scores)[0])
    assert abs(pairs[0]["srcc"]) < 0.999, "other weights, another ranking"


def test_what_was_made_for_a_comparison_is_sound(compared):
    assert compared.unsound() == {}
    assert sum(path.is_file() for path in compared.result("comparison").rglob("*")) == 5 + 3 * 4 + 1


def test_progress_names_the_model(compared):
    for name in MODELS:
        assert re.search(rf"score-heads {name}, arc_easy 0-shot: 4/4 documents", compared.log)


def test_a_label_changes_the_comparison_alone(compared, tmp_path):
    study = compared.copy(tmp_path / "copy")
    study.configure(models={**MODELS, "llama": {"source": "llama", "group": "opt", "step": 5}})
    judged = study.unsound()
    assert "comparison/models.parquet" in judged
    assert "llama,group=opt,step=5" in str(judged["comparison/models.parquet"])
    plan = study.planned("comparison")
    assert plan == dict.fromkeys(
        [f"compare_{what}" for what in ("models", *COMPARISONS)]
        + [f"draw_compare_{what}" for what in COMPARISONS]
        + ["write_comparison"],
        1,
    )


def test_a_model_that_leaves_runs_no_model(compared, tmp_path):
    study = compared.copy(tmp_path / "copy")
    study.configure(models={name: MODELS[name] for name in ("opt-step0", "llama")})
    plan = study.planned("comparison")
    assert set(plan) == {f"compare_{what}" for what in ("models", *COMPARISONS)} | {
        f"draw_compare_{what}" for what in COMPARISONS
    } | {"write_comparison"}


def test_another_checkpoint_in_a_models_place_is_compared_anew(compared, tmp_path):
    study = compared.copy(tmp_path / "copy")
    study.configure(models={**MODELS, "opt-step1000": {"source": "llama", "group": "opt", "step": 1000}})
    plan = study.planned("comparison_induction")
    rescored = {"score_induction": 1, "compare_models": 1, "compare_induction": 1, "draw_compare_induction": 1}
    # The dry run writes nothing, so it lists the record, too; a run makes the record anew.
    assert plan == {"resolve_model": 1, **rescored}
    study.run("results/opt-step1000/model.json")
    files = {f.path: f for f in verify(study.folder / "results")}
    assert "stale" in files["comparison/induction.parquet"].state


def test_editing_a_comparison_draws_that_one_and_the_page_with_it(compared, tmp_path):
    study = compared.copy(tmp_path / "copy")
    path = study.folder / "workflow" / "lm_headroom" / "report" / "figures" / "compare_rankings.py"
    path.write_text(path.read_text() + "\n\nADDED = 1\n")
    assert study.planned("comparison") == {"draw_compare_rankings": 1, "write_comparison": 1}
