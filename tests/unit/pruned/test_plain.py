"""Exports that transformers loads by itself: as many heads in each layer, in the family's own configuration."""

import copy
import json

import numpy as np
import pytest
import torch
from transformers import AutoModelForCausalLM

from lm_headroom.analysis.ranking import even_count, even_ranking, even_rounds, random_ranking
from lm_headroom.artifacts.model_record import read_record
from lm_headroom.engine.loading import load, prepare
from lm_headroom.errors import HeadroomError
from lm_headroom.models import architectures
from lm_headroom.models.resolve import resolve
from lm_headroom.models.sizes import model_from_config
from lm_headroom.pruned.export import Pruned, check_export, record_reference
from lm_headroom.pruned.forms import Counts, Form, choose_form, make_plain
from lm_headroom.pruned.model import Remainder, prune_for_good
from tests.support.exports import TOKENS, Place
from tests.support.model_types import randomise, tiny_of_type

PLAIN = (
    "cohere2", "deepseek_v3", "gemma", "gemma2", "gemma3", "glm4", "gpt_oss", "granite", "lfm2", "llama", "mistral",
    "mixtral", "moss_transcribe_diarize", "nemotron", "olmo", "phi3", "qwen2", "qwen3", "qwen3_moe", "smollm3",
    "starcoder2",
)  # fmt: skip
"""Families whose configuration says how many heads there are, of two as a part of a larger model's."""
OWN = ("gpt2", "gpt_neox", "opt")
"""Families whose configuration has no place for the width of a head, but whose code works with any number of them."""


def every_other(shape):
    """Half of the heads of each layer, of all groups."""
    return tuple(
        (layer, head) for layer in shape.attending for head in range(shape.heads) if head % max(2, shape.group) == 0
    )


@pytest.mark.parametrize("name", [*PLAIN, *OWN])
def test_an_export_of_as_many_heads_in_each_layer_is_plain_where_the_family_can_say_so(name, tmp_path):
    model = tiny_of_type(name).float()
    shape = architectures.head_layout(model)
    form = export(model, every_other(shape), tmp_path)
    if name in OWN:
        assert form.plain is None
        assert "its configuration" in form.why_not
    else:
        groups = shape.key_value_heads if shape.group > 1 else shape.heads // 2
        assert form.plain == Counts(shape.heads // 2, groups)
        config = json.loads((tmp_path / "config.json").read_text())
        assert config["model_type"] == model.config.model_type
        assert config.get("text_config", config)["num_attention_heads"] == shape.heads // 2
        assert "head_dim" in config.get("text_config", config)
        assert "auto_map" not in config


def export(model, heads, folder):
    """Write a model without some heads and hold it against the masked one; how it was written."""
    pruned = Pruned(tuple(heads), ())
    left = pruned.left(model)
    form = choose_form(model, left)
    reference = record_reference(prepare(copy.deepcopy(model), None), pruned)
    parameters = model.num_parameters() - pruned.parameters(model)
    if form.plain:
        make_plain(copy.deepcopy(model), left, form.plain).save_pretrained(folder)
    else:
        prune_for_good(copy.deepcopy(model), left).save_pretrained(folder, save_original_format=False)
    check_export(folder, reference, parameters, form)
    return form


def test_a_number_of_heads_that_the_configuration_refuses_takes_classes_of_our_own(tmp_path):
    """Three heads do not divide the 32 numbers of its hidden states, as the configuration wants."""
    form = export(tiny_of_type("deepseek_v2").float(), [(layer, 0) for layer in range(3)], tmp_path)
    assert form.plain is None
    assert "The hidden size (32) is not a multiple of the" in form.why_not


def test_norms_with_a_row_for_each_head_are_cut_with_it(tmp_path):
    """Command R+'s, of queries and keys; each head is normalised by itself."""
    config = copy.deepcopy(tiny_of_type("cohere").config)
    config.use_qk_norm = True
    model = model_from_config(config, torch.float32, "cpu")
    randomise(model)
    shape = architectures.head_layout(model)
    row = architectures.architecture_of(model)
    assert (row.joint_norms, row.head_norms) == (False, ("q_norm", "k_norm"))
    assert export(model, every_other(shape), tmp_path / "plain").plain
    assert not export(model, [(0, 0), (0, 1), (1, 3)], tmp_path / "own").plain


@torch.no_grad()
@pytest.mark.parametrize("name", ["bamba", "moshi"])
def test_a_cache_that_changes_the_whole_model_may_change_the_export_as_much(name, tmp_path):
    """transformers gives tokens after a cache of these the positions of the first ones, unless positions are named."""
    model = tiny_of_type(name).float()
    ids = torch.arange(24)[None]
    cached = model(ids[:, -1:], past_key_values=model(ids[:, :-1], use_cache=True).past_key_values).logits
    assert not torch.allclose(cached, model(ids, use_cache=False).logits[:, -1:], atol=0.1)
    shape = architectures.head_layout(model)
    assert export(model, every_other(shape), tmp_path / "plain").plain
    assert not export(model, every_other(shape)[:1], tmp_path / "own").plain


@pytest.mark.parametrize("name", ["flint", "granite_swa", "granitemoe_swa"])
def test_attention_with_sinks_can_be_plain_alone(name):
    """lm-headroom's own attention has none, and is of all exports that are not plain."""
    model = tiny_of_type(name)
    shape = architectures.head_layout(model)
    assert choose_form(model, Pruned(every_other(shape), ()).left(model)).plain
    for heads, ffns in ([(0, 0)], []), ([], [1]):
        message = f"'{name}' cannot be exported without .* SDPA takes no scores of attention sinks.; measure it with"
        with pytest.raises(HeadroomError, match=message):
            choose_form(model, Remainder.without(shape, heads, ffns))


def test_layers_that_differ_lack_an_ffn_or_have_no_head_need_classes_of_their_own():
    model = tiny_of_type("llama")
    shape = architectures.head_layout(model)
    for heads, ffns, why_not in (
        ([(0, 0)], [], "layers keep different numbers of heads or key-value heads"),
        ([], [1], "FFNs are removed"),
        (shape.places, [], "no head is left"),
        # One group keeps two heads, the other one.
        ([(layer, 0) for layer in range(3)], [], "key-value heads are read by different numbers of heads"),
        # As many heads, but of one group in the last layer.
        (
            [(0, 0), (0, 2), (1, 1), (1, 3), (2, 0), (2, 1)],
            [],
            "layers keep different numbers of heads or key-value heads",
        ),
    ):
        assert choose_form(model, Remainder.without(shape, heads, ffns)) == Form(None, why_not)


@pytest.mark.parametrize("name", ["olmo2", "bloom", "stablelm"])
def test_a_family_that_can_be_neither_is_refused_by_name(name):
    model = tiny_of_type(name)
    shape = architectures.head_layout(model)
    with pytest.raises(HeadroomError, match=f"model family '{name}' cannot be exported without these heads and FFNs"):
        choose_form(model, Remainder.without(shape, every_other(shape)))


@pytest.fixture
def llama(tmp_path, tokenizer):
    return Place(tmp_path, "llama", tokenizer)


def test_an_even_export_is_a_model_for_a_study(llama, tmp_path):
    assert llama.export("--ranking", llama.ranking("heads"), "--percent", 50, "--even") == 0
    record = tmp_path / "again" / "model.json"
    resolve("again", str(llama.out), None, record)
    content = read_record(record)
    assert (content["heads"], content["key_value_heads"]) == (2, 2)
    assert content["origin"] == {"kind": "pruned_checkpoint", "pruned_from": read_record(llama.record)["digest"]}
    again = load(record, device="cpu")
    stock = AutoModelForCausalLM.from_pretrained(llama.out)
    with torch.no_grad():
        expected = stock(input_ids=TOKENS, use_cache=False).logits
        assert again.interventions.shape.heads == 2
        torch.testing.assert_close(again.model(input_ids=TOKENS, use_cache=False).logits, expected, atol=1e-5, rtol=0)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (("heads", 10), "--even: 10% of 12 heads are 1, fewer than the 6 that one round removes, as many in each of 3 layers; give --percent 50 or more"),  # noqa: E501
        (("ffns", 50), "--even is of heads and experts, and --ranking names no ranking of either; leave it out"),
    ],
)  # fmt: skip
def test_what_cannot_be_even_is_refused(llama, capsys, options, message):
    component, percent = options
    assert llama.export("--ranking", llama.ranking(component), "--percent", percent, "--even") == 1
    assert message in " ".join(capsys.readouterr().err.split())
    assert not llama.out.exists()


def test_with_uneven_layers_the_command_says_what_loads_the_export(llama, capsys):
    assert llama.export("--ranking", llama.ranking("heads"), "--percent", 9) == 0
    assert (
        "lm_headroom.load_pruned loads it, and transformers after 'import lm_headroom', since layers keep different "
        "numbers of heads" in capsys.readouterr().err
    )


class TestRounds:
    @pytest.mark.parametrize(("heads", "group"), [(4, 1), (6, 3), (9, 3), (8, 8), (4, 2)])
    def test_after_each_round_layers_are_equal_and_groups_are(self, heads, group):
        order = random_ranking(5, heads, 3)
        even = even_ranking(order, group)
        assert sorted(even) == sorted(order)
        removed = 0
        for in_layer in even_rounds(heads, group):
            removed += 5 * in_layer
            left = [[h for h in range(heads) if (layer, h) not in even[:removed]] for layer in range(5)]
            groups = [[h // group for h in kept] for kept in left]
            assert len({len(kept) for kept in left}) == 1
            assert len({len(set(kept)) for kept in groups}) == 1
            assert len({kept.count(g) for kept in groups for g in set(kept)}) <= 1
            assert even_count(removed, 5, heads, group) == removed
            assert even_count(removed - 1, 5, heads, group) < removed
        assert removed == len(order)

    def test_a_round_takes_the_first_ranked_of_each_place_in_the_rankings_order(self):
        scores = np.array([[3.0, 1.0, 2.0, 4.0], [0.5, 9.0, 7.0, 8.0]])
        order = [(int(i) // 4, int(i) % 4) for i in scores.ravel().argsort()]
        assert even_ranking(order, 1)[:4] == [(1, 0), (0, 1), (0, 2), (1, 2)]
        # Groups of two: (0, 1), (2, 3) of each layer.
        assert even_ranking(order, 2)[:4] == [(1, 0), (0, 1), (0, 2), (1, 2)]
        assert even_ranking(order, 2)[4:] == [(0, 0), (1, 3), (0, 3), (1, 1)]
