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
from lm_headroom.command_names import GROUPS
from lm_headroom.results.matrix import ResultsMatrix
from lm_headroom.study.documentation import SCHEMA, options
from lm_headroom.study.reading import parse_study, read_study
from tests.support.paths import ROOT, SNAKEMAKE
from tests.support.small_study import write_study

README = (ROOT / "README.md").read_text()
PAGES = {name: (ROOT / "docs" / f"{name}.md").read_text() for name in ("artifacts", "results", "statistics", "studies")}
EVERY_PAGE = ["README.md", *(f"docs/{path.name}" for path in sorted((ROOT / "docs").glob("*.md")))]
SMOLLM2 = ROOT / "docs" / "smollm2"
TEXT = " ".join((SMOLLM2 / "README.md").read_text().split())


def rule_graph():
    """Edges between rules of the default study with what it leaves out, without those that only draw and write."""
    more = ("shots=[0, 1]", "joint={heads: [5], ffns: [5]}", "transfer={tasks: [copa]}")
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


def test_the_quoted_findings_are_those_of_the_committed_runs():
    committed = {line for name in (".", "ffns") for line in (SMOLLM2 / name / "findings.md").read_text().splitlines()}
    lines = (SMOLLM2 / "README.md").read_text().splitlines()
    quoted = [line for line in lines if re.match(r"- (\d-shot|Between \d|Layer \d)", line)]
    assert len(quoted) >= 5
    assert set(quoted) <= committed


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


def cells_of(line):
    return [cell.strip() for cell in line.strip()[1:-1].split("|")]


def rows_of(name, **cells):
    """Rows of a table of the committed studies; ``cells`` are values of columns, spaces written as underscores."""
    head, _, *lines = [cells_of(line) for line in (SMOLLM2 / f"{name}.md").read_text().splitlines() if line[:1] == "|"]
    rows = [dict(zip(head, line, strict=True)) for line in lines]
    return [row for row in rows if all(row[column.replace("_", " ")] == value for column, value in cells.items())]


def with_limits(row, column, scale=1):
    """A value in points with its interval, as the README prints it."""
    return "{:.1f} points ({:.1f} to {:.1f})".format(*(scale * float(row[column + x]) for x in ("", " low", " high")))


def significant(row, column):
    return float(row[f"{column} low"]) * float(row[f"{column} high"]) > 0


def test_the_number_of_heads_is_that_of_the_committed_study():
    zero, five = (
        row["certified to go"]
        for row in rows_of("headroom", task="average")
        if row["component, ranking"] == "heads, own"
    )
    least, estimate, above = re.findall(r"(\d+) %", zero)
    whole, pruned, guessing = re.search(
        r"0-shot: average accuracy .*? is (\S+ ± \S+) with all heads and (\S+ ± \S+) with 70 % .*?guessing: (\S+)\)",
        (SMOLLM2 / "findings.md").read_text(),
    ).groups()
    power = re.search("power ([0-9.]+)", five)[1]
    assert (
        f"**At least {least}% of heads can be pruned** at 0 shots while losing no more than 2 points (point estimate "
        f"{estimate}%, upper bound {above}%, 95% confidence). Average accuracy is {whole} with all heads and {pruned} "
        f"with 70% pruned; random guessing scores {guessing}. At 5 shots the test is inconclusive: too few questions "
        f"(power {power} at the lowest pruning level)."
    ) in TEXT
    assert f"lose at most 2 points? | at least {least}% (point estimate {estimate}%, upper bound {above}%) |" in README


def test_the_number_of_ffns_is_that_of_the_committed_studies():
    powers = [
        re.search("too few questions: power ([0-9.]+)", row["certified to go"])[1]
        for row in rows_of("headroom", task="average")
        if row["component, ranking"] == "FFNs, own"
    ]
    (gain,) = rows_of("ffns/worth", component="ffns", task="average", ranking="own")
    assert not significant(gain, "worth")
    assert (
        f"**How many FFNs can be pruned is inconclusive**: too few questions (power {powers[0]} at 0 shots and "
        f"{powers[1]} at 5). In a second study, of three tasks, ranking FFNs by the oracle gains "
        f"{with_limits(gain, 'worth')} over random order, which is not significant."
    ) in TEXT
    assert f"FFNs? | inconclusive: too few questions (power {powers[0]}) |" in README


def test_the_gain_of_the_gradient_ranking_is_that_of_the_committed_study():
    zero, five = rows_of("worth", task="average", ranking="own")
    assert [significant(row, "worth") for row in (zero, five)] == [True, False]
    assert (
        f"**The gradient ranking is better than random order at 0 shots**, by {with_limits(zero, 'worth')} averaged "
        f"over 0 to 70% pruned. At 5 shots the gain is not significant, {with_limits(five, 'worth')}."
    ) in TEXT
    assert f"random order? | yes, by {with_limits(zero, 'worth')} over 0 to 70% pruned |" in README


def test_the_correlation_of_tasks_is_that_of_the_committed_study():
    zero, five = re.findall(
        r"importances of two tasks is (\S+) on average \((\S+ to \S+) over 10 pairs\).*?; (10 of 10) pairs agree more",
        (SMOLLM2 / "findings.md").read_text(),
    )
    assert (
        f"importances is {zero[0]} on average ({zero[1]}) at 0 shots and {five[0]} ({five[1]}) at 5. All 10 pairs "
        "agree beyond a shared layer-wise trend."
    ) in TEXT
    assert f"the same heads? | yes: the rank correlation of two tasks is {zero[0]} ({zero[1]}) |" in README


def test_the_effect_of_induction_heads_is_that_of_the_committed_study():
    (row,) = rows_of("induction_ablation", outcome="few-shot gain", task="average", selection="prefix_matching")
    extra = with_limits(row | {"extra": row["extra lost"]}, "extra", 100)
    assert not significant(row, "extra")
    assert (
        f"Without the strongest {row['percent']}% by prefix matching, the few-shot gain of "
        f"{100 * float(row['whole']):.1f} points falls by {with_limits(row, 'lost', 100)}, "
        f"{extra} more than without random heads."
    ) in TEXT
    assert f"than other heads? | not significantly: {extra}, at 5 shots |" in README


def test_the_agreement_of_gradient_and_oracle_is_a_summary_of_all_rows():
    def summary(measure, n_heads, n_rows):
        srcc = [float(row["SRCC"]) for row in rows_of("oracle", oracle=measure, components=n_heads)]
        assert len(srcc) == n_rows
        return f"{sum(srcc) / n_rows:.2f} ({min(srcc):.2f} to {max(srcc):.2f})"

    rise, change = "rise of the loss", "change of the loss, up or down"
    assert (
        f"it has an SRCC of {summary(change, '270', 4)} with the size of the change in loss and of "
        f"{summary(rise, '270', 4)} with the rise in loss, on average over both tasks and numbers of shots. On samples "
        f"of 30 heads of the other tasks these are {summary(change, '30', 6)} and {summary(rise, '30', 6)}."
    ) in TEXT


def test_the_readings_of_the_study_are_those_of_its_table_of_worth():
    worth = {(row["shots"], row["task"]): row for row in rows_of("worth", ranking="example")}
    lines = (SMOLLM2 / "README.md").read_text().splitlines()
    start = lines.index("| shots | average | hellaswag | piqa | arc_easy | winogrande | copa |")
    tasks = cells_of(lines[start])[1:]
    for shots, line in zip("05", lines[start + 2 : start + 4], strict=True):
        values = [[float(worth[shots, task][f"over own{limit}"]) for limit in ("", " low", " high")] for task in tasks]
        assert cells_of(line) == [f"{shots}-shot", *("{:+.1f} ({:+.1f} to {:+.1f})".format(*v) for v in values)]


def test_the_reversed_ranking_of_ffns_is_worth_what_the_page_says():
    (row,) = rows_of("ffns/worth", component="ffns", task="average", ranking="reversed")
    less, low, high = (-float(row[f"over own{limit}"]) for limit in ("", " high", " low"))
    assert f"worth {less:.1f} points less ({low:.1f} to {high:.1f})" in (SMOLLM2 / "README.md").read_text()


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
