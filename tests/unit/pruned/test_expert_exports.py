"""Exports without experts: plain checkpoints where layers keep as many, classes of our own where they do not."""

import copy
import json

import pytest
import torch

from lm_headroom.engine.loading import load, prepare
from lm_headroom.errors import HeadroomError
from lm_headroom.models import architectures
from lm_headroom.models.experts import expert_blocks, expert_grid
from lm_headroom.models.resolve import resolve
from lm_headroom.pruned import export as writing
from lm_headroom.pruned.export import Pruned, check_export, record_reference
from lm_headroom.pruned.forms import Form, choose_form, make_plain
from lm_headroom.pruned.model import load_pruned, prune_for_good
from tests.support.exports import TOKENS, Place
from tests.support.model_types import tiny_of_type
from tests.support.simulations import members

PLAIN = {
    "mixtral": "num_local_experts", "qwen2_moe": "num_experts", "qwen3_moe": "num_local_experts",
    "olmoe": "num_experts", "gpt_oss": "num_local_experts", "deepseek_v3": "n_routed_experts",
    "glm4_moe": "n_routed_experts", "ernie4_5_moe": "moe_num_experts", "afmoe": "num_experts",
    "lfm2_moe": "num_experts", "minimax_m2": "num_local_experts", "qwen3_next": "num_experts", "jamba": "num_experts",
    "hunyuan_v1_moe": "num_experts", "granitemoe": "num_local_experts", "bailing_hybrid": "num_experts",
}  # fmt: skip
"""Families to the key of their configuration that holds the number of experts."""
KINDS = ["mixtral", "qwen2_moe", "gpt_oss", "deepseek_v3", "ernie4_5_moe", "lfm2_moe", "hunyuan_v1_moe"]
"""One for each key and each kind: a plain router, shared experts, experts with biases, a bias of the choice in the
router, within a part of it or beside it, layers without experts or attention, and a router with a map of its own."""
OWN = members(["mixtral", "deepseek_v3", "ernie4_5_moe", "afmoe"], ["qwen2_moe", "olmoe", "minimax_m2", "qwen3_next"])
"""Families with routers, biases of the choice, shared experts and layers without attention of all kinds."""


def one_of_each_layer(model):
    """An expert of each layer, another in each."""
    layers, number, _ = expert_grid(model)
    return tuple((layer, (layer + 1) % number) for layer in layers)


def record(model, pruned):
    """Outputs of the masked model, and the parameters that an export has."""
    reference = record_reference(prepare(copy.deepcopy(model), None), pruned)
    return reference, model.num_parameters() - pruned.parameters(model)


@pytest.mark.parametrize("name", members(KINDS, [name for name in PLAIN if name not in KINDS]))
def test_layers_that_keep_as_many_experts_are_a_plain_checkpoint(name, tmp_path):
    model = tiny_of_type(name).float()
    pruned = Pruned((), (), experts=one_of_each_layer(model))
    left = pruned.left(model)
    form = choose_form(model, left)
    assert (form.plain.experts, form.plain.experts_key) == (3, PLAIN[name])
    reference, parameters = record(model, pruned)
    make_plain(model, left, form.plain).save_pretrained(tmp_path)
    config = json.loads((tmp_path / "config.json").read_text())
    assert (config["model_type"], config[PLAIN[name]]) == (model.config.model_type, 3)
    assert "auto_map" not in config
    check_export(tmp_path, reference, parameters, form)


@pytest.mark.parametrize("name", OWN)
def test_layers_that_keep_different_numbers_take_classes_of_our_own(name, tmp_path):
    model = tiny_of_type(name).float()
    layers, number, _ = expert_grid(model)
    pruned = Pruned((), (), experts=((layers[0], 0), (layers[0], 2), (layers[-1], number - 1)))
    left = pruned.left(model)
    assert choose_form(model, left) == Form(None, "layers keep different numbers of experts")
    reference, parameters = record(model, pruned)
    prune_for_good(model, left).save_pretrained(tmp_path, save_original_format=False)
    assert json.loads((tmp_path / "config.json").read_text())["format"] == 3
    check_export(tmp_path, reference, parameters, Form(None))
    load_pruned(tmp_path).save_pretrained(tmp_path / "again", save_original_format=False)
    check_export(tmp_path / "again", reference, parameters, Form(None))


@pytest.mark.parametrize("name", ["mixtral", "qwen3_moe", "gpt_oss"])
def test_heads_and_experts_are_pruned_together(name, tmp_path):
    model = tiny_of_type(name).float()
    shape = architectures.head_layout(model)
    heads = tuple((layer, head) for layer in range(shape.layers) for head in range(0, shape.heads, shape.group))
    pruned = Pruned(heads, (), experts=one_of_each_layer(model))
    left = pruned.left(model)
    form = choose_form(model, left)
    assert (form.plain.heads, form.plain.experts) == (2, 3)
    reference, parameters = record(model, pruned)
    make_plain(model, left, form.plain).save_pretrained(tmp_path)
    check_export(tmp_path, reference, parameters, form)


def test_experts_of_a_pruned_ffn_go_with_it(tmp_path):
    model = tiny_of_type("qwen2_moe").float()
    pruned = Pruned((), (1,), experts=((0, 1), (1, 0), (1, 1), (1, 2), (1, 3)))
    left = pruned.left(model)
    assert left.experts == ((0, (0, 2, 3)), (2, (0, 1, 2, 3)))
    assert choose_form(model, left) == Form(None, "FFNs are removed")
    reference, parameters = record(model, pruned)
    prune_for_good(model, left).save_pretrained(tmp_path, save_original_format=False)
    check_export(tmp_path, reference, parameters, Form(None))


def test_a_shared_expert_is_no_expert_that_can_be_pruned():
    """Not even where it is as wide as there are experts."""
    model = tiny_of_type("qwen2_moe")
    config = copy.deepcopy(model.config)
    config.shared_expert_intermediate_size = config.num_experts
    model = type(model)(config)
    pruned = Pruned((), (), experts=one_of_each_layer(model))
    form = choose_form(model, pruned.left(model))
    plain = make_plain(model, pruned.left(model), form.plain)
    assert plain.model.layers[0].mlp.shared_expert.up_proj.weight.shape == (4, 32)
    assert plain.model.layers[0].mlp.gate.weight.shape == (3, 32)


@pytest.mark.parametrize("wrong", [[(0, 0), (1, 0), (2, 0)], [(0, 1), (1, 2), (2, 0)]])
def test_another_expert_is_not_the_masked_model(wrong, tmp_path):
    model = tiny_of_type("olmoe").float()
    pruned = Pruned((), (), experts=((0, 1), (1, 2), (2, 3)))
    reference, parameters = record(model, pruned)
    left = Pruned((), (), experts=tuple(wrong)).left(model)
    form = choose_form(model, left)
    make_plain(model, left, form.plain).save_pretrained(tmp_path)
    with pytest.raises(HeadroomError, match="logits differ from the masked model's"):
        check_export(tmp_path, reference, parameters, form)


def test_a_configuration_that_does_not_say_how_many_experts_there_are_needs_a_class_of_our_own(monkeypatch):
    model = tiny_of_type("mixtral")
    left = Pruned((), (), experts=one_of_each_layer(model)).left(model)
    monkeypatch.setattr(type(model.config), "to_dict", lambda self: {"num_attention_heads": 4})
    form = choose_form(model, left)
    assert form == Form(None, form.why_not)
    assert form.why_not


@pytest.fixture
def olmoe(tmp_path, tokenizer):
    return Place(tmp_path, "olmoe", tokenizer)


def test_an_even_export_is_a_model_for_a_study(olmoe, tmp_path):
    assert olmoe.export("--ranking", olmoe.ranking("experts"), "--percent", 25, "--even") == 0
    resolve("again", str(olmoe.out), None, tmp_path / "again" / "model.json")
    again = load(tmp_path / "again" / "model.json", device="cpu")
    assert {block.number for block in expert_blocks(again.model).values()} == {3}
    assert again.interventions.experts.blocks[0].top_k == 2


def test_a_free_choice_that_leaves_layers_with_different_numbers_takes_our_class(olmoe, capsys):
    assert olmoe.export("--ranking", olmoe.ranking("experts"), "--percent", 10) == 0
    assert "lm_headroom.load_pruned loads it" in capsys.readouterr().err
    model = load_pruned(olmoe.out)
    ((layer, expert),) = olmoe.orders["experts"][:1]
    assert {n: block.number for n, block in expert_blocks(model).items()} == {n: 4 - (n == layer) for n in range(3)}
    loaded = load(olmoe.record, device="cpu")
    with torch.no_grad(), loaded.interventions.experts.without([(layer, expert)]):
        expected = loaded.model(input_ids=TOKENS, use_cache=False).logits
        torch.testing.assert_close(model(input_ids=TOKENS).logits, expected, atol=1e-5, rtol=0)


def test_means_are_of_heads_and_ffns_alone(olmoe, capsys):
    """An expert leaves no place for them, so that no documents are needed, and none are named on the card."""
    for kind in ("mean", "resample"):
        assert olmoe.export("--ranking", olmoe.ranking("experts"), "--percent", 25, "--ablation", kind) == 0
        assert "on average over the scoring documents" not in (olmoe.out / "README.md").read_text()


@pytest.mark.parametrize(
    ("percent", "even", "message"),
    [
        (60, (), "--percent: 60% of 12 experts cannot be pruned, since each of 3 layers keeps at least 2 of 4, to which a token is sent; at most 50%"),  # noqa: E501
        (60, ("--even",), "--percent: 60% of 12 experts cannot be pruned"),
        (20, ("--even",), "--even: 20% of 12 experts are 2, fewer than the 3 that one round removes, as many in each of 3 layers; give --percent 25 or more"),  # noqa: E501
    ],
)  # fmt: skip
def test_what_layers_cannot_lose_is_refused_before_anything_is_written(
    olmoe, capsys, monkeypatch, percent, even, message
):
    monkeypatch.setattr(writing, "record_reference", pytest.fail)
    assert olmoe.export("--ranking", olmoe.ranking("experts"), "--percent", percent, *even) == 1
    assert message in " ".join(capsys.readouterr().err.split())
    assert not olmoe.out.exists()


def test_a_ranking_of_other_experts_is_refused(olmoe, tmp_path, tokenizer, capsys):
    other = Place(tmp_path / "other", "llama", tokenizer)
    assert other.export("--ranking", olmoe.ranking("experts"), "--percent", 25) == 1
    assert "family 'llama': no layer has a router and stacked experts" in capsys.readouterr().err
