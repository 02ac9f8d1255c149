"""The command line as a user meets it."""

import re
import subprocess
import sys

import pytest

from lm_headroom.artifacts.ranking import RANKING
from lm_headroom.artifacts.store import write
from lm_headroom.cli import main, parser

COMMANDS = [
    "prompts", "head-importance", "ffn-importance", "head-oracle", "correlate-oracle",
    "rank", "prune", "joint", "transfer", "correlate",
    "correlate-shots", "export", "induction", "capacity", "figure", "compare", "table",
    "ffn-selection", "ablate",
    "findings", "plan", "show", "verify", "model", "fetch", "embed-model", "embed-data",
    "average-seeds", "recompute",
]  # fmt: skip


@pytest.mark.parametrize("command", COMMANDS)
def test_every_command_explains_itself(command, capsys):
    with pytest.raises(SystemExit) as stopped:
        main([command, "--help"])
    assert stopped.value.code == 0
    printed = capsys.readouterr().out
    assert printed.startswith(f"usage: lm-headroom {command}")
    assert len(printed.splitlines()) > 5


def test_all_commands_are_tested():
    (actions,) = (a for a in parser()._actions if a.dest == "name")
    assert set(actions.choices) == set(COMMANDS)


def test_show_prints_provenance_columns_and_rows(tmp_path, capsys):
    path = tmp_path / "r.parquet"
    write(path, RANKING, {"rank": [0, 1], "layer": [0, 0], "head": [1, 0], "score": [0.125, 2.0]}, {"task": "copa"})
    assert main(["show", str(path), "--rows", "1"]) == 0
    printed = capsys.readouterr().out
    assert "ranking artifact, 2 rows" in printed
    assert "Facts\n  task: copa\n" in printed
    assert "rank (int32): 0 = least important, pruned first" in printed
    assert "rank=0, layer=0, head=1, score=0.125" in printed
    assert "score=2" not in printed


def test_mistakes_are_one_sentence_and_a_non_zero_exit(tmp_path):
    done = subprocess.run(
        [sys.executable, "-m", "lm_headroom", "show", str(tmp_path / "none.parquet")], capture_output=True, text=True
    )
    assert done.returncode == 1
    assert re.fullmatch(r"lm-headroom show: error: .*none\.parquet: no such file\n", done.stderr)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["prune", "--levels", "101"], "'101': expected a whole number from 0 to 100"),
        (
            ["prune", "--rankings", "best"],
            "'best' is no ranking; expected own, aggregate, iterative, reversed, random_N, token",
        ),
        (["prompts", "--shots", "-1"], "'-1': expected a whole number from 0"),
        (["prompts", "--limit-evaluation", "some"], "'some': expected a whole number from 1"),
        (["figure", "99"], "invalid choice: '99'"),
        (["compare", "prunable", "--models", "a,step=1"], "'a,step=1': expected NAME, or NAME,group=G or"),
    ],
)
def test_wrong_arguments_are_named(arguments, message, capsys):
    with pytest.raises(SystemExit) as stopped:
        main(arguments)
    assert stopped.value.code == 2
    assert message in capsys.readouterr().err


def test_rank_without_enough_says_what_is_missing(tmp_path, capsys):
    assert main(["rank", "--tasks", "a", "--out", str(tmp_path / "r")]) == 1
    assert "give --scores to rank one task's heads, or for the aggregate also --results, --shots, --scores-out" in (
        capsys.readouterr().err
    )
