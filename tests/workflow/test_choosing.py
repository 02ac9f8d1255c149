"""Criteria of choosing in the workflow: a study that names one pays its pass and ranks by it, and no other does."""

import numpy as np
import pytest

from lm_headroom.analysis.ranking import rank_ffns, rank_heads
from lm_headroom.artifacts.ffn_gradient import FFN_GRADIENT
from lm_headroom.artifacts.ffns import layers
from lm_headroom.artifacts.head_importance import HEAD_IMPORTANCE
from lm_headroom.artifacts.heads import computed, grid
from lm_headroom.artifacts.ordered import read_ranking
from lm_headroom.artifacts.pruned_eval import PRUNED_EVAL
from lm_headroom.artifacts.store import provenance, read
from lm_headroom.audit import verify
from lm_headroom.cli import main
from lm_headroom.study.criteria import CHOOSING, criterion_columns
from lm_headroom.study.reading import read_study
from tests.support.workflow_studies import tiny_study

CELL = "arc_easy/0shot-seed1234"
NAME = "choosing_second_order"
CURVES = [f"results/tiny/pruned_eval/{component}/{CELL}/{NAME}.parquet" for component in ("heads", "ffns")]
SCORES = [f"results/tiny/head_importance/{task}/0shot-seed1234.parquet" for task in ("aggregate", "lambada_openai")]


@pytest.fixture(scope="module")
def without(tmp_path_factory, tokenizer):
    """A study that names no criterion of choosing, scored."""
    study = tiny_study(tmp_path_factory.mktemp("choosing") / "study", tokenizer, unseen=["lambada_openai"])
    study.run(*SCORES)
    return study


def tables(study):
    return [
        (read(study.result(f"tiny/{kind.name}/{CELL}.parquet"), kind), list(criterion_columns(component)))
        for kind, component in ((HEAD_IMPORTANCE, "heads"), (FFN_GRADIENT, "ffns"))
    ]


def units(study):
    return {path.name.split(".")[0] for path in study.result(f"tiny/.cache/{CELL}").rglob("*.npz")}


def test_a_study_that_names_none_does_not_pay(without):
    for table, names in tables(without):
        assert set(names) - set(computed(table, names)) == set(CHOOSING)
    assert "head-gradients" in units(without)
    assert not any(name.startswith("choosing") for name in units(without))


def test_scores_without_them_rank_nothing_and_a_greedy_task_is_refused(without, tmp_path, capsys):
    model = ["--model", str(without.result("tiny/model.json")), "--device", "cpu", "--prompts"]
    scores = str(without.result(f"tiny/head_importance/{CELL}.parquet"))
    prompts = str(without.result(f"prompts/{CELL}.parquet"))
    options = ["--rankings", NAME, "--scores", scores, "--out", str(tmp_path / "curves")]
    assert main(["evaluate-pruned", *model, prompts, *options]) == 1
    assert f"{NAME} was not computed, which takes a pass over all choices" in capsys.readouterr().err
    greedy = str(without.result("prompts/lambada_openai/0shot-seed1234.parquet"))
    for option in (["--choosing"], ["--criterion", NAME]):
        assert main(["score-heads", *model, greedy, *option, "--out", str(tmp_path / "scores.parquet")]) == 1
        message = "the loss of choosing compares answer choices, and task 'lambada_openai' has none"
        assert message in capsys.readouterr().err
    assert not list(tmp_path.iterdir())


def test_a_study_that_names_one_scores_again_and_ranks_by_it(without, tmp_path):
    study = without.copy(tmp_path / "study")
    study.configure(pruning={"levels": [0, 50], "controls": [NAME]})
    refused = study.snakemake("--dry-run", "--cores", "1", *CURVES)
    assert (
        f"config key 'pruning.controls': {NAME!r} compares answer choices, and task 'lambada_openai'" in refused.stdout
    )
    study.configure(unseen=[])
    stale = {file.path: file.reasons for file in verify.verify(study.folder / "results", read_study(study.config_path))}
    assert "made with choosing False; the study has True" in stale[f"tiny/head_importance/{CELL}.parquet"]
    assert study.planned(*CURVES) == {"score_heads": 1, "score_ffns": 1, "evaluate_own": 1}
    study.run(*CURVES, SCORES[0])
    assert "choosing-gradients" in units(study)
    (heads, names), (ffns, of_ffns) = tables(study)
    assert computed(heads, names) == names
    assert computed(ffns, of_ffns) == of_ffns
    scores = grid(heads, NAME)
    np.testing.assert_allclose(scores, grid(heads, "choosing_loss_rise") + grid(heads, "choosing_fisher") / 2)
    assert not np.allclose(scores, grid(heads, "second_order"))
    aggregate = read(study.result("tiny/head_importance/aggregate/0shot-seed1234.parquet"), HEAD_IMPORTANCE)
    np.testing.assert_allclose(grid(aggregate, NAME), scores)
    assert read_ranking(study.result(f"tiny/ranking/heads/{CELL}.parquet")).order == tuple(
        rank_heads(grid(heads, "token"))
    )
    for path, kind in zip(CURVES, ("scores", "gradients"), strict=True):
        assert set(provenance(study.folder / path)["inputs"]) == {"prompts", kind}
        assert read(study.folder / path, PRUNED_EVAL, ranking=NAME).num_rows == 2
    assert sorted(rank_ffns(layers(ffns, NAME))) == [0, 1, 2]
