"""Criteria from gradient-activation products, against loops straight from their formulas."""

import numpy as np
import pytest

from lm_headroom.analysis.criteria import depth, document_terms, signed_criteria
from lm_headroom.study.criteria import CRITERIA, FFNS, HEADS, criteria_of, criterion_columns

PRODUCTS = np.random.default_rng(0).normal(0.1, 1, (7, 3, 4))


@pytest.fixture(scope="module")
def scores():
    return signed_criteria(PRODUCTS)


def test_each_criterion_equals_its_loop(scores):
    n = len(PRODUCTS)
    for layer in range(3):
        for head in range(4):
            g = [PRODUCTS[d, layer, head] for d in range(n)]
            loops = {
                "example": sum(abs(x) for x in g) / n,
                "loss_rise": -sum(g) / n,
                "fisher": sum(x * x for x in g) / n,
                "second_order": sum(-x + x * x / 2 for x in g) / n,
            }
            for name, value in loops.items():
                assert scores[name][layer, head] == pytest.approx(value, abs=1e-12), name


@pytest.mark.parametrize(
    ("name", "signed"), [("trusted_loss_rise", "loss_rise"), ("trusted_second_order", "second_order")]
)
def test_signs_count_for_the_smaller_half_alone_and_all_others_come_after(scores, name, signed):
    is_small = scores["example"] <= np.median(scores["example"])
    assert is_small.sum() == 6
    np.testing.assert_array_equal(scores[name][is_small], scores[signed][is_small])
    assert scores[name][is_small].max() <= scores[name][~is_small].min()
    order = np.argsort(scores["example"][~is_small])
    np.testing.assert_array_equal(np.argsort(scores[name][~is_small]), order)


def test_pruned_components_have_no_say_in_what_is_small(scores):
    pruned = np.concatenate([PRODUCTS, np.zeros((7, 6, 4))], axis=1)
    for name, expected in scores.items():
        np.testing.assert_array_equal(signed_criteria(pruned)[name][:3], expected, err_msg=name)


@pytest.mark.parametrize("name", [name for name in signed_criteria(PRODUCTS) if name != "trusted_second_order"])
def test_terms_of_documents_average_to_the_score(name, scores):
    np.testing.assert_allclose(document_terms(PRODUCTS, name).mean(axis=0), scores[name], rtol=0, atol=1e-14)


def test_terms_of_the_trusted_second_order_leave_out_one_constant(scores):
    left_out = scores["trusted_second_order"] - document_terms(PRODUCTS, "trusted_second_order").mean(axis=0)
    is_small = scores["example"] <= np.median(scores["example"])
    np.testing.assert_allclose(left_out[is_small], 0, atol=1e-14)
    np.testing.assert_allclose(left_out[~is_small], left_out[~is_small][0], atol=1e-14)


def test_all_products_alike_are_all_small():
    scores = signed_criteria(np.full((2, 2, 2), 3.0))
    assert (scores["trusted_second_order"] == 1.5).all()


def test_depth_prunes_upper_layers_first():
    assert depth(3, 2).tolist() == [[2, 2], [1, 1], [0, 0]]


def test_ffns_have_their_own_criteria():
    of_attention = {"attention_entropy", "hies", "bos_sink"}
    assert {"target", "magnitude", "output_norm"} | of_attention == set(criteria_of(HEADS)) - set(criteria_of(FFNS))
    assert set(criteria_of(FFNS)) - set(criterion_columns(FFNS)) == {
        name for name, criterion in CRITERIA.items() if criterion.knockout
    }
