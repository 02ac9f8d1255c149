"""The measures of the house: short functions, a short command line and rule file, and helpers of tests in one place."""

import ast
import subprocess
import sys

import pytest

from lm_headroom.models.resolve import resolve
from tests.support.checkpoints import checkpoint
from tests.support.packages import PACKAGE
from tests.support.paths import ROOT

LONGEST = 60
"""Lines of a function, its signature and docstring included; it fits a screen."""


def test_no_function_is_longer_than_a_screen():
    long = [
        f"{path.name}: {node.name} has {node.end_lineno - node.lineno + 1} lines"
        for path in PACKAGE.rglob("*.py")
        for node in ast.walk(ast.parse(path.read_text()))
        if isinstance(node, ast.FunctionDef) and node.end_lineno - node.lineno >= LONGEST
    ]
    assert long == []


def test_the_command_line_and_the_common_rules_stay_short():
    assert len((PACKAGE / "cli.py").read_text().splitlines()) < 150
    assert len((ROOT / "workflow" / "rules" / "common.smk").read_text().splitlines()) < 250


def test_tests_take_their_helpers_from_support():
    imported = set()
    for path in (ROOT / "tests").rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.ImportFrom):
                modules = [node.module or "", *(f"{node.module}.{alias.name}" for alias in node.names)]
                of_tests = (name for name in modules if name.startswith("tests.") and ".test_" in name)
                imported |= {
                    (path.name, name) for name in of_tests if (ROOT / f"{name.replace('.', '/')}.py").is_file()
                }
    # Which errors of whole workflows are tested, so that each row of the page is.
    assert imported == {("test_errors.py", "tests.errors.test_workflow_errors")}


def imported_by(folder, *command):
    """Which of the slow packages a command imports, run in a folder."""
    code = (
        f"import sys; from lm_headroom.cli import main; main({list(command)!r});"
        "slow = ('torch', 'transformers', 'scipy', 'pandas', 'pydantic', 'matplotlib');"
        "print([name for name in slow if name in sys.modules])"
    )
    done = subprocess.run(
        [sys.executable, "-c", code],
        capture_output=True,
        text=True,
        cwd=folder,
        env={"PYTHONPATH": str(PACKAGE.parent)},
    )
    assert done.returncode == 0, done.stderr
    return ast.literal_eval(done.stdout.splitlines()[-1])


def test_looking_at_a_file_starts_without_what_it_does_not_need(tmp_path):
    (tmp_path / "none.md").write_text("none")
    assert imported_by(tmp_path, "show", "none.md") == []


@pytest.mark.parametrize(
    "command",
    [
        ["--help"],
        ["verify", "results"],
        ["verify", "results", "--study", "study.yaml"],
        ["push", "results", "my-name/my-study", "--dry-run"],
        ["status", "results"],
        # Before tokens are counted and the machine is timed.
        ["plan", "--source", "checkpoint", "--study", "none.yaml"],
        ["plan", "--source", "checkpoint", "--study", "study.yaml"],
        ["plan", "--source", "checkpoint", "--study", "study.yaml", "--hardware", "none"],
    ],
    ids=lambda words: " ".join(words),
)
def test_commands_that_run_no_model_start_without_torch(tmp_path, command):
    # Of a family without a row, about which only transformers knows more.
    source = checkpoint(tmp_path / "checkpoint")
    resolve("tiny", str(source), None, tmp_path / "results" / "tiny" / "model.json")
    (tmp_path / "study.yaml").write_text("models: {tiny: {source: checkpoint}}\ntasks: [copa]\nshots: [0]\n")
    assert set(imported_by(tmp_path, *command)) <= {"pydantic"}
