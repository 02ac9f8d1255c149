"""The explorer in a real browser: what it shows is what the artifacts say, and nothing leaves the page."""

import json
from urllib.parse import parse_qs, urlsplit

import numpy as np
import pytest

from lm_headroom.analysis.ranking import count_at, rank_heads
from lm_headroom.artifacts.ffn_importance import FFN_IMPORTANCE
from lm_headroom.artifacts.file_provenance import read_provenance
from lm_headroom.artifacts.store import provenance, read, write
from lm_headroom.cli import main
from lm_headroom.report import explorer
from lm_headroom.results.curves import band, study_curves
from lm_headroom.results.ffns import read_ffns
from lm_headroom.results.scores import read_tasks
from lm_headroom.study.judged import JudgedOutcome
from tests.support.small_study import leave_one_choice, small

LARGEST = 5_000_000
"""Bytes of the page."""
OPTIONS = ["--tasks", "piqa", "copa", "record", "--shots", "0", "5", "--seeds", "7", "--controls", "random_1"]
OPTIONS += ["--outcomes", "accuracy=2", "gold_probability=1"]


@pytest.fixture(scope="module")
def study(tmp_path_factory):
    return small(tmp_path_factory.mktemp("explorer"))


@pytest.fixture(scope="module")
def page_path(study):
    out = study.results / "explorer.html"
    assert main(["page", "explorer", "--results", str(study.results), *OPTIONS, "--out", str(out)]) == 0
    return out


@pytest.fixture
def opened(open_page, page_path):
    return lambda fragment="": open_page(page_path, fragment, "body[data-ready]")


def test_the_page_is_one_small_file_that_says_what_made_it(page_path):
    assert page_path.stat().st_size < LARGEST
    record = read_provenance(page_path)
    assert record["step"] == "report.explorer"
    assert "model/head_importance/copa/5shot-seed7.parquet" in record["inputs"]
    text = page_path.read_text()
    assert "src=" not in text.split('id="data"')[0]


def test_numbers_are_those_of_the_artifacts(study):
    judged = (JudgedOutcome("accuracy", 2), JudgedOutcome("gold_probability", 1))
    values = json.loads(json.dumps(explorer.data(study.changed(outcomes=judged), (7,))))
    cell = values["cells"]["5-shot, seed 7"]
    np.testing.assert_allclose(cell["heads"]["copa"]["own"], read_tasks(study, 5)["copa"].score.ravel(), rtol=1e-3)
    assert list(cell["heads"]) == ["piqa", "copa", "record", "aggregate"]
    lost = cell["ffns"]["copa"]["oracle, accuracy"]
    np.testing.assert_allclose(lost, 100 * read_ffns(study, 5).tasks["copa"], rtol=1e-3)
    curve = study_curves(study, 5, "aggregate")["copa"]
    curves = cell["curves"]["heads"]
    assert list(curves) == ["own", "aggregate"], "no map is by random order"
    shown = curves["aggregate"]["copa"]["accuracy"]
    np.testing.assert_allclose(shown["value"], 100 * curve.mean, rtol=1e-3)
    np.testing.assert_allclose([shown["low"], shown["high"]], 100 * np.array(band(curve)), rtol=1e-3)
    assert (values["layers"], values["heads"]) == (4, 5)


def test_large_studies_leave_other_criteria_out(study, monkeypatch):
    monkeypatch.setattr(explorer, "MOST_SCORES", 100)
    cell = explorer.data(study, (7,))["cells"]["0-shot, seed 7"]
    assert {tuple(columns) for columns in cell["heads"].values()} == {("own",)}


@pytest.mark.parametrize("percent", [0, 20, 65])
def test_the_slider_prunes_the_least_important_heads(study, opened, percent):
    page = opened("task=copa")
    page.locator("#percent").fill(str(percent))
    scores = read_tasks(study, 0)["copa"].score
    pruned = rank_heads(scores)[: count_at(percent, 20)]
    assert page.inner_text("#pruned") == f"{len(pruned)} of 20 heads pruned ({percent}%)."
    dimmed = page.evaluate("document.getElementById('map').data[1].z")
    assert {(i, j) for i, row in enumerate(dimmed) for j, x in enumerate(row) if x is not None} == set(pruned)
    curve = study_curves(study, 0)["copa"]
    level = max(i for i, measured in enumerate(curve.percent) if measured <= percent)
    low, high = (100 * limit[level] for limit in band(curve))
    assert page.inner_text("#value") == (
        f"At {curve.percent[level]}%: accuracy {100 * curve.mean[level]:.1f} % (95% interval {low:.1f} to {high:.1f})."
    )
    assert page.problems == []
    assert page.requested == [page.url.partition("#")[0]], "no request leaves the page"


def test_selects_change_what_is_shown(study, opened):
    page = opened()
    page.select_option("#cell", "5-shot, seed 7")
    page.select_option("#task", "record")
    page.select_option("#criterion", "magnitude")
    top = page.locator("#top tr").first.locator("td").all_inner_texts()
    scores = read_tasks(study, 5)["record"].others["magnitude"]
    layer, head = rank_heads(scores)[-1]
    assert top[:3] == ["20", str(layer + 1), str(head + 1)]
    assert float(top[3]) == pytest.approx(scores.max(), rel=0.01)
    assert "there is no curve" in page.inner_text("#note")
    page.select_option("#component", "ffns")
    page.select_option("#task", "copa")
    assert page.locator("#top tr").count() == 4
    assert page.locator("#top tr").first.locator("td").nth(2).inner_text() == "40"
    page.select_option("#outcome", "gold_probability")
    assert "gold probability" in page.inner_text("#value")
    assert page.problems == []


def test_an_address_brings_back_what_was_chosen_and_keys_move_the_mark(opened):
    page = opened("task=copa&cell=5-shot%2C+seed+7&percent=50&chosen=7&theme=dark")
    assert page.input_value("#task") == "copa"
    assert page.inner_text("#chosen").startswith("layer 2, head 3;")
    page.focus("#map")
    page.keyboard.press("ArrowUp")
    page.keyboard.press("ArrowLeft")
    assert page.inner_text("#chosen").startswith("layer 3, head 2;")
    chosen = parse_qs(urlsplit(page.url).fragment)
    assert (chosen["chosen"], chosen["percent"], chosen["theme"]) == (["11"], ["50"], ["dark"])
    page.get_by_role("button", name="Mark layer").first.click()
    assert page.locator("tr[aria-current]").count() == 1
    assert page.locator("#map").get_attribute("role") == "application", "screen readers pass its keys on"
    back = page.evaluate("getComputedStyle(document.body).backgroundColor")
    page.click("#theme")
    assert page.evaluate("getComputedStyle(document.body).backgroundColor") != back


def test_a_curve_is_of_the_ranking_that_the_map_shows(study, opened, tmp_path):
    judged = (JudgedOutcome("accuracy", 2), JudgedOutcome("gold_probability", 1))
    rankings = explorer.data(study.changed(outcomes=judged), (7,))["cells"]["0-shot, seed 7"]["rankings"]
    assert rankings["heads"] == {"token": "own"}
    assert rankings["ffns"]["oracle, accuracy"] == "own"
    assert rankings["ffns"]["oracle, gold probability"] == "oracle_gold_probability"
    page = opened("component=ffns&task=copa")
    assert page.inner_text("#value").startswith("At 20%: accuracy 90.0 %")
    page.select_option("#criterion", "oracle, gold probability")
    assert page.inner_text("#note").startswith(
        "Nothing was evaluated with FFNs pruned by oracle, gold probability on copa"
    )
    assert page.inner_text("#value") == ""
    page.select_option("#component", "heads")
    page.select_option("#criterion", "token")
    assert (page.inner_text("#note"), page.inner_text("#value")[:16]) == ("", "At 20%: accuracy")
    # FFNs are ranked by an outcome that the study is not judged by.
    copied = small(tmp_path)
    for path in (copied.path("ffn_importance", k, task=task) for k in copied.shots for task in copied.tasks):
        write(
            path,
            FFN_IMPORTANCE,
            read(path, FFN_IMPORTANCE).to_pydict(),
            provenance(path) | {"options": {"metric": "loss"}},
        )
    cell = explorer.data(copied, (7,))["cells"]["0-shot, seed 7"]
    assert next(iter(cell["ffns"]["copa"])) == "oracle, loss of the gold continuation"
    assert cell["rankings"]["ffns"]["oracle, loss of the gold continuation"] == "own"
    assert cell["rankings"]["ffns"]["oracle, accuracy"] == "oracle_accuracy"


def test_a_task_that_does_not_define_an_outcome_has_no_curve_of_it_and_the_others_have(tmp_path, open_page):
    copied = small(tmp_path)
    leave_one_choice(copied, "record")
    out = copied.results / "explorer.html"
    assert main(["page", "explorer", "--results", str(copied.results), *OPTIONS, "--out", str(out)]) == 0
    page = open_page(out, "task=record&outcome=gold_probability", "body[data-ready]")
    assert page.inner_text("#note") == "There is no curve: gold probability is not defined on record."
    page.select_option("#task", "copa")
    assert page.inner_text("#note") == ""
    assert "gold probability" in page.inner_text("#value")
    page.select_option("#task", "aggregate")
    assert page.inner_text("#note") == "The curve leaves out record, where gold probability is not defined."
    assert page.problems == []


def test_points_of_the_scatter_can_be_chosen_where_the_page_opened_without_it(opened):
    page = opened("component=ffns")
    page.select_option("#component", "heads")
    page.evaluate(
        "document.getElementById('scatter').emit('plotly_click', {points: [{curveNumber: 0, pointNumber: 7}]})"
    )
    assert page.inner_text("#chosen").startswith("layer 2, head 3;")


def test_it_prints(opened):
    assert opened().pdf()[:5] == b"%PDF-"
