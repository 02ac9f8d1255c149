"""Masks in a user's own session: generation, padding, nesting, exceptions, and the model restored after them."""

import copy

import numpy as np
import pandas as pd
import pytest
import torch

import lm_headroom
from lm_headroom.artifacts.learned_ranking import LEARNED_RANKING
from lm_headroom.artifacts.store import write
from lm_headroom.engine.loading import gates_without
from lm_headroom.errors import HeadroomError
from lm_headroom.models import architectures
from lm_headroom.scoring.ranking_like import order_of
from tests.support.small_study import small
from tests.support.tiny_models import tiny_model

ALL = [(layer, head) for head in range(4) for layer in range(3)]
"""All heads of a tiny model; each layer loses one in turn."""
IDS = torch.tensor([[5, 17, 100, 33, 8], [300, 4, 9, 41, 77]])
LAYER = [(1, head) for head in range(4)] + [place for place in ALL if place[0] != 1]
"""The heads of layer 1 first, where nothing remains to be computed."""


@pytest.fixture
def model(family):
    return tiny_model(family)


def state(model):
    """All that attaching may change."""
    return [
        {name: value for name, value in module.__dict__.items() if not name.startswith("_")}
        for module in model.modules()
    ], model.config._attn_implementation


def greedy(model, ids, attention_mask, steps):
    """Greedy decoding that runs all tokens in each step; the end of a text is not chosen."""
    for _ in range(steps):
        positions = (attention_mask.cumsum(1) - 1).clamp(min=0)
        with torch.no_grad():
            logits = model(
                input_ids=ids, attention_mask=attention_mask, position_ids=positions, use_cache=False
            ).logits[:, -1]
        logits[:, model.config.eos_token_id] = -torch.inf
        ids = torch.cat([ids, logits.argmax(-1, keepdim=True)], dim=1)
        attention_mask = torch.cat([attention_mask, attention_mask.new_ones(len(ids), 1)], dim=1)
    return ids


def generate(model, ids, attention_mask, steps):
    """The same by transformers, which keeps keys and values."""
    return model.generate(
        ids, attention_mask=attention_mask, max_new_tokens=steps, min_new_tokens=steps, do_sample=False
    )


@pytest.mark.parametrize("padded", [0, 2], ids=["whole", "padded"])
@pytest.mark.parametrize("ranking", [ALL, LAYER], ids=["every-layer", "a-whole-layer"])
def test_generate_with_its_cache_is_the_greedy_loop_without(model, ranking, padded):
    attention_mask = torch.ones_like(IDS)
    attention_mask[1, :padded] = 0
    plain = greedy(model, IDS, attention_mask, 8)
    with lm_headroom.mask(model, ranking, 40), lm_headroom.without_ffns(model, [2]):
        expected = greedy(model, IDS, attention_mask, 8)
        assert torch.equal(generate(model, IDS, attention_mask, 8), expected)
    assert not torch.equal(expected, plain)
    assert torch.equal(generate(model, IDS, attention_mask, 8), plain)


def test_a_padded_batch_gives_the_logits_of_its_rows_alone(model):
    row = IDS[1:, :3]
    padded = torch.cat([IDS[:1], torch.cat([torch.zeros(1, 2, dtype=torch.long), row], dim=1)])
    mask = torch.tensor([[1] * 5, [0, 0, 1, 1, 1]])
    with lm_headroom.mask(model, ALL, 50), torch.no_grad():
        alone = model(input_ids=row).logits[0]
        positions = (mask.cumsum(1) - 1).clamp(min=0)
        batched = model(input_ids=padded, attention_mask=mask, position_ids=positions).logits[1, 2:]
    torch.testing.assert_close(batched, alone, rtol=1e-9, atol=1e-9)


def test_a_closed_head_writes_nothing_and_percent_rounds_down(model):
    with lm_headroom.mask(model, ALL, 30), torch.no_grad():
        masked = model(input_ids=IDS).logits
    attached = lm_headroom.attach(model)
    with attached.interventions.gates(gates_without(attached.interventions.shape, ALL[:3])), torch.no_grad():
        assert torch.equal(masked, model(input_ids=IDS).logits)


def test_the_model_is_restored_exactly_after_an_exception_too(model):
    before, logits = state(model), model(input_ids=IDS).logits

    @lm_headroom.mask(model, ALL, 50)
    def fail():
        assert state(model) != before
        raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        fail()
    with pytest.raises(HeadroomError, match="percent is 101; expected a whole number from 0 to 100"):
        with lm_headroom.mask(model, ALL, 101):
            pass
    assert state(model) == before
    assert torch.equal(model(input_ids=IDS).logits, logits)


def test_blocks_nest_and_the_outer_mask_returns(model):
    def run():
        with torch.no_grad():
            return model(input_ids=IDS).logits

    with lm_headroom.mask(model, ALL[:6], 50):
        expected = run()
    with lm_headroom.mask(model, ALL[:3], 25):
        outer = run()
        with lm_headroom.mask(model, ALL[3:6], 25):
            assert torch.equal(run(), expected)
            with lm_headroom.mask(model, ALL[:6], 50):
                assert torch.equal(run(), expected)
        assert torch.equal(run(), outer)
    assert not torch.equal(run(), outer)


def test_two_models_are_masked_apart(model):
    other = copy.deepcopy(model)
    with torch.no_grad():
        plain = model(input_ids=IDS).logits
        with lm_headroom.mask(model, ALL, 50):
            assert torch.equal(other(input_ids=IDS).logits, plain)
            with lm_headroom.mask(other, ALL[::-1], 50):
                assert not torch.equal(other(input_ids=IDS).logits, model(input_ids=IDS).logits)


def test_an_attached_model_stays_attached_until_it_is_detached(model):
    before = state(model)
    attached = lm_headroom.attach(model)
    with lm_headroom.mask(model, ALL, 50) as same:
        assert same is attached
        with pytest.raises(HeadroomError, match="the model is masked; leave the blocks"):
            lm_headroom.detach(model)
    assert lm_headroom.attach(model) is attached
    lm_headroom.detach(model)
    assert state(model) == before


@pytest.mark.parametrize("part", ["", "model"], ids=["whole", "a part"])
def test_a_model_in_training_mode_is_refused_attached_or_not(model, tokenizer, part):
    for attach in (lambda _: None, lm_headroom.attach):
        attach(model.eval())
        model.get_submodule(part).train()
        modes = [module.training for module in model.modules()]
        before = state(model)
        for use in (
            lambda: lm_headroom.mask(model, ALL, 50).__enter__(),
            lambda: lm_headroom.attach(model),
            lambda: lm_headroom.score_heads(model, tokenizer, [("One two", " three"), ("Four", " five")]),
        ):
            with pytest.raises(HeadroomError, match=r"is in training mode, .*; call model.eval\(\) first"):
                use()
        assert [module.training for module in model.modules()] == modes
        assert state(model) == before


def test_experts_are_multiplied_afterwards_as_before():
    model = tiny_model("olmoe").double()
    before = model.config._experts_implementation
    lm_headroom.attach(model)
    assert model.config._experts_implementation == "eager" != before
    lm_headroom.detach(model)
    assert model.config._experts_implementation == before


def test_without_ffns_leaves_out_the_least_important(model):
    scores = pd.DataFrame({"layer": [0, 1, 2], "score": [0.3, 0.1, 0.2]})
    with torch.no_grad():
        with lm_headroom.without_ffns(model, scores, 67):
            by_scores = model(input_ids=IDS).logits
        with lm_headroom.without_ffns(model, [1, 2]):
            assert torch.equal(model(input_ids=IDS).logits, by_scores)
        with lm_headroom.without_ffns(model, [1]):
            assert not torch.equal(model(input_ids=IDS).logits, by_scores)


def test_a_ranking_may_be_a_list_a_frame_or_a_file(model, tmp_path):
    scores = np.random.default_rng(0).random(12)
    frame = pd.DataFrame({"layer": np.repeat(range(3), 4), "head": np.tile(range(4), 3), "score": scores})
    frame.to_parquet(tmp_path / "mine.parquet")
    frame.to_csv(tmp_path / "mine.csv", index=False)
    order = [(int(i) // 4, int(i) % 4) for i in scores.argsort()]
    results = []
    # As pandas has whole numbers of a column where others are missing.
    floats = frame.astype({"head": float})
    for ranking in (order, frame, floats, tmp_path / "mine.parquet", str(tmp_path / "mine.csv")):
        with lm_headroom.mask(model, ranking, np.int8(50)), torch.no_grad():
            results.append(model(input_ids=IDS).logits)
    assert all(torch.equal(result, results[0]) for result in results)


def test_results_that_rank_are_read(tmp_path):
    """FFN importance, and what a mask has learned of heads or of FFNs."""
    path = small(tmp_path).path("ffn_importance", 0, task="copa")
    scores = pd.read_parquet(path)["score"]
    assert order_of(path, (len(scores),)) == [(int(layer),) for layer in scores.argsort(kind="stable")]
    columns = {"rank": [0, 1], "layer": [1, 0], "score": [0.1, 0.2], "log_alpha": [0.0, 1.0]}
    for component, heads, order in (("heads", [3, 2], [(1, 3), (0, 2)]), ("ffns", [None, None], [(1,), (0,)])):
        write(tmp_path / "learned.parquet", LEARNED_RANKING, columns | {"head": heads}, {"component": component})
        assert order_of(tmp_path / "learned.parquet", (2, 4)[: len(order[0])]) == order


@pytest.mark.parametrize(
    "ranking, message",
    [
        (7, r"expected a ranking: a file, a pandas frame or a list of \(layer, head\) pairs; got int"),
        ({(0, 0), (1, 0)}, "expected a ranking: .*; got set"),
        ({(0, 0): 1.0}, "expected a ranking: .*; got dict"),
        ([(0, 4)], "row 1: head 4 is none of the model's, which are 0 to 3"),
        ([(0, 0), (0, 0)], "row 2: 0, 0 is there twice"),
        ([3], r"row 1: 3 is not \(layer, head\) pairs"),
        ([(0, 1)], "the ranking has 1 of 12 heads; 50 percent are 6"),
        ("nowhere.csv", "nowhere.csv: no such file"),
        (
            pd.DataFrame({"layer": [0], "score": [1.0]}),
            "column head is missing; expected layer, head and rank or score",
        ),
        (pd.DataFrame({"layer": [0], "head": [0], "score": [np.nan]}), "row 1: score is nan; expected a finite number"),
        (pd.DataFrame({"layer": [0], "head": [0], "score": [pd.NA]}), "row 1: score is <NA>; expected a finite number"),
        (pd.DataFrame({"layer": [0], "head": [0], "rank": ["1"]}), "row 1: rank is '1'; expected a finite number"),
        (pd.DataFrame({"layer": [0, "b"], "head": [0, 0], "rank": [1, 1]}), r"row 2: \('b', 0\) is not"),
        (pd.DataFrame({"layer": [0, 0], "head": [0, 0.5], "rank": [1, 2]}), r"row 2: \(0, 0.5\) is not"),
    ],
)
def test_what_is_no_ranking_is_refused(ranking, message):
    with pytest.raises(HeadroomError, match=message):
        with lm_headroom.mask(tiny_model("opt"), ranking, 50):
            pass


def test_what_is_no_model_is_refused():
    with pytest.raises(HeadroomError, match="expected a transformers model, got object"):
        lm_headroom.attach(object())
    with pytest.raises(HeadroomError, match="training mode.*model.eval"):
        lm_headroom.attach(tiny_model("opt").train())
    with pytest.raises(HeadroomError, match="without a percent, expected a list of layers"):
        with lm_headroom.without_ffns(tiny_model("opt"), "ranking.parquet"):
            pass


def test_a_masked_model_trains_as_one_with_zeroed_columns(model):
    """Passes with and without gradients in one block, the weights of which change in between."""
    plain, closed = copy.deepcopy(model), ALL[:4]
    width = model.config.hidden_size // 4

    def close(weights):
        for layer, head in closed:
            weights[layer][:, head * width : (head + 1) * width] = 0

    def projections(trained):
        return {layer: module.weight for layer, module in architectures.output_projections(trained).items()}

    def gradients(trained):
        trained.zero_grad()
        trained(input_ids=IDS, labels=IDS).loss.backward()
        close({layer: weight.grad for layer, weight in projections(trained).items()})
        return {name: weight.grad.clone() for name, weight in trained.named_parameters() if weight.grad is not None}

    with lm_headroom.mask(model, closed, 34):
        for _ in range(2):
            with torch.no_grad():
                close(projections(plain))
                torch.testing.assert_close(model(input_ids=IDS).logits, plain(input_ids=IDS).logits)
            torch.testing.assert_close(gradients(model), gradients(plain))
            for trained in (model, plain):
                torch.optim.SGD(trained.parameters(), lr=0.05).step()
        weights = {name: 2 * weight for name, weight in model.state_dict().items()}
        model.load_state_dict(weights)
        plain.load_state_dict(weights)
        with torch.no_grad():
            close(projections(plain))
        with torch.inference_mode():
            torch.testing.assert_close(model(input_ids=IDS).logits, plain(input_ids=IDS).logits)
        torch.testing.assert_close(gradients(model), gradients(plain))
