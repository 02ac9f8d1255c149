"""The whole chain on a tiny random OPT: every artifact is there, readable, and what the engine says by itself."""

import json
import re
import shutil

import numpy as np
import pytest

from lm_headroom.analysis.ranking import count_at, random_ranking
from lm_headroom.artifacts.capacity import CAPACITY
from lm_headroom.artifacts.copying import COPYING
from lm_headroom.artifacts.cross_shot import CROSS_SHOT
from lm_headroom.artifacts.cross_task import CROSS_TASK
from lm_headroom.artifacts.ffn_gradient import FFN_GRADIENT
from lm_headroom.artifacts.ffn_importance import FFN_IMPORTANCE
from lm_headroom.artifacts.head_importance import HEAD_IMPORTANCE
from lm_headroom.artifacts.heads import grid
from lm_headroom.artifacts.oracle_agreement import ORACLE_AGREEMENT
from lm_headroom.artifacts.ordered import read_ranking
from lm_headroom.artifacts.prefix_matching import PREFIX_MATCHING
from lm_headroom.artifacts.prompts import PROMPTS
from lm_headroom.artifacts.pruned_eval import JOINT_EVAL, PRUNED_EVAL
from lm_headroom.artifacts.ranking import FFN_RANKING, RANKING
from lm_headroom.artifacts.store import provenance, read, run_statistics
from tests.support.read_back import read_back
from tests.support.workflow_studies import same_artifacts

CELLS = ["0shot-seed1234", "1shot-seed1234"]
TASKS = ["arc_easy", "winogrande"]
UNSEEN = ["lambada_openai"]
FIGURES = [
    *("03_head_importance", "04_ffn_importance", "05_heads_pruned", "06_ffns_pruned", "07_joint"),
    *("08_task_correlation", "09_transfer", "10_induction", "11_capacity", "12_task_importance"),
    *("13_task_importance", "16_transfer", "18_prefix_matching_capacity", "19_copying_capacity"),
]
SHOW_EVALUATIONS = ("04", "05", "06", "07", "09", "16")
"""Numbers of figures that are drawn by each outcome."""


def test_every_artifact_is_at_its_place(finished):
    for cell in CELLS:
        for task in TASKS + UNSEEN:
            assert read(finished.result(f"prompts/{task}/{cell}.parquet"), PROMPTS).num_rows
            gradient = read(finished.result(f"tiny/ffn_gradient/{task}/{cell}.parquet"), FFN_GRADIENT)
            assert min(gradient.column("score").to_pylist()) > 0
            for name in ("own", "aggregate", "reversed", "random_1"):
                path = finished.result(f"tiny/pruned_eval/heads/{task}/{cell}/{name}.parquet")
                assert read(path, PRUNED_EVAL).column("percent").to_pylist() == [0, 5, 50]
        for task in TASKS:
            for name in ("own", "reversed", "random_1"):
                path = finished.result(f"tiny/pruned_eval/ffns/{task}/{cell}/{name}.parquet")
                assert read(path, PRUNED_EVAL).column("percent").to_pylist() == [0, 5, 50]
            assert read(finished.result(f"tiny/pruned_eval/joint/{task}/{cell}.parquet"), JOINT_EVAL).num_rows == 4
        for task in (*TASKS, *UNSEEN, "aggregate"):
            assert read(finished.result(f"tiny/head_importance/{task}/{cell}.parquet"), HEAD_IMPORTANCE).num_rows == 12
            assert read(finished.result(f"tiny/ranking/heads/{task}/{cell}.parquet"), RANKING).num_rows == 12
        for task in (*TASKS, "aggregate"):
            assert read(finished.result(f"tiny/ffn_importance/{task}/{cell}.parquet"), FFN_IMPORTANCE).num_rows == 3
            assert read(finished.result(f"tiny/ranking/ffns/{task}/{cell}.parquet"), FFN_RANKING).num_rows == 3
        assert read(finished.result(f"tiny/correlation/cross_task/{cell}.parquet"), CROSS_TASK).num_rows == 9
        # Two tasks and the aggregate, two scores, 0 to 12 heads pruned.
        assert read(finished.result(f"tiny/capacity/{cell}.parquet"), CAPACITY).num_rows == 3 * 2 * 13
    # Two tasks at two shots.
    assert read(finished.result("tiny/correlation/oracle/seed1234.parquet"), ORACLE_AGREEMENT).num_rows == 4
    assert read(finished.result("tiny/correlation/cross_shot/seed1234.parquet"), CROSS_SHOT).num_rows == 3
    assert finished.result("tiny/tables/table1-seed1234.csv").read_text().splitlines()[1].startswith("0-1,2,")
    assert read(finished.result("tiny/induction/prefix_matching.parquet"), PREFIX_MATCHING).num_rows == 12
    assert read(finished.result("tiny/induction/copying.parquet"), COPYING).num_rows == 12
    for suffix in ("csv", "md", "html"):
        for table in ("table1", "reference", "gains", "oracle"):
            assert finished.result(f"tiny/tables/{table}-seed1234.{suffix}").stat().st_size
    assert finished.result("tiny/findings/seed1234.md").read_text().startswith("# Findings: tiny")
    assert "<h1>Findings: tiny" in finished.result("tiny/findings/seed1234.html").read_text()
    assert not list(finished.folder.rglob("*.partial"))


def test_every_figure_that_the_matrix_allows_is_drawn(finished):
    """All but those of 5 shots (14, 15, 17), which this study has not."""
    figures = sorted(path.name for path in finished.result("tiny/figures").iterdir())
    stems = [f"fig{name}" if name.startswith("10") else f"fig{name}-seed1234" for name in FIGURES]
    stems += [f"fig{n}-gold_probability-seed1234" for n in FIGURES if n.startswith(SHOW_EVALUATIONS)]
    stems += ["oracle_ffns-seed1234", "criteria_agreement-seed1234"]
    stems += [f"prunable_share{outcome}-seed1234" for outcome in ("", "-gold_probability")]
    assert figures == sorted(f"{stem}.{suffix}" for stem in stems for suffix in ("pdf", "svg", "png"))


def test_the_dense_accuracy_is_the_same_under_every_ranking(finished):
    for task in TASKS + UNSEEN:
        for cell in CELLS:
            folder = finished.result(f"tiny/pruned_eval/heads/{task}/{cell}")
            rows = {path.stem: read(path, PRUNED_EVAL).to_pylist() for path in sorted(folder.iterdir())}
            transfer = [rows.pop(name) for name in ("highest_srcc", "lowest_srcc") if name in rows]
            assert len(transfer) == (2 if task == "winogrande" else 0)
            assert sorted(rows) == ["aggregate", "own", "random_1", "reversed"]
            if task in TASKS:
                rows["ffns"] = read(
                    finished.result(f"tiny/pruned_eval/ffns/{task}/{cell}/own.parquet"), PRUNED_EVAL
                ).to_pylist()
            for name in ("accuracy", "correct", "n_documents", "doc_id"):
                assert len({str(table[0][name]) for table in [*rows.values(), *transfer]}) == 1
            for name, table in rows.items():
                # 5% of 12 heads, or of 3 FFNs, is none: the level is the dense one.
                assert table[1]["n_pruned"] == 0
                assert table[1]["correct"] == table[0]["correct"]
                assert table[2]["n_pruned"] == count_at(50, 3 if name == "ffns" else 12)
                assert table[0]["parameters_removed"] == 0 < table[2]["parameters_removed"]


def test_edges_of_the_joint_grid_are_the_aggregates_curve(finished):
    """The grid under the aggregate rankings: without FFNs pruned it is the heads' curve, with nothing the model."""
    for task in TASKS:
        for cell in CELLS:
            grid_ = read(finished.result(f"tiny/pruned_eval/joint/{task}/{cell}.parquet"), JOINT_EVAL).to_pylist()
            curve = read(finished.result(f"tiny/pruned_eval/heads/{task}/{cell}/aggregate.parquet"), PRUNED_EVAL)
            by_percent = {row["percent"]: row for row in curve.to_pylist()}
            assert [(row["percent_heads"], row["percent_ffns"]) for row in grid_] == [
                (0, 0),
                (0, 34),
                (50, 0),
                (50, 34),
            ]
            for row in grid_:
                if row["percent_ffns"] == 0:
                    expected = by_percent[row["percent_heads"]]
                    assert {k: row[k] for k in ("accuracy", "correct", "parameters_removed")} == {
                        k: expected[k] for k in ("accuracy", "correct", "parameters_removed")
                    }


def test_ffn_scores_are_the_accuracy_lost(finished):
    """On the scoring documents; the least important FFN is pruned first, and judged on the evaluation documents."""
    from lm_headroom.engine.likelihood import tokenise
    from lm_headroom.engine.loading import load
    from lm_headroom.engine.packing import Batches
    from lm_headroom.scoring.pruned_evaluation import Evaluation, group_choices
    from lm_headroom.tasks.prompt_set import pairs, read_prompts

    loaded = load(finished.result("tiny/model.json"), device="cpu")
    for task in TASKS:
        for cell in CELLS:
            evaluations = {}
            for purpose in ("importance", "evaluation"):
                table = read_prompts(finished.result(f"prompts/{task}/{cell}.parquet")).rows(purpose)
                documents = tokenise(pairs(table), loaded, add_bos=False)
                batches = Batches(documents, 1024)
                evaluations[purpose] = Evaluation(loaded, documents, group_choices(table), batches)
            scores = read(finished.result(f"tiny/ffn_importance/{task}/{cell}.parquet"), FFN_IMPORTANCE).to_pylist()
            for row in scores:
                scored = [evaluations["importance"].outcomes(ffns=ffns) for ffns in ([], [row["layer"]])]
                assert [row["correct_dense"], row["correct_ablated"]] == [outcome["correct"] for outcome in scored]
                assert row["score"] == pytest.approx(scored[0]["accuracy"] - scored[1]["accuracy"])
            ranking = read(finished.result(f"tiny/ranking/ffns/{task}/{cell}.parquet"), FFN_RANKING).to_pylist()
            assert [row["score"] for row in ranking] == sorted(row["score"] for row in scores)
            curve = read(finished.result(f"tiny/pruned_eval/ffns/{task}/{cell}/own.parquet"), PRUNED_EVAL).to_pylist()
            judged = evaluations["evaluation"].outcomes(ffns=[ranking[0]["layer"]])
            assert curve[2]["n_pruned"] == 1
            assert curve[2]["correct"] == judged["correct"]
            assert curve[2]["accuracy"] == pytest.approx(judged["accuracy"])


def test_every_outcome_follows_from_the_files(finished):
    """By shot: curves of three tasks' heads and two tasks' FFNs, of transfer, joint grids, oracles of FFNs."""
    counts = read_back(finished.result(""))
    held = {name: count for name, count in counts.items() if count}
    assert held == {"pruned_eval": 2 * (3 * 4 + 2 * 3 + 2), "joint_eval": 4, "ffn_importance": 4}


def test_transfer_takes_the_ranking_of_the_partner(finished):
    """With two tasks the only partner is the other one, and its curve is the engine's under that ranking."""
    from lm_headroom.engine.likelihood import tokenise
    from lm_headroom.engine.loading import load
    from lm_headroom.engine.packing import Batches
    from lm_headroom.scoring.pruned_evaluation import Evaluation, group_choices
    from lm_headroom.tasks.prompt_set import pairs, read_prompts

    cell = "1shot-seed1234"
    loaded = load(finished.result("tiny/model.json"), device="cpu")
    table = read_prompts(finished.result(f"prompts/winogrande/{cell}.parquet")).rows("evaluation")
    documents = tokenise(pairs(table), loaded, add_bos=False)
    evaluation = Evaluation(loaded, documents, group_choices(table), Batches(documents, 1024))
    expected = evaluation.curve(
        read_ranking(finished.result(f"tiny/ranking/heads/arc_easy/{cell}.parquet")).order, [0, 50]
    )
    correlations = read(finished.result(f"tiny/correlation/cross_task/{cell}.parquet"), CROSS_TASK).to_pylist()
    (pair,) = (row for row in correlations if (row["task_a"], row["task_b"]) == ("winogrande", "arc_easy"))
    for name in ("highest_srcc", "lowest_srcc"):
        evaluated = read(finished.result(f"tiny/pruned_eval/heads/winogrande/{cell}/{name}.parquet"), PRUNED_EVAL)
        assert evaluated.column("percent").to_pylist() == [0, 50]
        assert evaluated.column("partner").to_pylist() == ["arc_easy"] * 2
        assert evaluated.column("correlation").to_pylist() == [pair["srcc"]] * 2
        assert evaluated.column("correct").to_pylist() == expected["correct"]


def test_greedy_documents_are_lm_evals_loglikelihood(finished):
    table = read(finished.result("prompts/lambada_openai/0shot-seed1234.parquet"), PROMPTS)
    assert set(table.column("metric").to_pylist()) == {"greedy"}
    assert set(table.column("gold").to_pylist()) == {True}


def test_a_hub_tokenizer_adds_nothing(finished):
    """OPT's tokenizer would put </s> before each text; prompts go to the model without it unless asked for."""
    from lm_headroom.engine.likelihood import tokenise
    from lm_headroom.engine.loading import load
    from lm_headroom.tasks.prompt_set import pairs, read_prompts

    loaded = load(finished.result("tiny/model.json"), device="cpu")
    assert loaded.tokenizer.bos_token == "</s>"
    table = read_prompts(finished.result("prompts/arc_easy/0shot-seed1234.parquet")).rows("evaluation")
    for add_bos in (False, True):
        for document in tokenise(pairs(table), loaded, add_bos):
            starts = [row.tokens[0] == loaded.tokenizer.bos_token_id for row in document.sequences]
            assert starts == [add_bos] * len(starts)
            assert loaded.tokenizer.bos_token_id not in document.sequences[0].tokens[1:]


def test_a_curve_equals_the_engine_called_directly(finished):
    """Half the heads by the own, reversed and random rankings, evaluated here without the command line."""
    from lm_headroom.analysis.metrics import correct
    from lm_headroom.engine.likelihood import log_likelihoods, sequence_slices, tokenise
    from lm_headroom.engine.loading import gates_without, load
    from lm_headroom.engine.packing import Batches
    from lm_headroom.scoring.pruned_evaluation import group_choices
    from lm_headroom.tasks.prompt_set import pairs, read_prompts

    cell = "winogrande/1shot-seed1234"
    record = json.loads(finished.result("tiny/model.json").read_text())
    assert record["family"] == "opt"
    loaded = load(finished.result("tiny/model.json"), device="cpu")
    table = read_prompts(finished.result(f"prompts/{cell}.parquet")).rows("evaluation")
    documents = tokenise(pairs(table), loaded, add_bos=False)
    own = read_ranking(finished.result(f"tiny/ranking/heads/{cell}.parquet")).order
    for name, order in {"own": own, "reversed": own[::-1], "random_1": random_ranking(3, 4, 1)}.items():
        gates = gates_without(loaded.shape, order[:6])
        values = log_likelihoods(loaded, Batches(documents, 1), gates)
        expected = [
            correct(choice, values[part])
            for (_, part), choice in zip(sequence_slices(documents), group_choices(table), strict=True)
        ]
        stored = read(finished.result(f"tiny/pruned_eval/heads/{cell}/{name}.parquet"), PRUNED_EVAL).to_pylist()[2]
        assert stored["correct"] == expected
        assert stored["accuracy"] == np.mean(expected)


def test_the_aggregate_is_the_mean_of_its_tasks(finished):
    for cell in CELLS:
        paths = {t: finished.result(f"tiny/head_importance/{t}/{cell}.parquet") for t in (*TASKS, "aggregate")}
        scores = {task: grid(read(path, HEAD_IMPORTANCE), "score") for task, path in paths.items()}
        np.testing.assert_allclose(scores["aggregate"], (scores["arc_easy"] + scores["winogrande"]) / 2)
        shares = provenance(paths["aggregate"])["shares"]
        assert sum(shares.values()) == pytest.approx(1)


def test_provenance_says_what_made_it(finished):
    origin = provenance(finished.result("tiny/pruned_eval/heads/winogrande/1shot-seed1234/own.parquet"))
    assert (origin["task"], origin["shots"], origin["seed"], origin["dtype"]) == ("winogrande", 1, 1234, "float32")
    assert origin["model"]["name"] == "tiny"
    assert len(origin["model"]["digest"]) == 64
    assert set(origin["inputs"]) == {"prompts", "ranking"}
    assert {"torch", "transformers"} <= set(origin["packages"])
    assert "path" not in origin["model"], "where the checkpoint lay says nothing about the result"


def test_artifacts_of_model_steps_say_what_they_took(finished):
    cell = "0shot-seed1234"
    for path in (
        f"head_importance/arc_easy/{cell}.parquet",
        f"ffn_importance/arc_easy/{cell}.parquet",
        f"pruned_eval/ffns/arc_easy/{cell}/own.parquet",
        f"pruned_eval/heads/arc_easy/{cell}/random_1.parquet",
        f"pruned_eval/heads/arc_easy/{cell}/aggregate.parquet",
        f"pruned_eval/joint/arc_easy/{cell}.parquet",
        f"pruned_eval/heads/winogrande/{cell}/highest_srcc.parquet",
        "induction/copying.parquet",
    ):
        statistics = run_statistics(finished.result(f"tiny/{path}"))
        assert 100 < statistics["peak_memory_mib"] < 20_000, path
        assert path.startswith("induction") or statistics["token_budget"] >= 16, path


def test_jobs_take_no_more_memory_than_they_would_ask_a_cluster_for(finished):
    from lm_headroom.planning.workload import SNAKEMAKE_BYTES, request_from_files
    from lm_headroom.study.reading import read_study

    cell, study = "0shot-seed1234.parquet", read_study(finished.config_path)
    made_by = {
        "score_heads": f"head_importance/arc_easy/{cell}",
        "score_ffns": f"ffn_importance/arc_easy/{cell}",
        "evaluate_own": "pruned_eval/heads/arc_easy/0shot-seed1234/own.parquet",
        "evaluate_joint": f"pruned_eval/joint/arc_easy/{cell}",
        "score_induction": "induction/copying.parquet",
    }
    model, prompts = (str(finished.result(name)) for name in ("tiny/model.json", f"prompts/arc_easy/{cell}"))
    for rule, path in made_by.items():
        asked = 1e6 * request_from_files(rule, study, model, prompts).mem_mb - SNAKEMAKE_BYTES
        assert 2**20 * run_statistics(finished.result(f"tiny/{path}"))["peak_memory_mib"] < asked, rule


def test_progress_with_time_left_reaches_the_terminal_and_the_log(finished):
    line = r"score-heads tiny, winogrande 1-shot: 6/6 documents \(100%\), [\d.]+/s, done in"
    assert re.search(line, finished.log)
    logs = list((finished.folder / "logs" / "tiny" / "score_heads" / "winogrande").iterdir())
    assert any(re.search(line, path.read_text()) for path in logs)
    assert not any("\r" in path.read_text() for path in logs)


def test_the_study_stands_alone(finished):
    """The embedded default is not merged in: its model and tasks are not there."""
    assert sorted(p.name for p in (finished.folder / "results").iterdir() if p.is_dir()) == [
        "matrix",
        "prompts",
        "tiny",
    ]
    assert not (finished.folder / "resources").exists()


def test_results_do_not_depend_on_batches_threads_or_order(finished, study):
    """Compute all that a model computes at 0 shots again, with other batches, threads and one job at a time."""
    shutil.rmtree(study.result("tiny/.cache"))
    shutil.rmtree(study.result("tiny/induction"))
    gone = [path for path in study.result("tiny").rglob("0shot-seed1234*") if path.exists()]
    for path in gone:
        shutil.rmtree(path) if path.is_dir() else path.unlink()
    assert len(gone) > 20
    study.configure(token_budget=48, threads=2)
    done = study.snakemake(
        "--cores", "2", "--jobs", "1", "--scheduler", "greedy", "curves", "correlations", "induction"
    )
    assert done.returncode == 0, done.stdout
    assert same_artifacts(finished, study) > 50


@pytest.fixture(scope="module")
def report(finished, tmp_path_factory):
    """The text of the report of a copy."""
    study = finished.copy(tmp_path_factory.mktemp("report") / "copy")
    done = study.snakemake("--report", "results/report.html")
    assert done.returncode == 0, done.stdout
    return study.result("report.html").read_text()


def test_the_report_is_one_file(report):
    assert "Figure 05" in report
    assert "http-equiv" in report or "<html" in report
    assert 'src="http' not in report


def test_the_report_has_every_combination_of_labels(report):
    """A category whose labels vary becomes a set of switches; a combination without a result breaks the page."""
    results, categories = (
        json.JSONDecoder().raw_decode(report, report.index("{", report.index(f"var {name} = {{")))[0]
        for name in ("results", "categories")
    )
    assert set(categories) == {"tiny"}
    for subcategory, paths in categories["tiny"].items():
        labels = [results[path]["labels"] for path in paths]
        assert len({tuple(label) for label in labels}) == 1, subcategory
        combinations = np.prod([len({label[key] for label in labels}) for key in labels[0]])
        assert combinations == len(paths), subcategory
