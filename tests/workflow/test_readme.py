"""The README and the pages beside it are true: rule graph, artifact table, targets, results, examples, commands."""

import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

from benchmarks.contest import geometric_mean
from benchmarks.report import page as page_of_benchmarks
from lm_headroom.artifacts.schemas import SCHEMAS
from lm_headroom.audit.verify import STATES
from lm_headroom.checkout import VARIABLE
from lm_headroom.command_names import GROUPS
from lm_headroom.results.matrix import ResultsMatrix
from lm_headroom.study.documentation import SCHEMA, options
from lm_headroom.study.reading import parse_study, read_study
from tests.support.paths import ROOT, SNAKEMAKE
from tests.support.small_study import write_study

README = (ROOT / "README.md").read_text()
PAGES = {name: (ROOT / "docs" / f"{name}.md").read_text() for name in ("artifacts", "results", "statistics", "studies")}
EVERY_PAGE = [
    "README.md",
    *(
        str(path.relative_to(ROOT))
        for pages in ("*.md", "studies/**/README.md")
        for path in sorted((ROOT / "docs").glob(pages))
    ),
]


def rule_graph():
    """Edges between rules of the default study with what it leaves out, without those that only draw and write."""
    pruning = "pruning={controls: [random_1], ffn_controls: [token]}"
    more = ("shots=[0, 1]", pruning, "joint={heads: [5], ffns: [5]}", "transfer={tasks: [copa]}")
    command = [*SNAKEMAKE, "--rulegraph", "mermaid-js", "--config", *more]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    names = dict(re.findall(r"(id\d+)\[(\w+)\]", done.stdout))
    edges = {(names[a], names[b]) for a, b in re.findall(r"(id\d+) --> (id\d+)", done.stdout)}
    return {(a, b) for a, b in edges if b != "all" and not b.startswith(("draw_", "write_"))}


def test_the_rule_graph_is_snakemakes():
    graph = re.search(r"```mermaid\n(.*?)```", PAGES["studies"], re.DOTALL)[1]
    assert set(re.findall(r"(\w+) --> (\w+)", graph)) == rule_graph()


def test_the_artifact_table_is_the_schemas():
    for kind in SCHEMAS:
        columns = ", ".join(column.name for column in kind.columns)
        assert f"| `{kind.place}` |" in PAGES["artifacts"], kind.name
        assert f"| {columns} |" in PAGES["artifacts"], kind.name


@pytest.mark.parametrize("page", EVERY_PAGE)
def test_named_commands_exist(page):
    code = re.findall(r"```sh\n.*?```|`[^`\n]+`", (ROOT / page).read_text(), re.DOTALL)
    named = re.findall(r"^`?lm-headroom ([a-z][a-z-]*)", "\n".join(code), re.M)
    assert set(named) <= set(" ".join(GROUPS.values()).split())


@pytest.mark.parametrize("page", EVERY_PAGE)
def test_no_target_follows_a_study_that_snakemake_is_given(page):
    """It would be taken for another study."""
    code = re.findall(r"```sh\n.*?```|`[^`\n]+`", (ROOT / page).read_text(), re.DOTALL)
    assert not re.findall(r"--configfile[ =]\S+ +\w.*", "\n".join(code))


def test_the_number_of_served_types_is_the_tables():
    models = (ROOT / "docs" / "models.md").read_text()
    every, served = re.search(r"Of the (\d+) causal language model types .*?, (\d+) are served", models).groups()
    assert f"{served} of transformers' {every} causal model types" in README


def test_the_page_of_results_has_each_verdict():
    table = re.search(r"\| verdict \| meaning \|\n\|---\|---\|\n(.*?)\n\n", PAGES["results"], re.DOTALL)[1]
    assert re.findall(r"^\| ([a-z ]+) \|", table, re.M) == [state for state in STATES if state != "sound"]


def test_the_page_of_clusters_has_each_variable_that_users_set():
    code = "\n".join(path.read_text() for path in (ROOT / "workflow" / "lm_headroom").rglob("*.py"))
    # The one that the workflow sets for its own jobs.
    used = set(re.findall(r'"(LM_HEADROOM_[A-Z_]*[A-Z])"', code)) - {VARIABLE}
    table = (ROOT / "docs" / "cluster.md").read_text().partition("## Environment variables")[2]
    assert set(re.findall(r"LM_HEADROOM_[A-Z_]+", table)) == used


def test_the_readme_is_short():
    assert len(README.splitlines()) <= 120


def test_the_first_commands_run_in_a_checkout(study):
    """On a study that has run, in an environment that make takes for made."""
    shutil.copy(study.config_path, study.folder / "config.yaml")
    for name in ("Makefile", "pyproject.toml"):
        shutil.copy(ROOT / name, study.folder)
    environment = study.folder / ".venv"
    environment.mkdir()
    for name in ("bin", "lib", "pyvenv.cfg"):
        (environment / name).symlink_to(Path(sys.prefix) / name)
    (environment / ".runtime").touch()
    block = re.findall(r"```sh\n(.*?)```", README, re.DOTALL)[0]
    assert block.startswith("make demo")
    done = subprocess.run(
        ["bash", "-e", "-c", block], cwd=study.folder, text=True, stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
        env={**os.environ, "PYTHONPATH": str(study.folder / "workflow")},
    )  # fmt: skip
    assert done.returncode == 0, done.stdout
    assert "jobs ran" not in done.stdout, "all was there"
    assert re.search(r"^- \*\*", done.stdout, re.MULTILINE), "a finding"
    assert (study.folder / "results" / "report.html").is_file()
    assert re.search(r"^results: (\d+) files: \1 sound$", done.stdout, re.MULTILINE)


def test_named_make_targets_exist():
    targets = set(re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text(), re.M))
    named = set(re.findall(r"(?:^|`)make ([a-z-]+)", README, re.M))
    assert {"demo"} <= named <= targets


def anchors(page):
    """Anchors of a page's headings, as GitHub makes them."""
    headings = re.findall(r"^#+ (.*)$", page.read_text(), re.MULTILINE)
    return {re.sub(r"[^\w -]", "", heading.lower()).replace(" ", "-") for heading in headings}


@pytest.mark.parametrize("page", EVERY_PAGE)
def test_linked_files_and_headings_exist(page):
    for path, anchor in re.findall(r"\]\(([^)#:]*)(?:#([^)]+))?\)", (ROOT / page).read_text()):
        target = (ROOT / page).parent / path if path else ROOT / page
        assert target.exists(), path
        assert not anchor or anchor in anchors(target), anchor


def test_the_example_study_is_a_study(tmp_path):
    (text,) = re.findall(r"```yaml\n(# yaml-language-server.*?)```", README, re.DOTALL)
    (tmp_path / "study.yaml").write_text(text)
    assert (ROOT / text.split("$schema=")[1].split()[0]).is_file()
    assert read_study(tmp_path / "study.yaml").shots == [0, 5]


@pytest.mark.parametrize("page", EVERY_PAGE)
def test_named_keys_of_a_study_exist(page):
    text = (ROOT / page).read_text()
    known = {key for key, _ in options(json.loads(SCHEMA.read_text()))}
    sections = {key.split(".")[0] for key in known if "." in key and "NAME" not in key}
    assert {key for key in re.findall(r"`([a-z_]+\.[a-z_.]+)", text) if key.split(".")[0] in sections} <= known
    for key, value in re.findall(r"`([a-z_.]+): ((?:\{[^`]*\}|[a-z0-9_]+))`", text):
        first, *others = key.split(".")
        if first in known:
            values = yaml.safe_load(value)
            for name in reversed(others):
                values = {name: values}
            parse_study({first: values})


def test_the_pandas_examples_read_a_finished_study(tmp_path, monkeypatch, capsys):
    results = tmp_path / "results" / "SmolLM2-135M-Instruct"
    write_study(ResultsMatrix(results, ("piqa", "copa"), (0, 1), 1234, "spearman", ("random_1",)))
    examples = re.findall(r"```python\n(.*?)```", PAGES["results"], re.DOTALL)
    # Nine of ten answers are right: of two choices, the likelier one by a nat, with log p of -1.
    printed = [
        "5 questions are answered by the whole model", "ranking  aggregate    own  random_1", "0% pruned: 1.59 bits"
    ]  # fmt: skip
    monkeypatch.chdir(tmp_path)
    for example, text in zip(examples, printed, strict=True):
        exec(compile(example, "results.md", "exec"), {})
        assert text in capsys.readouterr().out


def test_every_statistical_rule_has_a_simulation_and_says_how_large():
    _, outcomes, *sections = PAGES["statistics"].split("\n## ")
    assert outcomes.startswith("Outcomes\n"), "definitions, which lm-eval witnesses"
    assert (ROOT / re.search(r"Compared: `(.*?)`", outcomes)[1]).is_file()
    assert len(sections) >= 10
    for section in sections:
        title, description = section.splitlines()[0], section[section.find("Simulated") :]
        tests = re.findall(r"`(tests/statistics/test_\w+\.py)`", description)
        assert tests, title
        assert all((ROOT / path).is_file() for path in tests), title
        sizes = [int(n) for n in re.findall(r"n = (\d+)", description)]
        assert sizes, title
        assert min(sizes) >= 1000, title
        criterion = re.search(r"Criterion: (.*)", description, re.DOTALL)
        assert criterion, title
        assert re.search(r"at most|at least|within|more than|as likely|unbiased", " ".join(criterion[1].split())), title


def test_the_speed_is_the_benchmarks():
    rows = json.loads((ROOT / "docs" / "benchmarks.json").read_text())
    what = "evaluation, float32 against HFLM in float32"
    chosen = [[row for row in rows if row["what"].startswith(what) and row["shots"] == k] for k in (0, 1, 5)]
    assert all(row["equal"] for part in chosen for row in part)
    means = [geometric_mean(row["ratio"] for row in part) for part in chosen]
    speed = f"An evaluation is {min(means):.2f} to {max(means):.2f} times as fast as lm-eval's"
    assert speed in " ".join(README.split())


def test_the_page_of_benchmarks_is_made_of_their_rows():
    rows = json.loads((ROOT / "docs" / "benchmarks.json").read_text())
    assert (ROOT / "docs" / "benchmarks.md").read_text() == page_of_benchmarks(rows)
