"""Commands of rules: what is put into them is quoted, whatever it is."""

from __future__ import annotations

import re

import pytest

from tests.support.paths import ROOT

RULES = sorted((ROOT / "workflow" / "rules").glob("*.smk"))
# Numbers, and option strings that are quoted where they are made (options(), source_options()).
UNQUOTED = {"threads", "resources.gpus_per_job", "resources.token_budget", "params.options", "resources.where"}


def _commands(text: str) -> list[str]:
    """The texts of a rule file's ``shell:`` blocks."""
    found, inside = [], False
    for line in text.splitlines():
        if re.match(r"    \w+:", line):
            inside = line.strip() == "shell:"
        elif inside and line.startswith("        "):
            found.append(line.strip())
    return found


@pytest.mark.parametrize("path", RULES, ids=lambda path: path.stem)
def test_rules_put_nothing_unquoted_into_a_command(path):
    text = path.read_text()
    commands = _commands(text)
    assert bool(commands) == ("shell:" in text)
    # A command is plain text with placeholders: no f-string, no code of its own.
    assert not re.search(r"^    (run|script|notebook|wrapper):", text, re.MULTILINE)
    for line in commands:
        assert line[0] in "'\"", line
        # A folder's name by the shell has quotes of its own, within which the path has its own again.
        assert "`" not in line
        assert re.fullmatch(r'[^$]*("\$\([^$()]*\)"[^$]*)?', line), line
        for name in re.findall(r"\{([^{}]*)\}", line):
            assert name.endswith(":q") or name in UNQUOTED, (name, line)


def test_option_strings_are_joined_by_the_quoting_join():
    text = (ROOT / "workflow" / "rules" / "common.smk").read_text()
    for function in ("options", "get_model_options"):
        body = text[text.index(f"def {function}(") :].split("\n\n\n")[0]
        assert "return shlex.join(" in body
    assert "MATRIX_OPTIONS = shlex.join(" in text
