import pytest
import torch
from transformers import AutoModelForCausalLM, XGLMConfig

from lm_headroom.engine.attachment import attach
from lm_headroom.engine.interventions import Replacements
from lm_headroom.engine.layout import Layout
from lm_headroom.engine.loading import gates_without, prepare
from lm_headroom.errors import HeadroomError
from lm_headroom.models import architectures
from tests.support.tiny_models import count_operations, tiny_model


def test_a_closed_head_equals_zeroed_projection_columns(loaded, family):
    """transformers' own forward, with a gate on one side and changed weights on the other."""
    tokens = torch.randint(3, 500, (2, 17), generator=torch.Generator().manual_seed(0))
    d_head = loaded.shape.d_head
    for layer, head in [(0, 0), (1, 2), (2, 3)]:
        model = tiny_model(family)
        with torch.no_grad():
            architectures.output_projections(model)[layer].weight[:, head * d_head : (head + 1) * d_head] = 0
            expected = model(input_ids=tokens).logits
            with loaded.interventions.gates(gates_without(loaded.shape, [(layer, head)])):
                actual = loaded.model(input_ids=tokens).logits
        torch.testing.assert_close(actual, expected, rtol=1e-6, atol=1e-6)
        assert not torch.allclose(actual, loaded.model(input_ids=tokens).logits, atol=1e-3)


@pytest.mark.parametrize("family", ["opt", "llama", "opt-350m"])
def test_a_left_out_ffn_equals_one_whose_output_is_zero(family, tokenizer):
    """transformers' own forward with the last map of the FFN zeroed, biases too."""
    tokens = torch.randint(3, 500, (2, 17), generator=torch.Generator().manual_seed(0))
    loaded = prepare(tiny_model(family), tokenizer)
    for layers in ([0], [2], [0, 1, 2]):
        model = tiny_model(family)
        with torch.no_grad():
            for layer in layers:
                block = architectures.layers(model)[layer]
                last = block.mlp.down_proj if family == "llama" else block.fc2
                for parameter in last.parameters():
                    parameter.zero_()
            expected = model(input_ids=tokens).logits
            with loaded.interventions.without_ffns(layers):
                actual = loaded.model(input_ids=tokens).logits
            after = loaded.model(input_ids=tokens).logits
        torch.testing.assert_close(actual, expected, rtol=1e-6, atol=1e-6)
        assert not torch.allclose(actual, after, atol=1e-3), "and the model is whole again"


@pytest.mark.parametrize(("family", "norms"), [("opt", 48), ("llama", 24), ("opt-350m", 0)])
def test_parameters_of_an_ffn(family, norms):
    """By hand: two maps of 24 x 48 with biases in OPT, three without in LLaMA; a norm unless it norms the residual."""
    maps = 3 * 24 * 48 if family == "llama" else 2 * 24 * 48 + 24 + 48
    assert architectures.ffn_parameters(tiny_model(family), 1) == maps + norms


def test_ffns_without_effect_are_refused(family):
    model = tiny_model(family)
    with torch.no_grad():
        for modules in architectures.ffn_modules(model):
            for parameter in modules[-1].parameters():
                parameter.zero_()
    with pytest.raises(HeadroomError, match="leaving out all FFNs changes nothing"):
        attach(model)


def test_a_layer_that_reads_more_than_its_input_is_refused(family, monkeypatch):
    """A pass restarted at such a layer would go on with something else than the whole model's."""
    model = tiny_model(family)
    before, last = architectures.layers(model)[-2:]
    seen = {}
    before.register_forward_hook(lambda module, arguments, output: seen.update(output=output))
    inner = last.forward
    monkeypatch.setattr(last, "forward", lambda hidden, *args, **kwargs: inner(seen["output"], *args, **kwargs))
    with pytest.raises(HeadroomError, match="a pass restarted at layer 2 does not give the model's logits"):
        attach(model)


def test_padding_masks_are_honoured_outside_the_engine(loaded, family):
    tokens = torch.randint(3, 500, (2, 12), generator=torch.Generator().manual_seed(1))
    mask = torch.ones_like(tokens)
    mask[0, :5] = 0
    positions = (mask.cumsum(1) - 1).clamp(min=0)
    with torch.no_grad():
        actual = loaded.model(input_ids=tokens, attention_mask=mask, position_ids=positions).logits
        expected = tiny_model(family)(input_ids=tokens, attention_mask=mask, position_ids=positions).logits
    torch.testing.assert_close(actual[mask.bool()], expected[mask.bool()], rtol=1e-6, atol=1e-6)


def test_parameters_removed_equal_those_of_the_slices(loaded, family):
    """Counted by hand from the tiny shapes: width 6, d_e 24; OPT has biases, LLaMA groups of two."""
    query, output = 6 * (24 + (family == "opt")), 24 * 6
    key_value = 2 * query
    one = architectures.removed_parameters(loaded.model, [(0, 1)])
    assert one == query + output + (key_value if family == "opt" else 0)
    group = architectures.removed_parameters(loaded.model, [(1, 0), (1, 1)])
    assert group == 2 * (query + output) + (2 * key_value if family == "opt" else key_value)
    split = architectures.removed_parameters(loaded.model, [(1, 1), (1, 2)])
    assert split == 2 * (query + output) + (2 * key_value if family == "opt" else 0)
    everything = [(layer, head) for layer in range(3) for head in range(4)]
    biases = sum(m.bias.numel() for m in architectures.output_projections(loaded.model).values() if m.bias is not None)
    attention = sum(p.numel() for m in architectures.attention_modules(loaded.model).values() for p in m.parameters())
    assert architectures.removed_parameters(loaded.model, everything) == attention - biases


def test_an_unknown_family_is_refused():
    model = AutoModelForCausalLM.from_config(
        XGLMConfig(vocab_size=50, d_model=16, ffn_dim=16, num_layers=1, attention_heads=2, max_position_embeddings=32)
    )
    with pytest.raises(
        HeadroomError,
        match="'xglm' is not supported: its attention does not go through transf",
    ):
        attach(model)


def test_a_layer_that_bypasses_the_attention_function_is_refused(family, monkeypatch):
    model = tiny_model(family)
    bypassed = architectures.attention_modules(model)[1]
    inner = bypassed.forward

    def eager(*args, **kwargs):
        chosen = model.config._attn_implementation
        bypassed.config._attn_implementation = "eager"
        try:
            return inner(*args, **kwargs)
        finally:
            bypassed.config._attn_implementation = chosen

    monkeypatch.setattr(bypassed, "forward", eager)
    with pytest.raises(HeadroomError, match="must be called once per layer"):
        attach(model)


def test_heads_without_effect_are_refused(family):
    model = tiny_model(family)
    with torch.no_grad():
        for projection in architectures.output_projections(model).values():
            projection.weight[:] = 0
    with pytest.raises(HeadroomError, match="closing the first layer's heads changes nothing"):
        attach(model)


def test_gates_of_another_shape_are_refused(loaded):
    with pytest.raises(HeadroomError, match="gates have shape \\(2, 4\\), the model has 3 layers of 4 heads"):
        with loaded.interventions.gates(torch.ones(2, 4)):
            pass


def test_a_layout_without_rows_of_replacements_leaves_nothing_behind(loaded):
    def fail(layout):
        raise HeadroomError("no row")

    tokens = torch.randint(3, 500, (2, 17), generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        expected = loaded.model(input_ids=tokens).logits
        with loaded.interventions.replacing(Replacements([], [], fail)), pytest.raises(HeadroomError, match="no row"):
            with loaded.interventions.layout(Layout.causal(5)):
                pytest.fail("the layout began")
        assert torch.equal(loaded.model(input_ids=tokens).logits, expected)


def test_weights_are_frozen(family, tokenizer):
    loaded = prepare(tiny_model(family), tokenizer)
    assert not any(parameter.requires_grad for parameter in loaded.model.parameters())
    assert not loaded.model.training


def test_what_only_removed_heads_need_is_not_computed(loaded):
    """Counted by torch: maps of heads, keys and values of whole groups; of a layer without heads, the bias is left."""
    tokens = torch.arange(3, 20)[None]

    def operations(gates):
        with loaded.interventions.gates(gates), torch.no_grad():
            return count_operations(lambda: loaded.model(input_ids=tokens, use_cache=False))

    gates = torch.ones(3, 4)
    gates[1, :3] = 0
    whole, shape = operations(None), loaded.shape
    n_groups = 3 // shape.group
    maps = 2 * 17 * shape.d_head * loaded.model.config.hidden_size
    assert operations(gates) == whole - maps * 2 * (3 + n_groups)
    gates[1, 0] = 0.5
    assert operations(gates) == whole
    gates[1] = 0
    *inner, output = architectures.projections(loaded.model)[1]
    saved = 2 * 17 * sum(module.weight.numel() for module in inner) + 2 * 16 * output.weight.numel()
    assert operations(gates) == whole - saved
