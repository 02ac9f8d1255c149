"""The table of criteria and the figure of prunable shares, against other tables and values worked out by hand."""

from __future__ import annotations

import csv
import shutil
from dataclasses import replace

import numpy as np
import pytest

from lm_headroom.cli import main
from lm_headroom.errors import HeadroomError
from lm_headroom.report.figures import judged, prunable_share
from lm_headroom.report.findings.criteria import criterion_sentence
from lm_headroom.report.tables import criteria, headroom
from lm_headroom.results.chance import read_chance_levels
from lm_headroom.results.matrix import AVERAGE
from tests.support.small_study import DEFAULT, RIGHT, Values, small, write_study

MORE = ("example", "random_1", "reversed", "target", "token")
WORSE = [8, 4, 4, 4]
"""Right answers of ten at each level under the reversed order."""


@pytest.fixture(scope="module")
def controlled(tmp_path_factory):
    """Of heads, ``token`` is the own ranking, ``reversed`` loses 40 points at once, ``example`` what the own does."""
    study = replace(small(tmp_path_factory.mktemp("study"), repeat=40, selection="scoring"), controls=MORE)

    def right(k, component, task, ranking):
        known = RIGHT[k].get((component, task, ranking), DEFAULT)
        own = RIGHT[k].get((component, task, "own"), DEFAULT)
        if (component, ranking) == ("heads", "reversed"):
            return [own[0], *WORSE[1:]]
        if ranking == "target":
            return [own[0], *(value - 1 for value in own[1:])]
        return own if ranking in MORE else known

    return write_study(study, Values(right=right, repeat=40, selection="scoring"))


@pytest.fixture(scope="module")
def table(controlled):
    return list(criteria.rows(controlled))


def chosen(table, **values):
    return [row for row in table if all(getattr(row, name) == value for name, value in values.items())]


def test_the_own_rankings_share_is_that_of_the_table_of_headroom(controlled, table):
    expected = [row for row in headroom.rows(controlled, [7]) if row.ranking == "own"]
    assert len(expected) > 4
    for row in expected:
        share = row.heads if row.component == "heads" else row.ffns
        estimate = row.estimate_heads if row.component == "heads" else row.estimate_ffns
        levels = chosen(table, shots=row.shots, component=row.component, task=row.task, ranking="own")
        assert levels
        for other in levels:
            assert (other.verdict, other.share, other.estimate, other.below) == (
                row.verdict,
                share,
                estimate,
                row.below,
            )


def test_a_ranking_that_loses_as_much_is_no_other_and_one_that_loses_more_is(table):
    for row in chosen(table, component="heads", ranking="example"):
        assert (row.beyond_own, row.mean_beyond_own, row.p_holm) == (0, 0, 1)
    for task in ("average", "copa"):
        for row in chosen(table, component="heads", ranking="reversed", shots=0, task=task):
            assert row.beyond_own_low <= row.beyond_own <= row.beyond_own_high
            assert row.p < row.p_holm <= 0.05 or row.p == row.p_holm == 0


def test_differences_are_those_of_the_losses_on_the_same_questions(controlled, table):
    for row in chosen(table, component="heads", ranking="reversed"):
        (own,) = chosen(table, component="heads", ranking="own", shots=row.shots, task=row.task, percent=row.percent)
        assert row.beyond_own == pytest.approx(row.loss - own.loss)
    by_level = [row.beyond_own for row in chosen(table, component="heads", ranking="reversed", shots=0, task=AVERAGE)]
    assert chosen(table, ranking="reversed", component="heads", shots=0, task=AVERAGE)[0].mean_beyond_own == (
        pytest.approx(np.mean(by_level))
    )


def test_rankings_by_the_evaluation_questions_are_estimates_only(tmp_path):
    study = replace(small(tmp_path), controls=("reversed", "fisher"))
    write_study(study)
    rows = chosen(list(criteria.rows(study)), component="ffns")
    reasons = {name: {row.reason for row in rows if row.ranking == name} for name in ("own", "reversed", "fisher")}
    for name, by_name in reasons.items():
        is_selected = any("also ranked the FFNs" in reason for reason in by_name)
        assert is_selected == (name != "fisher"), by_name


@pytest.mark.parametrize("component", ["heads", "ffns"])
def test_rankings_by_the_evaluation_questions_are_neither_tested_nor_preferred(tmp_path, component):
    """Of heads the oracle, of FFNs the own ranking: the other one loses 40 points more, or less."""
    name = {"heads": "oracle_accuracy", "ffns": "fisher"}[component]
    study = replace(small(tmp_path, repeat=40), controls=(name,), custom_ffns=("learned",))

    def right(k, part, task, ranking):
        known = RIGHT[k].get((part, task, ranking), DEFAULT)
        return {"own": [8, 3, 3, 3], name: [8, 8, 8, 8]}.get(ranking, known)

    write_study(study, Values(right=right, repeat=40, selection="evaluation"))
    tested = [row for row in criteria.rows(study) if row.ranking == name and row.component == component]
    assert tested
    assert {(row.p, row.p_holm) for row in tested} == {(None, None)}
    assert list(criterion_sentence(study, 0, component, read_chance_levels(study))) == []


def test_the_command_writes_every_level_and_the_page_the_averages(controlled, table, tmp_path):
    options = ["--tasks", *controlled.tasks, "--shots", "0", "5", "--seed", "7", "--controls", *MORE]
    out = tmp_path / "criteria"
    assert main(["table", "criteria", "--results", str(controlled.results), *options, "--out", str(out)]) == 0
    written = list(csv.DictReader(out.with_suffix(".csv").open()))
    assert [row["ranking"] for row in written] == [row.ranking for row in table]
    page = out.with_suffix(".md").read_text()
    assert page.count("| reversed |") == 4 * len({row.task for row in table} - set(controlled.tasks))


def test_the_figure_draws_a_row_per_ranking_from_the_same_numbers(controlled, table):
    figure = prunable_share.draw.__wrapped__(controlled)
    for ax, ((component, shots), (group, compared)) in zip(
        figure.axes, prunable_share.data(controlled).items(), strict=True
    ):
        labels = [label.get_text() for label in ax.get_yticklabels()]
        assert labels == list(compared)
        assert labels[0] == "own"
        for place, name in enumerate(labels):
            (row, *_) = chosen(table, component=component, shots=shots, task=group, ranking=name)
            points = {
                float(line.get_xdata()[0])
                for line in ax.lines
                if list(line.get_ydata()) == [place] and line.get_marker() == "|"
            }
            assert points == ({row.estimate} if row.estimate is not None else set())


@pytest.mark.parametrize("name", ["trusted_second_order", "trusted_choosing_second_order"])
def test_titles_stay_within_the_figure_beside_long_names(controlled, monkeypatch, name):
    (_, compared), *_ = prunable_share.data(controlled).values()
    named = {name: compared["own"]}
    panels = {("heads", shots): ("average above chance", named) for shots in (0, 5)}
    monkeypatch.setattr(prunable_share, "data", lambda matrix: panels)
    figure = prunable_share.draw.__wrapped__(controlled)
    figure.draw_without_rendering()
    assert [ax.get_title() for ax in figure.axes] == [f"heads, {n}-shot\naverage above chance" for n in (0, 5)]
    for ax in figure.axes:
        assert ax.title.get_window_extent().x1 < figure.bbox.x1
        assert ax.get_window_extent().width > 1.2 * figure.dpi


def test_an_estimate_alone_is_a_dash_and_no_cross(tmp_path):
    """Of FFNs that the evaluation questions rank; heads of few questions are inconclusive."""
    figure = prunable_share.draw.__wrapped__(small(tmp_path, repeat=40))
    few = prunable_share.draw.__wrapped__(small(tmp_path / "few"))
    (ffns, heads) = ([line.get_marker() for line in ax.lines] for ax in (figure.axes[2], few.axes[0]))
    assert "|" in ffns
    assert "x" not in ffns
    assert "x" in heads
    (legend,) = figure.legends
    assert judged.COULD_SHOW_MORE in [text.get_text() for text in legend.get_texts()]


def test_the_finding_names_the_best_other_criterion_beside_the_own(controlled):
    chance = read_chance_levels(controlled)
    (finding,) = criterion_sentence(
        replace(controlled, controls=("reversed", "random_1", "target")), 0, "heads", chance
    )
    assert finding.startswith("- **No criterion loses significantly less than the own ranking of heads")
    assert "`target`, the only other criterion, loses" in finding


def finding_where(study, **levels):
    """The finding at 5 shots where some rankings have these right answers of ten at each level that prunes."""

    def right(k, component, task, ranking):
        whole = RIGHT[k].get((component, task, "own"), DEFAULT)[0]
        known = RIGHT[k].get((component, task, ranking), DEFAULT)
        return [whole, *levels[ranking]] if ranking in levels else known

    write_study(study, Values(right=right, repeat=40, selection="scoring"))
    (finding,) = criterion_sentence(study, 5, "heads", read_chance_levels(study))
    return finding


def mean_beyond_own(study, ranking):
    """What a ranking loses beyond the own one at 5 shots, on average over tasks and levels."""
    cell = (ranking, 5, "average")
    (mean,) = {row.mean_beyond_own for row in criteria.rows(study) if (row.ranking, row.shots, row.task) == cell}
    return mean


def test_a_learned_mask_has_a_finding_of_its_own_and_is_not_a_criterion(tmp_path):
    study = replace(small(tmp_path, repeat=40, selection="scoring"), controls=(), custom_heads=("learned",))
    finding = finding_where(study, own=[3, 3, 3], learned=[8, 8, 8])
    assert finding.startswith("- **A learned mask of heads with 5-shot prompts loses less than the own ranking.**")
    row = mean_beyond_own(study, "learned")
    assert f"it loses {100 * row:.1f} points (" in finding


@pytest.mark.parametrize(("right", "verdict"), [([8, 8, 7], "not significantly less"), ([3, 3, 3], "more")])
def test_a_learned_mask_that_is_not_shown_to_lose_less_is_not_called_so(tmp_path, right, verdict):
    study = replace(small(tmp_path, repeat=40, selection="scoring"), controls=(), custom_heads=("learned",))
    finding = finding_where(study, own=[8, 8, 7], learned=right)
    assert finding.startswith(
        f"- **A learned mask of heads with 5-shot prompts loses {verdict} than the own ranking.**"
    )


def test_what_even_layers_cost_has_a_finding_of_its_own_and_is_no_criterion(tmp_path):
    study = replace(small(tmp_path, repeat=40, selection="scoring"), controls=("own_even",))
    finding = finding_where(study, own=[8, 8, 8], own_even=[3, 3, 3])
    assert finding.startswith("- **Pruning as many heads in each layer costs more than the free choice with 5-shot")
    row = mean_beyond_own(study, "own_even")
    assert f"`own_even` loses {100 * row:.1f} points (" in finding
    assert not [row for row in criteria.rows(study) if (row.component, row.ranking) == ("ffns", "own_even")]


def test_no_finding_where_only_orders_were_evaluated(controlled):
    chance = read_chance_levels(controlled)
    matrix = replace(controlled, controls=("reversed", "random_1", "own_mean"))
    assert list(criterion_sentence(matrix, 0, "heads", chance)) == []


def test_the_finding_says_that_a_criterion_is_better_where_it_is(tmp_path):
    study = replace(small(tmp_path, repeat=40, selection="scoring"), controls=("fisher",))

    def right(k, component, task, ranking):
        known = RIGHT[k].get((component, task, ranking), DEFAULT)
        own = RIGHT[k].get((component, task, "own"), DEFAULT)
        return {"own": [own[0], 3, 3, 3], "fisher": [own[0], 8, 8, 8]}.get(ranking, known)

    write_study(study, Values(right=right, repeat=40, selection="scoring"))
    (finding,) = criterion_sentence(study, 5, "heads", read_chance_levels(study))
    assert finding.startswith("- **`fisher` loses less than the own ranking of heads with 5-shot prompts.**")


def test_other_outcomes_stand_at_the_end_with_a_best_criterion_of_their_own(tmp_path):
    study = replace(
        small(tmp_path, repeat=40, selection="scoring"), controls=("fisher", "example"), custom_heads=("learned",)
    )
    write_study(study, Values(repeat=40, selection="scoring"))
    other = study.changed(outcome="gold_probability")
    chance = read_chance_levels(study)
    learned, finding = criterion_sentence(study, 0, "heads", chance, [other])
    alone = list(criterion_sentence(study, 0, "heads", chance))
    expected = criteria.compare_average(other, 0, "heads", chance)[2]
    points = {
        name: f"{100 * expected[name].mean_beyond_own[0]:.1f} points (" for name in ("learned", "fisher", "example")
    }
    assert learned.startswith(alone[0])
    assert learned[len(alone[0]) :].startswith(f" By gold probability: {points['learned']}")
    assert finding.startswith(alone[1])
    best = min(("fisher", "example"), key=lambda name: expected[name].mean_beyond_own)
    assert finding[len(alone[1]) :].startswith(f" By gold probability, the best is `{best}`: {points[best]}")


def test_heads_alone_can_be_shown_where_no_curve_of_ffns_is(controlled, table, tmp_path):
    shutil.copytree(controlled.results.parent, tmp_path / "results")
    results = tmp_path / "results" / controlled.results.name
    shutil.rmtree(results / "pruned_eval" / "ffns")
    heads = replace(controlled, results=results, only=("heads",))
    assert list(criteria.rows(heads)) == chosen(table, component="heads")
    assert len(prunable_share.draw.__wrapped__(heads).axes) == len(heads.shots)
    with pytest.raises(HeadroomError, match="ffns"):
        list(criteria.rows(replace(heads, only=())))
