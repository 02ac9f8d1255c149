"""The reference table, and tables as files."""

import csv
from dataclasses import replace

import pytest

from lm_headroom.cli import main
from lm_headroom.report.pages import write_table
from lm_headroom.report.tables import table1
from lm_headroom.report.tables.reference import rows
from lm_headroom.results.matrix import ResultsMatrix
from tests.support.small_study import Values, small, write_study


@pytest.fixture
def study(tmp_path):
    return small(tmp_path)


def table(study):
    return {row.quantity: row for row in rows(study)}


def test_each_number_of_the_paper_is_there_once(study):
    all_rows = rows(study)
    assert len({row.quantity for row in all_rows}) == len(all_rows) == 31
    for value in (
        "21.7 B",
        "43.4 B",
        "15.7 B",
        "8.5 B",
        "0.39",
        "0.37",
        "0.41",
        "71%",
        "76%",
        "31 of 64",
        "41 of 64",
    ):
        assert [row.paper for row in all_rows].count(value) == 1, value
    assert all(row.paper and row.note for row in all_rows)


def test_ours_is_computed(study):
    quantities = table(study)
    assert quantities["heads: layers x heads per layer"].ours == "4 x 5 = 20"
    assert quantities["attention parameters"].ours == "20.0 M"
    assert quantities["FFN parameters"].ours == "20.0 M"
    assert quantities["heads prunable with minimal loss"].ours == "0-shot: inconclusive; 5-shot: inconclusive"
    assert quantities["parameters of these heads"].ours == "0-shot: inconclusive; 5-shot: inconclusive"
    # 8 + 9 + 8 right of 30 without pruning, 2 + 3 + 2 with.
    assert quantities["points lost with 70% of heads and 20% of FFNs, 0-shot"].ours.startswith("60.0 ± ")
    assert quantities["largest loss from one FFN in points, any task"].ours.startswith(
        "0-shot: 40.0 ± 16.3 (layer 3 on copa)"
    )
    assert "argsort statistic" in quantities["correlation of record and copa, 0-shot"].ours
    assert quantities["heads with high prefix matching scores from layer"].ours == "3 of 4"
    assert quantities["heads with high copying scores from layer"].ours == "4 of 4"


def test_shares_are_tested_where_there_are_questions_enough(tmp_path):
    quantities = table(small(tmp_path, repeat=40, selection="scoring"))
    assert quantities["heads prunable with minimal loss"].ours == (
        "0-shot: up to 20% (point estimate 20%, upper bound 50%); "
        "5-shot: up to 20% (point estimate 20%, upper bound 50%)"
    )
    assert quantities["parameters of these heads"].ours == "0-shot: 4.0 M; 5-shot: 4.0 M"
    assert quantities["FFNs prunable on average, 0-shot"].ours == "up to 0% (point estimate 0%, upper bound 20%)"
    assert quantities["FFNs prunable, piqa"].ours.startswith("0-shot: up to 0%")


def test_ffns_ranked_by_the_evaluation_questions_have_an_estimate(tmp_path):
    quantities = table(small(tmp_path, repeat=40))
    assert quantities["heads prunable with minimal loss"].ours.startswith("0-shot: up to 20%")
    assert quantities["FFNs prunable with minimal loss"].ours == "0-shot: estimate only, 0%; 5-shot: estimate only, 20%"
    assert quantities["parameters of these FFNs"].ours == "0-shot: estimate only; 5-shot: estimate only"
    assert quantities["FFNs prunable on average, 0-shot"].ours == "estimate only, 0%"
    assert quantities["FFNs prunable, piqa"].ours.startswith("0-shot: estimate only, 0%")


@pytest.mark.parametrize(
    ("quantity", "reason"),
    [
        ("FFNs prunable on average, 1-shot", "the study has no 1-shot"),
        ("FFNs prunable, rte", "rte not in the study"),
        ("points lost with 70% of heads and 10% of FFNs, 1-shot", "the study has no 1-shot"),
        ("points lost with 60% of heads and 20% of FFNs, 5-shot", "the cell is not in the study's joint grid"),
        ("largest loss from one FFN in points, wsc", "wsc not in the study"),
        ("correlation between 0 and 1 shots, mean over tasks (Table 1)", "lacks one of 0 and 1 shots"),
        ("overlap of the top 30% heads of record and winogrande, 0-shot", "winogrande not in the study"),
    ],
)
def test_what_the_study_lacks_is_empty_with_a_reason(study, quantity, reason):
    row = table(study)[quantity]
    assert row.ours == ""
    assert reason in row.note


def test_a_study_without_joint_grid_or_second_shot(tmp_path):
    study = write_study(ResultsMatrix(tmp_path / "results" / "m", ("piqa",), (0,), 3), Values(selection="scoring"))
    quantities = table(study)
    assert (
        "prunes no heads and FFNs together" in quantities["points lost with 70% of heads and 20% of FFNs, 0-shot"].note
    )
    assert quantities["correlation between 0 and 5 shots, mean over tasks (Table 1)"].ours == ""
    assert quantities["FFNs prunable, piqa"].ours.startswith("0-shot: up to 0%")


def test_one_task_has_no_variance_between_shots(tmp_path):
    study = write_study(ResultsMatrix(tmp_path / "results" / "m", ("piqa",), (0, 1), 3))
    row = table(study)["correlation between 0 and 1 shots, variance over tasks (Table 1)"]
    assert row.ours == "argsort statistic not defined; SRCC not defined"
    table1.write_table(study.path("cross_shot"), tmp_path / "t")
    assert not [text for text in ((tmp_path / f"t.{suffix}").read_text() for suffix in ("csv", "md")) if "nan" in text]


def test_no_level_prunes_an_ffn(tmp_path):
    study = write_study(ResultsMatrix(tmp_path / "results" / "m", ("piqa",), (0,), 3), Values(levels=(0, 5, 10, 15)))
    assert table(study)["FFN parameters"].ours == ""
    assert "no level of the study prunes one" in table(study)["FFN parameters"].note


def test_the_command_writes_three_files(study, tmp_path):
    out = tmp_path / "reference"
    options = ["--tasks", "piqa", "copa", "record", "--shots", "0", "5", "--seed", "7", "--joint"]
    assert main(["table", "reference", "--results", str(study.results), *options, "--out", str(out)]) == 0
    lines = list(csv.reader((tmp_path / "reference.csv").open()))
    assert lines[0] == ["quantity", "paper (OPT-66B)", "ours (model)", "note"]
    assert [tuple(line) for line in lines[1:]] == rows(replace(study))
    page = (tmp_path / "reference.html").read_text()
    assert page.count("<tr>") == len(lines)
    assert "The paper prints no accuracy" in page


def test_a_table_as_files(tmp_path):
    rows = [(1, 0.12345), ("x|y", float("nan"))]
    write_table(tmp_path / "t", "A <b> title", ("a", "b|c"), rows, {"kind": "table"}, ["A *note*."])
    assert (tmp_path / "t.csv").read_text() == "a,b|c\n1,0.12345\nx|y,\n"
    assert "| 1 | 0.123 |\n| x\\|y |  |\n\nA *note*.\n" in (tmp_path / "t.md").read_text()
    page = (tmp_path / "t.html").read_text()
    assert "<title>A &lt;b&gt; title</title>" in page
    assert "<td>x|y</td>" in page
    assert "<em>note</em>" in page
