"""Models whose layers do not all have attention, against loops around transformers' own.

Recurrent layers, linear attention and short convolutions go through tokens in order: packed rows, shared prefixes and
restarted passes must not show them a neighbour.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch

from lm_headroom.analysis.ranking import rank_heads
from lm_headroom.artifacts.head_importance import HEAD_IMPORTANCE
from lm_headroom.artifacts.heads import grid, layers_of, places
from lm_headroom.artifacts.store import ArtifactError, read, write
from lm_headroom.engine.ablation import MeanAblation
from lm_headroom.engine.layout import Layout, TreeMask
from lm_headroom.engine.likelihood import likelihoods, log_likelihoods
from lm_headroom.engine.loading import LoadedModel, gates_without, prepare
from lm_headroom.engine.packing import Batches, Document
from lm_headroom.errors import HeadroomError
from lm_headroom.models import architectures
from lm_headroom.models.architecture import HeadLayout
from lm_headroom.models.sizes import model_sizes
from lm_headroom.planning.costs import Costs, Load
from lm_headroom.scoring.choosing import choosing_products
from lm_headroom.scoring.copying import copying_scores
from lm_headroom.scoring.custom_ranking import read_file
from lm_headroom.scoring.gradient import contributions, magnitudes, scores, zero_shares
from lm_headroom.scoring.iterative import iterative_ranking
from lm_headroom.scoring.knockout import knock_out_ffns, knock_out_heads, sample_heads
from lm_headroom.scoring.learned_mask import gate_gradient
from lm_headroom.scoring.prefix_matching import prefix_matching_scores
from lm_headroom.scoring.ranking_like import order_of
from tests.families.documents import FEW_TOKENS as TOKENS
from tests.families.documents import IN_FEW_TOKENS as DOCUMENTS
from tests.families.documents import SINGLE_IN_FEW_TOKENS as SINGLE
from tests.families.loops import log_likelihoods as one_by_one
from tests.families.loops import mean_loss
from tests.support.model_types import tiny_of_type

FAMILIES = {
    "gemma4_text": (0, 1, 2),
    "lfm2": (1,),
    "lfm3": (1, 2),
    "minimax": (0, 2),
    "mimo_v2_flash": (0, 1, 2),
    "qwen3_next": (1,),
}
"""Layers of each tiny model that have heads; the others are short convolutions, or one of two linear attentions."""
CLOSE = {"rtol": 1e-4, "atol": 1e-5}


@pytest.fixture(scope="module", params=FAMILIES)
def family(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture(scope="module")
def loaded(family: str) -> LoadedModel:
    return prepare(tiny_of_type(family).requires_grad_(False), None)


@pytest.fixture
def plain(family: str) -> Any:
    return tiny_of_type(family).requires_grad_(False)


@pytest.fixture(scope="module")
def lfm2() -> LoadedModel:
    return prepare(tiny_of_type("lfm2").requires_grad_(False), None)


def ffns_of(model: Any) -> list[Any]:
    """What gives the tensor that each FFN adds to the residual: its last module, or the norm behind it."""
    return architectures.ffn_output_norms(model) or [modules[-1] for modules in architectures.ffn_modules(model)]


def _without_ffn(model: Any, layer: int) -> Any:
    """The model whose FFN of a layer gives zeros."""

    def silence(_: Any, __: Any, out: Any) -> Any:
        return (0 * out[0], *out[1:]) if isinstance(out, tuple) else 0 * out

    ffns_of(model)[layer].register_forward_hook(silence)
    return model


def _close(model: Any, pruned: list[tuple[int, int]]) -> Any:
    """The model with heads' columns of the output projection zeroed."""
    for layer, head in pruned:
        weights = architectures.head_rows(model, layer)
        weights.output.weight[:, weights.columns[head]] = 0
    return model


def test_the_pass_shows_which_layers_have_heads(loaded, family):
    shape = loaded.interventions.shape
    assert shape.attending == FAMILIES[family]
    assert set(shape.attending) | set(shape.without_heads) == {0, 1, 2}
    assert shape.total == len(shape.places) == len(shape.attending) * shape.heads
    assert list(architectures.mixers(loaded.model)) == list(shape.without_heads)


@torch.no_grad()
def test_closed_heads_equal_zeroed_projection_columns(loaded, plain):
    layer = loaded.shape.attending[-1]
    pruned = [(layer, 1), (layer, 2)]
    gates = gates_without(loaded.shape, pruned)
    values = log_likelihoods(loaded, Batches(DOCUMENTS, 200), gates)
    np.testing.assert_allclose(values, one_by_one(_close(plain, pruned), DOCUMENTS), **CLOSE)
    assert not np.allclose(values, log_likelihoods(loaded, Batches(DOCUMENTS, 200)), atol=1e-4)


@torch.no_grad()
def test_packed_rows_equal_separate_rows(loaded, plain):
    batches = Batches(DOCUMENTS, 200)
    (batch,) = batches
    assert any(tree.trunk < tree.columns for tree in batch.trees)
    np.testing.assert_allclose(log_likelihoods(loaded, batches), one_by_one(plain, DOCUMENTS), **CLOSE)


def test_paths_of_trees_are_the_sequences():
    sees = torch.tensor([[1, 1, 0, 1, 0], [1, 1, 0, 1, 1]], dtype=torch.bool)
    # The first tree: 0 1 2, and 0 1 3 4 from its branches; the second: 5 6.
    rows, at = Layout((TreeMask(5, 3, sees), TreeMask(2, 2))).sequences
    assert rows.tolist() == [[0, 1, 2, 0], [0, 1, 3, 4], [5, 6, 0, 0]]
    assert rows.flatten()[at].tolist() == list(range(7))


@torch.no_grad()
def test_left_out_ffns_equal_silent_ones_in_restarted_passes(loaded, family):
    knockouts = knock_out_ffns(loaded, Batches(DOCUMENTS, 200))
    assert len(knockouts.ablated) == 3
    for layer, ablated in enumerate(knockouts.ablated):
        expected = one_by_one(_without_ffn(tiny_of_type(family), layer), DOCUMENTS)
        np.testing.assert_allclose(ablated.values, expected, **CLOSE)


@torch.no_grad()
def test_heads_knocked_out_in_restarted_passes(loaded, plain):
    head = (loaded.shape.attending[-1], 3)
    knockouts = knock_out_heads(loaded, Batches(DOCUMENTS, 200), [head])
    np.testing.assert_allclose(knockouts.ablated[0].values, one_by_one(_close(plain, [head]), DOCUMENTS), **CLOSE)


def _differentiated(model: Any, document: Document) -> tuple[Any, Any]:
    """|A_t . dL/dA_t| summed over tokens, [layer, head], and |F_t . dL/dF_t|, [layer], by hooks on a plain model."""
    heads, ffns = {}, {}

    def enter(layer: int) -> Any:
        def hook(_: Any, arguments: Any) -> Any:
            heads[layer] = (arguments[0] + torch.zeros_like(arguments[0]).requires_grad_()).requires_grad_()
            heads[layer].retain_grad()
            return (heads[layer], *arguments[1:])

        return hook

    def leave(layer: int) -> Any:
        def hook(_: Any, __: Any, out: Any) -> Any:
            first = out[0] if isinstance(out, tuple) else out
            ffns[layer] = (first + torch.zeros_like(first).requires_grad_()).requires_grad_()
            ffns[layer].retain_grad()
            return (ffns[layer], *out[1:]) if isinstance(out, tuple) else ffns[layer]

        return hook

    for layer, projection in architectures.output_projections(model).items():
        projection.register_forward_pre_hook(enter(layer))
    for layer, ffn in enumerate(ffns_of(model)):
        ffn.register_forward_hook(leave(layer))
    mean_loss(model, document.sequences[0]).backward()
    shape = architectures.head_layout(model)
    by_head = [
        (a.detach() * a.grad)[0].unflatten(-1, (shape.heads, -1)).sum(-1).abs().sum(0) for _, a in sorted(heads.items())
    ]
    by_ffn = [(f.detach() * f.grad).sum(-1).abs().sum() for _, f in sorted(ffns.items())]
    return torch.stack(by_head).numpy(), torch.stack(by_ffn).numpy()


def test_importance_equals_the_loops(loaded, family):
    products = contributions(loaded, SINGLE, 200)
    assert products.absolute.shape == (3, *loaded.shape.grid)
    for number, document in enumerate(SINGLE):
        heads, ffns = _differentiated(tiny_of_type(family).requires_grad_(False), document)
        np.testing.assert_allclose(products.absolute[number], heads, rtol=1e-3, atol=1e-6)
        np.testing.assert_allclose(products.ffns.absolute[number, :, 0], ffns, rtol=1e-3, atol=1e-6)
    assert np.isfinite(scores(products).score).all()
    # What the layer before a reader of its keys gives, only tokens of the loss itself see.
    whole = [layer not in dict(loaded.shape.shared).values() for layer in loaded.shape.attending]
    assert (zero_shares(products)[whole] < 0.01).all()
    assert magnitudes(loaded).shape == loaded.shape.grid


@pytest.mark.parametrize("name", ["qwen3_next", "afmoe"])
@torch.no_grad()
def test_what_heads_write_is_behind_gates_that_families_multiply_them_by(name):
    loaded, model, kept = prepare(tiny_of_type(name).requires_grad_(False), None), tiny_of_type(name), {}
    shape, norms = loaded.shape, architectures.attention_output_norms(model)
    for layer, projection in architectures.output_projections(model).items():
        projection.register_forward_pre_hook(lambda _, arguments, n=layer: kept.update({n: arguments[0][0]}))
    sums = contributions(loaded, SINGLE, 200).written
    for number, document in enumerate(SINGLE):
        model(input_ids=torch.tensor([document.sequences[0].inputs]), use_cache=False)
        for row, layer in enumerate(shape.attending):
            weights = architectures.head_rows(model, layer)
            parts = [
                kept[layer][:, weights.columns[head]] @ weights.output.weight[:, weights.columns[head]].T
                for head in range(shape.heads)
            ]
            whole = sum(parts)
            factor = 1 if norms[layer] is None else norms[layer](whole) / whole
            expected = [float((part * factor).norm(dim=-1).sum()) for part in parts]
            np.testing.assert_allclose(sums[number, row], expected, rtol=1e-4)


@pytest.mark.parametrize("name", ["qwen3_next", "afmoe"])
@torch.no_grad()
def test_mean_ablation_is_behind_these_gates_too(name):
    loaded, model, entering = prepare(tiny_of_type(name).requires_grad_(False), None), tiny_of_type(name), []
    layer, head = loaded.shape.attending[-1], 1
    columns = architectures.head_rows(model, layer).columns[head]
    projection = architectures.output_projections(model)[layer]
    hook = projection.register_forward_pre_hook(lambda _, arguments: entering.append(arguments[0][0][:, columns]))
    for document in SINGLE:
        model(input_ids=torch.tensor([document.sequences[0].inputs]), use_cache=False)
    hook.remove()
    mean = torch.cat(entering).mean(dim=0)

    def replace(_, arguments):
        changed = arguments[0].clone()
        changed[..., columns] = mean
        return (changed,)

    projection.register_forward_pre_hook(replace)
    gates = gates_without(loaded.shape, [(layer, head)])
    values = likelihoods(loaded, Batches(DOCUMENTS, 200), gates, ablation=MeanAblation(loaded, SINGLE, 40)).values
    np.testing.assert_allclose(values, one_by_one(model, DOCUMENTS), rtol=1e-4, atol=1e-5)


def test_products_by_choice_have_rows_of_layers_with_heads(loaded):
    products = choosing_products(loaded, DOCUMENTS, [[True, False]] * 3, 200)
    assert products.heads.shape == (3, *loaded.shape.grid)
    assert products.ffns.shape == (3, 3, 1)
    assert np.abs(products.heads).min() > 0


def test_iterative_rankings_have_each_head_once(loaded):
    ranked = iterative_ranking(loaded, SINGLE, 200, 50)
    assert sorted(one.head for one in ranked) == loaded.shape.places


def test_gradients_of_gates_have_rows_of_layers_with_heads(loaded):
    gates = torch.ones(loaded.shape.grid, dtype=torch.float64)
    _, gradient = gate_gradient(loaded, SINGLE, 200, gates)
    np.testing.assert_allclose(gradient, contributions(loaded, SINGLE, 200).signed.mean(axis=0), rtol=1e-5, atol=1e-8)


@torch.no_grad()
def test_mean_ablation_takes_the_place_of_heads_and_ffns(loaded):
    head = (loaded.shape.attending[0], 0)
    mean = MeanAblation(loaded, SINGLE, 40)
    means = likelihoods(loaded, Batches(DOCUMENTS, 200), gates_without(loaded.shape, [head]), [0], ablation=mean)
    zeros = likelihoods(loaded, Batches(DOCUMENTS, 200), gates_without(loaded.shape, [head]), [0])
    assert np.isfinite(means.values).all()
    assert not np.allclose(means.values, zeros.values, atol=1e-4)


@torch.no_grad()
def test_induction_scores_have_rows_of_layers_with_heads(lfm2):
    matching, copied = prefix_matching_scores(lfm2, TOKENS[:4], 1), copying_scores(lfm2, TOKENS, 1)
    assert matching.shape == copied.shape == lfm2.shape.grid
    model = tiny_of_type("lfm2")
    model.set_attn_implementation("eager")
    ids = [1, *TOKENS[:4] * 4]
    maps = model(input_ids=torch.tensor([ids]), use_cache=False, output_attentions=True).attentions
    (own,) = (one[0] for one in maps if one is not None)
    total = sum(own[:, t + 1, copy * 4 + t % 4 + 2] for t in range(4, 16) for copy in range(t // 4))
    np.testing.assert_allclose(matching[0], total / 12, **CLOSE)


def test_rankings_name_layers_by_their_numbers(tmp_path):
    values = np.array([[3.0, 1.0], [0.0, 2.0]])
    assert rank_heads(values, [1, 4]) == [(4, 0), (1, 1), (4, 1), (1, 0)]
    assert sample_heads(HeadLayout(6, 2, 2, 8, (0, 2, 3, 5)), None) == [(1, 0), (1, 1), (4, 0), (4, 1)]
    columns = {"score": values.ravel(), "stderr": values.ravel(), "score_even": values.ravel()}
    columns |= {"score_odd": values.ravel()}
    rest = {c.name: values.ravel() for c in HEAD_IMPORTANCE.columns if c.name not in {*columns, "layer", "head"}}
    model = {"name": "m", "digest": "d", "layers": 6, "heads": 2, "without_heads": [0, 2, 3, 5]}
    for name, layers in (("right", [1, 4]), ("wrong", [0, 1])):
        path = tmp_path / f"{name}.parquet"
        write(path, HEAD_IMPORTANCE, places(layers, 2) | columns | rest, {"kind": "head_importance", "model": model})
    table = read(tmp_path / "right.parquet", HEAD_IMPORTANCE)
    assert layers_of(table) == [1, 4]
    np.testing.assert_array_equal(grid(table, "score"), values)
    with pytest.raises(ArtifactError, match=r"but layers without heads \(0, 2, 3, 5\)"):
        read(tmp_path / "wrong.parquet", HEAD_IMPORTANCE)


def test_heads_of_layers_without_are_refused_by_name(tmp_path, lfm2):
    with pytest.raises(HeadroomError, match=r"layer 0 has no attention heads, and so no head 2; .* heads: 1$"):
        gates_without(lfm2.shape, [(0, 2)])
    with pytest.raises(HeadroomError, match="row 2: layer 0 of the model has no attention heads"):
        order_of([(1, 0), (0, 0)], (3, 4), (0, 2))
    path = tmp_path / "own.csv"
    path.write_text("layer,head,score\n" + "".join(f"1,{head},{head}\n" for head in range(4)))
    np.testing.assert_array_equal(read_file(path, (3, 4), (0, 2)), [[0, 1, 2, 3]])
    path.write_text("layer,head,score\n2,0,1\n")
    with pytest.raises(HeadroomError, match="row 1 names layer 2, which has no attention heads"):
        read_file(path, (3, 4), (0, 2))


def test_costs_count_attention_where_there_is_some(lfm2):
    sizes = model_sizes(lfm2.model)
    assert sizes["without_heads"] == [0, 2]
    load = Load(10, 50, 1)
    mixed, everywhere = (Costs.from_sizes(s, 4) for s in (sizes, sizes | {"without_heads": []}))
    assert everywhere.forward(load) - mixed.forward(load) == 2 * 4 * 50 * sizes["heads"] * sizes["d_head"]
