"""The measures of the house: short functions, a short command line and rule file, and helpers of tests in one place."""

import ast
import subprocess
import sys

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


def test_looking_at_a_file_starts_without_what_it_does_not_need(tmp_path):
    (tmp_path / "none.md").write_text("none")
    code = (
        "import sys; from lm_headroom.cli import main; main(['show', 'none.md']);"
        "print([name for name in ('torch', 'scipy', 'pandas', 'pydantic', 'matplotlib') if name in sys.modules])"
    )
    done = subprocess.run(
        [sys.executable, "-c", code],
        capture_output=True,
        text=True,
        cwd=tmp_path,
        env={"PYTHONPATH": str(PACKAGE.parent)},
    )
    assert done.stdout.splitlines()[-1] == "[]", done.stderr
