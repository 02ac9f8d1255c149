"""The gain of rankings over random order, on curves whose areas are known by hand."""

import csv
from dataclasses import replace

import numpy as np
import pytest

from lm_headroom.artifacts.pruned_eval import PRUNED_EVAL
from lm_headroom.artifacts.store import ArtifactError, made_by, read, write
from lm_headroom.cli import main
from lm_headroom.report.findings.page import findings
from lm_headroom.report.findings.shares import control_sentences
from lm_headroom.report.tables.gains import AVERAGE, compare, gain_sentence, level_weights, measure_gains
from lm_headroom.results.chance import ChanceLevel
from tests.support.small_study import RIGHT, Values, small, write_study

MORE = ("example", "random_1", "random_2", "reversed", "token")
TASKS = ["piqa", "copa", "record"]
CHANCE = dict.fromkeys(TASKS, ChanceLevel(0.5, 0.5))


@pytest.fixture(scope="module")
def study(tmp_path_factory):
    return small(tmp_path_factory.mktemp("study"))


@pytest.fixture(scope="module")
def controlled(tmp_path_factory):
    """Two random orders and other controls; token is the own ranking."""
    study = replace(small(tmp_path_factory.mktemp("study")), controls=MORE)

    def right(k, component, task, ranking):
        special = {"random_2": [8, 4, 4, 4], "reversed": [8, 2, 2, 2], "example": [8, 8, 6, 6]}
        known = RIGHT[k].get((component, task, "own" if ranking == "token" else ranking), [8, 8, 7, 5])
        # The whole model is the same under all rankings.
        whole = RIGHT[k].get(("heads", task, "own"), [8])[0]
        return [whole, *special.get(ranking, known)[1:]] if component == "heads" else known

    return write_study(study, Values(right=right))


def test_weights_are_the_trapezoid_rules():
    percent, accuracy = [0, 20, 50, 90], np.array([0.8, 0.8, 0.7, 0.5])
    assert level_weights(percent).sum() == pytest.approx(1)
    assert level_weights(percent) @ accuracy == pytest.approx(np.trapezoid(accuracy, percent) / 90)


def test_gain_by_hand(study):
    """Piqa's own curve 8 8 7 5 of 10, random order's 8 5 5 5, at 0, 20, 50 and 90%."""
    table = measure_gains(study, 0, "heads")
    between = (3 * 20 / 2 + (3 + 2) / 2 * 30 + 2 * 40 / 2) / 90 * 10
    assert table.gains["piqa"]["own"].over_random == pytest.approx(between)
    # Copa: 9 9 8 4 against 9 6 4 5; record: both 8 8 7 5.
    copa = (3 * 20 / 2 + (3 + 4) / 2 * 30 + (4 - 1) / 2 * 40) / 90 * 10
    assert table.gains["copa"]["own"].over_random == pytest.approx(copa)
    assert table.gains[AVERAGE]["own"].over_random == pytest.approx((between + copa + 0) / 3)
    assert table.orders == 1
    assert np.isnan(table.spread["piqa"])
    assert table.gains[AVERAGE]["own"].over_own == 0
    # The aggregate differs from the own ranking on copa alone.
    gain = (0 + 1 / 2 * 30 + (1 + 1) / 2 * 40) / 90 * 10
    assert table.gains[AVERAGE]["aggregate"].over_own == pytest.approx(gain / 3)
    assert table.questions == {"piqa": 10, "copa": 10, "record": 10, AVERAGE: 30}


def test_gain_of_ffns_by_hand(study):
    """Copa's own curve 9 9 5 4 of 10, random order's 9 5 5 4, at 0, 20, 50 and 90%; piqa's 8 3 3 3, 8 3 2 2."""
    table = measure_gains(study, 0, "ffns")
    copa, piqa = (4 * 20 / 2 + 4 / 2 * 30) / 90 * 10, (1 / 2 * 30 + 1 * 40) / 90 * 10
    assert table.gains["copa"]["own"].over_random == pytest.approx(copa)
    assert table.gains["piqa"]["own"].over_random == pytest.approx(piqa)
    assert table.gains[AVERAGE]["own"].over_random == pytest.approx((copa + piqa) / 3)
    (sentence,) = gain_sentence(study, 0, "ffns", CHANCE)
    assert sentence.startswith("- **The importance ranking of FFNs is better than random order with 0-shot prompts.** ")
    assert f"Each task's own ranking gains {(copa + piqa) / 3:+.1f} points (" in sentence
    assert "averaged over 0 to 90% pruned and 3 tasks" in sentence
    assert sentence in findings(study)
    # (2 + 5 + 7) / 30 and (3 + 5 + 7) / 30.
    random = (
        " With 50% of FFNs pruned at random (random_1), accuracy is 0.47 ± 0.09; the importance ranking reaches 0.50"
    )
    assert control_sentences(study, 0, "ffns").startswith(random)


def test_several_orders_are_averaged_and_widen_the_interval(controlled):
    table = measure_gains(controlled, 0, "heads")
    means = []
    for task in TASKS:
        curves = [
            np.array(RIGHT[0].get(("heads", task, "random_1"), [8, 8, 7, 5])) / 10,
            np.array([RIGHT[0].get(("heads", task, "random_1"), [8])[0], 4, 4, 4]) / 10,
        ]
        areas = [100 * np.trapezoid(curve, [0, 20, 50, 90]) / 90 for curve in curves]
        own = 100 * np.trapezoid(RIGHT[0].get(("heads", task, "own"), [8, 8, 7, 5]), [0, 20, 50, 90]) / 900
        assert table.gains[task]["own"].over_random == pytest.approx(own - np.mean(areas))
        assert table.spread[task] == pytest.approx(np.std(areas, ddof=1))
        means.append(areas)
    # Orders are the same for all tasks, so that their luck does not average out over them.
    assert table.spread[AVERAGE] == pytest.approx(np.mean(means, axis=0).std(ddof=1))
    own = table.gains[AVERAGE]["own"].over_random_limits
    assert own.high - own.low > 2 * 4.3 * table.spread[AVERAGE] / np.sqrt(2)
    assert table.gains[AVERAGE]["token"].over_own_limits == (0, 0)
    assert table.gains[AVERAGE]["reversed"].over_own_limits.high < 0


def _width(limits):
    return limits.high - limits.low


def test_a_difference_knows_nothing_of_random_orders():
    rng = np.random.default_rng(0)
    base = {"own": rng.random(50), "token": rng.random(50)}
    gains = [
        compare({"a": {**base, **orders}})[0]["a"]["token"]
        for orders in ({"random_1": rng.random(50)}, {"random_1": rng.random(50), "random_2": rng.random(50) + 5})
    ]
    assert gains[0].over_own == pytest.approx(gains[1].over_own)
    np.testing.assert_allclose(gains[0].over_own_limits, gains[1].over_own_limits, atol=0.02)
    assert _width(gains[1].over_random_limits) > 10 * _width(gains[0].over_random_limits)


def test_the_table_has_a_row_per_shot_task_and_ranking(controlled, tmp_path):
    options = ["--tasks", *TASKS, "--shots", "0", "5", "--seed", "7", "--controls", *MORE]
    assert (
        main(["table", "gains", "--results", str(controlled.results), *options, "--out", str(tmp_path / "gains")]) == 0
    )
    with (tmp_path / "gains.csv").open() as file:
        rows = list(csv.DictReader(file))
    rankings = {
        "heads": ["own", "aggregate", "example", "reversed", "token"],
        "ffns": ["own", "example", "reversed", "token"],
    }
    assert [(r["shots"], r["component"], r["task"], r["ranking"]) for r in rows] == [
        (shots, component, task, ranking)
        for shots in "05"
        for component, names in rankings.items()
        for task in (AVERAGE, *TASKS)
        for ranking in names
    ]
    assert {r["random orders"] for r in rows} == {"2"}
    average = measure_gains(controlled, 0, "heads").gains[AVERAGE]["example"]
    assert float(rows[2]["gain over random"]) == average.over_random
    assert float(rows[2]["gain over own high"]) == average.over_own_limits.high
    assert rows[0]["gain over own"] == ""
    assert "<h1>Gain of rankings over random order" in (tmp_path / "gains.html").read_text()
    assert "With one it does not: the gain" in (tmp_path / "gains.md").read_text()


def test_without_a_random_order_nothing_is_said(study):
    assert measure_gains(replace(study, controls=()), 0, "heads") is None
    assert gain_sentence(replace(study, controls=()), 0, "heads", CHANCE) == []


@pytest.mark.parametrize("component", ["heads", "ffns"])
def test_the_own_order_under_another_ablation_is_not_compared_with_random_orders(controlled, component):
    with_another_kind = replace(controlled, controls=(*MORE, "own_mean"))
    assert measure_gains(with_another_kind, 0, component) == measure_gains(controlled, 0, component)


def test_the_sentence_says_what_the_interval_holds(study, controlled):
    (one,) = gain_sentence(study, 0, "heads", CHANCE)
    assert "; the interval ignores the luck of the one random order." in one
    assert "Other criteria" not in one
    (two,) = gain_sentence(controlled, 0, "heads", CHANCE)
    assert two in findings(controlled)
    assert "; the interval includes the variance of 2 random orders." in two
    # Token is the own ranking here; of one other, nothing has to be said of how many there are.
    assert "Other criteria add to this gain: `example` " in two
    assert "token" not in two
    limits = measure_gains(controlled, 0, "heads").gains[AVERAGE]["example"].over_own_limits
    assert ("None differs significantly from it" in two) == (limits.low <= 0 <= limits.high)


def test_controls_that_are_not_random_are_not_called_so(controlled):
    assert " over 2 random orders); the importance" in control_sentences(controlled, 0, "heads")
    assert control_sentences(replace(controlled, controls=("reversed", "token")), 0, "heads") == ""


def test_a_ranking_of_ones_own_whose_name_begins_with_random_is_no_random_order():
    areas = {name: np.arange(10.0) for name in ("own", "random_1", "random_baseline")}
    gains, _, orders = compare({"a": areas})
    assert (list(gains["a"]), orders) == (["own", "random_baseline"], 1)


def test_controls_of_heads_alone_are_named_as_those_of_both(controlled):
    """`pruning.ffn_controls` moves what is not common to the rankings of heads alone."""
    apart = replace(controlled, controls=("random_1",), custom_heads=("random_2", "reversed", "example"))
    assert " over 2 random orders); the importance" in control_sentences(apart, 0, "heads")
    (sentence,) = gain_sentence(apart, 0, "heads", CHANCE)
    assert "Other criteria add to this gain: `example` " in sentence
    assert "reversed" not in sentence
    assert "(random_1)" in control_sentences(replace(apart, controls=(), custom_ffns=("random_1",)), 0, "ffns")


@pytest.mark.parametrize(("component", "name"), [("heads", "oracle_accuracy"), ("ffns", "fisher")])
def test_criteria_are_not_compared_where_the_evaluation_questions_ranked_one(tmp_path, component, name):
    """Of heads the oracle, of FFNs the own ranking."""
    study = replace(small(tmp_path), controls=("random_1", name))

    def right(k, part, task, ranking):
        return ([8, 3, 3, 3] if ranking == name else [8, 8, 8, 8])[: 3 if "srcc" in ranking else 4]

    write_study(study, Values(right=right))
    (sentence,) = gain_sentence(study, 0, component, CHANCE)
    assert measure_gains(study, 0, component).gains[AVERAGE][name].over_own < 0
    assert "Other criteria" not in sentence
    options = ["--tasks", *TASKS, "--shots", "0", "--seed", "7", "--controls", "random_1", name]
    assert main(["table", "gains", "--results", str(study.results), *options, "--out", str(tmp_path / "t")]) == 0
    assert ("also rank heads by the oracles" in (tmp_path / "t.md").read_text()) == (component == "heads")


def test_curves_of_other_questions_are_refused(study, tmp_path):
    copied = replace(small(tmp_path), controls=("random_1",))
    path = copied.curve("copa", 0, "random_1")
    table = read(path, PRUNED_EVAL)
    columns = table.to_pydict() | {"doc_id": [[n + 1 for n in row] for row in table.column("doc_id").to_pylist()]}
    write(path, PRUNED_EVAL, columns, made_by(table))
    with pytest.raises(ArtifactError, match="random_1.parquet and .*own.parquet hold different questions or levels"):
        measure_gains(copied, 0, "heads")
