"""The aggregate of FFN scores over tasks, by hand."""

import numpy as np
import pytest

from lm_headroom.artifacts.ffn_importance import FFN_IMPORTANCE
from lm_headroom.artifacts.ffns import layers
from lm_headroom.artifacts.ordered import read_ffn_ranking
from lm_headroom.artifacts.ranking import FFN_RANKING
from lm_headroom.artifacts.store import ArtifactError, provenance, read, write
from lm_headroom.options import AggregatedCells
from lm_headroom.steps.aggregate_ffns import aggregate_ffns
from tests.support.small_study import knockout_answers

SCORES = {"copa": [0.3, -0.1, 0.0], "piqa": [0.1, 0.1, 0.2]}
ERRORS = {"copa": [0.03, 0.04, 0.0], "piqa": [0.04, 0.03, 0.1]}


def write_scores(results, task, scores, errors, digest="d", metric="accuracy"):
    n = len(scores)
    columns = {
        "layer": list(range(n)),
        "score": scores,
        "stderr": errors,
        "accuracy_dense": [0.8] * n,
        "accuracy_ablated": [0.8 - score for score in scores],
        "doc_id": [[0, 1]] * n,
        **knockout_answers([[True, False]] * n, [[True, True]] * n),
    }
    path = results / "ffn_importance" / task / "0shot-seed1.parquet"
    record = {"model": {"name": "m", "digest": digest}, "dtype": "float32", "task": task, "shots": 0, "seed": 1}
    record["options"] = {"metric": metric}
    write(path, FFN_IMPORTANCE, columns, record)


@pytest.fixture
def results(tmp_path):
    for task, scores in SCORES.items():
        write_scores(tmp_path, task, scores, ERRORS[task])
    return tmp_path


def rescore(results, metric, scores=SCORES):
    for task in SCORES:
        write_scores(results, task, scores[task], ERRORS[task], metric=metric)


def cells(results, how="mean"):
    return AggregatedCells(results=results, tasks=list(SCORES), shots=0, seed=1, aggregate=how)


@pytest.mark.parametrize(
    ("how", "metric"),
    [("mean", "accuracy"), ("mean_normalised", "accuracy"), ("mean_normalised", "gold_probability"), ("mean", "loss")],
)
def test_the_mean_of_losses(results, how, metric):
    """Of accuracies and probabilities there is nothing to normalise: they are on one scale, and may sum to nothing."""
    rescore(results, metric)
    out, ranking = results / "a.parquet", results / "r.parquet"
    aggregate_ffns(cells=cells(results, how), out=out, ranking=ranking)
    table = read(out, FFN_IMPORTANCE)
    np.testing.assert_allclose(layers(table, "score"), [0.2, 0.0, 0.1])
    np.testing.assert_allclose(layers(table, "stderr"), [0.025, 0.025, 0.05])
    np.testing.assert_allclose(layers(table, "accuracy_ablated"), [0.6, 0.8, 0.7])
    assert table.column("doc_id").null_count == 3
    assert read_ffn_ranking(ranking).order == (1, 2, 0)
    record = provenance(out)
    assert record["model"] == {"name": "m", "digest": "d"}
    assert (record["task"], record["shots"], record["seed"]) == ("aggregate", 0, 1)
    assert read(ranking, FFN_RANKING).column("score").to_pylist() == pytest.approx([0.0, 0.1, 0.2])


@pytest.mark.parametrize("metric", ["loss", "gold_bits_per_byte", "margin"])
def test_losses_with_units_are_normalised_by_their_sizes(results, metric):
    """Copa's sizes sum to 0.4, also where its signed scores would sum to 0.2; piqa's to 0.4."""
    rescore(results, metric)
    out = results / "a.parquet"
    aggregate_ffns(cells=cells(results, "mean_normalised"), out=out, ranking=results / "r.parquet")
    table = read(out, FFN_IMPORTANCE)
    np.testing.assert_allclose(layers(table, "score"), [0.5, 0.0, 0.25])
    np.testing.assert_allclose(layers(table, "stderr"), [0.0625, 0.0625, 0.125])
    np.testing.assert_allclose(layers(table, "accuracy_ablated"), [0.6, 0.8, 0.7])
    assert provenance(out)["metric"] == metric


def test_an_ffn_set_without_effect_stays_at_zero(results):
    rescore(results, "loss", {task: [0.0, 0.0, 0.0] for task in SCORES})
    aggregate_ffns(cells=cells(results, "mean_normalised"), out=results / "a.parquet", ranking=results / "r.parquet")
    assert layers(read(results / "a.parquet", FFN_IMPORTANCE), "score").tolist() == [0, 0, 0]


def test_scores_by_different_metrics_are_refused(results):
    write_scores(results, "piqa", SCORES["piqa"], ERRORS["piqa"], metric="loss")
    with pytest.raises(ArtifactError, match="different metrics, {'copa': 'accuracy', 'piqa': 'loss'}; run"):
        aggregate_ffns(cells=cells(results), out=results / "a", ranking=results / "r")


def test_the_mean_of_ranks(results):
    """Ranks of copa 2, 0, 1; of piqa 0.5, 0.5, 2."""
    out, ranking = results / "a.parquet", results / "r.parquet"
    aggregate_ffns(cells=cells(results, "mean_rank"), out=out, ranking=ranking)
    table = read(out, FFN_IMPORTANCE)
    np.testing.assert_allclose(layers(table, "score"), [1.25, 0.25, 1.5])
    assert table.column("stderr").null_count == 3
    assert read_ffn_ranking(ranking).order == (1, 0, 2)


def test_scores_of_another_model_are_refused(results):
    write_scores(results, "piqa", [0.1, 0.2], [0.0, 0.0])
    with pytest.raises(ArtifactError, match="different models, layers: {'copa': 3, 'piqa': 2}"):
        aggregate_ffns(cells=cells(results), out=results / "a", ranking=results / "r")


def test_without_a_record_all_must_be_of_the_first_ones_model(results):
    write_scores(results, "piqa", SCORES["piqa"], ERRORS["piqa"], digest="e")
    with pytest.raises(ArtifactError, match="piqa/0shot-seed1.parquet: made from model .* expected digest d;"):
        aggregate_ffns(cells=cells(results), out=results / "a", ranking=results / "r")


def test_layers_that_are_not_all_are_refused(results):
    path = results / "ffn_importance" / "copa" / "0shot-seed1.parquet"
    table = read(path, FFN_IMPORTANCE).take([0, 2])
    write(path, FFN_IMPORTANCE, {name: table.column(name).to_pylist() for name in table.column_names}, provenance(path))
    with pytest.raises(ArtifactError, match="2 rows do not number 3 layers from 0, each once"):
        aggregate_ffns(cells=cells(results), out=results / "a", ranking=results / "r")


def test_a_ranking_with_a_rank_twice_is_refused(tmp_path):
    path = tmp_path / "r.parquet"
    write(path, FFN_RANKING, {"rank": [0, 0], "layer": [0, 1], "score": [0.0, 0.1]}, {})
    with pytest.raises(ArtifactError, match="2 rows do not number 1 ranks from 0, each once"):
        read_ffn_ranking(path)
