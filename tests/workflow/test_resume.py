"""Jobs that run again take from the kept units what matches, and compute the rest."""

import shutil

import numpy as np
import pytest

from lm_headroom.artifacts.head_importance import HEAD_IMPORTANCE
from lm_headroom.artifacts.pruned_eval import JOINT_EVAL, PRUNED_EVAL
from lm_headroom.artifacts.store import read, run_statistics
from lm_headroom.checkout import WARM
from tests.support.tiny_models import tiny_model


def units(study):
    """Files of kept units: path to time."""
    return {path: path.stat().st_mtime_ns for path in study.result("tiny/.cache").rglob("*.npz")}


def test_another_reduction_needs_no_model(study, monkeypatch):
    # A warm process has it all the same.
    monkeypatch.setenv(WARM, "0")
    before = units(study)
    old = read(study.result("tiny/head_importance/arc_easy/0shot-seed1234.parquet"), HEAD_IMPORTANCE)
    study.configure(importance={"reduction": "example"})
    log = study.run("results/tiny/head_importance/arc_easy/0shot-seed1234.parquet")
    path = study.result("tiny/head_importance/arc_easy/0shot-seed1234.parquet")
    new = read(path, HEAD_IMPORTANCE)
    # A budget is asked for when the weights are there.
    assert run_statistics(path)["token_budget"] is None
    assert new.column("score") != old.column("score")
    assert units(study) == before
    assert "reused" in log


def test_a_new_level_computes_that_level_alone(study):
    before = units(study)
    study.configure(pruning={"levels": [0, 5, 25, 50], "controls": ["reversed", "random_1"]})
    target = "tiny/pruned_eval/heads/winogrande/1shot-seed1234"
    study.run(f"results/{target}/own.parquet")
    for name in ("own", "reversed", "random_1"):
        assert read(study.result(f"{target}/{name}.parquet"), PRUNED_EVAL).column("percent").to_pylist() == [
            0,
            5,
            25,
            50,
        ]
    new = set(units(study)) - set(before)
    assert {path: time for path, time in units(study).items() if path in before} == before
    # One level under each of three rankings.
    assert len(new) == 3


def test_jobs_share_the_whole_models_evaluation(study):
    """Own, joint and FFN curves begin with it; jobs that run one after the other compute it once.

    The oracle of FFNs shares it where it scores on the evaluation documents.
    """
    study.configure(ffn={"selection": "evaluation"})
    cell = study.result("tiny/.cache/arc_easy/0shot-seed1234")
    shutil.rmtree(cell)
    joint = "pruned_eval/joint/arc_easy/0shot-seed1234.parquet"
    targets = [
        joint,
        "pruned_eval/heads/arc_easy/0shot-seed1234/own.parquet",
        "ffn_importance/arc_easy/0shot-seed1234.parquet",
    ]
    for target in targets:
        study.result(f"tiny/{target}").unlink()
    done = study.snakemake("--cores", "1", *(f"results/tiny/{target}" for target in targets))
    assert done.returncode == 0, done.stdout
    assert read(study.result(f"tiny/{joint}"), JOINT_EVAL).num_rows
    n_documents = 8
    whole = []
    for path in cell.glob("scoring.knockout-*/likelihoods-*.npz"):
        with np.load(path) as file:
            whole.append((path.name.split(".")[0], len(file["keys"])))
    names = [name for name, _ in whole]
    assert len(names) > 5
    assert len(names) == len(set(names))
    assert {n for _, n in whole} == {n_documents}


@pytest.mark.parametrize("damage", ["model", "code"])
def test_what_does_not_match_is_computed_again(study, damage):
    """Another model, or other code: nothing that was kept is taken."""
    before = set(units(study))
    if damage == "code":
        path = study.folder / "workflow" / "lm_headroom" / "scoring" / "gradient.py"
        path.write_text(path.read_text() + "\n\nADDED = 1\n")
    else:
        tiny_model("opt", seed=1).float().save_pretrained(study.folder / "tiny-opt")
    target = "results/tiny/head_importance/arc_easy/0shot-seed1234.parquet"
    done = study.snakemake("--cores", "2", "--forcerun", "score_heads", "--until", "score_heads", target)
    assert done.returncode == 0, done.stdout
    assert {path.name.split(".")[0] for path in set(units(study)) - before} == {"head-gradients", "head-magnitudes"}
    statistics = run_statistics(study.result("tiny/head_importance/arc_easy/0shot-seed1234.parquet"))
    assert statistics["token_budget"] is not None
