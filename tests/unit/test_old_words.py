"""Old names are in the changelog's note of renames, and nowhere else."""

import ast
import re
import subprocess

import pytest

from tests.support.paths import ROOT

CHANGELOG = "CHANGELOG.md"
OLD = {
    name: re.compile(pattern)
    for name, pattern in {
        "manner": r"\b[Mm]anners?\b",
        "anatomy": r"\banatomy\b",
        "readout": r"\b[Rr]eadouts?\b",
        "headroom as a command": r"(?<![\w-])headroom (?:model|prune|rank|show|verify|plan|figure)\b",
        "headroom as a package": r"(?m)^\s*(?:import|from) headroom\b|workflow/headroom",
        "HEADROOM_ as a prefix of variables": r"(?<!LM_)\bHEADROOM_",
        "SCORED, READINGS": r"\b(?:SCORED|READINGS)\b",
        "classes": r"\b(?:Branching|Member|Gradients|Unit|Manner|Seam)\b",
        "blame": r"\bblame",
        "--parts": r"--parts\b",
        "text_sizes": r"\btext_sizes\b",
        "steps": r"\b(?:aggregate_importance|recompute_heads|recomputed_ranking)\b",
        "seam": r"\b[Ss]eams?\b",
        "inflection": r"\b[Ii]nflections?\b",
        "optimism": r"\b[Oo]ptimis(?:m|tic)\b",
        "honest": r"\b[Hh]onest(?:y|ly)?\b",
        "orphaned": r"\borphan",
    }.items()
}
"""Patterns of names and words that the project has given up."""
DATA = re.compile(
    r"^(?:tests/golden/|envs/|docs/studies/.*\.html|docs/benchmarks\.json|workflow/tasks/lm-eval\.json"
    r"|tests/unit/test_old_words\.py)"
)
"""Files that quote other projects, or results that older code has made."""

PRIVATE = re.compile(
    r"\bcertif|\b[Tt]old (?:from|apart)\b|\b[Cc]an go\b|\b[Ff]oreign\b|\bworth\b|\breading of eq|\boptimis"
    r"|\bprofile over layers|(?<!random )\bguessing\b"
)
READS_OLDER_RESULTS = ("tests/unit/report/test_findings.py",)
"""Files that read what older code has written, or refuse the same words."""
SAYING_NOTHING = {"found", "said", "made", "took", "told", "taken", "given", "facts", "of"}
"""Names of variables that say what was done, and not what a value is."""


@pytest.fixture(scope="module")
def texts():
    """Each text file that belongs to the project."""
    listed = subprocess.run(["git", "ls-files"], cwd=ROOT, capture_output=True, text=True)
    if listed.returncode:
        pytest.skip("not a git checkout")
    texts = {}
    for name in listed.stdout.splitlines():
        path = ROOT / name
        if not DATA.match(name) and path.is_file() and path.suffix not in (".safetensors", ".png", ".parquet", ".xz"):
            texts[name] = path.read_text(errors="replace")
    return texts


@pytest.mark.parametrize("name", OLD)
def test_an_old_name_is_in_the_changelog_alone(texts, name):
    assert [file for file, text in texts.items() if file != CHANGELOG and OLD[name].search(text)] == []


def test_private_words_are_in_the_changelog_alone(texts):
    ours = {name: text for name, text in texts.items() if name not in (CHANGELOG, *READS_OLDER_RESULTS)}
    assert [name for name, text in ours.items() if PRIVATE.search(text)] == []


def test_no_variable_has_a_name_that_says_nothing_of_its_value(texts):
    names = {}
    for file in texts:
        if file.endswith(".py"):
            nodes = list(ast.walk(ast.parse(texts[file])))
            used = {node.id for node in nodes if isinstance(node, ast.Name)}
            used |= {node.arg for node in nodes if isinstance(node, ast.arg)}
            names[file] = used & SAYING_NOTHING
    assert {file: used for file, used in names.items() if used} == {}
