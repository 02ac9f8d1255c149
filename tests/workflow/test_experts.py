"""Experts in the workflow: their importance, rankings and curves, what shows them, and what a changed option reruns."""

import csv
import json

import pytest
from transformers import AutoModelForCausalLM

from lm_headroom.artifacts.expert_importance import EXPERT_IMPORTANCE
from lm_headroom.artifacts.pruned_eval import PRUNED_EVAL
from lm_headroom.artifacts.ranking import EXPERT_RANKING
from lm_headroom.artifacts.store import provenance, read
from lm_headroom.audit import verify
from lm_headroom.study.reading import read_study
from tests.support.workflow_studies import tiny_study, work

MODEL = "tiny"
CELL = "arc_easy/0shot-seed1234"
SHOWN = (
    "curves",
    f"results/{MODEL}/tables/criteria-seed1234.csv",
    f"results/{MODEL}/figures/experts_pruned-seed1234.png",
    f"results/{MODEL}/figures/prunable_share-seed1234.png",
    f"results/{MODEL}/explorer.html",
)
EXPERTS = {"levels": [25, 50], "controls": ["random_1", "usage", "oracle_loss"]}


@pytest.fixture(scope="module")
def study(tmp_path_factory, tokenizer):
    """A tiny study of a tiny OLMoE, run to its tables and figures."""
    keys = {
        "models": {MODEL: {"source": "tiny-olmoe"}},
        "outcomes": ["accuracy"],
        "pruning": {"levels": [0, 50], "controls": ["random_1"]},
        "experts": EXPERTS,
    }
    written = tiny_study(tmp_path_factory.mktemp("experts") / "study", tokenizer, **keys)
    written.run(*SHOWN)
    return written


def test_experts_are_scored_ranked_and_pruned(study):
    scores = read(study.result(f"{MODEL}/expert_importance/{CELL}.parquet"), EXPERT_IMPORTANCE).to_pylist()
    assert [(row["layer"], row["expert"]) for row in scores] == [(i // 4, i % 4) for i in range(12)]
    assert all(row["score"] == row["token"] and row["usage"] <= 1 for row in scores)
    assert {row["oracle_loss"] is None for row in scores} == {False}
    assert {row["oracle_accuracy"] for row in scores} == {None}, "no control ranks by it"
    ranked = read(study.result(f"{MODEL}/ranking/experts/{CELL}.parquet"), EXPERT_RANKING).to_pylist()
    # Each layer keeps two experts, to which a token is sent.
    assert sorted(row["layer"] for row in ranked[:6]) == [0, 0, 1, 1, 2, 2]
    removed = set()
    for name in ("own", "random_1", "usage", "oracle_loss"):
        path = study.result(f"{MODEL}/pruned_eval/experts/{CELL}/{name}.parquet")
        rows = read(path, PRUNED_EVAL, ranking=name).to_pylist()
        assert [(row["percent"], row["n_pruned"]) for row in rows] == [(0, 0), (25, 3), (50, 6)]
        removed |= {row["parameters_removed"] for row in rows}
        assert provenance(path)["ranking"] == name
    assert removed == {0, 3 * (3 * 24 * 32 + 24), 6 * (3 * 24 * 32 + 24)}


def test_tables_and_figures_show_them_and_verify_finds_all_sound(study):
    with study.result(f"{MODEL}/tables/criteria-seed1234.csv").open() as file:
        rows = {(row["component"], row["ranking"], row["percent"]) for row in csv.DictReader(file)}
    assert {("experts", name, "25") for name in ("own", "random_1", "usage", "oracle_loss")} <= rows
    assert {("heads", "own", "50"), ("ffns", "own", "50")} <= rows
    assert study.unsound() == {}


def test_the_explorer_prunes_experts_in_the_order_of_the_ranking(study, open_page):
    page = open_page(study.result(f"{MODEL}/explorer.html"), "component=experts&percent=50", "body[data-ready]")
    assert page.inner_text("#title") == "tiny: heads, FFNs and experts"
    assert page.inner_text("#shape").endswith("and an FFN each, 3 of them with 4 experts.")
    assert page.inner_text("#pruned") == "6 of 12 experts pruned (50%)."
    ranked = read(study.result(f"{MODEL}/ranking/experts/{CELL}.parquet"), EXPERT_RANKING).to_pylist()
    dimmed = page.evaluate("document.getElementById('map').data[1].z")
    pruned = {(i, j) for i, row in enumerate(dimmed) for j, x in enumerate(row) if x is not None}
    assert pruned == {(row["layer"], row["expert"]) for row in ranked if row["rank"] < 6}
    rows = read(study.result(f"{MODEL}/pruned_eval/experts/{CELL}/own.parquet"), PRUNED_EVAL).to_pylist()
    assert f"At 50%: accuracy {100 * rows[-1]['accuracy']:.1f} %" in page.inner_text("#value")
    page.select_option("#criterion", "usage")
    assert "expert" in page.inner_text("#columns")
    assert page.problems == []


def test_an_export_without_experts_is_a_target(study, tmp_path):
    """Where layers keep as many, AutoModelForCausalLM loads it, and verify finds it sound."""
    copy = study.copy(tmp_path / "study")
    target = f"results/{MODEL}/pruned/arc_easy/heads0-ffns0-experts25-even/0shot-seed1234"
    assert work(copy.planned(target)) == {"export_pruned": 1}
    copy.run(target)
    out = copy.folder / target
    manifest = json.loads((out / "lm_headroom.json").read_text())
    assert (manifest["plain"], manifest["even"]) == (True, True)
    assert {name: part["count"] for name, part in manifest["pruned"].items()} == {"experts": 3}
    config = AutoModelForCausalLM.from_pretrained(out).config
    assert (config.model_type, config.num_attention_heads, config.num_experts) == ("olmoe", 4, 3)
    files = verify.verify(copy.folder / "results", read_study(copy.config_path))
    assert {file.path: file.reasons for file in files if file.state != "sound"} == {}
    assert any(file.path.endswith("-even/0shot-seed1234/model.safetensors") for file in files)


def test_another_criterion_reruns_experts_alone(study, tmp_path):
    copy = study.copy(tmp_path / "study")
    assert copy.planned("curves") == {}
    copy.configure(experts={**EXPERTS, "criterion": "example"})
    assert work(copy.planned("curves")) == {"score_experts": 1}
    copy.configure(experts={"levels": []})
    assert copy.planned("curves") == {}


def test_a_level_that_no_layer_can_lose_is_refused_by_name(study, tmp_path):
    copy = study.copy(tmp_path / "study")
    copy.configure(experts={"levels": [60]})
    done = copy.snakemake("--cores", "1", "curves")
    assert done.returncode
    assert "experts.levels: 60% of 12 experts cannot be pruned" in done.stdout
    assert "each of 3 layers keeps at least 2 of 4, to which a token is sent; at most 50%" in done.stdout
