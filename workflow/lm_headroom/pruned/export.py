"""Write a checkpoint without pruned heads, FFNs and experts, and compare it with the masked model before it is kept."""

from __future__ import annotations

import os
import shutil
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from torch import Tensor
from transformers import AutoModelForCausalLM, AutoTokenizer

from lm_headroom.artifacts.pruned_checkpoint import check_target
from lm_headroom.artifacts.store import ArtifactError, lock, partial_suffix, remove_abandoned
from lm_headroom.engine.interventions import Interventions, Replacements
from lm_headroom.engine.loading import LoadedModel, gates_without
from lm_headroom.engine.rounding import Trace, agree, find_fault, measure_spread, trace_layers
from lm_headroom.errors import HeadroomError
from lm_headroom.models import architectures
from lm_headroom.models.checkpoint_files import deciding_files
from lm_headroom.models.experts import expert_blocks, expert_parameters, experts_left
from lm_headroom.models.sizes import read_config
from lm_headroom.pruned.forms import Form, make_plain
from lm_headroom.pruned.model import Remainder, load_pruned, prune_for_good
from lm_headroom.settings import other_dtype

SHARD = "5GB"
"""Largest weight file, so that reading and writing need little more than the model's memory."""
_TEXTS = (
    "Question: what boils at 100 degrees?\nAnswer:",
    " Zwölf naïve   foxes\n\n",
    "def f(x): return x ** 2  # 3.14",
)

# The cache holds all tokens but the last, which detects a cache that miscounts its tokens.
_WAYS = {"": (slice(None),), " with a cache": (slice(-1), slice(-1, None))}
"""How a model runs on the same tokens, to the parts of them that it gets one after another."""


@dataclass(frozen=True)
class Pruned:
    """Heads, FFNs and experts to prune from a model.

    Attributes:
        heads: (layer, head) pairs, from 0.
        ffns: layers whose FFN is pruned.
        means: what heads and FFNs give instead of zeros, the same at all positions; None for zeros.
        experts: (layer, expert) pairs, from 0; those of a layer whose FFN is pruned go with it.
    """

    heads: tuple[tuple[int, int], ...]
    ffns: tuple[int, ...]
    means: Replacements | None = None
    experts: tuple[tuple[int, int], ...] = ()

    @property
    def lone_experts(self) -> list[tuple[int, int]]:
        """Experts of layers whose FFN stays."""
        return [(layer, expert) for layer, expert in self.experts if layer not in self.ffns]

    def left(self, model: Any) -> Remainder:
        """What remains of a model; one on the meta device suffices."""
        experts = experts_left(expert_blocks(model), self.lone_experts) if self.lone_experts else ()
        return Remainder.without(
            architectures.head_layout(model), self.heads, self.ffns, self.means is not None, experts
        )

    def parameters(self, model: Any) -> int:
        """Count the removed parameters; a model on the meta device suffices."""
        ffns = sum(architectures.ffn_parameters(model, layer) for layer in self.ffns)
        if self.means is not None:
            ffns -= sum(architectures.ffn_output_maps(model)[layer].bias.numel() for layer in self.ffns)
        experts = expert_parameters(model, self.lone_experts)
        return architectures.removed_parameters(model, list(self.heads)) + ffns + experts


@dataclass(frozen=True)
class Step:
    """One pass of a model.

    Attributes:
        logits: [row, pos, vocabulary], on the CPU.
        trace: activations of its layers.
    """

    logits: Tensor
    trace: Trace


@dataclass(frozen=True)
class Reference:
    """Outputs of the masked model for some tokens, which the export must reproduce.

    Attributes:
        tokens: [row, pos].
        steps: passes without and with a cache, which differ in some families (Bamba, Moshi).
        dtype: number format of the masked model.
        device: its device.
    """

    tokens: Tensor
    steps: dict[str, list[Step]]
    dtype: torch.dtype
    device: torch.device


@torch.no_grad()
def record_reference(loaded: LoadedModel, pruned: Pruned) -> Reference:
    """Run the model with closed gates and without FFNs and experts on random tokens, and record its outputs."""
    model = loaded.model
    # Torch's own generator, so that tokens are the same on all machines.
    vocabulary = architectures.text_config(model).vocab_size
    tokens = torch.randint(vocabulary, (2, min(24, loaded.max_positions)), generator=torch.Generator().manual_seed(0))
    gates = gates_without(loaded.shape, pruned.heads)
    interventions = loaded.interventions
    with (
        interventions.replacing(pruned.means),
        interventions.gates(gates),
        interventions.without_ffns(pruned.ffns),
        interventions.experts.without(pruned.lone_experts),
    ):
        steps = {what: _run(model, tokens.to(loaded.device), what, interventions) for what in _WAYS}
    if not all(torch.isfinite(step.logits).all() for passes in steps.values() for step in passes):
        raise HeadroomError(
            "with these parts pruned, the model's logits are not finite in this number format; "
            + other_dtype(str(model.dtype))
        )
    return Reference(tokens, steps, model.dtype, loaded.device)


def _run(
    model: Any, tokens: Tensor, what: str, interventions: Interventions | None = None, like: Sequence[Step] = ()
) -> list[Step]:
    """Run a model on tokens in one of ``_WAYS``.

    Args:
        model: the masked model, or the export.
        tokens: [row, pos].
        what: the way.
        interventions: those of the masked model, with which the rounding of heads is measured.
        like: passes of the masked model, whose layers' inputs the export's layers get.
    """
    steps: list[Step] = []
    cache = None
    for number, part in enumerate(_WAYS[what]):
        with (
            trace_layers(model, like[number].trace.inputs if like else None) as trace,
            measure_spread(interventions, trace) if interventions else nullcontext(),
        ):
            output = model(input_ids=tokens[:, part], past_key_values=cache, use_cache=len(_WAYS[what]) > 1)
        cache = output.past_key_values
        steps.append(Step(output.logits.cpu(), trace))
    return steps


def write_weights(checkpoint: Path, pruned: Pruned, form: Form, out: Path) -> None:
    """Write configuration, weights and tokenizer of the pruned model, in the checkpoint's own number format.

    The weights are read again, on the CPU, since the masked model may have run in another format. Layers shrink one by
    one, so that the model is in memory only once.

    Args:
        checkpoint: the whole model's folder.
        pruned: what to remove.
        form: which classes the written checkpoint is of.
        out: an empty folder.

    Raises:
        HeadroomError: its tokenizer differs when loaded from ``out``.
    """
    model = AutoModelForCausalLM.from_pretrained(
        checkpoint, dtype="auto", local_files_only=True, trust_remote_code=False
    )
    fold_means(model, pruned)
    left = pruned.left(model)
    if form.plain:
        make_plain(model, left, form.plain).save_pretrained(out, max_shard_size=SHARD)
    else:
        # Under the names of the weights in memory: those of a family's files are understood for its own type alone.
        prune_for_good(model, left).save_pretrained(out, max_shard_size=SHARD, save_original_format=False)
    tokenizer = AutoTokenizer.from_pretrained(checkpoint, local_files_only=True, trust_remote_code=False)
    tokenizer.save_pretrained(out)
    again = AutoTokenizer.from_pretrained(out, local_files_only=True, trust_remote_code=False)
    for text in _TEXTS:
        if again(text)["input_ids"] != tokenizer(text)["input_ids"]:
            raise HeadroomError(
                f"{checkpoint}: its tokenizer does not survive being saved: {text!r} becomes other tokens; this model "
                "cannot be exported"
            )


def check_biases(model: Any, pruned: Pruned) -> None:
    """Refuse a model whose maps have no biases that could hold the means of what is pruned.

    Raises:
        HeadroomError: names the family, and what to do.
    """
    outputs, ffns = architectures.output_projections(model), architectures.ffn_output_maps(model)
    lacking = [f"attention in layer {layer}" for layer, _ in pruned.heads if outputs[layer].bias is None]
    lacking += [f"the FFN in layer {layer}" for layer in pruned.ffns if ffns[layer].bias is None]
    if lacking:
        raise HeadroomError(
            f"model family {model.config.model_type!r}: the output of {lacking[0]} has no bias, which would hold the "
            "means of what is pruned; export with --ablation zero, by a study with ablation: zero"
        )


@torch.no_grad()
def fold_means(model: Any, pruned: Pruned) -> None:
    """Add what pruned heads give on average to the biases of output projections, and let biases of FFNs be their means.

    These biases have at least 32 bits: in fewer, the export would not be the masked model to its rounding.
    """
    if pruned.means is None:
        return
    heads: dict[int, list[int]] = {}
    for layer, head in pruned.heads:
        heads.setdefault(layer, []).append(head)
    for layer, removed in heads.items():
        weights = architectures.head_rows(model, layer)
        columns = architectures.rows_first(weights.output)[:, weights.columns[removed].flatten()].double()
        mean = pruned.means.heads[layer][0, removed].flatten().double()
        _set_bias(weights.output, weights.output.bias + columns @ mean)
    for layer in pruned.ffns:
        _set_bias(architectures.ffn_output_maps(model)[layer], pruned.means.ffns[layer][0])


def _set_bias(linear: Any, values: Tensor) -> None:
    dtype = torch.promote_types(linear.bias.dtype, torch.float32)
    linear.bias = torch.nn.Parameter(values.to(dtype), linear.bias.requires_grad)


@torch.no_grad()
def check_export(folder: Path, reference: Reference, parameters: int, form: Form) -> float:
    """Load the export and compare it with the masked model.

    Args:
        folder: the export.
        reference: outputs of the masked model.
        parameters: number of parameters that the export must have.
        form: how it was written; a plain checkpoint is loaded by transformers' own classes.

    Returns:
        The largest difference between their logits.

    Raises:
        HeadroomError: sizes or logits differ, or outputs with a key-value cache differ from those without.
    """
    placing = {"device_map": "auto"} if reference.device.type == "cuda" else {}
    options = {"dtype": reference.dtype, **placing}
    model = _load_plain(folder, options) if form.plain else load_pruned(folder, **options)
    n_parameters = model.num_parameters()
    if n_parameters != parameters:
        raise HeadroomError(
            f"the export has {n_parameters} parameters, expected {parameters}; this model cannot be exported exactly"
        )
    tokens = reference.tokens.to(reference.device)
    natural = model(input_ids=tokens, use_cache=False).logits.cpu()
    (whole,) = reference.steps[""]
    far = (natural.float() - whole.logits.float()).abs().max()
    for what, expected in reference.steps.items():
        for step, like in zip(_run(model, tokens, what, like=expected), expected, strict=True):
            why = find_fault(replace(step.trace, heads={}), like.trace)
            if not why and not agree(step.logits, like.logits):
                why = "given the same input, the last layer's output gives others"
            if why:
                raise HeadroomError(
                    f"the export's logits{what} differ from the masked model's by up to {far:.3g} ({why}); this model "
                    "cannot be exported exactly"
                )
    return float(far)


def _load_plain(folder: Path, options: dict[str, Any]) -> Any:
    """Load a plain checkpoint, and refuse one whose weights are not those of the class that loads it."""
    try:
        model, info = AutoModelForCausalLM.from_pretrained(
            folder,
            attn_implementation=architectures.attention_implementation(read_config(folder)),
            local_files_only=True,
            output_loading_info=True,
            **options,
        )
    # transformers and its dependencies raise arbitrary errors.
    except Exception as error:
        raise HeadroomError(
            f"transformers does not load what it wrote of this model ({type(error).__name__}: {error}); it cannot be "
            "exported"
        ) from error
    wrong = sorted(info["missing_keys"]) + sorted(info["unexpected_keys"])
    if wrong:
        raise HeadroomError(f"the family's own class does not have the weight {wrong[0]}; it cannot be exported")
    return model.eval()


@contextmanager
def new_folder(out: Path) -> Iterator[Path]:
    """Yield a folder beside ``out`` that replaces it on success and is removed on failure.

    Args:
        out: the target: nothing yet, an empty folder, or an older export, which is replaced as a whole; of a link, what
            it leads to.

    Raises:
        HeadroomError: the disk is full, or the target cannot be written; it is then unchanged.
    """
    out = out.resolve()
    partial: Path | None = None
    lock_handle: int | None = None
    prefix = f".{out.name}."
    try:
        out.parent.mkdir(parents=True, exist_ok=True)
        remove_abandoned(out.parent, prefix)
        partial = Path(tempfile.mkdtemp(dir=out.parent, prefix=prefix, suffix=partial_suffix()))
        lock_handle = os.open(partial, os.O_RDONLY)
        lock(lock_handle)
        new, older = partial / "new", partial / "older"
        new.mkdir()
        yield new
        # Checked again: files may have appeared in the meantime.
        check_target(out)
        if out.is_dir():
            out.rename(older)
        try:
            new.rename(out)
        except OSError:
            if older.is_dir():
                older.rename(out)
            raise
    except (OSError, SafetensorError) as error:
        reason = getattr(error, "strerror", None) or str(error)
        raise ArtifactError(f"{out} could not be written ({reason}); what was there is as it was") from error
    finally:
        if partial is not None:
            shutil.rmtree(partial, ignore_errors=True)
        if lock_handle is not None:
            os.close(lock_handle)


def check_room(out: Path, checkpoint: Path, share: float) -> None:
    """Refuse to start if the disk has no room for the result.

    Args:
        out: the export's folder.
        checkpoint: the whole model's.
        share: of its parameters that are left.

    Raises:
        HeadroomError: it has no room.
    """
    needed = share * sum(path.stat().st_size for path in deciding_files(checkpoint))
    above = next(place for place in out.resolve().parents if place.exists())
    free = shutil.disk_usage(above).free
    if free < needed:
        raise HeadroomError(
            f"{out}: the export takes {needed / 1e9:.3g} GB, and its disk has {free / 1e9:.3g} GB free; make room or "
            "write elsewhere"
        )
