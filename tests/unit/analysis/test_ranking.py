import itertools

import numpy as np
import pytest

from lm_headroom.analysis.ranking import aggregate, as_columns, count_at, random_ranking, rank_heads
from lm_headroom.artifacts.head_importance import HEAD_IMPORTANCE
from lm_headroom.artifacts.heads import places
from lm_headroom.artifacts.ranking import RANKING
from lm_headroom.artifacts.store import WITHOUT_HEADS, read, write
from lm_headroom.errors import HeadroomError
from lm_headroom.steps.rank_heads import rank_heads as command
from lm_headroom.study.ranking_names import CRITERIA


def test_ties_go_by_layer_then_head():
    scores = np.array([[2.0, 1.0, 1.0], [1.0, 3.0, 0.5]])
    assert rank_heads(scores) == [(1, 2), (0, 1), (0, 2), (1, 0), (0, 0), (1, 1)]


def test_levels_are_nested_and_counted_in_integers():
    ranking = rank_heads(np.random.default_rng(0).random((30, 9)))
    sets = [set(ranking[: count_at(p, 270)]) for p in range(0, 101, 10)]
    assert all(a <= b for a, b in itertools.pairwise(sets))
    assert [len(s) for s in sets] == [0, 27, 54, 81, 108, 135, 162, 189, 216, 243, 270]


@pytest.mark.parametrize(
    ("percent", "total", "count"), [(30, 7, 2), (29, 100, 29), (57, 100, 57), (99, 1, 0), (10, 4608, 460)]
)
def test_count_is_the_floor_without_floating_point(percent, total, count):
    # int(0.29 * 100) and int(0.57 * 100) are 28 and 56.
    assert count_at(percent, total) == count


def test_a_score_that_is_not_finite_is_named():
    scores = np.ones((2, 3))
    scores[1, 2] = np.nan
    with pytest.raises(HeadroomError, match="layer 1 head 2"):
        rank_heads(scores)


def test_random_rankings_are_seeded_permutations():
    first, second = random_ranking(5, 4, 1), random_ranking(5, 4, 2)
    assert first == random_ranking(5, 4, 1)
    assert first != second
    assert sorted(first) == sorted(second) == [(layer, head) for layer in range(5) for head in range(4)]


def test_aggregates_by_hand():
    scores = {"short": np.array([[4.0, 2.0]]), "long": np.array([[0.1, 0.3]])}
    mean, shares = aggregate(scores, "mean")
    np.testing.assert_allclose(mean, [[2.05, 1.15]])
    assert shares["short"] == pytest.approx(6 / 6.4)
    normalised, shares = aggregate(scores, "mean_normalised")
    np.testing.assert_allclose(normalised, [[(4 / 6 + 0.25) / 2, (2 / 6 + 0.75) / 2]])
    assert shares == {"short": pytest.approx(0.5), "long": pytest.approx(0.5)}
    ranks, _ = aggregate(scores, "mean_rank")
    np.testing.assert_allclose(ranks, [[0.5, 0.5]])
    # Equal scores share a rank: by their place they would add a trend over layers. No score at all stays one.
    equal = {"none": np.zeros((3, 1)), "one": np.array([[0.0], [0.0], [2.0]])}
    np.testing.assert_allclose(aggregate(equal, "mean_rank")[0], [[0.75], [0.75], [1.5]])
    np.testing.assert_allclose(aggregate(equal, "mean_normalised")[0], [[0], [0], [0.5]])


def test_the_command_ranks_the_heads_of_the_layers_that_have_any(tmp_path):
    scores = {name: [3.0, 2.0, 0.0, 1.0] for name in ("score", "stderr", "score_even", "score_odd", *CRITERIA)}
    model = {"name": "m", "digest": "d", "layers": 3, "heads": 2, WITHOUT_HEADS: [1]}
    write(tmp_path / "scores.parquet", HEAD_IMPORTANCE, {**places([0, 2], 2), **scores}, {"model": model})
    command(scores=tmp_path / "scores.parquet", out=tmp_path / "ranking.parquet")
    ranked = read(tmp_path / "ranking.parquet", RANKING).to_pydict()
    assert list(zip(ranked["layer"], ranked["head"], strict=True)) == [(2, 0), (2, 1), (0, 1), (0, 0)]
    assert ranked["score"] == [0, 1, 2, 3]


def test_columns_hold_the_score_of_each_ranked_head():
    scores = np.array([[2.0, 1.0], [0.0, 3.0]])
    assert as_columns(rank_heads(scores), scores) == {
        "rank": [0, 1, 2, 3],
        "layer": [1, 0, 0, 1],
        "head": [0, 1, 0, 1],
        "score": [0.0, 1.0, 2.0, 3.0],
    }
