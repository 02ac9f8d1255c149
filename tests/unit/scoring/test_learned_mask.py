"""A learned mask: its gradients against finite differences and products, its path, and what it finds on the testbed."""

from itertools import chain

import numpy as np
import pytest
import torch

from lm_headroom.cli import main
from lm_headroom.engine.loading import gates_without, load
from lm_headroom.engine.packing import Document, TokenSequence
from lm_headroom.engine.resume_cache import ResumeCache
from lm_headroom.errors import HeadroomError
from lm_headroom.models.resolve import resolve
from lm_headroom.scoring import learned_mask
from lm_headroom.scoring.gradient import contributions
from lm_headroom.scoring.learned_mask import Training, gate_gradient, learn_mask, open_probability, sample, shifted
from lm_headroom.scoring.prefix_matching import ranked_vocabulary, sequence, start_token
from lm_headroom.study.reading import read_study
from tests.induction_testbed.train import CHECKPOINT, INDUCTION_HEADS
from tests.support.documents import documents

SHORT = Training(passes=3, batch=2, learning_rate=0.1, seed=5)


def half_open(shape):
    """Gates between 0 and 1, none equal to another."""
    return torch.linspace(0.3, 0.9, int(np.prod(shape)), dtype=torch.float64).reshape(shape)


@pytest.mark.parametrize("component", ["heads", "ffns"])
def test_the_gradient_of_gates_equals_finite_differences(loaded, family, component):
    shape = (loaded.shape.layers, loaded.shape.heads) if component == "heads" else (loaded.shape.layers,)
    # LLaMA's norms compute in float32.
    eps, tolerance = (1e-5, 1e-5) if family == "opt" else (1e-2, 1e-2)
    chosen, gates = documents(3), half_open(shape)
    _, gradient = gate_gradient(loaded, chosen, 64, gates)
    for place in [(0,) * len(shape), (1,) * len(shape), tuple(size - 1 for size in shape)]:
        ends = []
        for sign in (1, -1):
            moved = gates.clone()
            moved[place] += sign * eps
            ends.append(gate_gradient(loaded, chosen, 64, moved)[0])
        assert float(gradient[place]) == pytest.approx(
            (ends[0] - ends[1]) / (2 * eps), rel=tolerance, abs=tolerance / 10
        )


@pytest.mark.parametrize("component", ["heads", "ffns"])
def test_out_of_memory_halves_then_recomputes_layers(loaded, monkeypatch, component):
    chosen, shape = documents(4), (loaded.shape.layers, loaded.shape.heads)
    gates = half_open(shape if component == "heads" else shape[:1])
    expected = gate_gradient(loaded, chosen, 10_000, gates)
    forward, passes = learned_mask.target_log_probabilities, []

    def short_of_memory(loaded, batch):
        passes.append((batch.n_documents, loaded.interventions._checkpointing))
        if not loaded.interventions._checkpointing:
            raise torch.OutOfMemoryError("no")
        return forward(loaded, batch)

    monkeypatch.setattr(learned_mask, "target_log_probabilities", short_of_memory)
    actual = gate_gradient(loaded, chosen, 10_000, gates)
    assert passes[0] == (4, False)
    assert [place for place in passes if place[1]] == [(1, True)] * 4
    assert actual[0] == pytest.approx(expected[0], rel=1e-7)
    torch.testing.assert_close(actual[1], expected[1], rtol=1e-6, atol=1e-10)


def test_at_open_gates_it_is_the_mean_of_signed_products(loaded):
    chosen = documents(4)
    products = contributions(loaded, chosen, 64)
    open_heads = torch.ones(loaded.shape.layers, loaded.shape.heads, dtype=torch.float64)
    loss, by_head = gate_gradient(loaded, chosen, 64, open_heads)
    same, by_ffn = gate_gradient(loaded, chosen, 64, open_heads[:, 0])
    assert same == pytest.approx(loss, rel=1e-9)
    np.testing.assert_allclose(by_head, products.signed.mean(axis=0), rtol=1e-6, atol=1e-10)
    np.testing.assert_allclose(by_ffn, products.ffns.signed.mean(axis=0)[:, 0], rtol=1e-6, atol=1e-10)


def test_a_closed_ffn_is_one_that_is_left_out(loaded):
    chosen = documents(2)
    gates = torch.tensor([1.0, 0.0, 1.0], dtype=torch.float64)
    everything = torch.ones(loaded.shape.layers, loaded.shape.heads, dtype=torch.float64)
    behind = gate_gradient(loaded, chosen, 64, gates)[0]
    with loaded.interventions.without_ffns([1]):
        without = gate_gradient(loaded, chosen, 64, everything)[0]
    assert behind == pytest.approx(without, rel=1e-9)
    assert behind != pytest.approx(gate_gradient(loaded, chosen, 64, everything)[0], rel=1e-6)


def test_gates_of_another_number_of_ffns_are_refused(loaded):
    with pytest.raises(HeadroomError, match=r"gates of FFNs have shape \(5,\), the model has 3 layers"):
        gate_gradient(loaded, documents(1), 64, torch.ones(5))


def test_the_shift_holds_the_expected_open_share_and_samples_have_it():
    drawn = torch.as_tensor(np.random.default_rng(0).normal(0, 3, 400))
    for share in (0.995, 0.7, 0.1, 0.002):
        level = shifted(drawn, share)
        assert float(open_probability(level).mean()) == pytest.approx(share, abs=1e-9)
        generator = np.random.default_rng(1)
        opened = torch.stack([sample(level, generator) > 0 for _ in range(200)]).double().mean()
        assert float(opened) == pytest.approx(share, abs=0.01)


def test_a_step_moves_no_share_where_all_gates_want_the_same():
    state = learned_mask._State((2, 2), 0.1)
    state.step(torch.full((2, 2), 0.5, dtype=torch.float64), torch.full((2, 2), -3.0, dtype=torch.float64), 1)
    np.testing.assert_allclose(state.log_alpha.detach(), 0, atol=1e-6)


@pytest.mark.parametrize("component", ["heads", "ffns"])
def test_it_is_seeded_and_a_resumed_training_equals_an_uninterrupted_one(loaded, component, tmp_path, monkeypatch):
    chosen = documents(5)
    whole = learn_mask(loaded, chosen, 64, component, SHORT)
    again = learn_mask(loaded, chosen, 64, component, SHORT)
    other = learn_mask(loaded, chosen, 64, component, Training(3, 2, 0.1, 6))
    assert len(whole.losses) == 9
    for name in ("score", "log_alpha", "losses"):
        assert np.array_equal(getattr(whole, name), getattr(again, name))
    assert not np.array_equal(whole.log_alpha, other.log_alpha)

    cache, calls = ResumeCache(tmp_path / "cache", "stamp"), []

    def killed(*args):
        calls.append(args)
        if len(calls) == 5:
            raise KeyboardInterrupt
        return gate_gradient(*args)

    monkeypatch.setattr(learned_mask, "gate_gradient", killed)
    with pytest.raises(KeyboardInterrupt):
        learn_mask(loaded, chosen, 64, component, SHORT, cache=cache)
    resumed = learn_mask(loaded, chosen, 64, component, SHORT, cache=cache)
    assert len(calls) == 5 + 5
    for name in ("score", "log_alpha", "losses"):
        assert np.array_equal(getattr(whole, name), getattr(resumed, name))
    assert learn_mask(loaded, chosen, 64, component, SHORT, cache=cache).score.shape == whole.score.shape
    assert len(calls) == 5 + 5, "all steps are in the cache"


def test_each_pass_uses_each_document_once():
    steps = Training(passes=2, batch=3, learning_rate=0.1, seed=0).steps(7)
    assert [len(step) for step in steps] == [3, 2, 2] * 2
    assert sorted(chain(*steps[:3])) == sorted(chain(*steps[3:])) == list(range(7))
    assert steps[:3] != steps[3:]


def test_on_the_testbed_it_keeps_the_induction_heads_and_prunes_the_others_at_no_loss(tmp_path):
    resolve("testbed", str(CHECKPOINT), None, tmp_path / "model.json")
    testbed = load(tmp_path / "model.json", device="cpu", threads=1)
    ranked, _ = ranked_vocabulary(testbed.tokenizer)
    start, _ = start_token(testbed.tokenizer)
    repeats = [(start, *tokens, *tokens) for tokens in (sequence(ranked, seed) for seed in range(1, 17))]
    chosen = [Document(n, (TokenSequence(row, len(row) // 2 - 1),)) for n, row in enumerate(repeats)]
    mask = learn_mask(testbed, chosen, 4096, "heads", Training(40, 4, 0.1, 1))
    order = [divmod(int(place), testbed.shape.heads) for place in np.argsort(mask.score.ravel())]
    induction = [(1, head) for head in range(INDUCTION_HEADS)]
    others = [(1, head) for head in range(INDUCTION_HEADS, testbed.shape.heads)]
    # The first layer holds what they read: the previous-token head and others that help it.
    assert max(map(order.index, others)) < min(map(order.index, induction))
    assert min(map(order.index, induction)) >= len(order) // 2

    def loss(pruned):
        return gate_gradient(testbed, chosen, 4096, gates_without(testbed.shape, pruned))[0]

    assert loss(order[:8]) < loss([]) + 0.02
    assert loss(induction) > 4


@pytest.mark.parametrize(
    ("keys", "expected"),
    [
        ("{components: [layers]}", "learned_mask.components"),
        ("{passes: 0}", "learned_mask.passes"),
        ("{learning_rate: 0}", "learned_mask.learning_rate"),
        ("{step: 3}", "learned_mask.step"),
    ],
)
def test_a_study_with_a_bad_option_is_refused_by_name(keys, expected, tmp_path):
    (tmp_path / "study.yaml").write_text(f"learned_mask: {keys}\n")
    with pytest.raises(HeadroomError, match=expected):
        read_study(tmp_path / "study.yaml")


def test_a_ranking_of_the_users_own_cannot_be_called_learned(tmp_path):
    (tmp_path / "study.yaml").write_text("rankings: {learned: scores.csv}\n")
    with pytest.raises(HeadroomError, match="'learned' cannot be a ranking name"):
        read_study(tmp_path / "study.yaml")


def test_a_learning_rate_of_zero_is_refused_by_the_command(tmp_path, capsys):
    words = ["learn-mask", "--model", "m.json", "--prompts", "p.parquet", "--out", str(tmp_path / "o.parquet")]
    assert main([*words, "--learning-rate", "0"]) != 0
    assert "expected a learning rate above 0, to 10" in capsys.readouterr().err
