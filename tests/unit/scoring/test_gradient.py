"""Head importance against loops straight from eq. 8-9, and against finite differences."""

import numpy as np
import pytest
import torch

from lm_headroom.engine.likelihood import target_log_probabilities
from lm_headroom.engine.loading import prepare
from lm_headroom.engine.packing import Batches
from lm_headroom.engine.resume_cache import ResumeCache
from lm_headroom.errors import HeadroomError
from lm_headroom.models import architectures
from lm_headroom.scoring.gradient import (
    Contributions,
    GradientProducts,
    contributions,
    criterion_scores,
    magnitudes,
    products,
    scores,
    scores_by,
    zero_shares,
)
from lm_headroom.study.criteria import CHOOSING, HEADS, criterion_columns, task_criteria
from lm_headroom.study.ranking_names import VARIANTS, variant_of
from tests.support.documents import documents
from tests.support.looped_gradient import looped
from tests.support.tiny_models import tiny_model

PASS = [name for name in task_criteria() if name not in CHOOSING]
"""Criteria of the pass over the gold continuation alone."""


def test_equals_the_loops(loaded, family):
    chosen = documents()
    absolute, signed = looped(family, chosen)
    actual = contributions(loaded, chosen, token_budget=64)
    np.testing.assert_allclose(actual.absolute, absolute, rtol=1e-8, atol=1e-14)
    np.testing.assert_allclose(actual.signed, signed, rtol=1e-8, atol=1e-12)
    lengths = np.array([len(d.sequences[0].tokens) for d in chosen])
    targets = np.array([d.sequences[0].n_target for d in chosen])
    token = scores(actual, "token").score
    np.testing.assert_allclose(token, absolute.sum(axis=0) / (lengths - 1).sum(), rtol=1e-8)
    inflated = scores(actual, "token", "target").score
    np.testing.assert_allclose(inflated[:-1], token[:-1])
    np.testing.assert_allclose(inflated[-1], absolute[:, -1].sum(axis=0) / targets.sum(), rtol=1e-8)
    np.testing.assert_allclose(scores(actual, "example").score, np.abs(signed).mean(axis=0), rtol=1e-8)


def test_does_not_depend_on_batches_or_padding(loaded):
    chosen = documents(9, seed=1)
    alone = contributions(loaded, chosen, token_budget=1)
    together = contributions(loaded, chosen, token_budget=10_000)
    for name in ("absolute", "signed", "written", "entropy", "sink"):
        np.testing.assert_allclose(getattr(alone, name), getattr(together, name), rtol=1e-7, atol=1e-12)


@pytest.mark.parametrize(("layer", "head"), [(0, 0), (1, 3), (2, 2)])
def test_the_signed_form_is_the_derivative_of_a_gate(loaded, family, layer, head):
    eps, tolerance = (1e-5, 1e-5) if family == "opt" else (1e-2, 1e-3)
    (document,) = documents(1, seed=3)
    (batch,) = Batches([document], 100)

    def loss(gate):
        gates = torch.ones(loaded.shape.layers, loaded.shape.heads, dtype=torch.float64)
        gates[layer, head] = gate
        with torch.no_grad(), loaded.interventions.gates(gates):
            return -float(target_log_probabilities(loaded, batch).mean())

    difference = (loss(1 + eps) - loss(1 - eps)) / (2 * eps)
    signed = contributions(loaded, [document], 100).signed[0, layer, head]
    assert signed == pytest.approx(difference, rel=tolerance)


def test_second_order_is_right_with_the_hessian_and_the_fisher_form_is_another(tokenizer):
    """By Taylor: the error is cubic in the step with the exact diagonal, quadratic with the empirical Fisher."""
    model, chosen = tiny_model("opt"), documents(5, seed=2)
    # ReLU has kinks, where no second derivative is.
    for layer in model.model.decoder.layers:
        layer.activation_fn = torch.nn.GELU()
    loaded = prepare(model, tokenizer)
    (batch,) = Batches(chosen, 10_000, share=False)
    weights = torch.tensor([1 / len(chosen) / chosen[i].sequences[0].n_target for i in batch.sequence_ids])

    def rises(step):
        values = np.zeros((loaded.shape.layers, loaded.shape.heads))
        for head in np.ndindex(*values.shape):
            gates = torch.ones(values.shape, dtype=torch.float64)
            gates[head] -= step
            for sign, gate in ((1, gates), (-1, None)):
                with torch.no_grad(), loaded.interventions.gates(gate):
                    values[head] -= sign * float((target_log_probabilities(loaded, batch) * weights).sum())
        return values

    scored = criterion_scores(contributions(loaded, chosen, 10_000))
    small = 1e-3
    curvatures = {"none": 0, "fisher": scored["fisher"], "exact": (rises(small) + rises(-small)) / small**2}
    errors = {
        name: [np.abs(step * scored["loss_rise"] + step**2 / 2 * h - rises(step)).sum() for step in (0.02, 0.04, 1)]
        for name, h in curvatures.items()
    }
    assert errors["exact"][1] / errors["exact"][0] == pytest.approx(8, rel=0.1)
    assert errors["fisher"][1] / errors["fisher"][0] == pytest.approx(4, rel=0.1)
    assert errors["exact"][2] < errors["none"][2]
    np.testing.assert_allclose(scored["second_order"], scored["loss_rise"] + scored["fisher"] / 2)


def test_the_last_layer_counts_only_predicting_positions(loaded):
    """In the last layer nothing but the Ty predicting positions can reach the loss."""
    (document,) = documents(1, seed=4)
    row = document.sequences[0]
    (batch,) = Batches([document], 100)
    silent = len(row.inputs) - row.n_target
    actual = products(loaded, batch, np.array([float(row.n_target)]))
    for kind in ("heads", "ffn"):
        first, *_, last = (getattr(columns, kind) for columns in actual)
        assert last[:silent].abs().max() == 0
        assert last[silent:].abs().min() > 0
        assert first[:silent].abs().max() > 0


class TestFfns:
    """The same of FFNs, F being what an FFN adds to the residual; tests/families holds it in every family."""

    @pytest.mark.parametrize("layer", [0, 1, 2])
    def test_the_signed_form_is_the_derivative_of_a_gate_on_the_output(self, loaded, family, layer):
        """In float64, by a factor on the last map of the FFN."""
        eps, tolerance = (1e-5, 1e-5) if family == "opt" else (1e-2, 1e-3)
        (document,) = documents(1, seed=3)
        (batch,) = Batches([document], 100)
        signed = contributions(loaded, [document], 100).ffns.signed[0, layer, 0]
        last = architectures.ffn_modules(loaded.model)[layer][-1]

        def loss(gate):
            handle = last.register_forward_hook(lambda module, arguments, output: gate * output)
            with torch.no_grad():
                actual = -float(target_log_probabilities(loaded, batch).mean())
            handle.remove()
            return actual

        difference = (loss(1 + eps) - loss(1 - eps)) / (2 * eps)
        assert signed == pytest.approx(difference, rel=tolerance)

    def test_scores_are_eq_8(self, loaded):
        actual = contributions(loaded, documents(6, seed=5), 200).ffns
        assert actual.absolute.shape == (6, 3, 1)
        token = actual.absolute.sum(axis=0) / actual.n_inputs.sum()
        np.testing.assert_allclose(scores(actual).score, token)
        np.testing.assert_allclose(scores(actual, "example").score, np.abs(actual.signed).mean(axis=0))
        # Only in the last layer may all tokens that count pull one way.
        assert (actual.absolute[:, :2] > np.abs(actual.signed[:, :2])).all()

    def test_an_ffn_that_gives_zeros_scores_zero_and_heads_stay_as_they_are(self, loaded):
        chosen = documents(3, seed=6)
        last = architectures.ffn_modules(loaded.model)[1][-1]
        with torch.no_grad():
            for parameter in last.parameters():
                parameter.zero_()
        actual = contributions(loaded, chosen, 100)
        assert (actual.ffns.absolute[:, 1] == 0).all()
        assert (actual.ffns.absolute[:, [0, 2]] > 0).all()
        with loaded.interventions.without_ffns([1]), pytest.raises(KeyError):
            contributions(loaded, chosen, 100)


def test_errors_and_halves_by_hand(loaded):
    actual = contributions(loaded, documents(6, seed=5), 200)
    result = scores(actual)
    sizes = actual.n_inputs
    r = actual.absolute.sum(axis=0) / sizes.sum()
    np.testing.assert_allclose(result.even, actual.absolute[[0, 2, 4]].sum(axis=0) / sizes[[0, 2, 4]].sum())
    np.testing.assert_allclose(result.odd, actual.absolute[[1, 3, 5]].sum(axis=0) / sizes[[1, 3, 5]].sum())
    residual = (actual.absolute - r * sizes[:, None, None]) ** 2
    np.testing.assert_allclose(result.stderr, np.sqrt(6 / 5 * residual.sum(axis=0)) / sizes.sum())


def test_the_standard_error_is_that_of_repeated_samples():
    """Ratio of sums over documents drawn anew: the stated error is the spread of the estimates."""
    rng = np.random.default_rng(0)
    estimates, errors = [], []
    for _ in range(2000):
        sizes = rng.integers(5, 50, 40).astype(float)
        values = (rng.gamma(2, 1, 40) * sizes)[:, None, None]
        result = scores(GradientProducts(values, values, np.zeros((40, 1)), sizes, sizes))
        estimates.append(result.score[0, 0])
        errors.append(result.stderr[0, 0])
    assert np.mean(errors) == pytest.approx(np.std(estimates), rel=0.08)


@pytest.mark.parametrize("criterion", [name for name in PASS if name not in VARIANTS])
def test_the_standard_error_of_each_criterion_is_that_of_repeated_samples(criterion):
    """Two heads of either size, so that the median between them is the same in every sample."""
    rng, n, spread = np.random.default_rng(3), 60, np.array([[0.2, 0.5], [2.0, 5.0]])
    values, errors = [], []
    for _ in range(400):
        signed = rng.normal(spread / 2, spread, (n, 2, 2))
        sizes, zeros = rng.integers(5, 30, n).astype(float), np.zeros((n, 2))
        ffns = GradientProducts(signed, signed, zeros, sizes, sizes)
        sums = np.abs(signed) * sizes[:, None, None]
        result = scores_by(
            Contributions(np.abs(signed), signed, zeros, sizes, sizes, sums, sums, sums, ffns), criterion
        )
        values.append(result.score)
        errors.append(result.stderr)
    np.testing.assert_allclose(np.mean(errors, axis=0), np.std(values, axis=0), rtol=0.15)


@pytest.mark.parametrize("criterion", PASS)
def test_each_criterion_scores_all_documents_as_its_column_does_and_halves_as_studies_of_their_own(loaded, criterion):
    chosen = documents(6, seed=4)
    result = scores_by(contributions(loaded, chosen, 64), criterion)
    by_column = [
        criterion_scores(contributions(loaded, part, 64))[criterion] for part in (chosen, chosen[::2], chosen[1::2])
    ]
    for actual, expected in zip((result.score, result.even, result.odd), by_column, strict=True):
        np.testing.assert_allclose(actual, expected, rtol=1e-9, atol=1e-12)
    assert np.isfinite(result.stderr).all()
    with pytest.raises(HeadroomError, match="at least two scoring documents"):
        scores_by(contributions(loaded, chosen[:1], 64), criterion)


def test_one_document_is_too_few(loaded):
    with pytest.raises(HeadroomError, match="at least two scoring documents .* got 1"):
        scores(contributions(loaded, documents(1), 100))


def test_a_loss_that_is_not_finite_names_document_and_layer(loaded):
    with torch.no_grad():
        architectures.output_projections(loaded.model)[1].weight[:] = float("inf")
    with pytest.raises(HeadroomError, match="document 1: the log-likelihood .* is nan; .* in layer 1"):
        contributions(loaded, documents(2), 100)


@pytest.mark.parametrize(("field", "what"), [("heads", "the gradient of the loss"), ("written", "what heads compute")])
def test_what_is_not_finite_names_document_and_layer(loaded, monkeypatch, field, what):
    from lm_headroom.scoring import gradient

    plain = gradient.products

    def overflow(*arguments):
        actual = plain(*arguments)
        getattr(actual[1], field)[0, 2] = float("inf")
        return actual

    monkeypatch.setattr(gradient, "products", overflow)
    with pytest.raises(HeadroomError, match=f"document 1, layer 1: {what} is not finite"):
        contributions(loaded, documents(2), 1)


class TestZeros:
    """Products that are exactly zero, of those that reach the loss."""

    def test_there_are_none(self, loaded):
        actual = contributions(loaded, documents(5, seed=9), 100)
        np.testing.assert_array_equal(zero_shares(actual), [0, 0, 0])

    @pytest.mark.parametrize("layer", [0, 2])
    def test_of_a_dead_head_all_are(self, loaded, layer):
        d_head = loaded.shape.d_head
        with torch.no_grad():
            architectures.output_projections(loaded.model)[layer].weight[:, :d_head] = 0
        expected = [0.0, 0.0, 0.0]
        expected[layer] = 1 / 4
        np.testing.assert_allclose(zero_shares(contributions(loaded, documents(5, seed=9), 100)), expected)


class TestMemory:
    """Where the backward pass does not fit: halves, then layers computed twice."""

    def test_checkpointed_layers_give_the_same(self, loaded):
        chosen = documents(4, seed=6)
        targets = np.array([float(d.sequences[0].n_target) for d in chosen])
        (batch,) = Batches(chosen, 10_000, share=False)
        kept = products(loaded, batch, targets)
        again = products(loaded, batch, targets, checkpointing=True)
        for ours, theirs in zip(again, kept, strict=True):
            for name in ours._fields:
                torch.testing.assert_close(getattr(ours, name), getattr(theirs, name), rtol=1e-9, atol=1e-12)

    def test_checkpointing_keeps_less_for_the_backward_pass(self, loaded):
        (batch,) = Batches(documents(3, seed=7), 10_000, share=False)

        def kept(checkpointing):
            sizes = []

            def pack_hook(tensor):
                sizes.append(tensor.numel())
                return tensor

            with torch.autograd.graph.saved_tensors_hooks(pack_hook, lambda tensor: tensor):
                with torch.enable_grad(), loaded.interventions.capture(checkpointing):
                    target_log_probabilities(loaded, batch)
            return sum(sizes)

        assert kept(True) < kept(False) / 2

    def test_out_of_memory_halves_then_checkpoints(self, loaded, monkeypatch):
        from lm_headroom.scoring import gradient

        chosen = documents(6, seed=8)
        expected = contributions(loaded, chosen, 10_000)
        plain, calls = gradient.products, []

        def short_of_memory(model, batch, n_targets, checkpointing=False):
            calls.append((batch.n_documents, checkpointing))
            if not checkpointing:
                raise torch.OutOfMemoryError("no")
            return plain(model, batch, n_targets, checkpointing)

        monkeypatch.setattr(gradient, "products", short_of_memory)
        actual = contributions(loaded, chosen, 10_000)
        assert (6, False) in calls
        assert (6, True) not in calls
        assert calls.count((1, True)) == 6
        np.testing.assert_allclose(actual.absolute, expected.absolute, rtol=1e-7, atol=1e-12)


class TestOtherRankings:
    """What the artifact holds beside the configured variant of eq. 8."""

    @torch.no_grad()
    def test_what_heads_write_equals_the_loops(self, loaded, family):
        """||A_t W_O^h|| token by token, from what transformers' own model feeds its output projection."""
        chosen = documents()
        model = tiny_model(family)
        totals, tokens = np.zeros((loaded.shape.layers, loaded.shape.heads)), 0
        caught = {}
        for layer, projection in architectures.output_projections(model).items():
            projection.register_forward_pre_hook(lambda _, inputs, layer=layer: caught.update({layer: inputs[0]}))
        for document in chosen:
            model(input_ids=torch.tensor([document.sequences[0].inputs]), use_cache=False)
            tokens += len(document.sequences[0].inputs)
            for layer, entering in list(caught.items()):
                projection = architectures.output_projections(model)[layer]
                bias = projection(torch.zeros_like(entering[0, 0]))
                for head in range(loaded.shape.heads):
                    part = slice(head * loaded.shape.d_head, (head + 1) * loaded.shape.d_head)
                    for token in entering[0]:
                        alone = torch.zeros_like(token)
                        alone[part] = token[part]
                        totals[layer, head] += float((projection(alone) - bias).norm())
        np.testing.assert_allclose(
            criterion_scores(contributions(loaded, chosen, 64))["output_norm"], totals / tokens, rtol=1e-8
        )

    @pytest.mark.parametrize("block", [64, 4])
    def test_how_heads_attend_equals_the_loops(self, loaded, family, monkeypatch, block):
        """Query by query, from transformers' own attention maps, in whatever blocks."""
        monkeypatch.setattr("lm_headroom.scoring.gradient.BLOCK", block)
        softmax = torch.nn.functional.softmax
        # Eager attention of transformers would compute it in float32.
        monkeypatch.setattr(torch.nn.functional, "softmax", lambda x, dim=-1, dtype=None: softmax(x, dim))
        chosen, model = documents(), tiny_model(family)
        model.set_attn_implementation("eager")
        importance = np.abs(looped(family, chosen)[1]).mean(axis=0)
        entropy, sink, normalised, tokens = *(np.zeros(importance.shape) for _ in range(3)), 0
        for document in chosen:
            ids = torch.tensor([document.sequences[0].inputs])
            with torch.no_grad():
                maps = model(input_ids=ids, use_cache=False, output_attentions=True).attentions
            n = ids.shape[1]
            tokens += n
            for layer, head in np.ndindex(*importance.shape):
                for query in range(n):
                    row = maps[layer][0, head, query, : query + 1].double()
                    nats = -sum(float(p) * np.log(float(p)) for p in row if p > 0)
                    entropy[layer, head] += nats
                    normalised[layer, head] += nats / (n * np.log(n)) / len(chosen)
                    sink[layer, head] += float(row[0])
        columns = criterion_scores(contributions(loaded, chosen, 64))
        np.testing.assert_allclose(columns["attention_entropy"], -entropy / tokens, rtol=1e-8)
        np.testing.assert_allclose(columns["bos_sink"], 1 - sink / tokens, rtol=1e-8)
        i, e = ((x - x.min()) / (x.max() - x.min()) for x in (importance, normalised))
        np.testing.assert_allclose(columns["hies"], 0.5 * i + 0.5 * (1 - e), rtol=1e-8, atol=1e-8)

    @torch.no_grad()
    def test_magnitude_is_the_norm_of_the_weights_that_read_a_head(self, loaded, family):
        projections, d_head = architectures.output_projections(tiny_model(family)), loaded.shape.d_head
        norms = magnitudes(loaded)
        for layer, head in ((0, 0), (1, 2), (2, 3)):
            columns = [projections[layer](row) for row in torch.eye(d_head * loaded.shape.heads).double()]
            bias = projections[layer](torch.zeros(d_head * loaded.shape.heads).double())
            squares = sum(float((c - bias).pow(2).sum()) for c in columns[head * d_head : (head + 1) * d_head])
            assert norms[layer, head] == pytest.approx(np.sqrt(squares))

    def test_finished_parts_need_no_weights(self, loaded, tmp_path, monkeypatch):
        kept = ResumeCache(tmp_path)
        known = magnitudes(loaded, kept)
        monkeypatch.setattr(architectures, "output_projections", None)
        np.testing.assert_array_equal(magnitudes(loaded, kept), known)

    def test_readings_are_the_scores_of_each_configuration(self, loaded):
        actual = contributions(loaded, documents(6, seed=5), 200)
        result = criterion_scores(actual)
        assert set(result) == set(criterion_columns(HEADS)) - {"magnitude"} - set(CHOOSING)
        for options in (("token", "all"), ("token", "target"), ("example", "all"), ("example", "target")):
            np.testing.assert_array_equal(scores(actual, *options).score, result[variant_of(*options)])
