"""What families have of their own, each in a class."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from transformers import AutoConfig, AutoModelForCausalLM

from lm_headroom.engine import attention
from lm_headroom.engine.attachment import attach
from lm_headroom.engine.attention import AttentionSpec, with_key_bias
from lm_headroom.engine.interventions import Interventions
from lm_headroom.engine.likelihood import log_likelihoods
from lm_headroom.engine.loading import load
from lm_headroom.engine.packing import Batches, Document, TokenSequence
from lm_headroom.engine.unembedding import logits
from lm_headroom.errors import HeadroomError
from lm_headroom.models import architectures
from lm_headroom.models.sizes import model_from_config, model_sizes, with_layers
from lm_headroom.planning.plan import measure_rates
from lm_headroom.scoring.gradient import contributions
from lm_headroom.scoring.prefix_matching import prefix_matching_scores
from tests.families.cases import CASES, HIDDEN, SPECIAL, WIDTH, WINDOW, output_projections
from tests.families.documents import DOCUMENTS, TOKENS

MAP = WIDTH * HIDDEN
"""Parameters of one head in one map, of the cases with heads of 6 numbers."""


def removed(served, name, *heads):
    return architectures.removed_parameters(served(name).skeleton, [(1, head) for head in heads])


class TestFusedProjections:
    """GPT-2, MPT and Phi-3 have queries, keys and values one after the other; NeoX, BLOOM and Falcon by groups."""

    @pytest.mark.parametrize("name", ["gpt2", "gpt_neox", "falcon-rw"])
    def test_a_head_takes_its_rows_of_all_three_and_its_columns(self, served, name):
        assert removed(served, name, 2) == 3 * (MAP + WIDTH) + MAP

    def test_a_transposed_weight_is_read_by_outputs(self, plain):
        projection = architectures.output_projections(plain("gpt2"))[0]
        assert architectures.rows_first(projection).data_ptr() == projection.weight.data_ptr()
        row = torch.zeros(1, HIDDEN, dtype=torch.float64)
        row[0, 3] = 1
        written = (projection(row) - projection.bias)[0]
        torch.testing.assert_close(architectures.rows_first(projection)[:, 3], written)


class TestSharedKeysAndValues:
    """They go with the last query head that reads them."""

    def test_groups(self, served):
        assert removed(served, "phi3", 0) == removed(served, "phi3", 3) == 2 * MAP
        assert removed(served, "phi3", 1, 2) == 4 * MAP
        assert removed(served, "phi3", 2, 3) == 6 * MAP
        assert removed(served, "falcon-new", 2, 3) == 6 * MAP

    def test_one_for_all_heads(self, served):
        assert removed(served, "falcon", 0, 1, 2) == 6 * MAP
        assert removed(served, "falcon", 0, 1, 2, 3) == 10 * MAP


class TestHeadsNormedTogether:
    """OLMo-2 norms the queries of all heads as one vector: those of some cannot go without changing the others'."""

    def test_queries_and_keys_stay_until_the_layer_goes(self, served):
        assert removed(served, "olmo2", 1) == MAP
        assert removed(served, "olmo2", 0, 1) == 2 * MAP + MAP
        assert removed(served, "olmo2", 0, 1, 2, 3) == 12 * MAP + 4 * WIDTH + 2 * WIDTH


class TestNormsOfAHeadsOwn:
    """StableLM may have a norm for each head's queries and each group's keys."""

    def test_they_go_with_it(self, served):
        assert removed(served, "stablelm-parallel", 1) == 2 * MAP + WIDTH
        assert removed(served, "stablelm-parallel", 0, 1) == 6 * MAP + 3 * WIDTH
        # Query biases and no norms.
        assert removed(served, "stablelm", 1) == 2 * MAP + WIDTH


class TestWidthsOfTheirOwn:
    """Gemma's and Qwen3's heads together are not as wide as the residual."""

    @pytest.mark.parametrize("name", ["gemma2", "gemma3_text", "qwen3"])
    def test_shapes_are_read_from_the_maps(self, served, name):
        shape = served(name).shape
        assert shape.heads * shape.d_head != HIDDEN
        assert removed(served, name, 0) == 2 * shape.d_head * HIDDEN

    @pytest.mark.parametrize(
        ("name", "message"),
        [("bloom", "config says 5 heads, of width 4, but the query_key_value of its layers have"),
         ("gpt2", "a pass without weights, which .* fails .*`num_heads`: 5")],
    )  # fmt: skip
    def test_a_config_that_contradicts_the_maps_is_refused(self, plain, name, message):
        model = plain(name)
        model.config.n_head = 5
        with pytest.raises(HeadroomError, match=message):
            architectures.head_layout(model)


class TestParallelBlocks:
    """Attention and FFN read the same residual; a norm that both have does not go with the FFN."""

    @pytest.mark.parametrize(
        ("name", "norms"),
        [
            ("gptj", 0), ("falcon", 0), ("falcon-one-norm", 0), ("falcon-new", 1), ("falcon-rw", 1), ("gpt_neox", 1),
            ("stablelm-parallel", 0), ("stablelm", 1), ("bloom", 1), ("bloom-post-norm", 0),
        ],
    )  # fmt: skip
    def test_norms_that_go(self, served, name, norms):
        model = served(name).skeleton
        maps = [p for n, p in architectures.layers(model)[0].named_parameters() if n.startswith("mlp.")]
        assert architectures.ffn_parameters(model, 0) == sum(p.numel() for p in maps) + 2 * HIDDEN * norms


class TestNormsAfterBlocks:
    """Gemma 2 and 3 and OLMo-2 norm what attention and FFN add to the residual: of zeros that is zero."""

    @pytest.mark.parametrize("name", ["gemma2", "gemma3_text", "olmo2"])
    @torch.no_grad()
    def test_a_layer_without_heads_and_ffn_adds_nothing(self, served, name):
        loaded = served(name)
        gates = torch.ones(3, 4)
        gates[1] = 0
        with (
            loaded.interventions.gates(gates),
            loaded.interventions.without_ffns([1]),
            loaded.interventions.layer_inputs() as inputs,
        ):
            loaded.model(input_ids=torch.tensor([TOKENS]), use_cache=False)
        assert torch.equal(inputs[2], inputs[1])
        assert not torch.equal(inputs[1], inputs[0])

    @pytest.mark.parametrize("name", ["gemma2", "gemma3", "gemma3_text", "olmo2"])
    def test_what_heads_write_is_what_reaches_the_residual(self, served, name):
        """Heads that write ten times as much, all of them, write the same behind the norm."""
        loaded = served(name)
        documents = [Document(0, (TokenSequence(tuple(TOKENS), 2),))]
        before = contributions(loaded, documents, 200).written
        projection = output_projections(loaded.model)[1]
        with torch.no_grad():
            projection.weight *= 10
        try:
            after = contributions(loaded, documents, 200).written
        finally:
            with torch.no_grad():
                projection.weight /= 10
        np.testing.assert_allclose(after[:, 1], before[:, 1], rtol=1e-3)

    def test_norms_that_go(self, served):
        maps = 3 * 40 * HIDDEN
        assert architectures.ffn_parameters(served("gemma2").skeleton, 1) == maps + 2 * HIDDEN
        assert architectures.ffn_parameters(served("gemma3_text").skeleton, 1) == maps + 2 * HIDDEN
        assert architectures.ffn_parameters(served("olmo2").skeleton, 1) == maps + HIDDEN


class TestSlidingWindows:
    """Attention ends so many tokens back, counted along a branch and not by columns."""

    @pytest.mark.parametrize(
        ("name", "narrow"),
        [
            ("mistral-sliding", [0, 1, 2]), ("phi3", [0, 1, 2]), ("qwen2-sliding", [0, 2]), ("gemma2", [0, 2]),
            ("gemma3_text", [0, 2]), ("gpt_neo", [0, 2]), ("mistral", []),
        ],
    )  # fmt: skip
    def test_nothing_is_seen_beyond(self, served, name, narrow):
        scores = prefix_matching_scores(served(name), TOKENS, None)
        assert [layer for layer in range(3) if (scores[layer] == 0).all()] == narrow

    def test_the_window_is_in_every_mask(self):
        narrow = AttentionSpec(1.0, sliding_window=3)
        unseen = narrow.masked_keys(2, 6, torch.device("cpu"))
        assert [row.nonzero()[:, 0].tolist() for row in ~unseen] == [[0, 1, 2], [1, 2, 3], [2, 3, 4], [3, 4, 5]]
        q, k = torch.zeros(1, 1, 4, 2), torch.zeros(1, 1, 6, 2)
        seen = narrow.restrict(None, q, k)
        assert torch.equal(seen, ~unseen)
        holes = torch.rand(4, 6) > 0.3
        assert torch.equal(narrow.restrict(holes, q, k), seen & holes)
        added = narrow.restrict(torch.zeros(4, 6), q, k)
        assert torch.equal(added == 0, seen)
        assert narrow.restrict(None, q[:, :, :3], k[:, :, :3]) is None, "three tokens are within it: the fast way"

    @torch.no_grad()
    def test_padding_is_honoured_with_it(self, served, plain):
        """Outside the engine, where transformers makes the mask."""
        ids = torch.tensor([TOKENS, TOKENS])
        mask = torch.ones_like(ids)
        mask[0, :6] = 0
        positions = (mask.cumsum(1) - 1).clamp(min=0)
        for name in ("gpt_neo", "gemma2", "mistral-sliding", "bloom", "mpt", "falcon-rw"):
            own = {} if name in ("bloom", "mpt") else {"position_ids": positions}
            actual = served(name).model(input_ids=ids, attention_mask=mask, **own).logits.float()
            # In float64 transformers' masks overflow in the softmax, which is in float32.
            expected = plain(name).float()(input_ids=ids, attention_mask=mask, **own).logits
            torch.testing.assert_close(actual[mask.bool()], expected[mask.bool()], rtol=1e-3, atol=1e-3)


class TestSoftCaps:
    """Gemma 2 caps attention scores and logits; 3 may cap logits."""

    @torch.no_grad()
    def test_logits_are_capped(self, served):
        model = served("gemma2").model
        actual = logits(model, 100 * torch.randn(5, HIDDEN, dtype=torch.float64))
        assert 2.9 < actual.abs().max() <= 3.0

    def test_blocks_of_queries_do_not_matter(self, served, monkeypatch):
        together = log_likelihoods(served("gemma2"), Batches(DOCUMENTS, 200))
        monkeypatch.setattr(attention, "BLOCK", 4)
        np.testing.assert_allclose(log_likelihoods(served("gemma2"), Batches(DOCUMENTS, 200)), together, rtol=1e-10)


class TestAlibi:
    """BLOOM, MPT and old Falcons know positions by a bias of each key, which is made a part of it."""

    @pytest.mark.parametrize(
        ("dtype", "tolerance"),
        [(torch.float64, 1e-12), (torch.float32, 1e-6), (torch.bfloat16, 1e-6), (torch.float16, 1e-6)],
    )
    def test_products_have_the_bias_in_any_format(self, dtype, tolerance):
        q, k, v = (torch.randn(1, 4, 7, 12).to(dtype) for _ in range(3))
        bias = -2047.3 * torch.rand(1, 4, 7)
        q_, k_, v_ = with_key_bias(q, k, v, bias.to(torch.promote_types(dtype, torch.float32)), 12**-0.5)
        assert q_.shape[-1] == k_.shape[-1] == v_.shape[-1] == 16
        with_bias = (q_.double() @ k_.double().transpose(2, 3)) * 12**-0.5
        without = (q.double() @ k.double().transpose(2, 3)) * 12**-0.5
        expected = bias.double()[:, :, None].expand_as(without)
        torch.testing.assert_close(with_bias - without, expected, rtol=tolerance, atol=tolerance)
        assert torch.equal(v_[..., :12], v)
        assert not v_[..., 12:].any()

    def test_a_bias_by_columns_is_refused(self, plain, monkeypatch):
        """As it would be if positions of packed rows were forgotten."""
        monkeypatch.setattr(Interventions, "at_positions", lambda self, values: values)
        with pytest.raises(HeadroomError, match="family 'bloom': the hidden states of packed rows differ"):
            attach(plain("bloom"))

    @torch.no_grad()
    def test_falcon_is_held_against_the_attention_that_it_is_used_with(self, checkpoint, plain):
        """What transformers writes out for it adds the bias twice; a model that is loaded so is refused."""
        folder, ids = checkpoint("falcon-rw").parent / "checkpoint", torch.tensor([TOKENS])
        once, twice = (
            AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float64, attn_implementation=kind).eval()
            for kind in ("sdpa", "eager")
        )
        expected = plain("falcon-rw")(input_ids=ids).logits
        torch.testing.assert_close(once(input_ids=ids).logits, expected, rtol=1e-5, atol=1e-5)
        assert not torch.allclose(twice(input_ids=ids).logits, expected, atol=0.1)
        with pytest.raises(HeadroomError, match="with all heads open the logits differ from the model's own"):
            attach(twice)

    def test_the_window_is_that_of_training(self):
        config = AutoConfig.for_model("bloom")
        assert architectures.max_positions(config) == 2048
        config.seq_length = 512
        assert architectures.max_positions(config) == 512


class TestSixteenBits:
    """Every load proves itself in the format that it has."""

    @pytest.mark.parametrize("name", ["bloom", "mpt", "falcon-rw", "gemma2", "gpt_neo", "gptj", "olmo2"])
    def test_it_loads(self, checkpoint, name):
        loaded = load(checkpoint(name), dtype="bfloat16", device="cpu")
        assert np.isfinite(log_likelihoods(loaded, Batches(DOCUMENTS, 200))).all()


class TestLayersElsewhere:
    """Layers that wait on disk: accelerate's hooks are on the modules whose attention is replaced."""

    @pytest.mark.parametrize("name", ["bloom", "falcon-rw", "gpt2", "gptj", "mpt"])
    def test_likelihoods_are_those_in_memory(self, checkpoint, served, name):
        from lm_headroom.engine.loading import prepare

        folder = checkpoint(name).parent / "checkpoint"
        with torch.device("meta"):
            whole = AutoModelForCausalLM.from_config(AutoConfig.from_pretrained(folder))
        path = architectures.architecture_of(whole).layers
        stem, many = path.rsplit(".", 1)
        places = {f"{stem}.{part}": "cpu" for part, _ in whole.get_submodule(stem).named_children() if part != many}
        places |= {f"{path}.{n}": "disk" if n == 1 else "cpu" for n in range(3)} | {"lm_head": "cpu"}
        split = AutoModelForCausalLM.from_pretrained(
            folder,
            dtype=torch.float64,
            device_map=places,
            attn_implementation=architectures.attention_implementation(whole.config),
        )
        assert {parameter.device.type for parameter in split.parameters()} == {"cpu", "meta"}
        values = log_likelihoods(prepare(split, None), Batches(DOCUMENTS, 200))
        np.testing.assert_allclose(values, log_likelihoods(served(name), Batches(DOCUMENTS, 200)), rtol=1e-10)


class TestRotationsByLength:
    """Phi-3 of 128k rotates otherwise when any input of a batch is long: only inputs below that are exact."""

    def test_the_window_ends_there(self):
        factors = {"short_factor": [1.0] * 3, "long_factor": [2.0] * 3}
        config = AutoConfig.for_model(
            "phi3", **CASES["phi3"].settings | SPECIAL | {"max_position_embeddings": 4 * WINDOW},
            original_max_position_embeddings=WINDOW,
            rope_parameters={"rope_type": "longrope", "rope_theta": 1e4, "original_max_position_embeddings": WINDOW}
            | factors,
        )  # fmt: skip
        assert architectures.max_positions(config) == WINDOW


class TestWindows:
    """Configs name the largest number of input tokens differently."""

    def test_all_are_found(self, served, name):
        assert served(name).max_positions == (2048 if name.startswith("bloom") else WINDOW)
        assert model_sizes(served(name).skeleton)["max_positions"] == served(name).max_positions


class TestPlans:
    """``lm-headroom plan`` times models of one and three layers, whatever kinds of layers a config lists."""

    def test_configs_of_any_number_of_layers(self, served, name):
        for n_layers in (1, 5):
            model = model_from_config(with_layers(served(name).skeleton.config, n_layers))
            assert architectures.head_layout(model).layers == n_layers

    @pytest.mark.parametrize("name", ["gemma3_text", "gpt_neo"])
    def test_they_are_timed(self, served, name):
        config = with_layers(served(name).skeleton.config, 1)
        assert min(measure_rates(config, torch.float32, 1, columns=128)) > 0


class TestRefused:
    """What cannot be served exactly is refused with why, and with what can."""

    @pytest.mark.parametrize(
        ("family", "settings", "why"),
        [
            (
                "mpt",
                {"attn_config": {"alibi": False}},
                "attn_config.alibi = false: transformers computes something",
            ),
            ("mpt", {"attn_config": {"qk_ln": True}}, "attn_config.qk_ln = true: transformers computes something"),
            ("mpt", {"no_bias": False}, "no_bias = false: transformers computes something"),
            ("mpt", {"logit_scale": 0.5}, "logit_scale = 0.5: transformers computes something"),
            ("bloom", {"slow_but_exact": True, "pretraining_tp": 2}, "slow_but_exact = true: its maps are computed in"),
            ("gemma3_text", {"use_bidirectional_attention": True}, "its tokens attend to later ones; supported: this"),
            ("gpt2", {"add_cross_attention": True}, "add_cross_attention = true: its layers attend to an encoder"),
        ],
    )
    def test_settings(self, family, settings, why):
        config = AutoConfig.for_model(family, **CASES[family].settings | SPECIAL | settings)
        with pytest.raises(HeadroomError, match=f"model family '{family}' is not supported with .*{why}"):
            attach(model_from_config(config, device="cpu"))

    def test_a_head_that_is_not_gated_is(self, plain, monkeypatch):
        """A gate that never reaches the output projection would prune in silence."""
        monkeypatch.setattr(Interventions, "gates", lambda self, gates: torch.no_grad())
        with pytest.raises(HeadroomError, match="closing the first layer's heads changes nothing"):
            attach(plain("gpt_neox"))
