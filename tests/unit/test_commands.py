"""Commands of rules: what is put into them is quoted, whatever it is."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator

import pytest

from lm_headroom.options import options_of_study
from lm_headroom.report import products
from lm_headroom.study.config import Study
from lm_headroom.study.task_entry import TaskEntry
from tests.support.paths import ROOT

RULES = sorted((ROOT / "workflow" / "rules").glob("*.smk"))
# Numbers, and option strings that are quoted where they are made.
UNQUOTED = {"threads", "resources.gpus_per_job", "resources.token_budget", "params.options", "resources.where"}


def _shells(text: str) -> list[ast.expr]:
    """What rules give to the shell, as Python reads it."""
    blocks = re.findall(r"^( +)shell:\n((?:\1 +.*\n|\n)+)", text, re.MULTILINE)
    return [ast.parse(f"({body.strip()})", mode="eval").body for _, body in blocks]


def _words(expression: ast.AST) -> Iterator[str]:
    """The texts of an expression, as the shell is given them; what an f-string puts in is left out."""
    for node in ast.walk(expression):
        if isinstance(node, ast.Constant) and isinstance(node.value, str):
            yield node.value


def _check(text: str) -> None:
    # A folder's name by the shell has quotes of its own, within which the path has its own again.
    assert "`" not in text
    assert re.fullmatch(r'[^$]*("\$\([^$()]*\)"[^$]*)?', text), text
    for name in re.findall(r"\{([^{}]*)\}", text):
        assert name.endswith(":q") or name in UNQUOTED, (name, text)


@pytest.mark.parametrize("path", RULES, ids=lambda path: path.stem)
def test_rules_put_nothing_unquoted_into_a_command(path):
    text = path.read_text()
    shells = _shells(text)
    assert len(shells) == text.count("shell:\n")
    # A command is plain text with placeholders, within which no code of the rule's own stands.
    assert not re.search(r"^ +(run|script|notebook|wrapper):", text, re.MULTILINE)
    for shell in shells:
        assert isinstance(shell, ast.Call)
        assert shell.func.id in ("step", "model_step")
        for words in _words(shell):
            _check(words)
        # What an f-string puts in is evaluated again in each job, with the last values of the file's loops.
        assert not any(isinstance(node, ast.FormattedValue) for node in ast.walk(shell))


def test_params_that_are_to_rerun_a_rule_ask_for_no_input():
    """Snakemake does not compare those that do."""
    asking = [name for path in RULES for name in re.findall(r"(\w+)=lambda wildcards, ", path.read_text())]
    # It names some of the inputs, which are compared themselves.
    assert asking == ["prompts"]


def test_what_every_command_has_is_quoted():
    text = (ROOT / "workflow" / "lm_headroom" / "checkout.py").read_text()
    for function in ("step", "model_step"):
        body = text[text.index(f"def {function}(") :].split("\n\n\n")[0]
        for words in _words(ast.parse(body)):
            _check(words)


def test_option_strings_are_joined_by_the_quoting_join():
    # No study may have such tasks.
    entries = [TaskEntry(name=name) for name in ("a b", "$c")]
    study = Study().model_copy(update={"task_entries": entries})
    assert options_of_study(study, "retain_capacity") == "--tasks 'a b' '$c'"
    for product in products.PRODUCTS:
        typed = product.command(study)
        assert "--tasks" not in typed or "--tasks 'a b' '$c'" in typed
