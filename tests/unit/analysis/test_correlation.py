import numpy as np
import pytest
from scipy.stats import pearsonr, spearmanr

from lm_headroom.analysis.correlation import (
    AGGREGATE,
    TaskScores,
    argsort_statistic,
    cross_shot,
    cross_task,
    noise_ceiling,
    partners,
    srcc,
    srcc_within_layers,
    top_overlap,
)
from lm_headroom.errors import HeadroomError


def draw(seed, shape=(12, 8)):
    return np.random.default_rng(seed).random(shape)


@pytest.mark.parametrize("seed", range(5))
def test_srcc_is_scipys(seed):
    a, b = draw(seed), draw(seed + 100)
    b[0] = a[0]
    b[3, :4] = 0.5
    expected = spearmanr(a.ravel(), b.ravel())
    assert srcc(a, b) == (pytest.approx(expected.statistic, abs=1e-12), pytest.approx(expected.pvalue, rel=1e-9))


def test_srcc_is_pearson_of_ranks_by_hand():
    assert srcc(np.array([[1.0, 2.0, 3.0, 4.0]]), np.array([[10.0, 30.0, 20.0, 40.0]]))[0] == pytest.approx(0.8)


def test_srcc_of_constant_scores_is_undefined():
    assert np.isnan(srcc(np.ones((2, 2)), draw(0, (2, 2)))).all()


def test_the_argsort_statistic_is_not_srcc():
    """Two noisy copies of one score vector: SRCC about 0.79, the released statistic about 0."""
    rng = np.random.default_rng(3)
    base = rng.standard_normal((64, 72))
    a, b = (base + 0.5 * rng.standard_normal(base.shape) for _ in range(2))
    assert srcc(a, b)[0] == pytest.approx(0.79, abs=0.02)
    assert abs(argsort_statistic(a, b)) < 0.06


def test_the_argsort_statistic_by_its_definition():
    a, b = draw(1), draw(2)
    expected = pearsonr(np.argsort(a.ravel()), np.argsort(b.ravel())).statistic
    assert argsort_statistic(a, b) == pytest.approx(expected, abs=1e-12)


def test_the_argsort_statistic_depends_on_head_numbers_and_srcc_does_not():
    a, b = draw(5), draw(5) + 0.1 * draw(6)
    shuffle = np.random.default_rng(0).permutation(a.size)
    a2, b2 = (x.ravel()[shuffle].reshape(a.shape) for x in (a, b))
    assert srcc(a2, b2)[0] == pytest.approx(srcc(a, b)[0], abs=1e-12)
    assert abs(argsort_statistic(a2, b2) - argsort_statistic(a, b)) > 0.01


def test_overlap_of_the_top_thirty_percent():
    a = np.arange(10.0).reshape(2, 5)
    assert top_overlap(a, a) == 1
    assert top_overlap(a, -a) == 0
    assert top_overlap(a, np.array([[0, 1, 2, 3, 9.0], [4, 5, 6, 7, 8.0]])) == pytest.approx(2 / 3)


def test_a_layer_profile_alone_has_no_correlation_within_layers():
    profile = np.arange(40.0)[:, None] * 10
    a, b = profile + draw(1, (40, 8)), profile + draw(2, (40, 8))
    assert srcc(a, b)[0] > 0.95
    assert abs(srcc_within_layers(a, b)) < 0.2
    assert srcc_within_layers(np.ones((2, 3)), draw(0, (2, 3))) is None


def test_the_noise_ceiling_follows_from_the_halves():
    a = TaskScores(draw(0), draw(1), draw(1) + 0.2 * draw(2))
    r = srcc(a.even, a.odd)[0]
    assert noise_ceiling(a, a) == pytest.approx(2 * r / (1 + r))
    opposed = TaskScores(draw(0), draw(1), -draw(1))
    assert noise_ceiling(a, opposed) is None


def test_cross_task_has_all_pairs_and_leave_one_out_with_the_aggregate():
    scores = {name: TaskScores(draw(i), draw(i), draw(i) + 0.1 * draw(9)) for i, name in enumerate("abc")}
    mean = np.mean([s.score for s in scores.values()], axis=0)
    columns = cross_task(scores, TaskScores(mean, mean, mean))
    rows = {
        (a, b): {name: columns[name][i] for name in columns}
        for i, (a, b) in enumerate(zip(columns["task_a"], columns["task_b"], strict=True))
    }
    assert len(rows) == 16
    assert rows["a", "a"]["srcc"] == pytest.approx(1)
    assert rows["a", "b"]["srcc"] == pytest.approx(rows["b", "a"]["srcc"])
    others = (scores["b"].score + scores["c"].score) / 2
    assert rows["a", AGGREGATE]["srcc_leave_one_out"] == pytest.approx(srcc(scores["a"].score, others)[0])
    assert rows["a", AGGREGATE]["srcc"] > rows["a", AGGREGATE]["srcc_leave_one_out"]
    assert rows["a", "b"]["srcc_leave_one_out"] is None


def test_cross_shot_compares_each_task_with_itself():
    scores = {
        k: {name: TaskScores(draw(10 * k + i), draw(1), draw(1)) for i, name in enumerate("ab")} for k in (5, 0, 1)
    }
    columns = cross_shot(scores)
    rows = list(zip(*(columns[name] for name in ("task", "shots_a", "shots_b", "srcc")), strict=True))
    assert [row[:3] for row in rows] == [(t, a, b) for a, b in ((0, 1), (0, 5), (1, 5)) for t in "ab"]
    assert rows[2][3] == pytest.approx(spearmanr(scores[0]["a"].score.ravel(), scores[5]["a"].score.ravel()).statistic)


def test_table_1_is_mean_and_variance_over_tasks(tmp_path):
    from lm_headroom.artifacts.cross_shot import CROSS_SHOT
    from lm_headroom.artifacts.store import write
    from lm_headroom.report.tables import table1

    names = ["a", "b", "c", AGGREGATE]
    values = [0.2, 0.4, 0.9, -1.0]
    columns = {
        "task": names * 2,
        "shots_a": [0] * 8,
        "shots_b": [1] * 4 + [5] * 4,
        "srcc": values + [0.5] * 4,
        "p_value": [0.0] * 8,
        "argsort_statistic": [v / 2 for v in values] + [0.1] * 4,
        "overlap_top30": [0.5] * 8,
        "srcc_within_layer": [None] * 8,
        "noise_ceiling": [None] * 8,
        "p_permutation": [0.001, 0.2, 0.04, 0.001] * 2,
        "reliability_a": [None] * 8,
        "reliability_b": [None] * 8,
        "srcc_corrected": [0.3, None, 1.1, 0.9] + [None] * 4,
    }
    write(tmp_path / "cross_shot.parquet", CROSS_SHOT, columns, {})
    first, second = table1.data(tmp_path / "cross_shot.parquet")
    # Mean 0.5, deviations -0.3, -0.1, 0.4: variance 0.26 / 2. The aggregate is no task.
    moments = (pytest.approx(0.5), pytest.approx(0.13), pytest.approx(0.25), pytest.approx(0.0325))
    assert first == ("0-1", 3, *moments, 0.5, pytest.approx(0.7), 2, 2)
    assert second[:3] == ("0-5", 3, pytest.approx(0.5))
    assert np.isnan(second.corrected_mean)
    assert second.n_corrected == 0
    table1.write_table(tmp_path / "cross_shot.parquet", tmp_path / "t")
    assert (tmp_path / "t.csv").read_text().splitlines()[0].startswith("shots,tasks,SRCC mean")
    assert "| 0-1 | 3 | 0.500 | 0.130 | 0.250 | 0.033 | 0.500 | 0.700 | 2 | 2 |" in (tmp_path / "t.md").read_text()


def test_partners_are_the_most_and_least_correlated_others():
    values = {"copa": 1.0, "piqa": 0.4, "wic": float("nan"), "cb": -0.2, "rte": 0.4, "aggregate": 0.9}
    assert partners("copa", values) == {"highest_srcc": ("piqa", 0.4), "lowest_srcc": ("cb", -0.2)}
    assert partners("copa", {"copa": 1.0, "cb": 0.1}) == {"highest_srcc": ("cb", 0.1), "lowest_srcc": ("cb", 0.1)}
    with pytest.raises(HeadroomError, match="'copa': no other task's head scores"):
        partners("copa", {"copa": 1.0, "aggregate": 0.5})
