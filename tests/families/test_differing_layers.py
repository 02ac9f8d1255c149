"""Models whose layers differ in the width of heads or in key-value heads, or read keys and values of earlier layers."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch

from lm_headroom.analysis.correlation import key_value_groups
from lm_headroom.engine.likelihood import Removal, likelihoods_of, log_likelihoods
from lm_headroom.engine.loading import gates_without, prepare
from lm_headroom.engine.packing import Batches
from lm_headroom.errors import HeadroomError
from lm_headroom.models import architectures
from lm_headroom.models.architecture import HeadLayout
from lm_headroom.models.sizes import model_sizes
from lm_headroom.planning.costs import Costs, Load
from lm_headroom.pruned.forms import choose_form
from lm_headroom.pruned.model import Remainder
from lm_headroom.scoring.gradient import contributions
from lm_headroom.scoring.knockout import knock_out_ffns, knock_out_heads
from lm_headroom.scoring.learned_mask import gate_gradient
from tests.families import loops
from tests.families.cases import CASES, Case
from tests.families.cases import model_of as model_of_case
from tests.families.documents import DOCUMENTS, SINGLE, TOKENS

SHARING = Case(
    "gemma4_text",
    CASES["gemma4_text"].settings
    | {"num_hidden_layers": 6, "num_kv_shared_layers": 3, "layer_types": ["sliding_attention", "full_attention"] * 3},
    groups=2,
    width=(8, 16, 8, 16, 8, 16),
)
"""Of six layers, the fourth and the sixth read the keys and values of the second, and the fifth those of the third."""
SOURCES = ((3, 1), (4, 2), (5, 1))
CLOSE = {"rtol": 1e-4, "atol": 1e-5}
SOME = [(1, 0), (1, 1), (3, 0), (3, 1), (5, 0), (2, 3)]
REMOVED = {
    "a group that another layer still reads": [(1, 0), (1, 1), (3, 0), (3, 1)],
    "a group that no layer reads": [*SOME, (5, 1)],
    "all heads of a layer whose keys are read": [(1, head) for head in range(4)],
    "that, and one group of its readers": [(1, head) for head in range(4)] + [(3, 2), (3, 3), (5, 2), (5, 3)],
    "all heads of a reader": [(4, head) for head in range(4)],
    "all heads of a layer and its reader": [(n, head) for n in (2, 4) for head in range(4)],
}


@pytest.fixture(scope="module")
def sharing() -> Any:
    return prepare(model_of_case(SHARING).requires_grad_(False), None)


def plain() -> Any:
    return model_of_case(SHARING).requires_grad_(False)


def test_the_layout_says_whose_keys_a_layer_reads(sharing):
    assert sharing.shape == HeadLayout(6, 4, 2, (8, 16, 8, 16, 8, 16), shared=SOURCES)
    assert [sharing.shape.restart_at(layer) for layer in range(6)] == [0, 1, 1, 1, 1, 1]
    with pytest.raises(HeadroomError, match="no pass can begin at layer 4, as keys are read of 1"):
        with sharing.interventions.restart(4, torch.zeros(1)):
            pass


@pytest.mark.parametrize("removed", REMOVED.values(), ids=REMOVED)
@torch.no_grad()
def test_removed_heads_equal_zeroed_columns(sharing, removed):
    values = log_likelihoods(sharing, Batches(DOCUMENTS, 200), gates_without(sharing.shape, removed))
    np.testing.assert_allclose(
        values, loops.log_likelihoods(loops.close(plain(), SHARING, removed), DOCUMENTS), **CLOSE
    )


@pytest.mark.parametrize("removed", REMOVED.values(), ids=REMOVED)
def test_parameters_removed_are_those_that_change_nothing(removed):
    """Those whose gradient is zero while the removed heads are multiplied by zero."""
    model = model_of_case(SHARING)
    for layer, projection in enumerate(loops.output_projections(model)):
        gates = torch.ones(4, SHARING.width_of(layer), dtype=torch.float64)
        gates[[head for at, head in removed if at == layer]] = 0
        projection.register_forward_pre_hook(lambda _, arguments, gates=gates: (arguments[0] * gates.flatten(),))
    logits = model(input_ids=torch.tensor([TOKENS]), use_cache=False).logits
    (
        logits * torch.randn(logits.shape, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
    ).sum().backward()
    # Norms without weights have none; a sum over rows that cancels is not exactly zero.
    parameters = [p for module in architectures.attention_modules(model).values() for p in module.parameters()]
    idle = sum(p.numel() if p.grad is None else int((p.grad == 0).sum()) for p in parameters)
    assert architectures.removed_parameters(model, removed) == idle


@torch.no_grad()
def test_passes_restart_where_keys_are_made(sharing):
    heads = [(layer, 1) for layer in range(6)]
    knockouts = knock_out_heads(sharing, Batches(DOCUMENTS, 200), heads)
    for head, ablated in zip(heads, knockouts.ablated, strict=True):
        expected = loops.log_likelihoods(loops.close(plain(), SHARING, [head]), DOCUMENTS)
        np.testing.assert_allclose(ablated.values, expected, **CLOSE)
    for layer, ablated in enumerate(knock_out_ffns(sharing, Batches(DOCUMENTS, 200)).ablated):
        expected = loops.log_likelihoods(loops.silence(plain(), [layer]), DOCUMENTS)
        np.testing.assert_allclose(ablated.values, expected, **CLOSE)
    removals = [Removal(ffns=(5, 4)[:n]) for n in range(3)]
    for removal, values in zip(removals, likelihoods_of(sharing, Batches(DOCUMENTS, 200), removals), strict=True):
        expected = loops.log_likelihoods(loops.silence(plain(), removal.ffns), DOCUMENTS)
        np.testing.assert_allclose(values.values, expected, **CLOSE)


def test_importance_equals_the_loops_and_gradients_of_gates_finite_differences(sharing):
    actual = contributions(sharing, SINGLE, 200)
    expected = loops.importance(plain(), SHARING, SINGLE)
    np.testing.assert_allclose(actual.absolute, expected, rtol=1e-3, atol=1e-5 * expected.max())
    _, gradient = gate_gradient(sharing, SINGLE[:1], 200, torch.ones(sharing.shape.grid, dtype=torch.float64))
    for layer, head in ((0, 0), (1, 2), (3, 1), (4, 3), (5, 0)):
        # Norms that compute in float32 leave few digits to a difference of two losses.
        losses = []
        for gate in (1 + 1e-2, 1 - 1e-2):
            model = plain()
            weight = loops.rows_first(loops.output_projections(model)[layer])
            weight[:, loops.part(SHARING, layer, head)] *= gate
            losses.append(float(loops.mean_loss(model, SINGLE[0].sequences[0])))
        assert float(gradient[layer, head]) == pytest.approx((losses[0] - losses[1]) / 2e-2, rel=0.02, abs=1e-4)


def test_layers_recomputed_in_the_backward_pass_give_the_same(sharing):
    gradients = []
    for checkpointing in (False, True):
        with torch.enable_grad(), sharing.interventions.capture(checkpointing) as heads:
            logits = sharing.model(input_ids=torch.tensor([TOKENS]), use_cache=False).logits
            gradients.append(torch.autograd.grad(logits[..., 7].sum(), [heads[n].probe for n in range(6)]))
    for whole, recomputed in zip(*gradients, strict=True):
        torch.testing.assert_close(recomputed, whole)
    assert all(gradient.abs().max() > 0 for gradient in gradients[0])


def test_exports_without_heads_are_refused_by_name():
    shape = architectures.head_layout(sharing_model := model_of_case(SHARING))
    with pytest.raises(
        HeadroomError, match=r"'gemma4_text' cannot be exported .* layer 3 reads the keys and values of"
    ):
        choose_form(sharing_model, Remainder.without(shape, heads=[(0, 0)]))
    dense = model_of_case(CASES["gemma4_text-dense"])
    with pytest.raises(HeadroomError, match="its layers differ in key-value heads or in the width of heads"):
        choose_form(dense, Remainder.without(architectures.head_layout(dense), heads=[(0, 0)]))
    with pytest.raises(HeadroomError, match="layers differ in how many heads share a key-value head"):
        _ = architectures.head_layout(dense).group


def test_costs_are_sums_over_layers():
    sizes = model_sizes(model_of_case(SHARING))
    assert (sizes["d_head"], sizes["restarts"]) == ([8, 16] * 3, [0, 1, 1, 1, 1, 1])
    load = Load(10, 50, 1)
    narrow, costs = (Costs.from_sizes(s, 4) for s in (sizes | {"d_head": 8}, sizes))
    assert costs.forward(load) - narrow.forward(load) == 4 * 50 * 4 * 3 * 8
    from_each_layer = Costs.from_sizes({key: size for key, size in sizes.items() if key != "restarts"}, 4)
    assert costs.oracle(load) > from_each_layer.oracle(load)


def test_groups_are_inside_those_of_all_layers():
    assert key_value_groups({"model": {"heads": 8, "key_value_heads": [4, 2, 4]}}) == 4
    assert key_value_groups({"model": {"heads": 8, "key_value_heads": [8, 2]}}) == 2
    assert key_value_groups({"model": {"heads": 8, "key_value_heads": [1, 8]}}) == 1
