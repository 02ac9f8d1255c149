"""CONTRIBUTING.md's steps, followed literally on a copy of the code."""

import re
import shutil
import subprocess
import sys
from textwrap import dedent

import pytest

from tests.support.paths import ROOT

PAGE = (ROOT / "CONTRIBUTING.md").read_text()
CHECKS = {
    "an option": """
        from lm_headroom.study.config import Study
        assert Study.model_validate({"induction": {"repeats": 9}}).induction.repeats == 9
        assert Study().induction.repeats == 4
        try:
            Study.model_validate({"induction": {"repeats": 10}})
        except ValueError as error:
            assert "9" in str(error)
        else:
            raise AssertionError
        """,
    "an artifact": """
        from lm_headroom.artifacts.catalogue import path_of
        from lm_headroom.artifacts.schemas import SCHEMAS
        assert "entropy" in [schema.name for schema in SCHEMAS]
        assert path_of("entropy", model="m") == "m/induction/entropy.parquet"
        """,
    "a figure": """
        from lm_headroom.report.products import PRODUCTS
        (row,) = [row for row in PRODUCTS if "entropy" in row.stem]
        assert row.kind == "figure" and row.target == "figures" and "99" in row.name
        assert any("head_importance" in path for path in row.reads(__import__(
            "lm_headroom.study.config", fromlist=["Study"]).Study()))
        """,
}


def section(title):
    """The text under a heading."""
    return re.search(rf"^## Add {title}\n(.*?)(?=^## |\Z)", PAGE, re.M | re.S)[1]


def apply(block, folder):
    """Add a block to the file that its first line names, before the line that it names."""
    head, _, code = block.partition("\n")
    path, _, anchor = re.fullmatch(r"# in (\S+?)(, before: |, a new file)(.*)", head).groups()
    file = folder / path
    if not anchor:
        assert not file.exists()
        file.write_text(code)
        return
    lines = file.read_text().splitlines(keepends=True)
    places = [i for i, line in enumerate(lines) if line.strip().startswith(anchor)]
    assert len(places) == 1, f"{path}: {anchor!r} begins {len(places)} lines"
    lines[places[0] : places[0]] = [code]
    file.write_text("".join(lines))


@pytest.mark.parametrize("title", CHECKS)
def test_the_blocks_of_the_page_do_what_it_says(title, tmp_path):
    shutil.copytree(ROOT / "workflow", tmp_path / "workflow", ignore=shutil.ignore_patterns("__pycache__"))
    blocks = re.findall(r"```python\n(.*?)```", re.sub(r"^   ", "", section(title), flags=re.M), re.S)
    assert blocks
    for block in blocks:
        apply(block, tmp_path)
    code = dedent(CHECKS[title])
    environment = {"PYTHONPATH": str(tmp_path / "workflow"), "PATH": ""}
    done = subprocess.run([sys.executable, "-c", code], cwd=tmp_path, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize("title", ["an option", "an artifact", "a figure", "a model architecture", "a task"])
def test_each_recipe_has_five_steps_and_names_files_that_exist(title):
    text = section(title)
    assert re.findall(r"^(\d)\. ", text, re.M) == list("12345")
    for name in re.findall(r"`((?:workflow|tests)/[\w/.]+)`", text):
        assert (ROOT / name).exists(), name


def test_the_make_targets_that_pages_name_exist():
    targets = set(re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text(), re.M))
    for page in ("CONTRIBUTING.md", "README.md", "docs/architecture.md"):
        assert set(re.findall(r"`make ([a-z-]+)", (ROOT / page).read_text())) <= targets, page
