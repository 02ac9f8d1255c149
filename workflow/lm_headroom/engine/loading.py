"""Load a resolved model, and build gates for it."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from functools import cached_property
from pathlib import Path
from typing import Any

import torch
from accelerate.utils import align_module_device
from torch import Tensor
from transformers import AutoModelForCausalLM, AutoTokenizer
from transformers import logging as transformers_logging

from lm_headroom import settings
from lm_headroom.artifacts.model_record import read_record
from lm_headroom.engine.attachment import attach
from lm_headroom.engine.interventions import Interventions
from lm_headroom.engine.kept_proofs import KeptProofs
from lm_headroom.engine.layout import is_at_once
from lm_headroom.engine.packing import out_of_memory
from lm_headroom.errors import MORE_MEMORY, HeadroomError, first_of
from lm_headroom.models import architectures
from lm_headroom.models.architecture import HeadLayout
from lm_headroom.models.chat import KEY as CHAT
from lm_headroom.models.chat import Chat, ChatSettings
from lm_headroom.models.location import PERMISSIONS, PICKLE, REMOTE_CODE, checkpoint_folder
from lm_headroom.models.resolve import check_agrees, check_checkpoint, check_record
from lm_headroom.models.sizes import model_from_config, read_config

DTYPES = {name: getattr(torch, name) for name in settings.DTYPES}
KEPT: dict[tuple[str, str, bool], tuple[LoadedModel, str]] = {}
"""Models that this process, a fork, found loaded: by record and number format, each with what loading it printed."""
UNREADABLE = "transformers cannot load this checkpoint"


class LoadedModel:
    """A model for a step. Its weights are read when first needed: the resume cache may hold everything.

    Attributes:
        tokenizer: the model's tokenizer.
        record: the model's record (model.json).
        skeleton: the model, possibly without weights, for its shape and parameter sizes.
    """

    def __init__(
        self,
        tokenizer: Any,
        record: dict[str, Any],
        skeleton: Any,
        read: Callable[[], Any],
        record_path: Path | None = None,
    ) -> None:
        """Take what a model is read from.

        Args:
            tokenizer, record, skeleton: the attributes.
            read: reads the model with its weights.
            record_path: the record's file, beside which proofs are kept; None keeps none.
        """
        self.tokenizer, self.record, self.skeleton = tokenizer, record, skeleton
        self._read, self._record_path = read, record_path

    @cached_property
    def model(self) -> Any:
        """The model with its weights, frozen; :attr:`interventions` routes its attention.

        Raises:
            HeadroomError: the model cannot be read, or a weight is missing or not finite.
        """
        model = self._read().eval().requires_grad_(False)
        architectures.share(self.skeleton, model)
        layers = architectures.layers(model)
        waiting = sum(any(p.device.type == "meta" for p in layer.parameters()) for layer in layers)
        if waiting:
            print(
                f"{waiting} of {len(layers)} layers do not fit this job's GPUs and are fetched for each pass, many "
                "times as slow; give it more GPUs (config key 'gpus', option --gpus) or a number format of 16 bits",
                file=sys.stderr,
            )
        _check_finite(model)
        return model

    @property
    def in_memory(self) -> bool:
        """Whether the weights have been read."""
        return "model" in self.__dict__

    @cached_property
    def interventions(self) -> Interventions:
        """Interventions on the model's heads and FFNs.

        Raises:
            HeadroomError: see :func:`lm_headroom.engine.attachment.attach`; or the number format does not work on
                the device.
        """
        with _explained(f"model {self.record.get('name')}", _name(self.model.dtype)):
            path = self._record_path
            return attach(self.model, KeptProofs(path, self.record["digest"], self.model) if path else None)

    @cached_property
    def shape(self) -> HeadLayout:
        """Head counts."""
        return architectures.head_layout(self.skeleton)

    @property
    def device(self) -> torch.device:
        """Device of the inputs."""
        return torch.device(architectures.input_device(self.model))

    @cached_property
    def vocabulary(self) -> int:
        """Number of tokens that the model has embeddings for."""
        embeddings = (self.skeleton.get_input_embeddings(), self.skeleton.get_output_embeddings())
        return min(int(embedding.weight.shape[0]) for embedding in embeddings)

    def check_tokens(self, where: str, ids: Iterable[int]) -> None:
        """Refuse tokens without an embedding before they reach a device, whose error would not name them.

        Args:
            where: the document or sequence, for the message.
            ids: its tokens.

        Raises:
            HeadroomError: a token has no embedding; names it.
        """
        largest = max(ids, default=0)
        if largest >= self.vocabulary:
            token = self.tokenizer.convert_ids_to_tokens(largest)
            raise HeadroomError(
                f"{where}: token {token!r} has the id {largest}, but the model has embeddings for {self.vocabulary} "
                f"tokens and its tokenizer has {len(self.tokenizer)}; take the tokenizer that belongs to this "
                "checkpoint, or one without the tokens that were added to it"
            )

    @cached_property
    def chat(self) -> Chat | None:
        """The chat template, where the record says that it is applied to prompts."""
        settings = self.record.get(CHAT)
        return Chat(self.tokenizer, ChatSettings(**settings)) if settings else None

    @property
    def max_positions(self) -> int:
        """Largest number of input tokens."""
        return architectures.max_positions(self.skeleton.config)


def load(record_path: Path, dtype: str = "float32", device: str = "auto", threads: int | None = None) -> LoadedModel:
    """Load the model of a ``model.json``. Its weights are read, and checked, when they are first needed.

    Args:
        record_path: the model's record.
        dtype: float32, float64, bfloat16 or float16.
        device: ``cpu``, ``cuda`` or ``auto``: all visible GPUs through accelerate's device map, else the CPU.
        threads: CPU threads; None leaves torch's choice.

    Raises:
        HeadroomError: the record or the checkpoint is missing, damaged or unsupported, or the device is not available.
    """
    transformers_logging.set_verbosity_error()
    transformers_logging.disable_progress_bar()
    if threads:
        torch.set_num_threads(threads)
    record = read_record(Path(record_path))
    path = checkpoint_folder(Path(record_path))
    allowed = [permission for permission in PERMISSIONS if record.get(permission)]
    check_checkpoint(path, record["name"], allowed)
    # Before code of its own runs.
    check_record(Path(record_path), record, path)
    if kept_as(record_path, dtype) in KEPT:
        loaded, printed = KEPT[kept_as(record_path, dtype)]
        sys.stderr.write(printed)
        return loaded
    if device == "cuda" and not torch.cuda.is_available():
        raise HeadroomError(
            "device cuda: PyTorch sees no GPU here; set device to auto or cpu, or install its CUDA build"
        )
    return _open(Path(record_path), record, path, dtype, device)


def _open(record_path: Path, record: dict[str, Any], path: Path, dtype: str, device: str) -> LoadedModel:
    """Read tokenizer and shape of a checkpoint that was checked; the weights, when they are needed."""
    allowed = [permission for permission in PERMISSIONS if record.get(permission)]
    trust = REMOTE_CODE in allowed
    use_gpu = device != "cpu" and torch.cuda.is_available()

    def weights() -> Any:
        with _explained(path, dtype, UNREADABLE):
            model, info = AutoModelForCausalLM.from_pretrained(
                path,
                config=config,
                dtype=DTYPES[dtype],
                attn_implementation=architectures.attention_implementation(config),
                local_files_only=True,
                device_map="auto" if use_gpu else None,
                trust_remote_code=trust,
                use_safetensors=PICKLE not in allowed,
                weights_only=True,
                output_loading_info=True,
            )
            if info["missing_keys"]:
                raise HeadroomError(
                    f"{path}: the checkpoint has no weights for {first_of(info['missing_keys'])}, which would be "
                    "initialised at random; fetch it again"
                )
            return model

    with _explained(path, dtype, UNREADABLE):
        config = read_config(path, trust)
        tokenizer = AutoTokenizer.from_pretrained(path, config=config, local_files_only=True, trust_remote_code=trust)
        skeleton = model_from_config(config, DTYPES[dtype], trust=trust)
    _check_tokenizer(tokenizer, path)
    shape = architectures.head_layout(skeleton)
    check_agrees(record_path, record, path, {"layers": shape.layers, "heads": shape.heads})
    return LoadedModel(tokenizer, record, skeleton, weights, record_path)


def kept_as(record: Path, dtype: str) -> tuple[str, str, bool]:
    """Key of a model in :data:`KEPT`."""
    return str(Path(record).resolve()), dtype, is_at_once()


def _check_tokenizer(tokenizer: Any, path: Path) -> None:
    """Refuse a tokenizer without a vocabulary; transformers invents one if it finds none of the files it needs."""
    if len(set(tokenizer.get_vocab().values()) - set(tokenizer.all_special_ids)) < 2:
        raise HeadroomError(
            f"{path}: the files of the tokenizer that are there give {type(tokenizer).__name__} no vocabulary; copy "
            "all of the tokenizer's files there"
        )


@contextmanager
def _explained(what: Path | str, dtype: str, otherwise: str = "") -> Iterator[None]:
    """Turn errors of libraries into sentences that name the checkpoint and a remedy.

    Args:
        what: the checkpoint.
        dtype: number format.
        otherwise: the sentence for unknown errors; empty to let them pass unchanged.
    """
    try:
        yield
    except HeadroomError:
        raise
    # transformers and its dependencies raise arbitrary errors, whose messages do not name the checkpoint.
    except Exception as error:
        if out_of_memory(error):
            reason = (
                f"{what}: the model does not fit in memory in {dtype}; {MORE_MEMORY} ('lm-headroom plan' says "
                "how much it takes)"
            )
        elif "not implemented for" in str(error):
            other = "float32 or another device" if dtype != "float32" else "another device"
            reason = f"dtype {dtype} does not work on this device ({error}); use {other}"
        elif otherwise:
            reason = f"{what}: {otherwise} ({type(error).__name__}: {error})"
        else:
            raise
        raise HeadroomError(reason) from error


def prepare(model: Any, tokenizer: Any, record: dict[str, Any] | None = None) -> LoadedModel:
    """Prepare a model in memory: freeze it, set it to evaluation, and attach interventions.

    Raises:
        HeadroomError: a weight is not finite, or interventions on the model are not exact (see
            :func:`lm_headroom.engine.attachment.attach`).
    """
    loaded = LoadedModel(tokenizer, record or {}, model, lambda: model)
    # Attached now, so that a model on which interventions fail is refused here.
    _ = loaded.interventions
    return loaded


def _check_finite(model: Any) -> None:
    for path, module in model.named_modules():
        # Fetches weights that are offloaded from the GPU.
        with align_module_device(module):
            for name, weight in module.named_parameters(recurse=False):
                # Minimum and maximum propagate NaN, and need no memory.
                if not all(torch.isfinite(extreme) for extreme in torch.aminmax(weight)):
                    dtype = _name(weight.dtype)
                    raise HeadroomError(
                        f"weight {path}.{name} holds NaN or infinity in {dtype}: the checkpoint is damaged, or its "
                        f"numbers are beyond that format: {settings.other_dtype(dtype)}"
                    )


def _name(dtype: torch.dtype) -> str:
    return str(dtype).removeprefix("torch.")


def gates_without(shape: HeadLayout, pruned: Iterable[tuple[int, int]]) -> Tensor:
    """Build gates [layer, head]: 0 for pruned heads, 1 for the others.

    Raises:
        HeadroomError: a layer of these has no heads; names it.
    """
    gates = torch.ones(shape.layers, shape.heads)
    for layer, head in pruned:
        if layer in shape.without_heads:
            raise HeadroomError(
                f"layer {layer} has no attention heads, and so no head {head}; layers that have heads: "
                + ", ".join(map(str, shape.attending))
            )
        gates[layer, head] = 0
    return gates
