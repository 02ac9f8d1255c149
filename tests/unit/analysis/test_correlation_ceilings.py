"""Ceilings of rank correlations against values by hand, and loops that enumerate what the module computes at once."""

import math
from itertools import permutations, product

import numpy as np
import pytest

from lm_headroom.analysis.correlation import (
    AGGREGATE,
    MIN_RELIABILITY,
    TaskScores,
    compare_pairs,
    corrected_srcc,
    cross_shot,
    cross_task,
    key_value_groups,
    leave_one_out,
    noise_ceiling,
    permutation_p,
    reliability,
    srcc,
    srcc_within_layers,
    within_layer_shuffles,
)
from lm_headroom.analysis.ranking import aggregate
from lm_headroom.report.figures import fig08
from lm_headroom.report.findings.agreement import agreement_verdict, disattenuated_part

# Orders of four heads: CLOSE has an SRCC of 0.8 to FIRST, FAR one of 0.4.
FIRST, CLOSE, FAR = (np.array([order]) for order in ([1.0, 2, 3, 4], [1.0, 2, 4, 3], [1.0, 4, 2, 3]))


def draw(seed, shape=(12, 8)):
    return np.random.default_rng(seed).random(shape)


def noisy(seed, noise, base=0):
    """Scores and halves of one true vector."""
    even, odd = (draw(base) + noise * draw(10 * seed + i) for i in (1, 2))
    return TaskScores((even + odd) / 2, even, odd)


def loop_ranks(values):
    return [(sum(o < v for o in values) + sum(o <= v for o in values) + 1) / 2 for v in values]


def loop_srcc(a, b):
    a, b = (loop_ranks([float(v) for row in values for v in row]) for values in (a, b))
    a, b = ([v - sum(x) / len(x) for v in x] for x in (a, b))
    return sum(p * q for p, q in zip(a, b, strict=True)) / math.sqrt(sum(p * p for p in a) * sum(q * q for q in b))


def loop_p(a, b, shuffles):
    """p by the definition, one shuffle after the other."""
    layers, heads = a.shape
    observed, reached = loop_srcc(a, b), 0
    for shuffle in shuffles:
        moved = [
            [b[int(n) // heads][int(n) % heads] for n in shuffle[i * heads : (i + 1) * heads]] for i in range(layers)
        ]
        reached += loop_srcc(a, moved) >= observed - 1e-12
    return (1 + reached) / (1 + len(shuffles))


def test_reliability_and_ceiling_by_hand():
    assert reliability(TaskScores(FIRST, FIRST, CLOSE)) == pytest.approx(2 * 0.8 / 1.8)
    assert reliability(TaskScores(FIRST, FIRST, FAR)) == pytest.approx(2 * 0.4 / 1.4)
    assert reliability(TaskScores(FIRST, FIRST, -FIRST)) is None
    a, b = TaskScores(FIRST, FIRST, CLOSE), TaskScores(FAR, FIRST, FAR)
    assert noise_ceiling(a, b) == pytest.approx(math.sqrt(1.6 / 1.8 * 0.8 / 1.4))


def test_corrected_srcc_by_hand():
    a, b = TaskScores(FIRST, FIRST, CLOSE), TaskScores(FAR, FIRST, FAR)
    assert corrected_srcc(a, b) == pytest.approx(0.4 / math.sqrt(1.6 / 1.8 * 0.8 / 1.4))
    # Halves of different documents: FIRST with FAR, CLOSE with FIRST.
    expected = (0.4 + 0.8) / 2 / math.sqrt(0.8 * 0.4)
    assert corrected_srcc(a, b, same_documents=True) == pytest.approx(expected)
    assert expected > 1, "kept"


def test_nothing_is_corrected_where_a_ranking_is_mostly_noise():
    sure, unsure = noisy(1, 0.2), noisy(2, 6.0)
    assert reliability(sure) > MIN_RELIABILITY > (reliability(unsure) or 0)
    assert corrected_srcc(sure, unsure) is corrected_srcc(unsure, sure) is None
    constant = np.ones((12, 8))
    assert corrected_srcc(sure, TaskScores(constant, constant, constant)) is None
    assert corrected_srcc(sure, TaskScores(constant, sure.even, sure.odd)) is None


@pytest.mark.parametrize("ties", [False, True])
def test_permutation_p_is_that_of_the_loops(ties):
    scores = [draw(i, (4, 5)) for i in range(3)]
    scores[1] += scores[0]
    if ties:
        scores = [np.round(values, 1) for values in scores]
    shuffles = within_layer_shuffles((4, 5), 99, seed=3)
    p_values = permutation_p(scores, shuffles)
    np.testing.assert_array_equal(p_values, p_values.T)
    for i in range(3):
        for j in range(i, 3):
            assert p_values[i, j] == loop_p(scores[i], scores[j], shuffles)


def test_permutation_p_is_near_that_of_all_shuffles():
    """Three layers of three heads have 216 shuffles."""
    a, b = draw(1, (3, 3)), draw(1, (3, 3)) + draw(7, (3, 3))
    each = [[np.array(order) + 3 * layer for order in permutations(range(3))] for layer in range(3)]
    every = np.array([np.concatenate(parts) for parts in product(*each)])
    exact = (loop_p(a, b, every) * 217 - 1) / 216
    assert 0.02 < exact < 0.9
    n = 4999
    p_value = permutation_p([a, b], within_layer_shuffles((3, 3), n))[0, 1]
    assert abs(p_value - exact) < 4 * math.sqrt(exact * (1 - exact) / n)


def test_shuffles_stay_in_their_layers_and_are_the_same_each_time():
    shuffles = within_layer_shuffles((6, 4), 50)
    np.testing.assert_array_equal(shuffles // 4, np.repeat(np.arange(6), 4)[None].repeat(50, axis=0))
    assert (np.sort(shuffles, axis=1) == np.arange(24)).all()
    assert len({row.tobytes() for row in shuffles}) == 50
    np.testing.assert_array_equal(shuffles, within_layer_shuffles((6, 4), 50))
    assert (shuffles != within_layer_shuffles((6, 4), 50, seed=1)).any()


def test_shuffles_stay_in_their_key_value_groups():
    shuffles = within_layer_shuffles((3, 6), 50, groups=2)
    np.testing.assert_array_equal(shuffles // 3, np.repeat(np.arange(6), 3)[None].repeat(50, axis=0))
    assert (np.sort(shuffles, axis=1) == np.arange(18)).all()
    assert len({row.tobytes() for row in shuffles}) == 50
    np.testing.assert_array_equal(within_layer_shuffles((3, 6), 50, groups=1), within_layer_shuffles((3, 6), 50))


@pytest.mark.parametrize(
    ("heads", "key_value_heads", "groups"),
    [(9, 3, 3), (32, 8, 8), (4, 2, 2), (12, 12, 1), (12, 1, 1), (1, 1, 1), (12, None, 1)],
)
def test_heads_are_grouped_where_some_but_not_all_of_a_layer_share_keys_and_values(heads, key_value_heads, groups):
    assert key_value_groups({"model": {"heads": heads, "key_value_heads": key_value_heads}}) == groups
    assert key_value_groups({}) == key_value_groups({"model": None}) == 1


def test_a_profile_over_groups_is_told_from_agreement_inside_them():
    """Three layers of four groups of five heads; the groups of a layer differ much, in both rankings alike."""
    profile = 10 * np.random.default_rng(8).random((12, 4, 1)).repeat(5, axis=2).reshape(12, 20)
    a, b = (TaskScores(*[profile + draw(i, (12, 20))] * 3, groups=4) for i in (1, 2))
    (row,) = compare_pairs({"a": a, "b": b}, [("a", "b")])
    assert row["p_permutation"] > 0.05
    assert abs(row["srcc_within_layer"]) < 0.2
    inside = [srcc(a.score[i, j : j + 5], b.score[i, j : j + 5])[0] for i in range(12) for j in range(0, 20, 5)]
    assert row["srcc_within_layer"] == pytest.approx(np.mean(inside))
    plain = {name: TaskScores(s.score, s.even, s.odd) for name, s in (("a", a), ("b", b))}
    (blind,) = compare_pairs(plain, [("a", "b")])
    assert blind["p_permutation"] < 0.01
    assert blind["srcc_within_layer"] > 0.5
    alone = leave_one_out({"a": a, "b": b})["a"]
    assert alone["p_permutation_leave_one_out"] > 0.05
    assert leave_one_out(plain)["a"]["p_permutation_leave_one_out"] < 0.01


def test_models_with_other_groups_are_compared_inside_those_of_both():
    scores = {
        name: TaskScores(*[draw(i, (3, 12))] * 3, groups=n)
        for i, (name, n) in enumerate({"a": 1, "b": 2, "c": 3}.items())
    }
    rows = dict(
        zip(
            [("a", "b"), ("b", "c"), ("a", "a")],
            compare_pairs(scores, [("a", "b"), ("b", "c"), ("a", "a")]),
            strict=True,
        )
    )
    for (a, b), groups in ((("a", "b"), 2), (("b", "c"), 6), (("a", "a"), 1)):
        shuffles = within_layer_shuffles((3, 12), groups=groups)
        assert rows[a, b]["p_permutation"] == permutation_p([scores[a].score, scores[b].score], shuffles)[0, 1]
        assert rows[a, b]["srcc_within_layer"] == srcc_within_layers(scores[a].score, scores[b].score, groups)


def test_a_profile_is_told_from_agreement_inside_layers():
    profile = 10 * np.arange(12.0)[:, None]
    a, b, c = profile + draw(1), profile + draw(2), profile + draw(1) + 0.3 * draw(3)
    p_values = permutation_p([a, b, c])
    assert p_values[0, 1] > 0.05
    assert p_values[0, 2] == 1 / 1000
    assert np.isnan(permutation_p([a, np.ones((12, 8))])[0, 1])


def by_pair(columns):
    names = ("task_a", "task_b") if "task_a" in columns else ("task", "shots_a", "shots_b")
    keys = zip(*(columns[name] for name in names), strict=True)
    return {key: {name: columns[name][i] for name in columns} for i, key in enumerate(keys)}


def test_rows_of_tasks():
    scores = {name: noisy(i, 0.4, base=i // 2) for i, name in enumerate("abc")}
    together = TaskScores(
        *(np.mean([getattr(s, part) for s in scores.values()], axis=0) for part in ("score", "even", "odd"))
    )
    rows = by_pair(cross_task(scores, together))
    shuffles = within_layer_shuffles((12, 8))
    row = rows["a", "b"]
    assert row["reliability_a"] == reliability(scores["a"])
    assert row["reliability_b"] == reliability(scores["b"]) == rows["b", "a"]["reliability_a"]
    assert row["srcc_corrected"] == rows["b", "a"]["srcc_corrected"] == corrected_srcc(scores["a"], scores["b"])
    assert row["p_permutation"] == rows["b", "a"]["p_permutation"]
    assert row["p_permutation"] == permutation_p([scores["a"].score, scores["b"].score], shuffles)[0, 1]
    assert rows["a", "a"]["srcc_corrected"] is None, "a ranking with itself"
    assert row["srcc_leave_one_out_corrected"] is row["p_permutation_leave_one_out"] is None
    row = rows[AGGREGATE, "c"]
    assert row["srcc_corrected"] is None, "both hold the noise of c"
    others = TaskScores(
        *(aggregate({n: getattr(scores[n], part) for n in "ab"})[0] for part in ("score", "even", "odd"))
    )
    assert row["srcc_leave_one_out_corrected"] == corrected_srcc(scores["c"], others)
    assert row["reliability_leave_one_out"] == reliability(others)
    assert row["p_permutation_leave_one_out"] == permutation_p([scores["c"].score, others.score])[0, 1]


def test_rows_of_shots_are_corrected_by_halves_of_other_documents():
    scores = {k: {"a": noisy(k + 1, 0.4), "b": noisy(k + 5, 0.4, base=1)} for k in (0, 1, 5)}
    rows = by_pair(cross_shot(scores))
    for (task, a, b), row in rows.items():
        assert row["srcc_corrected"] == corrected_srcc(scores[a][task], scores[b][task], same_documents=True)
        assert row["srcc_corrected"] != corrected_srcc(scores[a][task], scores[b][task])
        assert row["p_permutation"] == permutation_p([scores[a][task].score, scores[b][task].score])[0, 1]


def test_no_pair_is_no_row():
    assert compare_pairs({}, []) == []


CELL = {"task_a": "a", "task_b": "b", "srcc": 0.4, "p_permutation": 0.2, "srcc_corrected": 1.07, "reliability_a": 0.6}


class TestFigure8:
    def cell(self, place, **changes):
        return fig08._cell({**CELL, **changes}, place)

    def test_cells(self):
        assert self.cell("below") == (0.4, "(0.40)")
        assert self.cell("below", p_permutation=0.01) == (0.4, "0.40")
        assert self.cell("below", srcc=float("nan")) == (None, "–")
        assert self.cell("above") == (1.07, "1.07"), "kept above 1"
        assert self.cell("above", srcc_corrected=None) == (None, "–")
        assert self.cell("on") == (0.6, "0.60")
        assert self.cell("on", reliability_a=0.3) == (None, "0.30"), "grey, and the number all the same"
        assert self.cell("on", reliability_a=None) == (None, "–")

    def test_the_aggregates_cells_leave_the_task_out(self):
        left_out = {
            "srcc_leave_one_out": 0.1,
            "p_permutation_leave_one_out": 0.5,
            "srcc_leave_one_out_corrected": 0.2,
        }
        assert self.cell("below", task_b=AGGREGATE, **left_out) == (0.1, "(0.10)")
        assert self.cell("above", task_a=AGGREGATE, **left_out) == (0.2, "0.20")
        assert self.cell("below", task_b=AGGREGATE, **dict.fromkeys(left_out)) == (None, "–"), "a single task"

    def test_the_parts_of_the_matrix(self, tmp_path):
        from tests.support.small_study import small

        study = small(tmp_path)
        cells = fig08.ceilings(study)[5]
        rows = fig08.rows(study, 5)
        assert cells.values[1, 0] == rows["copa", "piqa"]["srcc"]
        assert cells.values[0, 1] == rows["piqa", "copa"]["srcc_corrected"]
        assert cells.values[2, 2] == rows["record", "record"]["reliability_a"]
        assert cells.values[3, 1] == rows[AGGREGATE, "copa"]["srcc_leave_one_out"]
        assert cells.values[1, 3] == rows["copa", AGGREGATE]["srcc_leave_one_out_corrected"]
        assert cells.texts[1, 0] in (f"{cells.values[1, 0]:.2f}", f"({cells.values[1, 0]:.2f})")


def test_sentences_say_for_how_many_the_correction_is_known():
    without_noise = "the disattenuated SRCC, without the noise in the scores, is 0.90"
    assert disattenuated_part(0.9, 3, 3, "pair") == without_noise
    assert disattenuated_part(0.9, 2, 3, "pair") == f"{without_noise} over the 2 of 3 pairs that are reliable enough"
    assert disattenuated_part(float("nan"), 0, 3, "pair") == (
        "no pair has a disattenuated SRCC, since a split-half reliability of each is below 0.5"
    )
    assert agreement_verdict(2, 3, "task") == "2 of 3 tasks agree"
    assert agreement_verdict(1, 3, "pair") == "1 of 3 pairs agrees"
    assert agreement_verdict(3, 3, "pair") == "All 3 pairs agree"
    assert agreement_verdict(0, 3, "pair") == "No pair agrees"
    assert agreement_verdict(1, 1, "pair") == "The only pair agrees"
