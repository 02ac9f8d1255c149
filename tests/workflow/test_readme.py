"""The README is true: its rule graph, its artifact table, its targets, its findings."""

import json
import re
import subprocess
import sys

import pytest

from benchmarks.contest import geometric_mean
from lm_headroom.artifacts.catalogue import SCHEMAS
from tests.conftest import ROOT

README = (ROOT / "README.md").read_text()


def rule_graph():
    """Edges between rules of the embedded study, without those that only draw and write."""
    done = subprocess.run(
        [sys.executable, "-m", "snakemake", "--rulegraph", "mermaid-js"], cwd=ROOT, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    names = dict(re.findall(r"(id\d+)\[(\w+)\]", done.stdout))
    edges = {(names[a], names[b]) for a, b in re.findall(r"(id\d+) --> (id\d+)", done.stdout)}
    return {(a, b) for a, b in edges if b != "all" and not b.startswith(("draw_", "write_"))}


def test_the_rule_graph_is_snakemakes():
    graph = re.search(r"```mermaid\n(.*?)```", README, re.DOTALL)[1]
    assert set(re.findall(r"(\w+) --> (\w+)", graph)) == rule_graph()


def test_the_artifact_table_is_the_schemas():
    for kind in SCHEMAS:
        columns = ", ".join(column.name for column in kind.columns)
        assert f"| `{kind.place}` |" in README, kind.name
        assert f"| {columns} |" in README, kind.name


def test_named_make_targets_exist():
    targets = set(re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text(), re.M))
    named = set(re.findall(r"(?:^|`)make ([a-z-]+)", README, re.M))
    assert {"demo", "test", "help"} <= named <= targets


@pytest.mark.parametrize("page", ["README.md", "docs/smollm2/README.md"])
def test_the_findings_are_those_of_the_committed_runs(page):
    folder = ROOT / "docs" / "smollm2"
    committed = {line for name in (".", "ffns") for line in (folder / name / "findings.md").read_text().splitlines()}
    lines = (ROOT / page).read_text().splitlines()
    quoted = [line for line in lines if re.match(r"- (\d-shot|Between \d|Layer \d)", line)]
    assert len(quoted) >= 5
    assert set(quoted) <= committed


def test_every_statistical_rule_has_a_simulation_and_says_how_large():
    sections = (ROOT / "docs" / "statistics.md").read_text().split("\n## ")[1:]
    assert len(sections) >= 10
    for section in sections:
        title, said = section.splitlines()[0], section[section.find("Simulated") :]
        tests = re.findall(r"`(tests/unit/test_simulations_\w+\.py)`", said)
        assert tests, title
        assert all((ROOT / path).is_file() for path in tests), title
        sizes = [int(n) for n in re.findall(r"n = (\d+)", said)]
        assert sizes, title
        assert min(sizes) >= 1000, title
        criterion = re.search(r"Criterion: (.*)", said, re.DOTALL)
        assert criterion, title
        assert re.search(r"at most|at least|within|more than|as likely|unbiased", " ".join(criterion[1].split())), title


def cells_of(line):
    return [cell.strip() for cell in line.strip("|\n ").split("|")]


def test_the_readings_of_the_study_are_those_of_its_table_of_worth():
    folder = ROOT / "docs" / "smollm2"
    head, *rows = [cells_of(line) for line in (folder / "worth.md").read_text().splitlines() if line.startswith("| ")]
    worth = {(row["shots"], row["task"]): row for row in (dict(zip(head, r, strict=True)) for r in rows)
             if row["ranking"] == "example"}  # fmt: skip
    lines = (folder / "README.md").read_text().splitlines()
    start = lines.index("| shots | average | hellaswag | piqa | arc_easy | winogrande | copa |")
    tasks = cells_of(lines[start])[1:]
    for shots, line in zip("05", lines[start + 2 : start + 4], strict=True):
        values = [[float(worth[shots, task][f"over own{limit}"]) for limit in ("", " low", " high")] for task in tasks]
        assert cells_of(line) == [f"{shots}-shot", *("{:+.1f} ({:+.1f} to {:+.1f})".format(*v) for v in values)]


def test_the_gradient_against_the_oracle_is_a_summary_of_all_rows():
    page = (ROOT / "docs/smollm2/oracle.md").read_text()
    lines = [[cell.strip() for cell in line[1:-1].split("|")] for line in page.splitlines() if line[:1] == "|"]
    rows = [dict(zip(lines[0], line, strict=True)) for line in lines[2:]]
    text = " ".join(README.split())

    def summary(measure, n_heads, n_rows):
        found = [float(r["SRCC"]) for r in rows if (r["oracle"], r["components"]) == (measure, str(n_heads))]
        assert len(found) == n_rows
        return f"{sum(found) / n_rows:.2f}", f"({min(found):.2f} to {max(found):.2f})"

    rise, change = "rise of the loss", "change of the loss, up or down"
    (mean, limits), (other, others) = summary(rise, 270, 4), summary(change, 270, 4)
    assert f"an SRCC of {mean} on average over the four {limits}, and" in text
    assert f"up or down, one of {other} {others}: they say" in text
    (mean, limits), (other, others) = summary(rise, 30, 6), summary(change, 30, 6)
    assert f"samples of 30 heads of three other tasks it is {mean} {limits} and {other} {others}." in text


def test_the_reversed_ranking_of_ffns_is_worth_what_the_page_says():
    folder = ROOT / "docs" / "smollm2"
    lines = [cells_of(line) for line in (folder / "ffns" / "worth.md").read_text().splitlines() if line[:1] == "|"]
    rows = [dict(zip(lines[0], line, strict=True)) for line in lines[2:]]
    (row,) = [r for r in rows if (r["component"], r["task"], r["ranking"]) == ("ffns", "average", "reversed")]
    less, low, high = (-float(row[f"over own{limit}"]) for limit in ("", " high", " low"))
    assert f"worth {less:.1f} points less ({low:.1f} to {high:.1f})" in (folder / "README.md").read_text()


@pytest.mark.parametrize(
    ("row", "measure", "what"),
    [
        ("evaluation, against", "a", "evaluation, float32 against HFLM in float32"),
        ("evaluation in bfloat16, against", "a", "evaluation, bfloat16 against HFLM in float32"),
        ("FFN oracle, against", "b", "FFN oracle"),
        ("head importance, against", "c", "head importance"),
        ("all jobs of a pair", "e", "all jobs of a pair"),
    ],
)
def test_the_speeds_are_the_benchmarks(row, measure, what):
    rows = json.loads((ROOT / "docs" / "benchmarks.json").read_text())
    cells = next(line for line in README.splitlines() if line.startswith(f"| {row}")).split("|")[2:-1]
    for shots, cell in zip((0, 1, 5), cells, strict=True):
        found = [r for r in rows if (r["measure"], r["shots"]) == (measure, shots) and r["what"].startswith(what)]
        assert all(r["equal"] for r in found)
        assert cell.strip() == (f"{geometric_mean(r['ratio'] for r in found):.2f}" if found else "")


def test_missed_goals_are_said_to_be():
    page = (ROOT / "docs" / "benchmarks.md").read_text()
    missed = re.findall(r"^\| .*\| ([\d.]+) \| ([\d.]+) \| \*\*no\*\* \| ([\d.]+) \|$", page, re.MULTILINE)
    assert f"{len(missed)} goals at 5 shots are missed by less than 5%" in README
    for asked, found, count in missed:
        assert float(asked) * 0.95 < float(found) < float(asked) < float(count)
