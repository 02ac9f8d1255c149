"""Algorithm 2, copying, as loops over the softmax of the whole vocabulary."""

import numpy as np
import torch

VARIANTS = [{"head_output": output, "output_bias": bias} for output in ("attention", "value") for bias in (False, True)]


def rotated(x, rates):
    """Rotary position embedding of one head, [time, width]: pairs are half a width apart. Angles are float32."""
    angles = torch.arange(len(x))[:, None] * rates.float()
    cos, sin = angles.cos().to(x.dtype), angles.sin().to(x.dtype)
    a, b = x.chunk(2, dim=1)
    return torch.cat([a * cos - b * sin, b * cos + a * sin], dim=1)


def opt_layers(model, ids):
    """For each layer its attention, output projection and input [time, width]."""
    decoder = model.model.decoder
    x = decoder.embed_tokens(ids)
    if decoder.project_in is not None:
        x = decoder.project_in(x)
    # Row p + 2 of the table belongs to position p.
    x = x + decoder.embed_positions.weight[torch.arange(len(ids)) + 2]
    for layer in decoder.layers:
        before = model.config.do_layer_norm_before
        yield layer.self_attn, layer.self_attn.out_proj, layer.self_attn_layer_norm(x) if before else x


def llama_layers(model, ids):
    for layer in model.model.layers:
        yield layer.self_attn, layer.self_attn.o_proj, layer.input_layernorm(model.model.embed_tokens(ids))


def vocabulary_logits(model, hidden):
    """Logits of the whole vocabulary for [time, width], without any final norm."""
    projection = getattr(getattr(model.model, "decoder", None), "project_out", None)
    return model.lm_head(hidden if projection is None else projection(hidden))


@torch.no_grad()
def looped(model, tokens, start, head_output, output_bias, n_layers=None):
    """Algorithm 2, head by head and query by query, [layer, head]."""
    ids = torch.tensor(([] if start is None else [start]) + tokens)
    is_opt = model.config.model_type == "opt"
    n_heads = model.config.num_attention_heads
    groups = n_heads // (getattr(model.config, "num_key_value_heads", None) or n_heads)
    d_head = model.config.hidden_size // n_heads
    scores = []
    for attention, projection, u in list((opt_layers if is_opt else llama_layers)(model, ids))[:n_layers]:
        row = []
        for h in range(n_heads):
            own, shared = slice(h * d_head, (h + 1) * d_head), slice(h // groups * d_head, (h // groups + 1) * d_head)
            q, k, v = attention.q_proj(u)[:, own], attention.k_proj(u)[:, shared], attention.v_proj(u)[:, shared]
            if not is_opt:
                q, k = (rotated(x, model.model.rotary_emb.inv_freq) for x in (q, k))
            # The head's output alone in its slice of what enters the projection.
            alone = torch.zeros(len(ids), n_heads * d_head, dtype=u.dtype)
            for j in range(len(ids)):
                weights = (q[j] @ k[: j + 1].T / d_head**0.5).softmax(0)
                alone[j, own] = weights @ v[: j + 1] if head_output == "attention" else v[j]
            projected = projection(alone) if output_bias else alone @ projection.weight.T
            probabilities = vocabulary_logits(model, projected).softmax(-1)
            queries = range(0 if start is None else 1, len(ids))
            total = 0.0
            for j in queries:
                attended = int((q[j] @ k[: j + 1].T).argmax())
                of_tokens = probabilities[j, ids[: j + 1]]
                raised = (of_tokens - of_tokens.mean()).relu()
                total += float(raised[attended] / raised.sum()) if raised.sum() else 0.0
            row.append(total / len(queries))
        scores.append(row)
    return np.array(scores)
