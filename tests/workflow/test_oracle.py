"""The oracle of heads in a study, from the config to the page."""

import re

from lm_headroom.artifacts.head_oracle import HEAD_ORACLE
from lm_headroom.artifacts.oracle_agreement import ORACLE_AGREEMENT
from lm_headroom.artifacts.pruned_eval import PRUNED_EVAL
from lm_headroom.artifacts.store import read
from tests.support.read_back import read_back


def test_heads_of_one_task_are_removed_one_at_a_time(study):
    study.configure(head_oracle={"tasks": ["winogrande"], "heads": 5})
    study.run()
    rows = [read(study.result(f"tiny/head_oracle/winogrande/{k}shot-seed1234.parquet"), HEAD_ORACLE) for k in (0, 1)]
    heads = [list(zip(*(t.column(name).to_pylist() for name in ("layer", "head")), strict=True)) for t in rows]
    assert heads[0] == heads[1], "tasks and shots share the sample"
    assert len(set(heads[0])) == 5
    own = read(study.result("tiny/pruned_eval/heads/winogrande/0shot-seed1234/own.parquet"), PRUNED_EVAL)
    assert rows[0].column("correct_dense")[0].as_py() == own.column("correct")[0].as_py()
    agreed = read(study.result("tiny/correlation/oracle/seed1234.parquet"), ORACLE_AGREEMENT).to_pylist()
    assert sorted(row["shots"] for row in agreed if row["component"] == "heads") == [0] * 4 + [1] * 4
    assert read_back(study.result(""))["head_oracle"] == 2
    text = study.result("tiny/findings/seed1234.md").read_text()
    assert re.search(r"Gradient scores of heads [a-z ]+ with the oracle on winogrande .*\b5 heads\)", text)
    assert (
        "| heads | winogrande | 0 | rise of the loss | 5 |"
        in study.result("tiny/tables/oracle-seed1234.md").read_text()
    )
    assert study.planned() == {}
    assert study.unsound() == {}
    study.configure(head_oracle={"tasks": ["winogrande"], "heads": 5, "others": "all"})
    assert study.planned()["score_head_knockouts"] == 2, "the other task, of two"
    study.run("results/tiny/correlation/oracle/seed1234.parquet")
    agreed = read(study.result("tiny/correlation/oracle/seed1234.parquet"), ORACLE_AGREEMENT).to_pylist()
    assert {(row["task"], row["n_components"]) for row in agreed if row["component"] == "heads"} == {
        ("winogrande", 5),
        ("arc_easy", 12),
    }
    assert [path for path in study.unsound() if "oracle/" in path] == []
    study.configure(head_oracle={"tasks": ["winogrande"], "heads": "all"})
    assert study.planned()["score_head_knockouts"] == 2


def test_a_task_that_is_not_there_is_named(study):
    study.configure(head_oracle={"tasks": ["winogrand"]})
    done = study.snakemake("--dry-run", "--cores", "1")
    assert done.returncode == 1
    assert "config key 'head_oracle.tasks': 'winogrand' is no task, group or tag of lm-eval" in done.stdout
    assert "(did you mean 'winogrande'?)" in done.stdout
