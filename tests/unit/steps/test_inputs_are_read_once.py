"""No step opens a file of the results twice: its content, its provenance and its digest come from one look at it."""

import sys
from collections import Counter
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import pyarrow.parquet as pq
import pytest

from lm_headroom.artifacts.prompts import PROMPTS
from lm_headroom.artifacts.store import write, write_json
from lm_headroom.cli import main
from lm_headroom.models.resolve import resolve
from lm_headroom.planning.plan import plan
from lm_headroom.tasks.groups import read_with_subtasks
from lm_headroom.tasks.prompt_sizes import prompt_sizes
from tests.conftest import SENTENCES, tiny_model
from tests.support.read_back import read_back
from tests.support.small_study import Values, small, write_study

COUNTS = []
"""The counter that opened files are added to, while one is asked for."""
CELL = "0shot-seed7.parquet"


def count(event, arguments):
    if event == "open" and COUNTS and isinstance(arguments[0], str | Path):
        COUNTS[-1][Path(arguments[0]).absolute()] += 1


sys.addaudithook(count)


@pytest.fixture(autouse=True)
def arrow_counts_too(monkeypatch):
    """Arrow opens paths by itself, which Python's audit does not see."""

    class Counted(pq.ParquetFile):
        def __init__(self, source, **options):
            count("open", [source])
            super().__init__(source, **options)

    monkeypatch.setattr("lm_headroom.artifacts.store.pq.ParquetFile", Counted)


@contextmanager
def inputs_opened_once(results):
    """What is below ``results`` before is opened at most once inside; hidden files say where a checkpoint lies."""
    inputs = {path for path in results.rglob("*") if path.is_file() and not path.name.startswith(".")}
    COUNTS.append(Counter())
    try:
        yield
    finally:
        opened = {path.relative_to(results): n for path, n in COUNTS.pop().items() if path in inputs}
    assert opened, "the counter sees what is opened"
    assert {path: n for path, n in opened.items() if n > 1} == {}


def run(results, *arguments):
    with inputs_opened_once(results):
        assert main([str(argument) for argument in arguments]) == 0


def prompts(path, task, contexts=SENTENCES[:4]):
    table = [
        {
            "doc_id": start + i, "question": start + i, "purpose": purpose, "split": "s", "choice": choice,
            "context": context, "continuation": text, "gold": choice == 0, "metric": "choice", "choice_length": None,
            "turns": None, "reply": None,
        }
        for purpose, start in (("importance", 0), ("evaluation", 100))
        for i, context in enumerate(contexts)
        for choice, text in enumerate((" the river", " a stone"))
    ]  # fmt: skip
    columns = {column.name: [row[column.name] for row in table] for column in PROMPTS.columns}
    write(path, PROMPTS, columns, {"task": task, "shots": 0, "seed": 7, "prompt_sizes": prompt_sizes(columns)})


@pytest.fixture
def results(tmp_path, tokenizer):
    """A tiny model's record and two tasks' prompts."""
    checkpoint = tmp_path / "checkpoint"
    tiny_model("opt").float().save_pretrained(checkpoint)
    tokenizer.save_pretrained(checkpoint)
    resolve("tiny", str(checkpoint), None, tmp_path / "results" / "tiny" / "model.json")
    for task in ("copa", "piqa"):
        prompts(tmp_path / "results" / "prompts" / task / CELL, task)
    return tmp_path / "results"


def test_steps_that_run_a_model(results):
    tiny = results / "tiny"
    model = ["--model", tiny / "model.json", "--device", "cpu"]
    for task in ("copa", "piqa"):
        measured = [*model, "--prompts", results / "prompts" / task / CELL]
        run(results, "score-heads", *measured, "--out", tiny / "head_importance" / task / CELL,
            "--ranking", tiny / "ranking" / "heads" / task / CELL,
            "--ffn-gradient", tiny / "ffn_gradient" / task / CELL)  # fmt: skip
        run(results, "score-ffns", *measured, "--out", tiny / "ffn_importance" / task / CELL, "--selection",
            "scoring", "--ranking", tiny / "ranking" / "ffns" / task / CELL, "--levels", 50, "--controls", "random_1",
            "--curve", tiny / "pruned_eval/ffns" / task / "0shot-seed7/own.parquet")  # fmt: skip
    measured = [*model, "--prompts", results / "prompts" / "copa" / CELL]
    gathered = ["--results", tiny, "--tasks", "copa", "piqa", "--shots", 0, "--seed", 7]
    for component in ("head", "ffn"):
        run(results, f"aggregate-{component}s", *gathered,
            "--out", tiny / f"{component}_importance/aggregate" / CELL,
            "--ranking", tiny / "ranking" / f"{component}s/aggregate" / CELL)  # fmt: skip
    run(results, "rank-heads", "--scores", tiny / "head_importance/copa" / CELL, "--out", tiny / "ranking.parquet")
    run(results, "correlate-tasks", *gathered, "--out", tiny / "correlation/cross_task" / CELL)
    run(results, "select-ffns", *measured, "--selection", "scoring", "--out", tiny / "ffn_selection/copa" / CELL,
        "--levels", 50, "--curve", tiny / "pruned_eval/ffns/copa/0shot-seed7/other_documents.parquet")  # fmt: skip
    run(results, "score-head-knockouts", *measured, "--heads", 2, "--out", tiny / "head_oracle/copa" / CELL)
    run(results, "rank-heads-iteratively", *measured, "--pruning-step", 50, "--criterion", "loss_rise",
        "--out", tiny / "iterative.parquet")  # fmt: skip
    run(results, "learn-mask", *measured, "--passes", 1, "--batch", 2, "--out", tiny / "learned.parquet")
    heads, ffns = tiny / "ranking/heads", tiny / "ranking/ffns"
    curves = [*measured, "--levels", 50, "--out", tiny / "curves"]
    run(results, "evaluate-pruned", *curves, "--rankings", "own", "reversed", "random_1", "token", "magnitude",
        "--ranking-file", heads / "copa" / CELL, "--scores", tiny / "head_importance/copa" / CELL)  # fmt: skip
    run(results, "score-head-knockouts", *measured, "--out", tiny / "all_heads.parquet")
    run(results, "evaluate-pruned", *curves, "--rankings", "oracle_accuracy", "oracle_loss", "oracle_gold_probability",
        "--oracle", tiny / "all_heads.parquet")  # fmt: skip
    run(results, "evaluate-pruned", *curves, "--rankings", "aggregate", "--ranking-file", heads / "aggregate" / CELL)
    run(results, "evaluate-pruned", *curves, "--rankings", "iterative", "--ranking-file", tiny / "iterative.parquet")
    for component, scores in (("heads", [f"{i},{j},{i - j}" for i in range(3) for j in range(4)]), ("ffns", "012")):
        columns = "layer,head,score" if component == "heads" else "layer,score"
        rows = scores if component == "heads" else [f"{layer},-{layer}" for layer in scores]
        (results.parent / f"{component}.csv").write_text("\n".join([columns, *rows]))
        ranking = tiny / "ranking" / f"{component}_custom" / "mine" / "copa" / CELL
        run(results, "rank-custom", *measured, "--name", "mine", "--source", results.parent / f"{component}.csv",
            "--component", component, "--out", ranking)  # fmt: skip
        curve = tiny / "pruned_eval" / component / "copa/0shot-seed7/mine.parquet"
        run(results, "evaluate-custom", *measured, "--ranking", ranking, "--levels", 50, "--out", curve)
    for ranking in ("copa", "aggregate"):
        run(results, "evaluate-joint", *measured, "--heads-ranking", heads / "aggregate" / CELL,
            "--ffns-ranking", ffns / "aggregate" / CELL, "--joint-heads", 50, "--joint-ffns", 50, "--levels", 50,
            "--curve", tiny / "curves" / f"{ranking}.parquet", "--curve-ranking", heads / ranking / CELL,
            "--out", tiny / "joint.parquet")  # fmt: skip
    run(results, "evaluate-transfer", *curves, "--correlations", tiny / "correlation/cross_task" / CELL,
        "--ranking-folder", heads, "--task", "copa", "--tasks", "copa", "piqa")  # fmt: skip
    run(results, "score-induction", *model, "--sequences", 1, "--out", tiny / "induction")
    induction = [tiny / "induction" / f"{name}.parquet" for name in ("prefix_matching", "copying")]
    run(results, "ablate-induction", *measured, "--prefix-matching", induction[0], "--copying", induction[1],
        "--percents", 10, 25, "--random", 1, "--out", tiny / "induction_ablation.parquet")  # fmt: skip
    run(results, "retain-capacity", *gathered, "--out", tiny / "capacity" / CELL)
    run(results, "export-pruned", *model, "--ranking", heads / "aggregate" / CELL, ffns / "aggregate" / CELL,
        "--percent", 50, 34, "--out", results.parent / "export")  # fmt: skip
    assert min(read_back(results).values()) >= 1, "every kind of file with answers gives every outcome again"


def test_steps_that_gather_a_study(tmp_path):
    study = small(tmp_path)
    write_study(replace(study, seed=8))
    other = write_study(replace(study, results=study.results.with_name("other")), Values(offset=1000))
    for name in ("model", "other"):
        record = {"name": name, "family": "opt", "digest": f"{name:x>64}", "layers": 4, "heads": 5}
        write_json(study.results.with_name(name) / "model.json", record)
    results, out = study.results.parent, tmp_path / "out.parquet"
    tasks = ["--tasks", *study.tasks, "--shots", 0, 5]
    run(results, "average-seeds", "--results", study.results, *tasks, "--seeds", 7, 8, "--out", out)
    run(results, "correlate-shots", "--results", study.results, *tasks, "--seed", 7, "--out", out)
    run(results, "correlate-oracle", "--results", study.results, *tasks, "--seed", 7, "--head-tasks", "copa",
        "--out", out)  # fmt: skip
    for what in ("models", "induction", "prunable", "rankings", "profiles"):
        options = [] if what in ("models", "induction") else [*tasks, "--seed", 7]
        run(results, "compare", what, "--results", results, "--models", study.model, other.model, *options,
            "--out", out)  # fmt: skip


def test_the_plan(results, tmp_path):
    study = tmp_path / "study.yaml"
    study.write_text("models: {tiny: {source: checkpoint}}\ntasks: [copa, piqa]\nshots: [0]\nseeds: [7]\n")
    with inputs_opened_once(results):
        plan(str(results.parent / "checkpoint"), read_with_subtasks(study), results, "cpu", None, None, 1, 100)
