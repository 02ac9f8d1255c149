"""Outcomes against plain loops, and which documents define which."""

import numpy as np
import pytest

from lm_headroom.analysis.outcomes import AMONG_CHOICES, OUTCOMES, answer_key_of, explain_undefined
from lm_headroom.study.choices import OUTCOMES as NAMES
from tests.support.looped_outcomes import FROM_LIKELIHOODS, question_scores

ONE_RIGHT, TWO_RIGHT = [False, True, False], [True, False, True]


def row(*documents, questions=None):
    """Columns of an evaluation, from the right choices and log-likelihoods of each document."""
    gold, log_likelihoods = ([list(part) for part in parts] for parts in zip(*documents, strict=True))
    sizes = [range(2, 2 + len(choices)) for choices in gold]
    return {
        "log_likelihoods": log_likelihoods,
        "gold": gold,
        "n_bytes": [[3 * size for size in of_one] for of_one in sizes],
        "n_tokens": [list(of_one) for of_one in sizes],
        "document_question": questions or list(range(len(documents))),
    }


def scores(outcome, columns, dtype=float):
    values = np.concatenate([np.array(of_one, dtype) for of_one in columns["log_likelihoods"]])
    return answer_key_of(columns).scores(outcome, values)


CASES = {
    "one right": row((ONE_RIGHT, [-3.0, -1.5, -2.0])),
    "several right": row((TWO_RIGHT, [-3.0, -1.5, -2.0]), (ONE_RIGHT, [-9.0, -8.0, -7.0])),
    "questions of several documents": row(
        (ONE_RIGHT, [-3.0, -1.5, -2.0]), ([True, False], [-1.0, -0.5]), (TWO_RIGHT, [-3.0, -1.5, -2.0]),
        questions=[7, 3, 7],
    ),
    "equal choices": row((ONE_RIGHT, [-2.0, -2.0, -2.0])),
    "nothing underflows": row((ONE_RIGHT, [-3000.0, -3001.0, -2999.0]), (TWO_RIGHT, [-8e4, -9e4, -7e4])),
}  # fmt: skip


@pytest.mark.parametrize("outcome", FROM_LIKELIHOODS)
@pytest.mark.parametrize("case", CASES)
def test_scores_are_those_of_loops(outcome, case):
    np.testing.assert_allclose(scores(outcome, CASES[case]), question_scores(outcome, CASES[case]), rtol=1e-12)


def test_scores_by_hand():
    columns = row((ONE_RIGHT, np.log([0.1, 0.3, 0.2])))
    # The choices have 6, 9 and 12 bytes, 2, 3 and 4 tokens.
    assert scores("gold_probability", columns) == pytest.approx(0.5)
    assert scores("gold_bits_per_byte", columns) == pytest.approx(np.log2(0.3) / 9)
    assert scores("loss", columns) == pytest.approx(np.log(0.3) / 3)
    assert scores("margin", columns) == pytest.approx(np.log(0.3) / 9 - np.log(0.2) / 12)


@pytest.mark.parametrize("outcome", FROM_LIKELIHOODS)
def test_rounding_to_float32_changes_scores_by_no_more(outcome):
    rng = np.random.default_rng(0)
    columns = row(*[(ONE_RIGHT, rng.normal(-40, 12, 3)) for _ in range(200)])
    exact, stored = (scores(outcome, columns, dtype) for dtype in (float, np.float32))
    # Half a unit in the last place of 100 nats is 4e-6, and a probability's error is a quarter of their sum at most.
    np.testing.assert_allclose(stored, exact, rtol=1e-6, atol=8e-6)
    assert (stored != exact).any()


@pytest.mark.parametrize(
    ("documents", "undefined"),
    [
        ([ONE_RIGHT, TWO_RIGHT], set()),
        ([ONE_RIGHT, [True]], set(AMONG_CHOICES)),
        ([ONE_RIGHT, [True, True]], {"margin"}),
        ([ONE_RIGHT, [False, False]], {*FROM_LIKELIHOODS}),
    ],
    ids=["right and wrong ones", "one alone", "all right", "none right"],
)
def test_what_documents_define(documents, undefined):
    key = answer_key_of(row(*[(gold, [-1.0] * len(gold)) for gold in documents]))
    assert {outcome for outcome in FROM_LIKELIHOODS if not key.defines(outcome)} == undefined


def test_a_document_whose_choices_are_all_right_has_probability_one():
    assert scores("gold_probability", row(([True, True], [-1.0, -2.0]))).tolist() == [1.0]


def test_the_table_has_every_outcome_and_says_why_one_is_undefined():
    assert set(OUTCOMES) == set(NAMES)
    for outcome in NAMES:
        assert OUTCOMES[outcome].title in explain_undefined(outcome)
