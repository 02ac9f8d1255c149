"""Old names are in the changelog's note of renames, and nowhere else."""

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
DATA = re.compile(r"^(?:tests/golden/|envs/|docs/smollm2/|docs/benchmarks\.json|tests/unit/test_old_words\.py)")
"""Files that quote other projects, or results that older code has made."""

IN_THE_PACKAGE = re.compile(r"\bcertif|\b[Tt]old from\b|\b[Cc]an go\b|\b[Ff]oreign\b|\bworth of\b|\breading of eq")
"""Of words that tests of older results still read, those that the package and its pages have given up."""


@pytest.fixture(scope="module")
def texts():
    """Each text file that belongs to the project."""
    listed = subprocess.run(["git", "ls-files"], cwd=ROOT, capture_output=True, text=True)
    if listed.returncode:
        pytest.skip("not a git checkout")
    texts = {}
    for name in listed.stdout.splitlines():
        path = ROOT / name
        if not DATA.match(name) and path.is_file() and path.suffix not in (".safetensors", ".png", ".parquet"):
            texts[name] = path.read_text(errors="replace")
    return texts


@pytest.mark.parametrize("name", OLD)
def test_an_old_name_is_in_the_changelog_alone(texts, name):
    assert [file for file, text in texts.items() if file != CHANGELOG and OLD[name].search(text)] == []


def test_the_package_and_the_pages_have_given_up_words_that_tests_still_read(texts):
    ours = {name: text for name, text in texts.items() if not name.startswith("tests/") and name != CHANGELOG}
    assert [name for name, text in ours.items() if IN_THE_PACKAGE.search(text)] == []
