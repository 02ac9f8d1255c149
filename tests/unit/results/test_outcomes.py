"""Which tasks of a study define its outcome, where a task has one continuation alone."""

from dataclasses import replace

import pytest

from lm_headroom.artifacts.ffn_importance import FFN_IMPORTANCE
from lm_headroom.artifacts.induction_ablation import INDUCTION_ABLATION
from lm_headroom.artifacts.pruned_eval import JOINT_EVAL, PRUNED_EVAL
from lm_headroom.artifacts.store import reads
from lm_headroom.results.outcomes import restrict
from tests.support.ablated_study import ablated
from tests.support.small_study import leave_one_choice, small


@pytest.fixture
def study(tmp_path):
    """Of four tasks, piqa and the unseen mathqa have one choice per document."""
    study = ablated(small(tmp_path))
    leave_one_choice(study, "piqa", "mathqa")
    return replace(study, outcome="gold_probability")


def test_tasks_that_do_not_define_the_outcome_are_left_out_of_every_list(study):
    restricted, left_out = restrict(study)
    assert left_out == ("piqa", "mathqa")
    assert (restricted.tasks, restricted.unseen) == (("copa", "record"), ())
    assert restricted.transfer == restricted.ablated == ("copa",)
    assert restricted.outcome == "gold_probability"


@pytest.mark.parametrize("kind", [PRUNED_EVAL, JOINT_EVAL, FFN_IMPORTANCE])
@pytest.mark.parametrize(
    ("outcome", "expected"),
    [
        ("gold_probability", {"piqa"}),
        ("margin", {"piqa"}),
        ("gold_bits_per_byte", set()),
        ("loss", set()),
        ("accuracy_norm", {"piqa", "copa", "record"}),
    ],
)
def test_every_artifact_with_answers_says_what_its_task_defines(study, kind, outcome, expected):
    # The unseen task has curves of heads alone.
    unseen = {"mathqa"} if expected and kind is PRUNED_EVAL else set()
    assert set(restrict(study.changed(outcome=outcome), kind)[1]) == expected | unseen


def test_only_the_tasks_in_question_are_read(study):
    with reads() as read:
        restricted, left_out = restrict(study, INDUCTION_ABLATION)
    assert (restricted.ablated, left_out) == (("copa",), ("piqa",))
    assert set(read) == {study.path("induction_ablation", 0, task=task) for task in ("piqa", "copa")}


def test_of_accuracy_nothing_is_read(study):
    by_accuracy = study.changed(outcome="accuracy")
    with reads() as read:
        assert restrict(by_accuracy) == (by_accuracy, ())
    assert read == {}
