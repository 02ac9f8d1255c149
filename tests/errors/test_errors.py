"""Bad input, through the command line: each row of docs/errors.md is brought about and held against its message."""

import subprocess
import sys

import pytest

from lm_headroom.artifacts.ranking import RANKING
from lm_headroom.artifacts.store import provenance, read
from tests.errors import artifacts, experts, exports, handled, models, places, rankings, records
from tests.errors.bench import Bench
from tests.errors.page import check, rows
from tests.support.small_study import small
from tests.support.tiny_models import tiny_model

MODULES = (records, models, experts, artifacts, exports, places, rankings, handled)
CASES = {situation: case for module in MODULES for situation, case in module.CASES.items()}


@pytest.fixture(scope="session")
def tiny_checkpoint(tmp_path_factory, tokenizer):
    """A tiny OPT in float32, with its tokenizer."""
    folder = tmp_path_factory.mktemp("tiny") / "checkpoint"
    tiny_model("opt").float().save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


@pytest.fixture
def bench(tmp_path, capfd, monkeypatch, tokenizer, tiny_checkpoint):
    return Bench(tmp_path, capfd, monkeypatch, tokenizer, tiny_checkpoint)


def test_two_commands_that_write_one_file_leave_the_one_or_the_other(tmp_path):
    study = small(tmp_path)
    out = tmp_path / "ranking.parquet"
    loop = "import sys; from lm_headroom.cli import main; sys.exit(max(main(sys.argv[1:]) for _ in range(30)))"
    scores = [study.path("head_importance", 0, task=task) for task in ("piqa", "copa")]
    running = [
        subprocess.Popen(
            [sys.executable, "-c", loop, "rank-heads", "--scores", path, "--out", out], stderr=subprocess.PIPE
        )
        for path in scores
    ]
    seen = set()
    while any(process.poll() is None for process in running):
        if out.exists():
            read(out, RANKING)
            seen.add(provenance(out)["task"])
    assert [process.wait() for process in running] == [0, 0], [process.stderr.read() for process in running]
    assert seen == {"piqa", "copa"}
    assert not list(tmp_path.rglob("*.partial"))


@pytest.mark.parametrize("situation", list(CASES))
def test_bad_input(situation, bench):
    check(situation, CASES[situation](bench))


def test_the_page_has_every_case_and_no_other():
    from tests.errors import test_workflow_errors as workflow

    assert not set(CASES) & set(workflow.CASES)
    assert set(rows()) == set(CASES) | set(workflow.CASES)
    assert len(rows()) >= 30
