"""Artifacts that are not what their place says.

The study has the tasks piqa, copa and record at 0 and 5 shots, seed 7, and 4 layers of 5 heads.
"""

import json
from dataclasses import replace

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from lm_headroom.analysis.ranking import as_columns, rank_heads
from lm_headroom.artifacts.copying import COPYING
from lm_headroom.artifacts.cross_task import CROSS_TASK
from lm_headroom.artifacts.ffn_importance import FFN_IMPORTANCE
from lm_headroom.artifacts.ffn_selection import FFN_SELECTION
from lm_headroom.artifacts.head_importance import HEAD_IMPORTANCE
from lm_headroom.artifacts.induction_ablation import INDUCTION_ABLATION
from lm_headroom.artifacts.pruned_eval import PRUNED_EVAL
from lm_headroom.artifacts.ranking import RANKING
from lm_headroom.artifacts.store import place_of, write
from tests.errors.page import Cases
from tests.support.ablated_study import ablated
from tests.support.small_study import made_of

CASES = Cases()


def gather(bench, study, *command, out="out.parquet"):
    """A command that gathers over the study's tasks."""
    cell = ("--results", study.results, "--tasks", *study.tasks, "--shots", 0, "--seed", 7)
    return bench.headroom(*command, *cell, "--out", bench.older(out))


def correlate(bench, study):
    return gather(bench, study, "correlate-tasks")


def aggregate(bench, study, component="heads"):
    return gather(bench, study, f"aggregate-{component}", "--ranking", bench.older("scores.parquet"))


def figure(bench, study, number):
    bench.older("fig.png")
    return gather(bench, study, "figure", number, out="fig")


def copy(source, target):
    """A file put in another's place."""
    target.write_bytes(source.read_bytes())


def rewrite(path, kind, change=lambda columns: columns, **changes):
    """An artifact with other columns or another provenance; unlike ``write``, with any numbers."""
    table = pq.read_table(path)
    columns = change({name: table.column(name).to_pylist() for name in table.column_names})
    metadata = dict(table.schema.metadata)
    metadata[b"lm_headroom"] = json.dumps(json.loads(metadata[b"lm_headroom"]) | changes).encode()
    pq.write_table(pa.table(columns, schema=kind.schema.with_metadata(metadata)), path)


def drop(*places):
    """A change that removes rows."""
    return lambda columns: {
        name: [value for place, value in enumerate(values) if place not in places] for name, values in columns.items()
    }


@CASES.case("an artifact that is not there")
def _(bench):
    study = bench.study()
    study.path("head_importance", 0, task="copa").unlink()
    return correlate(bench, study)


@CASES.case("an artifact that is no Parquet")
def _(bench):
    study = bench.study()
    study.path("head_importance", 0, task="copa").write_bytes(b"PAR1 not really PAR1")
    return correlate(bench, study)


@CASES.case("an artifact with damaged bytes")
def _(bench):
    study = bench.study()
    path = study.path("head_importance", 0, task="copa")
    column = pq.read_metadata(path).row_group(0).column(2)
    data = bytearray(path.read_bytes())
    # The last byte of the scores' page.
    place = (column.dictionary_page_offset or column.data_page_offset) + column.total_compressed_size - 1
    data[place] ^= 1
    path.write_bytes(data)
    return correlate(bench, study)


@CASES.case("a Parquet file of somebody else")
def _(bench):
    study = bench.study()
    pq.write_table(pa.table({"layer": [0], "head": [0], "score": [0.5]}), study.path("head_importance", 0, task="copa"))
    return correlate(bench, study)


@CASES.case("an artifact of another kind")
def _(bench):
    study = bench.study()
    copy(study.path("cross_task", 0), study.path("head_importance", 0, task="copa"))
    return correlate(bench, study)


@CASES.case("an artifact of another model")
def _(bench):
    study = bench.study()
    other = {"name": "other", "digest": f"{'other':x>64}"}
    rewrite(study.path("head_importance", 0, task="copa"), HEAD_IMPORTANCE, model=other)
    return correlate(bench, study)


@CASES.case("an artifact of another task")
def _(bench):
    study = bench.study()
    copy(study.path("head_importance", 0, task="piqa"), study.path("head_importance", 0, task="copa"))
    return correlate(bench, study)


@CASES.case("an artifact of another number of shots")
def _(bench):
    study = bench.study()
    place = study.results / "ranking" / "heads"
    scores = np.random.default_rng(0).random((4, 5))
    for task in (*study.tasks, "aggregate"):
        provenance = made_of(study, 5 if task == "copa" else 0, task)
        write(place / task / "0shot-seed7.parquet", RANKING, as_columns(rank_heads(scores), scores), provenance)
    return gather(bench, study, "retain-capacity")


@CASES.case("an artifact of another seed")
def _(bench):
    study = bench.study()
    rewrite(study.path("ffn_importance", 0, task="copa"), FFN_IMPORTANCE, seed=8)
    return aggregate(bench, study, "ffns")


@CASES.case("FFN scores without a layer")
def _(bench):
    study = bench.study()
    rewrite(study.path("ffn_importance", 0, task="copa"), FFN_IMPORTANCE, drop(1))
    return aggregate(bench, study, "ffns")


@CASES.case("FFN scores by different metrics")
def _(bench):
    study = bench.study()
    rewrite(study.path("ffn_importance", 0, task="copa"), FFN_IMPORTANCE, options={"metric": "loss"})
    return aggregate(bench, study, "ffns")


@CASES.case("an FFN metric, or an oracle among the controls, that the task does not define")
def _(bench):
    prompts = bench.prompts(choices=[" the river"])
    return bench.headroom(
        "score-ffns", "--model", bench.record(), "--prompts", prompts, "--metric", "gold_probability",
        "--device", "cpu", "--out", bench.older("scores.parquet"),
    )  # fmt: skip


@CASES.case("an aggregate over other tasks")
def _(bench):
    return figure(bench, replace(bench.study(), tasks=("piqa", "copa")), "fig03")


@CASES.case("a curve of another task in a figure")
def _(bench):
    study = bench.study()
    copy(study.curve("piqa", 0), study.curve("copa", 0))
    return figure(bench, study, "fig05")


@CASES.case("a curve under another ranking in a figure")
def _(bench):
    study = bench.study()
    copy(study.curve("copa", 0, "random_1"), study.curve("copa", 0))
    return figure(bench, study, "fig05")


@CASES.case("a curve of FFNs in the place of one of heads")
def _(bench):
    study = bench.study()
    copy(study.path("pruned_eval", 0, component="ffns", task="copa", ranking="own"), study.curve("copa", 0))
    return figure(bench, study, "fig05")


@CASES.case("prompts of another task in the findings")
def _(bench):
    study = bench.study()
    folder = study.results.parent / "prompts"
    copy(folder / "piqa" / "0shot-seed7.parquet", folder / "copa" / "0shot-seed7.parquet")
    bench.older("page.md")
    return gather(bench, study, "findings", out="page")


@CASES.case("induction scores of another model")
def _(bench):
    study = bench.study()
    other = {"name": "other", "digest": f"{'other':x>64}"}
    rewrite(study.results / "induction" / "copying.parquet", COPYING, model=other)
    return figure(bench, study, "fig10")


@CASES.case("a score table without some heads")
def _(bench):
    study = bench.study()
    rewrite(study.path("head_importance", 0, task="copa"), HEAD_IMPORTANCE, drop(7))
    return aggregate(bench, study)


@CASES.case("a score table without the last layer")
def _(bench):
    """What is left is a grid; the provenance says how large the model is."""
    assert bench.score().status == 0
    path = bench.folder / "scores.parquet"
    rewrite(path, HEAD_IMPORTANCE, drop(8, 9, 10, 11))
    return bench.headroom("rank-heads", "--scores", path, "--out", bench.older("ranking.parquet"))


@CASES.case("a score that is not a number")
def _(bench):
    study = bench.study()

    def change(columns):
        columns["score"][7] = float("nan")
        return columns

    rewrite(study.path("head_importance", 0, task="copa"), HEAD_IMPORTANCE, change)
    return correlate(bench, study)


@CASES.case("a ranking that does not fit the model")
def _(bench):
    record = bench.record()
    digest = json.loads(record.read_text())["digest"]
    ranking = bench.ranking((2, 2), model={"name": "mine", "digest": digest})
    return bench.prune("--rankings", "own", "--ranking-file", ranking, record=record)


@CASES.case("a ranking of another model")
def _(bench):
    ranking = bench.ranking(model={"name": "other", "digest": f"{'other':x>64}"})
    return bench.prune("--rankings", "reversed", "--ranking-file", ranking)


@CASES.case("a ranking of another task under the name own")
def _(bench):
    record = bench.record()
    ranking = bench.ranking(model=json.loads(record.read_text()), task="piqa")
    return bench.prune("--rankings", "own", "--ranking-file", ranking, record=record)


@CASES.case("an export by a ranking of another model")
def _(bench):
    ranking = bench.ranking(model={"name": "other", "digest": f"{'other':x>64}"})
    return bench.export("--ranking", ranking, "--percent", 50)


@CASES.case("an export by a file that is no ranking")
def _(bench):
    return bench.export("--ranking", bench.prompts(), "--percent", 50)


@CASES.case("an export by two rankings of heads")
def _(bench):
    ranking = bench.ranking()
    return bench.export("--ranking", ranking, ranking, "--percent", 50, 20)


@CASES.case("an export with fewer percents than rankings")
def _(bench):
    ranking = bench.ranking()
    return bench.export("--ranking", ranking, ranking, "--percent", 50)


@CASES.case("an export of more than 100 percent")
def _(bench):
    return bench.export("--ranking", bench.ranking(), "--percent", 101)


@CASES.case("a partner's ranking of another seed")
def _(bench):
    record, prompts = bench.record(), bench.prompts()
    model = json.loads(record.read_text())
    names = ["copa", "piqa"]
    pairs = [(a, b) for a in names for b in names]
    columns = {column.name: [0.5] * 4 for column in CROSS_TASK.columns}
    columns |= {"task_a": [a for a, _ in pairs], "task_b": [b for _, b in pairs]}
    results = record.parent
    write(results / "0shot-seed7.parquet", CROSS_TASK, columns, {"model": model, "shots": 0, "seed": 7})
    scores = np.random.default_rng(0).random((3, 4))
    provenance = {"model": model, "task": "piqa", "shots": 0, "seed": 8}
    place = results / "ranking" / "heads" / "piqa" / "0shot-seed7.parquet"
    write(place, RANKING, as_columns(rank_heads(scores), scores), provenance)
    bench.older("curves/highest_srcc.parquet")
    return bench.headroom(
        "evaluate-transfer", "--model", record, "--prompts", prompts, "--correlations", results / "0shot-seed7.parquet",
        "--ranking-folder", results / "ranking" / "heads", "--task", "copa", "--tasks", *names, "--device", "cpu",
        "--out", bench.folder / "curves",
    )  # fmt: skip


@CASES.case("a few-shot gain of other questions")
def _(bench):
    study = ablated(bench.study())

    def others(columns):
        return columns | {"doc_id": [[number + 1 for number in row] for row in columns["doc_id"]]}

    rewrite(study.path("induction_ablation", 0, task="copa"), INDUCTION_ABLATION, others)
    cell = ("--results", study.results, "--tasks", *study.tasks, "--shots", 0, 5, "--seed", 7)
    return bench.headroom(
        "table", "induction_ablation", *cell, "--ablated", "piqa", "copa", "--out", bench.older("table")
    )


@CASES.case("two FFN rankings by the same documents")
def _(bench):
    study = bench.study()
    path, other = (study.path(step, 0, task="piqa") for step in ("ffn_importance", "ffn_selection"))
    table = pq.read_table(path)
    columns = {name: table.column(name).to_pylist() for name in table.column_names}
    write(other, FFN_SELECTION, columns, made_of(study, 0, "piqa", options={"selection": "evaluation"}))
    curve = study.curve("piqa", 0, "own", "ffns")
    other = curve.with_name("other_documents.parquet")
    copy(curve, other)
    rewrite(other, PRUNED_EVAL, ranking=other.stem, place=place_of(other, PRUNED_EVAL.place))
    return gather(bench, study, "table", "selection_bias", out="table")
