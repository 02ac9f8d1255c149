"""Experts of every family that is served: leaving some out against stock models that never had them, their gradients
against finite differences, and removing them one at a time against whole passes."""

from __future__ import annotations

import copy
import re
from typing import Any

import numpy as np
import pytest
import torch

from lm_headroom.analysis.metrics import Choices
from lm_headroom.engine.likelihood import likelihoods
from lm_headroom.engine.loading import LoadedModel, prepare
from lm_headroom.engine.packing import Batches
from lm_headroom.errors import HeadroomError
from lm_headroom.models import architectures
from lm_headroom.models.experts import expert_blocks, expert_grid, expert_parameters
from lm_headroom.scoring.expert_gradient import expert_products, score_experts_by
from lm_headroom.scoring.gradient import criterion_scores
from lm_headroom.scoring.knockout import component_losses, knock_out_experts
from tests.families.documents import IN_FEW_TOKENS as DOCUMENTS
from tests.families.documents import SINGLE_IN_FEW_TOKENS as SINGLE
from tests.families.loops import log_likelihoods, mean_loss
from tests.support.model_types import tiny_of_type
from tests.support.tiny_models import tiny_model

FAMILIES = (
    "mixtral", "qwen2_moe", "qwen3_moe", "olmoe", "gpt_oss", "deepseek_v3", "glm4_moe", "ernie4_5_moe", "afmoe",
    "phimoe", "minimax", "minimax_m2", "jamba", "lfm2_moe", "qwen3_next", "cohere2_moe", "hunyuan_v1_moe", "flex_olmo",
    "granitemoe", "exaone_moe", "bailing_hybrid",
)  # fmt: skip
"""All kinds of routers: softmax before and after the choice, sigmoid, biases of the choice, shared experts, hybrids."""
NUMBER_KEYS = ("num_local_experts", "num_experts", "n_routed_experts", "moe_num_experts")


SOME = ("olmoe", "deepseek_v3", "lfm2_moe")
"""Of these, what no router's kind changes is tested, too."""


@pytest.fixture(scope="module", params=FAMILIES)
def family(request: pytest.FixtureRequest) -> str:
    return request.param


@pytest.fixture(scope="module")
def loaded(family: str) -> LoadedModel:
    return prepare(tiny_of_type(family).requires_grad_(False), None)


@pytest.fixture
def one_of_some(family: str, loaded: LoadedModel) -> LoadedModel:
    if family not in SOME:
        pytest.skip("no router's kind changes this")
    return loaded


def smaller(model: Any, pruned: dict[int, int]) -> Any:
    """A stock model with one expert fewer in each layer that has any: without the one that ``pruned`` names."""
    config = copy.deepcopy(model.config)
    text = architectures.text_config(config) if hasattr(config, "text_config") else config
    block = next(iter(expert_blocks(model).values()))
    (key,) = [key for key in NUMBER_KEYS if key in text.to_dict() and key not in text.attribute_map]
    setattr(text, key, block.number - 1)
    stock = type(model)(config).to(model.dtype).eval()
    weights = {}
    for name, value in model.state_dict().items():
        layer = re.search(r"layers\.(\d+)\.", name)
        is_routed = re.search(r"\.(experts|gate|router|expert_bias|e_score|moe_statics)", name) is not None
        routed = layer and int(layer[1]) in pruned and is_routed
        axis = next((a for a, size in enumerate(value.shape) if size == block.number), None)
        if routed and axis is not None and value.shape != stock.state_dict()[name].shape:
            kept = [e for e in range(block.number) if e != pruned[int(layer[1])]]
            value = value.index_select(axis, torch.tensor(kept))
        weights[name] = value
    stock.load_state_dict(weights)
    stock.set_experts_implementation("eager")
    return stock


def test_pruned_experts_are_as_if_the_model_never_had_them(loaded, family):
    layers, number, _ = expert_grid(loaded.model)
    pruned = {layer: (layer + 1) % number for layer in layers}
    plain = smaller(tiny_of_type(family), pruned)
    values = likelihoods(loaded, Batches(DOCUMENTS, 200), without_experts=list(pruned.items())).values
    np.testing.assert_allclose(values, log_likelihoods(plain, DOCUMENTS), rtol=1e-4, atol=1e-5)
    removed = sum(p.numel() for p in loaded.model.parameters()) - sum(p.numel() for p in plain.parameters())
    assert expert_parameters(loaded.model, list(pruned.items())) == removed
    # What was left out comes back.
    whole = likelihoods(loaded, Batches(DOCUMENTS, 200)).values
    np.testing.assert_allclose(whole, log_likelihoods(tiny_of_type(family), DOCUMENTS), rtol=1e-4, atol=1e-5)
    assert not np.allclose(whole, values, atol=1e-3)


def test_products_are_derivatives_by_a_gate_on_the_experts_output(loaded, family):
    check_products(loaded, tiny_of_type(family))


def check_products(loaded: LoadedModel, plain: Any) -> None:
    """Hold the products against finite differences of the stock model."""
    products = expert_products(loaded, SINGLE, 200)
    plain, eps = plain.requires_grad_(False), 2e-3
    rng = np.random.default_rng(1)
    for document in (0, 2):
        row = SINGLE[document].sequences[0]
        for place in rng.permutation(products.usage.size)[:4]:
            at, expert = divmod(int(place), products.usage.shape[1])
            layer = products.layers[at]
            losses = [scaled_loss(plain, layer, expert, 1 + sign * eps, row) for sign in (1, -1)]
            derivative = (losses[0] - losses[1]) / (2 * eps)
            np.testing.assert_allclose(products.signed[document, at, expert], derivative, rtol=2e-3, atol=2e-4)
    assert (products.absolute >= np.abs(products.signed) - 1e-12).all()
    assert products.signed.any()


@torch.no_grad()
def scaled_loss(model: Any, layer: int, expert: int, factor: float, row: Any) -> float:
    """L(y|x) where an expert's outputs are multiplied."""

    def scale(_: Any, arguments: tuple[Any, ...], named: dict[str, Any]) -> tuple[tuple[Any, ...], dict[str, Any]]:
        experts = next(a for a in (*arguments, *named.values()) if not a.is_floating_point())
        factors = torch.where(experts == expert, factor, 1.0).double()

        def scaled(value: Any) -> Any:
            return value * factors if value.is_floating_point() and value.shape == experts.shape else value

        return tuple(map(scaled, arguments)), {name: scaled(value) for name, value in named.items()}

    hook = expert_blocks(model)[layer].experts.register_forward_pre_hook(scale, with_kwargs=True)
    loss = float(mean_loss(model, row))
    hook.remove()
    return loss


def test_criteria_follow_from_the_products(one_of_some):
    products = expert_products(one_of_some, SINGLE, 200)
    n = products.n_inputs.sum()
    scores = criterion_scores(products)
    np.testing.assert_allclose(scores["token"], products.absolute.sum(axis=0) / n)
    np.testing.assert_allclose(scores["loss_rise"], -products.signed.mean(axis=0))
    _, _, top_k = expert_grid(one_of_some.model)
    # Every token goes to k experts, also in the last layer, where those that predict stand for all.
    np.testing.assert_allclose(products.usage.sum(axis=1), top_k, rtol=1e-6)
    usage = score_experts_by(products, "usage")
    np.testing.assert_allclose(usage.score, products.usage)
    np.testing.assert_allclose(usage.even, products.routed[::2].sum(axis=0) / products.n_inputs[::2].sum())


def test_knockouts_equal_whole_passes(one_of_some):
    layers, number, _ = expert_grid(one_of_some.model)
    experts = [(layers[0], 0), (layers[0], number - 1), (layers[-1], 1)]
    knockouts = knock_out_experts(one_of_some, Batches(DOCUMENTS, 200), experts)
    for expert, ablated in zip(experts, knockouts.ablated, strict=True):
        whole = likelihoods(one_of_some, Batches(DOCUMENTS, 200), without_experts=[expert])
        np.testing.assert_allclose(ablated.values, whole.values, rtol=1e-5, atol=1e-6)
    choices = [Choices(document.doc_id, (True, False), None) for document in DOCUMENTS]
    losses = component_losses(DOCUMENTS, choices, knockouts, "loss")
    tokens = [document.sequences[0].n_target for document in DOCUMENTS]
    rises = [(knockouts.dense.values - ablated.values)[::2] / tokens for ablated in knockouts.ablated]
    np.testing.assert_allclose(losses, rises, atol=1e-9)


def test_checkpointed_layers_give_the_same_products(one_of_some):
    from functools import partial

    from lm_headroom.scoring.expert_gradient import _sums

    (batch,) = Batches(SINGLE, 200, share=False)
    layers, number, _ = expert_grid(one_of_some.model)
    targets = np.array([document.sequences[0].n_target for document in SINGLE], dtype=float)
    sums = partial(_sums, one_of_some, layers, number, targets, batch)
    for first, second in zip(sums(False), sums(True), strict=True):
        np.testing.assert_allclose(first, second, rtol=1e-4, atol=1e-7)


def test_too_few_experts_and_unknown_ones_are_refused():
    model = prepare(tiny_of_type("mixtral"), None)
    experts = model.interventions.experts
    for pruned, message in (
        ([(0, 0), (0, 1), (0, 2)], "layer 0 would keep 1 of 4 experts, and sends each token to 2; prune fewer"),
        ([(0, 4)], "layer 0 has no expert 4; its experts are 0 to 3"),
        ([(7, 0)], "layer 7 has no experts; layers with experts: 0, 1, 2"),
    ):
        with pytest.raises(HeadroomError, match=message), experts.without(pruned):
            pass
    with pytest.raises(HeadroomError, match="family 'llama': no layer has a router and stacked experts"):
        expert_grid(tiny_of_type("llama"))


def test_experts_behind_a_router_over_groups_are_scored_and_not_pruned():
    loaded = prepare(tiny_model("deepseek_v3").requires_grad_(False), None)
    plain = tiny_model("deepseek_v3")
    plain.set_experts_implementation("eager")
    check_products(loaded, plain)
    for removed in ([(1, 0)], [(1, 0), (1, 2)]):
        with (
            pytest.raises(HeadroomError, match="'deepseek_v3': its router chooses among 2 groups of experts"),
            loaded.interventions.experts.without(removed),
        ):
            pass


def test_a_router_that_gives_something_else_is_refused_by_name():
    loaded = prepare(tiny_of_type("mixtral"), None)
    experts = loaded.interventions.experts
    message = "'mixtral': the router of layer 0 gives other than logits, weights and experts of each token"
    with experts.without([(0, 1)]):
        router, kept = experts._smaller[0]
        experts._smaller[0] = (lambda *args: router(*args)[:2]), kept
        with pytest.raises(HeadroomError, match=message):
            loaded.model(input_ids=torch.tensor([[3, 4, 5]]))
