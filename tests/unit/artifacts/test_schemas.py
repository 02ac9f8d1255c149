import os
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from lm_headroom.artifacts import prompts
from lm_headroom.artifacts.cross_task import CROSS_TASK
from lm_headroom.artifacts.heads import grid
from lm_headroom.artifacts.ordered import read_ranking
from lm_headroom.artifacts.ranking import RANKING
from lm_headroom.artifacts.schemas import SCHEMAS
from lm_headroom.artifacts.store import ArtifactError, place_of, provenance, read, reads, write

COLUMNS = {"rank": [0, 1], "layer": [0, 0], "head": [1, 0], "score": [0.1, 0.2]}


def test_round_trip_with_provenance(tmp_path):
    path = tmp_path / "a" / "ranking.parquet"
    write(path, RANKING, COLUMNS, {"task": "copa"})
    assert read(path, RANKING).to_pydict() == COLUMNS
    assert provenance(path) == {"kind": "ranking", "task": "copa"}
    assert [p.name for p in path.parent.iterdir()] == ["ranking.parquet"], "no partial file stays"


def test_the_same_content_makes_the_same_bytes(tmp_path):
    for name in "ab":
        write(tmp_path / name, RANKING, COLUMNS, {"task": "copa"})
    assert (tmp_path / "a").read_bytes() == (tmp_path / "b").read_bytes()


def test_a_failed_write_leaves_the_old_file(tmp_path):
    path = tmp_path / "ranking.parquet"
    write(path, RANKING, COLUMNS, {})
    with pytest.raises(ArtifactError, match="rank, layer, head, score"):
        write(path, RANKING, {"rank": [0]}, {})
    with pytest.raises(ArtifactError, match="unequal length"):
        write(path, RANKING, {**COLUMNS, "rank": [0]}, {})
    with pytest.raises(ArtifactError, match="do not fit"):
        write(path, RANKING, {**COLUMNS, "rank": ["first", "second"]}, {})
    with pytest.raises(ArtifactError, match="missing values"):
        write(path, RANKING, {**COLUMNS, "score": [None, 0.1]}, {})
    assert read(path, RANKING).to_pydict() == COLUMNS
    assert len(list(tmp_path.iterdir())) == 1


def test_files_are_readable_by_others_as_the_umask_says(tmp_path):
    old = os.umask(0o022)
    try:
        write(tmp_path / "r.parquet", RANKING, COLUMNS, {})
    finally:
        os.umask(old)
    assert (tmp_path / "r.parquet").stat().st_mode & 0o777 == 0o644


def test_what_is_refused_on_read(tmp_path):
    path = tmp_path / "x.parquet"
    with pytest.raises(ArtifactError, match="no such file"):
        read(path, RANKING)
    path.write_bytes(b"PAR1 not really")
    with pytest.raises(ArtifactError, match="not a readable Parquet file"):
        read(path, RANKING)
    pq.write_table(pa.table({"rank": [0]}), path)
    with pytest.raises(ArtifactError, match="not written by lm-headroom"):
        read(path, RANKING)
    write(path, RANKING, COLUMNS, {})
    with pytest.raises(ArtifactError, match="expected a prompts artifact, found 'ranking'"):
        read(path, prompts.PROMPTS)
    table = pq.read_table(path)
    pq.write_table(table.drop_columns("score"), path)
    with pytest.raises(ArtifactError, match="'score' \\(double\\) is missing"):
        read(path, RANKING)
    pq.write_table(table.set_column(0, "rank", table["rank"].cast(pa.int64())), path)
    with pytest.raises(ArtifactError, match="'rank' is int64, expected int32"):
        read(path, RANKING)


def test_rows_must_be_a_grid_of_heads(tmp_path):
    path = tmp_path / "r.parquet"
    write(path, RANKING, {"rank": [0, 1, 2], "layer": [0, 0, 1], "head": [0, 1, 0], "score": [0.0, 1.0, 2.0]}, {})
    with pytest.raises(ArtifactError, match="3 rows do not number 2 layers x 2 heads from 0, each once"):
        read_ranking(path)
    write(path, RANKING, {"rank": [0, 2], "layer": [0, 0], "head": [0, 1], "score": [0.0, 1.0]}, {})
    with pytest.raises(ArtifactError, match="2 rows do not number 3 ranks from 0, each once"):
        read_ranking(path)
    write(path, RANKING, {"rank": [1, 0], "layer": [0, 0], "head": [0, 1], "score": [3.0, 1.0]}, {})
    assert read_ranking(path).order == ((0, 1), (0, 0))
    assert grid(read(path, RANKING), "score").tolist() == [[3.0, 1.0]]


def test_layers_and_heads_are_as_many_as_the_model_has(tmp_path):
    path = tmp_path / "r.parquet"
    write(path, RANKING, COLUMNS, {"model": {"layers": 2, "heads": 2}})
    with pytest.raises(ArtifactError, match="2 rows do not number 2 layers x 2 heads from 0, each once"):
        read(path, RANKING)


def test_numbers_are_finite_but_for_statistics_that_data_do_not_define(tmp_path):
    path = tmp_path / "r.parquet"
    for value in (float("nan"), float("inf")):
        with pytest.raises(ArtifactError, match="score is (nan|inf) at rank 1, layer 0, head 0; nothing was written"):
            write(path, RANKING, {**COLUMNS, "score": [0.1, value]}, {})
    columns = {column.name: [0.5, 0.5] for column in CROSS_TASK.columns}
    columns |= {"task_a": ["copa", "piqa"], "task_b": ["piqa", "copa"]}
    write(path, CROSS_TASK, {**columns, "srcc": [0.5, float("nan")]}, {})
    assert np.isnan(read(path, CROSS_TASK).column("srcc")[1].as_py())
    with pytest.raises(ArtifactError, match="srcc is -inf at task_a piqa, task_b copa"):
        write(path, CROSS_TASK, {**columns, "srcc": [0.5, -float("inf")]}, {})


def test_what_an_artifact_must_be_of(tmp_path):
    path = tmp_path / "r.parquet"
    origin = {"model": {"name": "a", "digest": "d" * 64}, "task": "copa", "shots": 0, "options": {"tasks": ["b", "a"]}}
    write(path, RANKING, COLUMNS, origin)
    for right in (
        {"model": "d" * 64, "task": "copa", "shots": 0},
        {"task": frozenset({"piqa", "copa"})},
        {"task": None, "seed": None},
        {"tasks": ("a", "b")},
    ):
        assert read(path, RANKING, **right).num_rows == 2
    for wrong, message in (
        ({"model": "e" * 64}, "made from model 'a' \\(digest dddddddddddd\\), expected digest eeeeeeeeeeee;"),
        ({"task": frozenset({"piqa"})}, "made from task copa, expected piqa"),
        ({"shots": 5}, "made from shots 0, expected 5"),
        ({"seed": 7}, "made from no known seed, expected 7"),
        ({"tasks": ("a",)}, "made from tasks b, a, expected a;"),
    ):
        with pytest.raises(ArtifactError, match=message):
            read(path, RANKING, **wrong)


def test_an_artifact_knows_its_place_below_the_results_folder(tmp_path):
    path = tmp_path / "results" / "m" / "ranking" / "heads" / "copa" / "0shot-seed7.parquet"
    write(path, RANKING, COLUMNS, {})
    assert provenance(path)["place"] == "m/ranking/heads/copa/0shot-seed7.parquet"
    assert place_of(path, "{model}/ranking/ffns/{task}/{k}shot-seed{s}.parquet") is None
    assert place_of(tmp_path, "{model}/capacity/{k}shot-seed{s}.parquet") is None


def test_reads_are_noted_where_asked_for(tmp_path):
    for name in "abc":
        write(tmp_path / name, RANKING, COLUMNS, {})
    read(tmp_path / "a", RANKING)
    with reads() as noted:
        read(tmp_path / "c", RANKING)
        provenance(tmp_path / "b")
        read(tmp_path / "c", RANKING)
    read(tmp_path / "a", RANKING)
    assert list(noted) == [tmp_path / "c", tmp_path / "b"]


def test_all_kinds_are_listed():
    from importlib import import_module

    from lm_headroom.artifacts import store

    modules = (path.stem for path in Path(store.__file__).parent.glob("*.py"))
    names = {
        value.name
        for name in modules
        for value in vars(import_module(f"lm_headroom.artifacts.{name}")).values()
        if isinstance(value, store.ArtifactSchema)
    }
    assert names == {kind.name for kind in SCHEMAS}


@pytest.mark.parametrize("kind", SCHEMAS, ids=lambda kind: kind.name)
def test_every_column_is_described(kind):
    assert all(column.description for column in kind.columns)
    assert len({column.name for column in kind.columns}) == len(kind.columns)


def test_what_a_run_took_stands_apart_from_what_made_it(tmp_path, capsys):
    from lm_headroom.artifacts.store import provenance, run_statistics
    from lm_headroom.cli import main

    columns = {"rank": [0], "layer": [0], "head": [1], "score": [0.5]}
    paths = [tmp_path / "a.parquet", tmp_path / "b.parquet"]
    write(paths[0], RANKING, columns, {"task": "copa"}, {"peak_memory_mib": 812})
    write(paths[1], RANKING, columns, {"task": "copa"})
    assert provenance(paths[0]) == provenance(paths[1])
    assert run_statistics(paths[0]) == {"peak_memory_mib": 812}
    assert run_statistics(paths[1]) == {}
    assert main(["show", str(paths[0])]) == 0
    assert "Run\n  peak_memory_mib: 812\n" in capsys.readouterr().out
