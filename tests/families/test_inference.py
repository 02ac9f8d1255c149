"""What a pass without weights shows of a model, and the proofs that a wrong reading does not pass."""

from __future__ import annotations

from copy import deepcopy
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from lm_eval.models.huggingface import HFLM
from transformers import AutoModelForCausalLM

from lm_headroom.engine import attachment
from lm_headroom.engine.likelihood import log_likelihoods
from lm_headroom.engine.loading import prepare
from lm_headroom.engine.packing import Batches, Document, TokenSequence
from lm_headroom.errors import HeadroomError
from lm_headroom.models import architectures, inference
from lm_headroom.models.architecture import Architecture, HeadLayout
from lm_headroom.models.inference import infer
from tests.families import loops
from tests.families.cases import CASES, model_of
from tests.served.models import PAGE
from tests.support.model_types import PARTICULARS, VOCABULARY, randomise, tiny_of_type
from tests.support.tiny_models import tiny_model

GEMMA = ("pre_feedforward_layernorm", "post_feedforward_layernorm")
AFTER = {"attention_output_norm": "post_attention_layernorm", "ffn_output_norm": "post_feedforward_layernorm"}
GPT2 = {"layers": "transformer.h", "attention": "attn", "output_projection": "c_proj", "ffn_norms": ("ln_2",)}
NEOX = {"layers": "gpt_neox.layers", "attention": "attention", "output_projection": "dense", "grouped": True}
OPT = {"layers": "model.decoder.layers", "output_projection": "out_proj", "ffn": ("fc1", "fc2")}
READ: dict[str, dict[str, Any]] = {
    "gemma": {},
    "gemma2": {"ffn_norms": GEMMA, "softcap": "final_logit_softcapping", **AFTER},
    "gemma3": {"layers": "model.language_model.layers", "ffn_norms": GEMMA, **AFTER},
    "gemma3_text": {"ffn_norms": GEMMA, **AFTER},
    "gemma4_text": {
        "ffn_norms": GEMMA,
        "softcap": "final_logit_softcapping",
        **AFTER,
        "shape": HeadLayout(3, 4, 2, (8, 16, 16), shared=((2, 1),)),
        "layer_projections": (*[("q_proj", "k_proj", "v_proj")] * 2, ("q_proj",)),
        "shared_norms": ("k_norm", "v_norm"),
        "after_ffn": "per_layer_input_gate",
    },
    "gemma4_text-dense": {
        "ffn_norms": GEMMA,
        **AFTER,
        "shape": HeadLayout(3, 4, (2, 1, 1), (8, 16, 16)),
        "layer_projections": (("q_proj", "k_proj", "v_proj"), *[("q_proj", "k_proj", "k_proj")] * 2),
    },
    "gpt2": GPT2 | {"input_projections": ("c_attn",)},
    "gpt_neox": NEOX | {"input_projections": ("query_key_value",)},
    "gpt_neox-sequential": NEOX | {"input_projections": ("query_key_value",)},
    "llama": {},
    "mistral": {},
    "olmo2": {"joint_norms": True, "ffn_norms": GEMMA[1:], **AFTER},
    "opt": OPT | {"ffn_norms": ("final_layer_norm",)},
    # Its norms act on the residual stream, and stay when the FFN goes.
    "opt-350m": OPT
    | {"ffn_norms": (), "last_norm": "final_layer_norm", "final_projection": "model.decoder.project_out"},
    "phi3": {"input_projections": ("qkv_proj",)},
    "qwen2": {},
    "qwen3": {},
    "stablelm": {},
    "stablelm-parallel": {"ffn_norms": (), "head_norms": ("q_layernorm.norms", "k_layernorm.norms")},
}
"""What people read in these families' code, where it is not what most have."""


@pytest.mark.parametrize("name", READ)
def test_the_pass_shows_what_people_read_in_the_code(name):
    model, case = model_of(CASES[name]), CASES[name]
    shape = HeadLayout(3, case.heads, case.groups, case.width)
    expected = Architecture(**{"layers": "model.layers", "shape": shape} | READ[name])
    assert infer(model) == expected
    # Nor does it change the model that it reads.
    assert model.config._attn_implementation == "eager"


def test_models_of_one_configuration_take_one_pass(monkeypatch, tmp_path):
    model, again, wider = (tiny_model("llama", vocabulary) for vocabulary in (611, 611, 613))
    again.config._name_or_path = str(tmp_path)
    wider.config.num_key_value_heads = 4
    inspected, run = [], inference._run
    monkeypatch.setattr(inference, "_run", lambda model: inspected.append(model) or run(model))
    assert infer(model) == infer(again) == infer(model)
    assert inspected == [model]
    assert infer(wider).shape.key_value_heads == 4
    assert inspected == [model, wider]

    class Other(type(model)):
        """Code of one's own, of which another configuration says nothing."""

    infer(Other(model.config))
    assert len(inspected) == 3


def listed(label: str) -> list[str]:
    """Types that the page lists in a row of its table."""
    (line,) = (line for line in PAGE.read_text().splitlines() if line.startswith(f"| {label} |"))
    return [part.strip("` ") for part in line.split("|")[2].split(",")]


TOKENS = torch.randint(1, VOCABULARY, (40,), generator=torch.Generator().manual_seed(3)).tolist()
DOCUMENTS = [
    Document(0, (TokenSequence(tuple(TOKENS[:9]), 3), TokenSequence((*TOKENS[:6], *TOKENS[20:25]), 5))),
    Document(1, (TokenSequence(tuple(TOKENS[9:20]), 2),)),
]


@pytest.mark.parametrize("name", listed("served, by what a pass shows") + listed("served, by a row"))
@torch.no_grad()
def test_log_likelihoods_of_every_served_type_are_those_of_lm_eval(name, tokenizer):
    model = tiny_of_type(name)
    hflm = HFLM(pretrained=model, tokenizer=tokenizer, batch_size=1, backend="causal")
    sequences = [sequence for document in DOCUMENTS for sequence in document.sequences]
    asked = [(("", ""), list(one.tokens[: -one.n_target]), list(one.tokens[-one.n_target :])) for one in sequences]
    expected = [value for value, _ in hflm._loglikelihood_tokens(asked, disable_tqdm=True)]
    loaded = prepare(model, tokenizer)
    np.testing.assert_allclose(log_likelihoods(loaded, Batches(DOCUMENTS, 64)), expected, atol=1e-4)


@pytest.mark.parametrize(
    "name, reason",
    [
        ("diffllama", "calls the attention interface 2 times in a pass"),
        ("olmo_hybrid", "layers.0, which has no attention, has norms in other places than layers with attention"),
        ("nemotron_h", "which of a layer's modules beside attention are its FFN cannot be told: none"),
        ("zaya", "the hidden states of packed rows differ"),
        ("bitnet", "closing heads is not the same as leaving out their part"),
        ("bart", "the hidden states of packed rows differ"),
        ("bert", "which of a layer's modules beside attention are its FFN cannot be told: attention.output, "),
        ("modernbert-decoder", "logits are more than the output embedding"),
        ("mamba", "its attention does not go through transformers' attention interface"),
        ("xlstm", "its attention does not go through transformers' attention interface"),
        ("llama4_text", "not supported with attn_temperature_tuning = true: it scales queries by their place"),
    ],
)
def test_what_cannot_be_served_is_refused_with_the_reason(name, reason):
    model = tiny_of_type(name)
    with pytest.raises(HeadroomError, match=reason):
        attachment.attach(model)


@pytest.mark.parametrize(
    "name, wrong, reason",
    [
        # A map inside the FFN, which does not add to the residual by itself.
        ("llama", {"ffn": ("mlp.up_proj",)}, "."),
        ("llama", {"ffn": ("mlp.gate_proj",)}, "."),
        # Its queries, whose map takes no heads.
        ("llama", {"output_projection": "q_proj"}, "."),
        ("llama", {"layers": "model.layers", "ffn": ("input_layernorm",)}, "leaving out the FFN of layer 0 does more"),
        ("gemma2", {"softcap": ""}, "logits are more than the output embedding"),
    ],
)
def test_a_wrong_reading_does_not_pass_the_proofs(name, wrong, reason):
    model = model_of(CASES[name])
    model.lm_headroom_architecture = replace(infer(model), **wrong)
    with pytest.raises((HeadroomError, RuntimeError), match=reason):
        attachment.attach(model)


@pytest.mark.parametrize(
    "name, settings, narrow",
    [
        ("llama4_text", {"attn_temperature_tuning": False}, {"attention_chunk_size": 16}),
        (
            "minimax_m3_vl_text",
            {"layer_types": ["full_attention", "minimax_m3_sparse", "minimax_m3_sparse"], "index_n_heads": 2},
            {"index_block_size": 4, "index_topk_blocks": 4, "index_local_blocks": 1},
        ),
    ],
    ids=["chunks", "chosen blocks"],
)
@torch.no_grad()
def test_rows_are_no_longer_than_attention_is_whole(name, settings, narrow):
    """Up to there a model that attends to chunks, or to blocks of its choice, is the one that attends to all."""
    config = deepcopy(tiny_of_type(name).config)
    config.update(settings)
    whole = AutoModelForCausalLM.from_config(config).double().eval()
    randomise(whole)
    config = deepcopy(config)
    config.update(narrow)
    assert architectures.max_positions(config) == 16 < architectures.max_positions(whole.config)
    parted = AutoModelForCausalLM.from_config(config).double().eval()
    parted.load_state_dict(whole.state_dict())
    ids = torch.tensor([TOKENS[:17]])
    expected, actual = (model(input_ids=ids, use_cache=False).logits for model in (whole, parted))
    torch.testing.assert_close(actual[:, :16], expected[:, :16])
    assert not torch.allclose(actual[:, 16], expected[:, 16], atol=1e-3)
    attachment.attach(parted)
    torch.testing.assert_close(parted(input_ids=ids[:, :16], use_cache=False).logits, expected[:, :16])


BEYOND_PROOFS = {"sliding_window": 14}
"""A window that no row of a proof leaves, as none leaves a checkpoint's."""


@pytest.mark.parametrize(
    "name, settings",
    [
        # Both say the window by the mask alone.
        ("phimoe", BEYOND_PROOFS),
        (
            "qwen2_moe",
            BEYOND_PROOFS
            | {"use_sliding_window": True, "layer_types": ["full_attention", "sliding_attention", "sliding_attention"]},
        ),
        # It takes a part of the mask.
        ("gemma4_text", PARTICULARS["gemma4_text"] | BEYOND_PROOFS),
        ("mistral", BEYOND_PROOFS),
    ],
)
@torch.no_grad()
def test_sliding_windows_are_those_of_the_model_however_it_says_them(name, settings, monkeypatch):
    monkeypatch.setitem(PARTICULARS, name, settings | {"sliding_window": 64})
    whole = tiny_of_type(name)
    monkeypatch.setitem(PARTICULARS, name, settings)
    model = tiny_of_type(name)
    long, short = TOKENS[:28], TOKENS[3:9]
    rows = (TokenSequence(tuple(long), 3), TokenSequence((*long[:22], *short), 6))
    documents = [Document(0, rows), Document(1, (TokenSequence(tuple(TOKENS[9:34]), 8),))]
    expected = loops.log_likelihoods(model, documents)
    assert np.abs(loops.log_likelihoods(whole, documents) - expected).min() > 1e-3, "the window is in force"
    np.testing.assert_allclose(log_likelihoods(prepare(model, None), Batches(documents, 200)), expected, atol=1e-4)


@pytest.mark.parametrize("name", ["granite", "cohere", "minicpm3"])
def test_the_factor_of_logits_is_a_number_of_the_configuration(name):
    model = tiny_of_type(name)
    attachment.attach(model)
    expected = {"granite": 1 / 4.0, "cohere": 0.3, "minicpm3": 8 / 32}
    assert model.lm_headroom_logit_factor == expected[name]


def test_the_parameters_of_latent_attention_are_counted_by_head():
    """DeepSeek's queries and its keys and values come from narrower vectors, which all heads share and which stay."""
    model = tiny_of_type("deepseek_v3")
    attention = architectures.attention_modules(model)[1]
    heads = architectures.head_layout(model).heads
    maps = [attention.q_b_proj, attention.kv_b_proj, attention.o_proj]
    assert architectures.removed_parameters(model, [(1, 0)]) == sum(m.weight.numel() // heads for m in maps)
