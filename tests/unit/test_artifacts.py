import os

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from headroom.artifacts import (
    capacity,
    copying,
    cross_shot,
    cross_task,
    ffn_importance,
    head_importance,
    prefix_matching,
    prompts,
    pruned_eval,
    ranking,
)
from headroom.artifacts.heads import grid, read_ranking
from headroom.artifacts.ranking import RANKING
from headroom.artifacts.store import ArtifactError, provenance, read, write

COLUMNS = {"rank": [0, 1], "layer": [0, 0], "head": [1, 0], "score": [0.1, 0.2]}
KINDS = [
    capacity.CAPACITY,
    copying.COPYING,
    ffn_importance.FFN_IMPORTANCE,
    pruned_eval.JOINT_EVAL,
    ranking.FFN_RANKING,
    cross_shot.CROSS_SHOT,
    cross_task.CROSS_TASK,
    head_importance.HEAD_IMPORTANCE,
    prefix_matching.PREFIX_MATCHING,
    prompts.PROMPTS,
    pruned_eval.PRUNED_EVAL,
    ranking.RANKING,
]


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
    with pytest.raises(ArtifactError, match="not written by headroom"):
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
    with pytest.raises(ArtifactError, match="3 rows do not make a grid of 2 layers x 2 heads"):
        read_ranking(path)
    write(path, RANKING, {"rank": [0, 2], "layer": [0, 0], "head": [0, 1], "score": [0.0, 1.0]}, {})
    with pytest.raises(ArtifactError, match="ranks must be 0 to 1"):
        read_ranking(path)
    write(path, RANKING, {"rank": [1, 0], "layer": [0, 0], "head": [0, 1], "score": [3.0, 1.0]}, {})
    assert read_ranking(path) == [(0, 1), (0, 0)]
    assert grid(read(path, RANKING), "score", path).tolist() == [[3.0, 1.0]]


@pytest.mark.parametrize("kind", KINDS, ids=lambda kind: kind.name)
def test_every_column_is_described(kind):
    assert all(column.description for column in kind.columns)
    assert len({column.name for column in kind.columns}) == len(kind.columns)


def test_what_a_run_took_stands_apart_from_what_made_it(tmp_path, capsys):
    from headroom.artifacts.store import provenance, run_facts
    from headroom.cli import main

    columns = {"rank": [0], "layer": [0], "head": [1], "score": [0.5]}
    paths = [tmp_path / "a.parquet", tmp_path / "b.parquet"]
    write(paths[0], RANKING, columns, {"task": "copa"}, {"peak_memory_mib": 812})
    write(paths[1], RANKING, columns, {"task": "copa"})
    assert provenance(paths[0]) == provenance(paths[1])
    assert run_facts(paths[0]) == {"peak_memory_mib": 812}
    assert run_facts(paths[1]) == {}
    assert main(["show", str(paths[0])]) == 0
    assert "Run\n  peak_memory_mib: 812\n" in capsys.readouterr().out
