"""Rankings of the user's own in the typed study: what a study may name, what is refused, and which curves follow."""

import json
from pathlib import Path

import jsonschema
import pytest
import yaml

from lm_headroom.artifacts.catalogue import ARTIFACTS
from lm_headroom.errors import HeadroomError
from lm_headroom.options import options_of_study
from lm_headroom.report.products import _RANKINGS, PRODUCTS, values_of
from lm_headroom.results.matrix import ResultsMatrix
from lm_headroom.study import documentation
from lm_headroom.tasks.sources import TaskSources
from tests.support.typed_studies import study

RANKINGS = {
    "mine": "mine.csv",
    "norms": "scores.mine:norms",
    "up": {"source": "{task}-{shot}.csv", "component": "ffns"},
}


def test_each_has_a_curve_of_every_task_beside_the_others():
    asked = study(rankings=RANKINGS, unseen=["c"])
    assert (asked.custom_heads, asked.custom_ffns) == (["mine", "norms"], ["up"])
    for task in "abc":
        assert {"mine", "norms"} < set(asked.head_rankings[task])
        assert ("up" in asked.ffn_rankings.get(task, ())) == (task != "c"), "the FFNs of unseen tasks are not pruned"
    paths = ARTIFACTS["custom_ranking"].paths(asked, seed=1234, shot=0)
    cells = [("heads", "mine", "abc"), ("heads", "norms", "abc"), ("ffns", "up", "ab")]
    assert sorted(paths) == sorted(
        f"m/ranking/{component}_custom/{name}/{task}/0shot-seed1234.parquet"
        for component, name, tasks in cells
        for task in tasks
    )


def test_files_depend_on_the_cell_as_far_as_they_name_it():
    asked = study(rankings=RANKINGS)
    cell = {"model": "m", "task": "a", "shot": 5, "seed": 1}
    assert [asked.rankings[name].file(**cell) for name in RANKINGS] == ["mine.csv", "scores/mine.py", "a-5.csv"]
    assert [asked.rankings[name].located(**cell) for name in RANKINGS] == ["mine.csv", "scores.mine:norms", "a-5.csv"]


@pytest.mark.parametrize(
    ("rankings", "message"),
    [
        *(
            ({name: "mine.csv"}, rf"config key 'rankings': '{name}' cannot be a ranking name here")
            for name in ("own", "aggregate", "iterative", "reversed", "random_7", "token", "depth", "oracle_loss")
        ),
        ({"other_documents": "mine.csv"}, "'other_documents' cannot be a ranking name here"),
        ({"usage": "mine.csv"}, "'usage' cannot be a ranking name here"),
        ({"a b": "mine.csv"}, "'a b' cannot be a ranking name here"),
        ({"a": "mine.csv"}, "config key 'rankings': 'a' is a task of the study, too; give the ranking another name"),
        ({"mine": "mine.txt"}, r"'mine.txt' is neither a file \(\*.parquet or \*.csv\) nor a function"),
        ({"mine": "module.function"}, "is neither a file"),
        ({"mine": "{taks}.csv"}, r"has a brace that opens none of {model}, {task}, {shot}, {seed}"),
        ({"mine": "{task.csv"}, "has a brace that opens none of"),
        ({"mine": "-mine.csv"}, "begins with '-'"),
        ({"mine": 5}, "config key 'rankings.mine': expected text or keys with values, got 5"),
        ({"mine": {"component": "heads"}}, "config key 'rankings.mine.source': is not there, and has no default"),
        ({"mine": {"source": "a.csv", "component": "head"}}, r"'head' is not one of \['heads', 'ffns'\]"),
        ({"mine": {"file": "a.csv"}}, "config key 'rankings.mine.file' is unknown; known here: component, source"),
    ],
    ids=str,
)
def test_what_is_no_ranking_is_refused_by_name(rankings, message):
    with pytest.raises(HeadroomError, match=message):
        study(rankings=rankings)


@pytest.mark.parametrize(("source", "missing"), [("{task}-{shot}.csv", "b-0.csv"), ("mine.scores:f", "mine/scores.py")])
def test_a_file_that_is_not_there_is_named_with_its_key(source, missing, tmp_path):
    asked = study(rankings={"mine": source}, models={"m": {"source": "owner/x"}})
    (tmp_path / "a-0.csv").touch()
    with pytest.raises(HeadroomError, match=rf"config key 'rankings.mine': {missing} is not there, which '"):
        asked.check_folders(tmp_path)
    (tmp_path / missing).parent.mkdir(exist_ok=True)
    (tmp_path / missing).touch()
    asked.check_folders(tmp_path)


def test_the_home_folder_of_a_ranking_is_found(tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path))
    asked = study(rankings={"mine": "~/{task}.csv", "other": "./mine.csv"}).rankings
    assert asked["mine"].located(task="a") == asked["mine"].file(task="a") == f"{tmp_path}/a.csv"
    assert asked["other"].file() == "./mine.csv"


def test_the_own_ranking_takes_a_criterion_or_the_variant_of_eq_8():
    assert study().importance.ranked_by == "token"
    assert study(importance={"reduction": "example"}).importance.ranked_by == "example"
    assert study(importance={"last_layer_tokens": "target"}).importance.ranked_by == "target"
    assert study(importance={"last_layer_tokens": "all", "criterion": "fisher"}).importance.ranked_by == "fisher"


@pytest.mark.parametrize(
    ("importance", "message"),
    [
        ({"criterion": "fisher", "reduction": "example"}, "criterion: fisher does not read reduction: example"),
        (
            {"criterion": "token", "last_layer_tokens": "target"},
            "criterion: token does not read last_layer_tokens: target",
        ),
        (
            {"reduction": "example", "last_layer_tokens": "target"},
            "reduction: example does not read last_layer_tokens: ta",
        ),
    ],
)
def test_a_part_of_eq_8_that_nothing_reads_is_refused(importance, message):
    with pytest.raises(HeadroomError, match=f"config key 'importance': {message}"):
        study(importance=importance)


@pytest.mark.parametrize(
    ("criterion", "message"),
    [
        ("loss_rice", r"'loss_rice' is no criterion \(did you mean 'loss_rise'\?\); expected one of token, example"),
        *(
            (name, rf"'{name}' does not come from the passes of head scores; .*Name it in pruning.controls")
            for name in ("depth", "magnitude", "oracle_loss")
        ),
    ],
)
def test_a_criterion_that_ranks_no_task_is_refused(criterion, message):
    with pytest.raises(HeadroomError, match=f"config key 'importance.criterion': {message}"):
        study(importance={"criterion": criterion})


ORACLE = {"pruning": {"controls": ["random_1", "oracle_loss"]}}


@pytest.mark.parametrize(
    ("oracle", "task"),
    [({"tasks": ["a", "b"]}, "c"), ({"tasks": ["a", "b", "c"], "heads": 9}, "a"),
     ({"tasks": ["a", "c"], "others": 9}, "b")],
    ids=str,
)  # fmt: skip
def test_an_oracle_that_lacks_heads_of_a_task_is_refused_as_a_control(oracle, task):
    message = (
        rf"'pruning.controls': 'oracle_loss' also ranks heads, .* on task '{task}'; set head_oracle.heads to all, "
    )
    with pytest.raises(HeadroomError, match=rf"{message}and name all tasks in head_oracle.tasks: \[a, b, c\]"):
        study(unseen=["c"], head_oracle=oracle, **ORACLE)


def test_an_oracle_ranks_ffns_alone_where_no_head_is_removed_alone():
    asked = study(unseen=["c"], **ORACLE)
    assert not any("oracle_loss" in asked.head_rankings[task] for task in "abc")
    assert all("oracle_loss" in asked.ffn_rankings[task] for task in "ab")
    values = values_of(asked)
    matrix = ResultsMatrix(Path("results/m"), ("a",), (0,), **{key: tuple(values[key]) for key in _RANKINGS})
    assert matrix.beside_own("heads") == ["random_1"]
    assert sorted(matrix.beside_own("ffns")) == ["oracle_loss", "random_1"]


@pytest.mark.parametrize(
    ("heads", "ffns"),
    [
        (["random_1", "example", "hies"], ["oracle_loss", "random_1"]),
        (["random_2", "own_mean", "token"], []),
        (["fisher"], ["depth", "fisher"]),
    ],
)
def test_ffns_may_have_controls_of_their_own(heads, ffns):
    asked = study(pruning={"controls": heads, "ffn_controls": ffns})
    assert all(asked.ffn_rankings[task] == ["own", *sorted(ffns)] for task in "ab")
    assert all(set(heads) <= {*asked.head_rankings[task], asked.importance.criterion} for task in "ab")
    for product in PRODUCTS:
        values = product.values(asked)
        if product.kind == "table" and "controls" in values:
            chosen = {key: tuple(values[key]) for key in _RANKINGS}
            matrix = ResultsMatrix(Path("results/m"), ("a",), (0,), **chosen)
            assert (sorted(matrix.beside_own("heads")), sorted(matrix.beside_own("ffns"))) == (sorted(heads), ffns)
    for name, key in (("fig05", "heads"), ("fig06", "ffns")):
        (values,) = (product.values(asked) for product in PRODUCTS if product.name == name)
        shown = (values["controls"], values["custom_heads"], values["custom_ffns"])
        assert shown == (sorted({"heads": heads, "ffns": ffns}[key]), [], [])


def test_a_control_of_heads_is_refused_for_ffns():
    with pytest.raises(HeadroomError, match="'pruning.ffn_controls': 'hies' ranks heads alone; name it in pruning.con"):
        study(pruning={"ffn_controls": ["random_1", "hies"]})
    with pytest.raises(HeadroomError, match="'pruning.ffn_controls': 'own_mean' is the own ranking once more"):
        study(ablation="mean", pruning={"controls": [], "ffn_controls": ["own_mean"]})
    with pytest.raises(HeadroomError, match="'pruning.controls': 'oracle_loss' also ranks heads"):
        study(pruning={"controls": ["oracle_loss"], "ffn_controls": []})


def test_an_oracle_of_all_heads_ranks_heads_and_ffns():
    for oracle in ({"tasks": ["a", "b", "c"]}, {"tasks": ["c"], "others": "all"}):
        asked = study(unseen=["c"], head_oracle=oracle, **ORACLE)
        assert all("oracle_loss" in asked.head_rankings[task] for task in "abc")
        assert all("oracle_loss" in asked.ffn_rankings[task] for task in "ab")


def test_the_schema_takes_a_text_and_keys():
    schema = json.loads(documentation.SCHEMA.read_text())
    jsonschema.validate({"rankings": RANKINGS}, schema)
    for wrong in ({"mine": 5}, {"mine": {"component": "heads"}}, {"a b": "mine.csv"}):
        with pytest.raises(jsonschema.ValidationError):
            jsonschema.validate(yaml.safe_load(yaml.safe_dump({"rankings": wrong})), schema)


@pytest.mark.parametrize(
    ("changes", "key"),
    [
        ({"pruning": {"controls": ["token", "trusted_choosing_loss_rise"]}}, "pruning.controls"),
        ({"importance": {"criterion": "trusted_choosing_loss_rise"}}, "importance.criterion"),
    ],
)
def test_a_criterion_of_choosing_costs_its_pass_and_refuses_a_task_without_choices_by_name(changes, key):
    assert "--no-choosing" in options_of_study(study(tasks=["copa"]), "score_heads").split()
    TaskSources(study(tasks=["copa"], unseen=["lambada_openai"])).check_choices()
    assert "--choosing" in options_of_study(study(tasks=["copa"], **changes), "score_heads").split()
    TaskSources(study(tasks=["copa", "piqa"], **changes)).check_choices()
    message = f"config key '{key}': 'trusted_choosing_loss_rise' compares answer choices, and task 'lambada_openai' has"
    with pytest.raises(HeadroomError, match=message):
        TaskSources(study(tasks=["copa"], unseen=["lambada_openai"], **changes)).check_choices()


def test_the_own_ranking_under_another_ablation_is_a_control_of_heads_and_ffns():
    asked = study(ablation="mean", pruning={"controls": ["own_zero", "own_resample"]})
    for by_task in (asked.head_rankings, asked.ffn_rankings):
        assert all({"own", "own_zero", "own_resample"} <= set(names) for names in by_task.values())
    assert [asked.tasks_with_means(name) for name in ("a", "aggregate")] == [["a"], ["a", "b"]]
    assert study().tasks_with_means("aggregate") == []
