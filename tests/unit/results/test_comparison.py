"""What is compared between models: each number against loops over the artifacts, and the figures' data."""

import math
from dataclasses import replace

import numpy as np
import pytest

from lm_headroom.analysis.non_inferiority import Margin, find_prunable, is_above_chance
from lm_headroom.artifacts.comparison import (
    COMPARED_INDUCTION,
    COMPARED_MODELS,
    COMPARED_PROFILES,
    COMPARED_PRUNABLE,
    COMPARED_RANKINGS,
)
from lm_headroom.artifacts.copying import COPYING
from lm_headroom.artifacts.ffn_importance import FFN_IMPORTANCE
from lm_headroom.artifacts.head_importance import HEAD_IMPORTANCE
from lm_headroom.artifacts.prefix_matching import PREFIX_MATCHING
from lm_headroom.artifacts.pruned_eval import PRUNED_EVAL
from lm_headroom.artifacts.store import ArtifactError, provenance, read
from lm_headroom.cli import main
from lm_headroom.report.figures import (
    compare_induction,
    compare_profiles,
    compare_prunable,
    compare_rankings,
    comparison,
)
from lm_headroom.report.figures.comparison import PlacedModel
from lm_headroom.results.comparison import Comparison, induction_row, profile_rows
from lm_headroom.results.curves import average, read_curve
from lm_headroom.results.matrix import ResultsMatrix
from lm_headroom.study.compared import COMPARISONS, ComparedModel
from tests.support.compared_study import LABELS, MODELS, SEED, SHOTS, TASKS, run, write_compared
from tests.support.small_study import leave_one_choice


@pytest.fixture
def results(tmp_path):
    """The artifacts of three models and what compares them."""
    return write_compared(tmp_path / "results")


def study_of(folder, what):
    by_seed = what not in ("models", "induction")
    return Comparison(folder, LABELS, *((TASKS, SHOTS, SEED) if by_seed else ()))


def rows(folder, what, kind):
    return read(study_of(folder, what).artifact(what), kind).to_pylist()


def table(folder, model, path, kind):
    return read(folder / model / path, kind).to_pylist()


def test_models_side_by_side(results):
    table_rows = rows(results, "models", COMPARED_MODELS)
    labels = [(r["model"], r["group"], r["step"]) for r in table_rows]
    assert labels == [("early", "m", 0), ("late", "m", 1000), ("deep", "deep", None)]
    assert [(r["layers"], r["heads"]) for r in table_rows] == [(4, 5), (4, 5), (7, 4)]
    assert [r["parameters"] for r in table_rows] == [10**6, 10**6, None], "what is not known is left out"


def test_what_can_be_pruned_is_the_stated_rule(results):
    table_rows = rows(results, "prunable", COMPARED_PRUNABLE)
    assert [r["outcome"] for r in table_rows] == ["accuracy"] * 12 + ["gold_probability"] * 12
    by_cell = {(r["model"], r["component"], r["shots"]): r for r in table_rows[:12]}
    assert len(by_cell) == 3 * 2 * 2
    random, chance = {"piqa": 0.25, "copa": 0.5, "record": 0.5}, {"piqa": 0.3, "copa": 0.5, "record": 0.5}
    for (model, component, shots), row in by_cell.items():
        by_task = {
            task: table(results, model, f"pruned_eval/{component}/{task}/{shots}shot-seed7/own.parquet", PRUNED_EVAL)
            for task in TASKS
        }
        # 8 of 10 right of two choices may be chance.
        able = [task for task in TASKS if is_above_chance(np.array(by_task[task][0]["correct"]), chance[task])] or TASKS
        curves = [by_task[task] for task in able]
        assert len(able) == row["n_tasks"]
        assert row["random_choice"] == pytest.approx(np.mean([random[task] for task in able]))
        assert row["chance_level"] == row["majority"] == pytest.approx(np.mean([chance[task] for task in able]))
        assert row["n_questions"] == len(able) * (400 if model == "late" else 10)
        dense = np.mean([np.mean(curve[0]["correct"]) for curve in curves])
        assert row["accuracy"] == pytest.approx(dense)
        if model == "early":
            assert row["verdict"] == "inconclusive"
            assert row["percent"] is row["loss"] is row["parameters_removed"] is None
            assert "better than chance on any task (accuracy 0.40 ± 0.09, chance level 0.43)" in row["reason"]
            continue
        # The rules of find_prunable have tests of their own: here, that it gets this model's curves and chance levels.
        paths = (results / model / f"pruned_eval/{component}/{task}/{shots}shot-seed7/own.parquet" for task in able)
        curve = average([read_curve(path) for path in paths])
        # FFNs of deep are ranked by the evaluation questions.
        overlap = "overlap" if (model, component) == ("deep", "ffns") else ""
        found_here = find_prunable(curve.scores, [chance[task] for task in able], Margin(0.02), overlap)
        assert row["verdict"] == found_here.verdict
        at = found_here.level
        assert row["percent"] == (None if at is None else curve.percent[at])
        assert row["estimate"] == (None if found_here.estimate is None else curve.percent[found_here.estimate])
        assert row["below"] == (None if found_here.below is None else curve.percent[found_here.below])
        if at is not None:
            assert row["loss"] == pytest.approx(
                np.mean([np.mean(c[0]["correct"]) - np.mean(c[at]["correct"]) for c in curves])
            )
            assert row["loss_low"] <= row["loss"] <= row["loss_high"]
            assert row["parameters_removed"] == np.mean([c[at]["parameters_removed"] for c in curves])
    assert {r["verdict"] for r in by_cell.values()} >= {"up to", "estimate only", "inconclusive"}


def test_each_outcome_has_its_rows(results):
    """The probability of the right choice is 0.731 where the answer is right, 0.269 where it is wrong."""
    table_rows = rows(results, "prunable", COMPARED_PRUNABLE)
    p = 1 / (1 + math.exp(-1))
    assert {(r["outcome"], r["margin"]) for r in table_rows} == {("accuracy", 2), ("gold_probability", 1)}
    for by_accuracy, row in zip(table_rows[:12], table_rows[12:], strict=True):
        assert [row[name] for name in ("model", "component", "shots", "accuracy", "chance_level", "n_questions")] == [
            by_accuracy[name] for name in ("model", "component", "shots", "accuracy", "chance_level", "n_questions")
        ]
        assert by_accuracy["score"] == by_accuracy["accuracy"]
        assert row["score"] == pytest.approx(1 - p + (2 * p - 1) * row["accuracy"])
        assert row["score_stderr"] == pytest.approx((2 * p - 1) * row["stderr"])
    record = provenance(study_of(results, "prunable").artifact("prunable"))
    assert record["options"]["outcomes"] == ["accuracy=2", "gold_probability=1"]


def test_a_share_by_gold_probability_is_that_of_its_own_test(results):
    """Copa of late, alone above chance in its way, against the test on scores computed here."""
    row = next(
        r
        for r in rows(results, "prunable", COMPARED_PRUNABLE)
        if (r["outcome"], r["model"], r["component"], r["shots"]) == ("gold_probability", "late", "heads", 0)
    )
    curves, right = [], []
    for task in TASKS:
        by_level = table(results, "late", f"pruned_eval/heads/{task}/0shot-seed7/own.parquet", PRUNED_EVAL)
        likely = [np.exp(np.array(level["log_likelihoods"])) for level in by_level]
        curves.append(np.array([values[:, 0] / values.sum(axis=1) for values in likely]))
        right.append(np.array(by_level[0]["correct"], float))
    expected = find_prunable(curves, [0.3, 0.5, 0.5], Margin(0.01), whole_right=right)
    assert row["verdict"] == expected.verdict == "up to"
    assert row["percent"] == [0, 20, 50, 90][expected.level]


def test_tasks_that_do_not_define_an_outcome_are_left_out(results):
    models = [ResultsMatrix(results / name, TASKS, SHOTS, SEED) for name in MODELS]
    for study in models:
        leave_one_choice(study, "copa")
    assert run(results, "compare", "prunable") == 0
    late = [r for r in rows(results, "prunable", COMPARED_PRUNABLE) if r["model"] == "late"]
    assert [r["n_tasks"] for r in late] == [3] * 4 + [2] * 4
    for study in models:
        leave_one_choice(study, *TASKS)
    assert run(results, "compare", "prunable") == 0
    late = [r for r in rows(results, "prunable", COMPARED_PRUNABLE) if r["model"] == "late"][4:]
    assert {(r["verdict"], r["score"], r["percent"]) for r in late} == {("inconclusive", None, None)}
    assert "gold probability compares choices" in late[0]["reason"]


def ranks(values):
    return [sum(other < value for other in values) for value in values]


def pearson(a, b):
    a, b = np.subtract(a, np.mean(a)), np.subtract(b, np.mean(b))
    return (a * b).sum() / math.sqrt((a * a).sum() * (b * b).sum())


def test_rankings_of_models_of_equal_shape(results):
    table_rows = rows(results, "rankings", COMPARED_RANKINGS)
    assert {(r["model_a"], r["model_b"]) for r in table_rows} == {("early", "late")}
    assert [(r["task"], r["shots"]) for r in table_rows] == [(t, k) for k in SHOTS for t in (*TASKS, "aggregate")]
    for row in table_rows:
        path = f"head_importance/{row['task']}/{row['shots']}shot-seed7.parquet"
        a, b = (table(results, model, path, HEAD_IMPORTANCE) for model in ("early", "late"))
        assert [(r["layer"], r["head"]) for r in a] == [(r["layer"], r["head"]) for r in b]
        a, b = ([r["score"] for r in heads] for heads in (a, b))
        assert row["srcc"] == pytest.approx(pearson(ranks(a), ranks(b)))
        inside = [pearson(ranks(a[i : i + 5]), ranks(b[i : i + 5])) for i in range(0, 20, 5)]
        assert row["srcc_within_layer"] == pytest.approx(np.mean(inside))
        tops = [set(np.argsort(scores)[-6:]) for scores in (a, b)]
        assert row["overlap_top30"] == pytest.approx(len(tops[0] & tops[1]) / 6)


def test_induction_scores_in_a_few_numbers(results):
    table_rows = rows(results, "induction", COMPARED_INDUCTION)
    assert [(r["model"], r["score"]) for r in table_rows] == [
        (m, s) for m in MODELS for s in ("prefix_matching", "copying")
    ]
    for row in table_rows:
        kind = {"prefix_matching": PREFIX_MATCHING, "copying": COPYING}[row["score"]]
        heads = table(results, row["model"], f"induction/{row['score']}.parquet", kind)
        best = max(heads, key=lambda head: head["mean"])
        assert (row["maximum"], row["layer"], row["head"]) == (best["mean"], best["layer"], best["head"])
        assert row["stderr"] == pytest.approx(math.sqrt(0.12 / 3))
        top = sorted((head["mean"] for head in heads), reverse=True)[: max(1, len(heads) // 10)]
        assert row["n_top"] == len(top) == 2
        assert row["top_mean"] == pytest.approx(sum(top) / len(top))
        assert row["median"] == pytest.approx(np.median([head["mean"] for head in heads]))


def test_the_top_tenth_of_few_heads_is_one():
    row = induction_row("m", "copying", np.array([[0.1, 0.4]]), np.full((1, 2), np.nan), 1)
    assert (row["n_top"], row["top_mean"], row["maximum"], row["head"], row["stderr"]) == (1, 0.4, 0.4, 1, None)


def test_profiles_by_relative_depth(results):
    table_rows = rows(results, "profiles", COMPARED_PROFILES)
    for model, values in MODELS.items():
        layers = values.shape[0]
        for shots in SHOTS:
            mine = [r for r in table_rows if (r["model"], r["shots"]) == (model, shots)]
            heads, ffns = ([r for r in mine if r["component"] == c] for c in ("heads", "ffns"))
            assert [r["depth"] for r in heads] == pytest.approx([(i + 0.5) / layers for i in range(layers)])
            aggregate = table(results, model, f"head_importance/aggregate/{shots}shot-seed7.parquet", HEAD_IMPORTANCE)
            means = [np.mean([h["score"] for h in aggregate if h["layer"] == i]) for i in range(layers)]
            assert [r["importance"] for r in heads] == pytest.approx(means)
            assert [r["relative"] for r in heads] == pytest.approx(np.array(means) / np.mean(means))
            by_task = [
                table(results, model, f"ffn_importance/{t}/{shots}shot-seed7.parquet", FFN_IMPORTANCE) for t in TASKS
            ]
            lost = [np.mean([task[i]["score"] for task in by_task]) for i in range(layers)]
            assert [r["importance"] for r in ffns] == pytest.approx(lost)
            assert {r["relative"] for r in ffns} == {None}
    nothing = profile_rows("m", "heads", 0, {0: 0.0, 1: 0.0}, 2)
    assert [r["relative"] for r in nothing] == [None, None], "no share of nothing"
    # Their mean is 0, their mean size 2.
    signed = profile_rows("m", "heads", 0, {0: -3.0, 1: 1.0, 2: 2.0}, 3)
    assert [r["relative"] for r in signed] == [-1.5, 0.5, 1.0]


def test_artifacts_say_which_models_they_compare(results):
    record = provenance(study_of(results, "rankings").artifact("rankings"))
    assert list(record["compared"]) == sorted(MODELS)
    assert record["compared"]["deep"]["digest"] == f"{'deep':x>64}"
    labels = ["early,group=m,step=0", "late,group=m,step=1000", "deep,group=deep"]
    matrix = {"tasks": list(TASKS), "shots": [0, 5], "seed": SEED}
    assert record["options"] == {"models": list(MODELS), "labels": labels, **matrix}
    assert "early/head_importance/copa/0shot-seed7.parquet" in record["inputs"]
    assert len(record["inputs"]) == 3 * 2 * 4
    record = provenance(study_of(results, "prunable").artifact("prunable"))
    assert "prompts/copa/0shot-seed7.parquet" in record["inputs"]


@pytest.mark.parametrize("what", COMPARISONS)
def test_figures_are_drawn_from_the_comparing_artifacts_alone(results, what):
    assert run(results, "figure", f"compare_{what}") == 0
    folder = results / "comparison" / "figures"
    names = {path.name.replace("-seed7", "") for path in folder.iterdir()}
    assert names == {f"{what}.{suffix}" for suffix in ("pdf", "svg", "png")}


def test_figures_show_the_numbers(results):
    prunable_ = compare_prunable.data(study_of(results, "prunable"))
    artifact = rows(results, "prunable", COMPARED_PRUNABLE)
    outcomes = dict.fromkeys(row["outcome"] for row in artifact)
    assert list(prunable_) == [(c, outcome, k) for c in ("heads", "ffns") for outcome in outcomes for k in (0, 5)]
    assert prunable_["heads", "accuracy", 0]["early"]["percent"] is None
    assert sum(map(len, prunable_.values())) == len(artifact)
    assert all(
        (row["component"], row["outcome"], row["shots"]) == cell
        for cell, models in prunable_.items()
        for row in models.values()
    )
    matrices = compare_rankings.data(study_of(results, "rankings"))
    expected = [r for r in rows(results, "rankings", COMPARED_RANKINGS) if (r["task"], r["shots"]) == ("aggregate", 5)]
    matrix = matrices["srcc", 5]
    assert matrix[0, 1] == matrix[1, 0] == expected[0]["srcc"]
    assert np.isnan(matrix[2]).all(), "another shape"
    argsort = compare_rankings.data(replace(study_of(results, "rankings"), correlation="argsort"))
    assert argsort["argsort_statistic", 5][0, 1] == expected[0]["argsort_statistic"]
    assert compare_induction.data(study_of(results, "induction"))["copying"]["late"]["n_sequences"] == 3
    depths, values = compare_profiles.data(study_of(results, "profiles"))["heads", 0]["deep"]
    assert len(depths) == 7
    assert values.mean() == pytest.approx(1)
    depths, values = compare_profiles.in_parts((np.arange(24) + 0.5) / 24, np.arange(24.0))
    np.testing.assert_allclose(depths, (np.arange(12) + 0.5) / 12)
    np.testing.assert_allclose(values, 2 * np.arange(12) + 0.5)


def test_an_estimate_alone_is_no_cross(results, monkeypatch):
    study = study_of(results, "prunable")
    drawn = compare_prunable.data(study)
    alone = {"verdict": "estimate only", "percent": None, "estimate": 20, "below": None}
    cells = {cell: {name: row | alone for name, row in rows.items()} for cell, rows in drawn.items()}
    crosses = []
    for shown in (drawn, cells):
        monkeypatch.setattr(compare_prunable, "data", lambda compared, shown=shown: shown)
        figure = compare_prunable.draw.__wrapped__(study)
        crosses.append(sum(line.get_marker() == "x" for ax in figure.axes for line in ax.lines))
        assert any(line.get_marker() == "_" for ax in figure.axes for line in ax.lines)
    assert crosses[0] == sum(row["verdict"] == "inconclusive" for rows in drawn.values() for row in rows.values()) > 0
    assert crosses[1] == 0


def test_profiles_of_signed_scores_are_whole_and_each_component_names_its_scale(results, monkeypatch):
    study = replace(study_of(results, "profiles"), shots=(0, 1, 5))
    depth = np.array([0.2, 0.8])
    lines = {model: (depth, np.array([-1.0, 1.0])) for model in MODELS}
    cells = {(component, shots): lines for component in ("heads", "ffns") for shots in study.shots}
    monkeypatch.setattr(compare_profiles, "data", lambda compared: cells)
    axes = compare_profiles.draw.__wrapped__(study).axes[:6]
    assert all(ax.get_ylim()[0] < -1 for ax in axes)
    labels = [ax.get_ylabel().replace("\n", " ") for ax in axes]
    assert labels[0] == labels[2] == "importance, mean size over layers = 1"
    assert labels[3] == labels[4] == "accuracy lost (points)", "the first of FFNs stands beside heads"


def test_artifacts_of_other_models_are_refused(results, capsys):
    other = (LABELS[0], ComparedModel("else", "m"))
    with pytest.raises(ArtifactError, match="made from early, late, deep, expected early, else; delete it"):
        comparison.read_models(replace(study_of(results, "models"), models=other))
    assert run(results, "figure", "compare_rankings", other) == 1
    assert "expected early, else" in capsys.readouterr().err
    assert run(results, "compare", "models", LABELS[:1]) == 1
    assert "a comparison needs two or more models, each once; got early" in capsys.readouterr().err
    assert main(["compare", "rankings", "--results", "r", "--models", "a", "b", "--out", str(results / "x")]) == 1
    assert "comparing rankings needs --tasks, --shots and --seed" in capsys.readouterr().err


def test_models_stand_by_step_by_size_or_by_name():
    steps = [PlacedModel("a", "m", 0, 10), PlacedModel("b", "m", 100, 10), PlacedModel("c", "n", 100, 20)]
    scale = comparison.axis(steps)
    assert (scale.kind, scale.places) == ("step", {"a": 0, "b": 100, "c": 100})
    sizes = [replace(model, step=None, parameters=10 ** (6 + i)) for i, model in enumerate(steps)]
    assert comparison.axis(sizes).kind == "parameters"
    assert comparison.axis([*sizes, PlacedModel("d", "m", None, None)]).kind == "name", "a size that is not known"
    versions = [
        PlacedModel("base", "m", None, 10),
        PlacedModel("instruct", "m", None, 10),
        PlacedModel("base2", "n", None, 20),
    ]
    assert comparison.axis(versions).places == {"base": 0, "instruct": 1, "base2": 2}
    assert comparison.axis([PlacedModel("a", "a", None, 10), PlacedModel("b", "b", None, 20)]).kind == "name", (
        "nothing to join"
    )


@pytest.mark.parametrize("count", [2, 3, 12])
def test_every_model_has_a_look_of_its_own(count):
    one = [PlacedModel(str(i), "m", i, None) for i in range(count)]
    two = [*one, *(PlacedModel(f"n{i}", "n", i, None) for i in range(count))]
    for models in (one, two):
        looks = comparison.styles(models)
        assert len({str(look) for look in looks.values()}) == len(models)
