"""Control rankings of heads and FFNs, on a study that has run."""

import numpy as np
import pytest

from lm_headroom.analysis.ranking import random_ffns, rank_heads
from lm_headroom.artifacts.head_importance import HEAD_IMPORTANCE
from lm_headroom.artifacts.heads import grid
from lm_headroom.artifacts.ordered import read_ranking
from lm_headroom.artifacts.pruned_eval import PRUNED_EVAL
from lm_headroom.artifacts.ranking import FFN_RANKING
from lm_headroom.artifacts.store import file_digest, provenance, read
from lm_headroom.cli import main
from lm_headroom.engine.likelihood import tokenise
from lm_headroom.engine.loading import load
from lm_headroom.engine.packing import Batches
from lm_headroom.scoring.pruned_evaluation import Evaluation, group_choices
from lm_headroom.study.criteria import CHOOSING
from lm_headroom.study.ranking_names import CRITERIA
from lm_headroom.tasks.prompt_set import pairs, read_prompts

COMPUTED = [name for name in CRITERIA if name not in CHOOSING]
"""Columns of a study that names no criterion of choosing."""
CELL = "winogrande/1shot-seed1234"
CONTROLS = ["reversed", "random_1", "random_2", "token", "magnitude", "output_norm"]


def prune(finished, folder, *options, scores=f"head_importance/{CELL}"):
    paths = {"model": "tiny/model.json", "prompts": f"prompts/{CELL}.parquet", "scores": f"tiny/{scores}.parquet"}
    named = [word for name, path in paths.items() for word in (f"--{name}", str(finished.result(path)))]
    return main([
        "evaluate-pruned", *named,
        "--levels", "0", "50", "--device", "cpu", "--out", str(folder), *options,
    ])  # fmt: skip


@pytest.fixture(scope="module")
def columns(finished):
    table = read(finished.result(f"tiny/head_importance/{CELL}.parquet"), HEAD_IMPORTANCE)
    return {name: grid(table, name) for name in ("score", *COMPUTED)}


def test_the_configured_reading_is_the_score(finished, columns):
    np.testing.assert_array_equal(columns["token"], columns["score"])
    ranking = read_ranking(finished.result(f"tiny/ranking/heads/{CELL}.parquet"))
    assert list(ranking.order) == rank_heads(columns["token"])
    for name in set(COMPUTED) - {"token"}:
        assert not np.allclose(columns[name], columns["score"]), name


def test_the_aggregate_is_that_of_each_column(finished):
    tables = [
        read(finished.result(f"tiny/head_importance/{task}/1shot-seed1234.parquet"), HEAD_IMPORTANCE)
        for task in ("arc_easy", "winogrande", "aggregate")
    ]
    for name in COMPUTED:
        first, second, both = (grid(table, name) for table in tables)
        np.testing.assert_allclose(both, (first + second) / 2)
    np.testing.assert_array_equal(grid(tables[0], "magnitude"), grid(tables[1], "magnitude"))


def test_heads_go_in_the_order_of_the_column_and_equal_sets_are_evaluated_once(finished, columns, tmp_path):
    ranking = finished.result(f"tiny/ranking/heads/{CELL}.parquet")
    options = ["--rankings", "own", *COMPUTED, "--ranking-file", str(ranking), "--cache", str(tmp_path / "parts")]
    assert prune(finished, tmp_path / "curves", *options) == 0
    curves = {name: read(tmp_path / f"curves/{name}.parquet", PRUNED_EVAL) for name in ("own", *COMPUTED)}
    assert curves["token"].to_pylist() == curves["own"].to_pylist()
    sets = {frozenset(rank_heads(columns[name])[:6]) for name in COMPUTED}
    units = {path.name.split(".")[0] for path in (tmp_path / "parts").rglob("*.npz")}
    assert len(units) == 1 + len(sets)
    record = provenance(tmp_path / "curves/magnitude.parquet")
    assert set(record["inputs"]) == {"prompts", "scores"}
    assert record["inputs"]["scores"]["digest"] == file_digest(finished.result(f"tiny/head_importance/{CELL}.parquet"))
    # What is pruned: the same heads, given as a ranking of that order.
    for name in COMPUTED:
        by_file = tmp_path / f"{name}.parquet"
        write_ranking(by_file, columns[name], provenance(ranking))
        again = ["--rankings", "own", "--ranking-file", str(by_file), "--cache", str(tmp_path / "parts")]
        assert prune(finished, tmp_path / name, *again) == 0
        assert read(tmp_path / name / "own.parquet", PRUNED_EVAL).to_pylist() == curves[name].to_pylist()
    assert {path.name.split(".")[0] for path in (tmp_path / "parts").rglob("*.npz")} == units


def test_the_even_order_prunes_as_many_heads_in_each_layer(finished, columns, tmp_path):
    """Six of twelve heads: the two of each layer that the own ranking prunes first there."""
    ranking = finished.result(f"tiny/ranking/heads/{CELL}.parquet")
    options = ["--rankings", "own_even", "own", "--ranking-file", str(ranking), "--cache", str(tmp_path / "parts")]
    assert prune(finished, tmp_path / "curves", *options) == 0
    order = rank_heads(columns["token"])
    first = {head for layer in range(3) for head in [each for each in order if each[0] == layer][:2]}
    assert first != set(order[:6]), "the free choice prunes others"
    scores = np.array([[float((layer, head) not in first) for head in range(4)] for layer in range(3)])
    write_ranking(tmp_path / "even.parquet", scores, provenance(ranking))
    again = ["--rankings", "own", "--ranking-file", str(tmp_path / "even.parquet"), "--cache", str(tmp_path / "parts")]
    assert prune(finished, tmp_path / "again", *again) == 0
    even, by_file = (read(tmp_path / name, PRUNED_EVAL) for name in ("curves/own_even.parquet", "again/own.parquet"))
    assert even.to_pylist() == by_file.to_pylist()
    assert even.column("n_pruned").to_pylist() == [0, 6]
    record = provenance(tmp_path / "curves/own_even.parquet")
    assert record["ranking"] == "own_even"
    assert set(record["inputs"]) == {"prompts", "ranking"}


def write_ranking(path, scores, record):
    from lm_headroom.analysis.ranking import as_columns
    from lm_headroom.artifacts.ranking import RANKING
    from lm_headroom.artifacts.store import write

    write(path, RANKING, as_columns(rank_heads(scores), scores), record)


def test_scores_of_another_task_are_refused_and_missing_ones_named(finished, tmp_path, capsys):
    other = "head_importance/arc_easy/1shot-seed1234"
    assert prune(finished, tmp_path, "--rankings", "magnitude", scores=other) == 1
    assert "made from task arc_easy, expected winogrande" in capsys.readouterr().err
    model, prompts = (str(finished.result(path)) for path in ("tiny/model.json", f"prompts/{CELL}.parquet"))
    arguments = [
        "evaluate-pruned",
        "--model",
        model,
        "--prompts",
        prompts,
        "--rankings",
        "target",
        "--out",
        str(tmp_path),
    ]
    assert main(arguments) == 1
    assert "ranking 'target' needs the task's head importances (--scores)" in capsys.readouterr().err


def test_ffns_go_in_the_control_orders_too(finished):
    ranking = read(finished.result("tiny/ranking/ffns/winogrande/1shot-seed1234.parquet"), FFN_RANKING)
    loaded = load(finished.result("tiny/model.json"), device="cpu")
    prompts = read_prompts(finished.result(f"prompts/{CELL}.parquet")).rows("evaluation")
    documents = tokenise(pairs(prompts), loaded, add_bos=False)
    evaluation = Evaluation(loaded, documents, group_choices(prompts), Batches(documents, 1024))
    whole, *ablated = (evaluation.outcomes(ffns=layers)["correct"] for layers in ([], [0], [1], [2]))
    own = ranking["layer"].to_pylist()
    # Of three FFNs, one goes at 50% and none at 5%.
    orders = {"own": own, "reversed": own[::-1], "random_1": random_ffns(3, 1)}
    assert sorted(orders["random_1"]) == [0, 1, 2]
    for name, layers in orders.items():
        path = finished.result(f"tiny/pruned_eval/ffns/{CELL}/{name}.parquet")
        table = read(path, PRUNED_EVAL, ranking=name, task="winogrande")
        assert table["correct"].to_pylist() == [whole, whole, ablated[layers[0]]], name
    assert (
        "% of FFNs pruned at random (random_1), accuracy is" in finished.result("tiny/findings/seed1234.md").read_text()
    )


@pytest.mark.parametrize(
    ("name", "message"),
    [
        (
            "magnitude",
            "'magnitude' is no control ranking of FFNs; expected reversed, random_N or one of token, example",
        ),
        ("random_1", "--controls are written beside --curve; give both"),
    ],
)
def test_controls_of_ffns_that_make_no_sense_are_refused(name, message, tmp_path, capsys):
    record = tmp_path / "model.json"
    record.touch()
    words = ["--model", str(record), "--prompts", "p.parquet", "--controls", name, "--out", str(tmp_path / "out")]
    assert main(["score-ffns", *words]) in (1, 2)
    assert message in capsys.readouterr().err
    assert list(tmp_path.iterdir()) == [record]


def test_more_controls_run_the_own_curves_and_what_shows_them(study):
    # Criteria of heads alone.
    of_heads = [*CONTROLS[:2], "target", "magnitude", "output_norm"]
    study.configure(pruning={"levels": [0, 5, 50], "controls": of_heads})
    plan = study.planned()
    assert {"draw_fig05", "write_findings", "write_gains"} <= set(plan)
    assert {name: n for name, n in plan.items() if not name.startswith(("draw_", "write_"))} == {"evaluate_own": 6}
    # Another order is one of FFNs, too; what rests on their scores follows, from units that are kept.
    study.configure(pruning={"levels": [0, 5, 50], "controls": CONTROLS})
    assert study.planned()["score_ffns"] == 4
    # These rank by the scores, so that lost ones are made anew.
    study.result("tiny/head_importance/lambada_openai/0shot-seed1234.parquet").unlink()
    assert study.planned()["score_heads"] == 1


def test_without_a_random_order_there_is_no_worth(study):
    study.configure(pruning={"levels": [0, 5, 50], "controls": ["reversed"]})
    assert "write_gains" not in study.planned()
