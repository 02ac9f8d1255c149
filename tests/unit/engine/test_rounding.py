"""What the proofs at load and export take for rounding, and what for error, in each number format."""

import copy
import functools

import pytest
import torch
from transformers import AutoModelForCausalLM, LlamaConfig, OPTConfig

from lm_headroom.engine import kept_proofs
from lm_headroom.engine.attachment import attach
from lm_headroom.engine.interventions import Interventions
from lm_headroom.engine.layout import Layout, TreeMask
from lm_headroom.engine.loading import load, prepare
from lm_headroom.engine.rounding import agree, unit_in_last_place
from lm_headroom.errors import HeadroomError
from lm_headroom.models.architectures import output_projections
from lm_headroom.pruned import export as writing
from lm_headroom.pruned.forms import choose_form
from lm_headroom.pruned.model import prune_for_good
from tests.families.cases import last_maps
from tests.support.simulations import members
from tests.support.tiny_models import tiny_model

FORMATS = [torch.float64, torch.float32, torch.bfloat16, torch.float16]
MASSIVE = [3, 17]
LAYERS = 24


def massive_model(family, times, dtype):
    """24 layers whose residual grows, with two channels that are thousands of times the others, as in large models."""
    return copy.deepcopy(made_once(family, times)).to(dtype)


@functools.cache
def made_once(family, times):
    torch.manual_seed(0)
    common = {
        "vocab_size": 523, "hidden_size": 64, "num_hidden_layers": LAYERS, "num_attention_heads": 4,
        "max_position_embeddings": 64, "pad_token_id": 0, "bos_token_id": 1, "eos_token_id": 2,
    }  # fmt: skip
    if family == "opt":
        config = OPTConfig(**common, ffn_dim=128, word_embed_proj_dim=64, init_std=0.08)
    else:
        config = LlamaConfig(**common, intermediate_size=128, num_key_value_heads=2, initializer_range=0.08)
    model = AutoModelForCausalLM.from_config(config, attn_implementation="sdpa").eval()
    with torch.no_grad():
        embedding = model.get_input_embeddings().weight
        embedding.normal_()
        # Of both signs, so that norms which subtract the mean keep what is left of the others.
        embedding[:, MASSIVE] = torch.tensor([times, -times])
        model.lm_head.weight = torch.nn.Parameter(embedding.clone() / times)
        for number, modules in enumerate(zip(output_projections(model).values(), last_maps(model), strict=True)):
            for module in modules:
                module.weight *= 1.04**number
        for name, parameter in model.named_parameters():
            # Norms give the other channels back the size that the massive ones took.
            if "norm" in name and name.endswith("weight"):
                parameter.fill_(max(1.0, times / 10))
                parameter[MASSIVE] = 0.05
    return model


@pytest.fixture(params=FORMATS, ids=lambda dtype: str(dtype).removeprefix("torch."))
def dtype(request):
    return request.param


@pytest.mark.parametrize("times", [1e3, 1e4])
@pytest.mark.parametrize("family", ["opt", "llama"])
def test_massive_activations_are_no_fault(family, times, dtype):
    assert attach(massive_model(family, times, dtype)).shape.layers == LAYERS


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
@pytest.mark.parametrize("family", ["opt", "llama"])
def test_kernels_that_round_by_the_number_of_rows_are_no_fault(family, dtype, monkeypatch):
    """As some processors' do in 16 bits: over 24 layers, rows of ten and of twelve tokens then drift apart."""
    linear = torch.nn.functional.linear

    def rounded(x, weight, bias=None):
        out = linear(x, weight, bias)
        # One number of four differs by a unit in the last place, up or down.
        signs = torch.tensor([1, 0, 0, 0, -1, 0, 0, 0]).repeat(out.shape[-1] // 8 + 1)[: out.shape[-1]]
        return out * (1 + unit_in_last_place(dtype) * signs).to(out) if out.shape[-2] == 10 else out

    monkeypatch.setattr(torch.nn.functional, "linear", rounded)
    assert attach(massive_model(family, 1e3, dtype)).shape.layers == LAYERS


def in_layer(monkeypatch, wrong, change):
    """Let the branches of one layer see what ``change`` makes of them; of all layers where it is None."""
    attend = Interventions.attend

    def spoilt(self, layer, *args, **kwargs):
        kept = self._layout
        if kept is not None and wrong in (layer, None):
            tree = kept.trees[0]
            branches = tree.branches.clone()
            change(branches)
            trees = (TreeMask(tree.columns, tree.trunk, branches), *kept.trees[1:])
            self._layout = Layout(trees, kept.needed, kept.positions)
        try:
            return attend(self, layer, *args, **kwargs)
        finally:
            self._layout = kept

    monkeypatch.setattr(Interventions, "attend", spoilt)


def one_too_many(branches):
    branches[0, 6] = True


def mask_off_by_one(branches):
    branches[:] = torch.cat([branches[:, :12], torch.ones(4, 4, dtype=torch.bool).tril(1)], dim=1)


def one_too_few(branches):
    branches[2, 3] = False


@pytest.mark.parametrize(
    ("change", "layer"),
    members(
        [(one_too_many, 0), (mask_off_by_one, 13), (one_too_few, LAYERS - 1)],
        [(one_too_many, 13), (one_too_many, LAYERS - 1), (mask_off_by_one, 0), (mask_off_by_one, LAYERS - 1),
         (one_too_few, 0), (one_too_few, 13)],
    ),
)  # fmt: skip
@pytest.mark.parametrize("family", ["opt", "llama"])
def test_a_wrong_mask_in_one_layer_is_found(family, change, layer, dtype, monkeypatch):
    in_layer(monkeypatch, layer, change)
    with pytest.raises(HeadroomError, match=f"packed rows differ from those of rows apart .*of layer {layer} "):
        attach(massive_model(family, 1e3, dtype))


@pytest.mark.parametrize("family", ["opt", "llama"])
def test_a_position_off_by_one_is_found(family, dtype):
    model = massive_model(family, 1e3, dtype)

    def shift(module, arguments, named):
        positions = named.get("position_ids")
        if positions is not None:
            named["position_ids"] = positions.clone()
            named["position_ids"][0, 12] += 1
        return arguments, named

    model.base_model.register_forward_pre_hook(shift, with_kwargs=True)
    with pytest.raises(HeadroomError, match="packed rows differ from those of rows apart"):
        attach(model)


@pytest.mark.parametrize(("layer", "head"), [(0, 0), (13, 2), (LAYERS - 1, 3)])
def test_a_gate_that_leaks_is_found(layer, head, dtype, monkeypatch):
    attend = Interventions.attend

    def leaking(self, number, *args, **kwargs):
        outputs = attend(self, number, *args, **kwargs)
        if self._gates is not None and number == layer and self._gates[layer, head] == 0:
            outputs[..., head, 0] += 1e-3
        return outputs

    monkeypatch.setattr(Interventions, "attend", leaking)
    with pytest.raises(HeadroomError, match=f"head {head} of layer {layer} still reaches the output projection when"):
        attach(massive_model("llama", 1e3, dtype))


@pytest.mark.parametrize("layer", [0, 13, LAYERS - 1])
def test_other_scores_in_one_layer_are_found(layer, dtype, monkeypatch):
    """As where a layer's scaling or window is not the model's."""
    attend = Interventions.attend

    def spoilt(self, number, query, *args, **kwargs):
        return attend(self, number, query * (1.5 if number == layer else 1), *args, **kwargs)

    monkeypatch.setattr(Interventions, "attend", spoilt)
    with pytest.raises(HeadroomError, match=f"logits differ from the model's own .* of layer {layer} "):
        attach(massive_model("llama", 1e3, dtype))


def test_a_difference_is_held_against_its_own_row(dtype):
    """A row of small numbers beside a row of large ones."""
    expected = torch.tensor([[1e3] * 8, [1.0] * 8], dtype=dtype)
    near = (expected.double() * (1 + unit_in_last_place(dtype))).to(dtype)
    assert agree(near, expected)
    near[1] *= 1.2
    assert not agree(near, expected)
    near[1] = torch.nan
    assert not agree(near, expected)


def test_loading_takes_nine_passes(family):
    """As many as when logits were compared once, at the end: rounding is measured in passes that are made anyway."""
    model, passes = tiny_model(family), []
    model.get_input_embeddings().register_forward_pre_hook(lambda *_: passes.append(1))
    attach(model)
    assert len(passes) == 9


ZEROED = {"the first": [0], "another": [1], "the last": [2], "all but the first": [1, 2], "all but the last": [0, 1]}


@pytest.mark.parametrize("layers", ZEROED.values(), ids=ZEROED)
@pytest.mark.parametrize("what", ["attention", "FFNs", "both"])
def test_layers_that_another_tool_zeroed_are_served(family, tokenizer, layers, what):
    model = tiny_model(family)
    with torch.no_grad():
        for layer in layers:
            for module in [
                *([output_projections(model)[layer]] if what != "FFNs" else []),
                *([last_maps(model)[layer]] if what != "attention" else []),
            ]:
                for parameter in module.parameters():
                    parameter.zero_()
    assert prepare(model, tokenizer).shape.layers == 3


@pytest.mark.parametrize("kept", [(0, 0), (1, 1), (2, 3)])
def test_one_head_that_writes_is_enough(family, kept):
    model = tiny_model(family)
    with torch.no_grad():
        for layer, projection in output_projections(model).items():
            for head in range(4):
                if (layer, head) != kept:
                    projection.weight[:, 6 * head : 6 * head + 6] = 0
    assert attach(model).shape.heads == 4


@pytest.mark.parametrize("times", members([1e3], [1.0]))
def test_an_export_of_24_layers_is_sound_in_each_format(times, dtype, tmp_path):
    model = massive_model("llama", times, dtype)
    pruned = writing.Pruned(((0, 1), (5, 0), (5, 1), (13, 2), *((20, head) for head in range(4))), (3, 20))
    left = pruned.left(model)
    prune_for_good(copy.deepcopy(model), left).save_pretrained(tmp_path)
    parameters = model.num_parameters() - pruned.parameters(model)
    reference = writing.record_reference(prepare(model, None), pruned)
    # Its layers keep different heads: the export has our own classes.
    form = choose_form(model, left)
    assert form.plain is None
    writing.check_export(tmp_path, reference, parameters, form)
    # One head more, one less, or another.
    wrong = writing.Pruned((*pruned.heads[:3], (13, 3), *pruned.heads[4:]), pruned.ffns)
    assert wrong.parameters(model) == pruned.parameters(model)
    with pytest.raises(HeadroomError, match="the export's logits differ from the masked model's .* layer 13 "):
        writing.check_export(
            tmp_path, writing.record_reference(prepare_again("llama", times, dtype), wrong), parameters, form
        )


def prepare_again(family, times, dtype):
    return prepare(massive_model(family, times, dtype), None)


@pytest.mark.parametrize("name", ["bfloat16", "float16", "float32"])
def test_the_embedded_model_loads(smollm2_record, name):
    assert load(smollm2_record, name, "cpu").interventions.shape.layers == 30


@pytest.mark.parametrize("layer", [0, 15, 29])
def test_a_token_too_many_in_one_layer_of_the_embedded_model_is_found(smollm2_record, layer, monkeypatch, tmp_path):
    # Another test, or another run, may have proved this model without the fault, and kept the proofs.
    monkeypatch.setattr(kept_proofs, "proofs_file", lambda record: tmp_path / "proofs.json")
    in_layer(monkeypatch, layer, one_too_many)
    with pytest.raises(HeadroomError, match=f"packed rows differ .* of layer {layer} "):
        _ = load(smollm2_record, "bfloat16", "cpu").interventions
