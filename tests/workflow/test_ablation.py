"""A study under mean ablation, with other kinds beside: its table, its cache, and what another kind makes stale."""

import csv

import pytest

from lm_headroom.artifacts.pruned_eval import JOINT_EVAL, PRUNED_EVAL
from lm_headroom.artifacts.store import provenance, read
from lm_headroom.study.config import Study
from lm_headroom.study.reading import read_study
from tests.support.workflow_studies import tiny_study

CELL = "arc_easy/0shot-seed1234"
CURVES = {"heads": ("own", "own_zero", "own_resample", "aggregate"), "ffns": ("own", "own_zero", "own_resample")}
TABLE = "results/tiny/tables/ablation_kinds-seed1234.csv"
KEPT = f"results/tiny/pruned_eval/joint/{CELL}.parquet"
EXPORT = "results/tiny/pruned/aggregate/heads50-ffns34/0shot-seed1234"


@pytest.fixture(scope="module")
def ablated(tmp_path_factory, tokenizer):
    study = tiny_study(
        tmp_path_factory.mktemp("ablation") / "study",
        tokenizer,
        tasks=["arc_easy"],
        outcomes=["accuracy", "gold_probability"],
        ablation="mean",
        head_oracle={"tasks": ["arc_easy"], "heads": 6},
        pruning={"levels": [0, 50], "controls": ["own_zero", "own_resample"]},
        joint={"heads": [0, 50], "ffns": [0, 34]},
        transfer={"tasks": []},
    )
    study.run("curves", "importance", TABLE, EXPORT)
    return study


def test_each_kind_has_curves_of_its_own_from_the_same_whole_model(ablated):
    for component, names in CURVES.items():
        tables = {name: read(ablated.result(f"tiny/pruned_eval/{component}/{CELL}/{name}.parquet"), PRUNED_EVAL)
                  for name in names}  # fmt: skip
        answers = [table["log_likelihoods"].to_pylist() for table in tables.values()]
        assert all(of_kind[0] == answers[0][0] for of_kind in answers)
        assert answers[0][1] not in [of_kind[1] for of_kind in answers[1:3]]
        assert answers[1][1] != answers[2][1]
        for name in names:
            record = provenance(ablated.result(f"tiny/pruned_eval/{component}/{CELL}/{name}.parquet"))
            assert (record["options"]["ablation"], record["ranking"]) == ("mean", name)


def test_the_table_has_a_row_per_kind(ablated):
    with ablated.result(TABLE.removeprefix("results/")).open() as file:
        rows = list(csv.DictReader(file))
    assert [(row["component"], row["percent"], row["ablation"]) for row in rows] == [
        (component, "50", kind) for component in ("heads", "ffns") for kind in ("mean", "zero", "resample")
    ]
    assert all(row["more lost low"] for row in rows if row["ablation"] != "mean")


def test_another_kind_makes_what_was_evaluated_stale_and_runs_it_again(ablated):
    assert ablated.unsound() == {}
    config = read_study(ablated.config_path)
    zero = Study(**{**config.model_dump(), "ablation": "zero", "pruning": {"levels": [0, 50], "controls": []}})
    stale = {path: reasons for path, (state, *reasons) in ablated.unsound(zero).items() if state == "stale"}
    direct = [path for path, reasons in stale.items() if "made with ablation mean; the study has zero" in reasons]
    steps = {path.split("/")[1] for path in direct}
    assert {"pruned_eval", "head_oracle", "ffn_importance", "pruned"} <= steps
    assert not any("head_importance" in path for path in stale), "scores from gradients do not depend on it"
    before = read(ablated.folder / KEPT, JOINT_EVAL)["log_likelihoods"].to_pylist()
    ablated.configure(ablation="zero", pruning={"levels": [0, 50], "controls": []})
    planned = ablated.planned("curves", "importance")
    assert {"evaluate_own", "evaluate_joint", "score_ffns", "score_head_knockouts"} <= set(planned)
    assert "score_heads" not in planned
    ablated.run(KEPT)
    # From the same cache, in which the mean's units are.
    after = read(ablated.folder / KEPT, JOINT_EVAL)["log_likelihoods"].to_pylist()
    assert after[0] == before[0]
    assert after[-1] != before[-1]
