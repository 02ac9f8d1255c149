"""``lm-headroom plan``: predict time and memory of a study's jobs on a given machine, before any of them runs."""

from __future__ import annotations

import math
import statistics
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch

from lm_headroom.artifacts.prompts import EVALUATION, IMPORTANCE
from lm_headroom.engine.batch_size import MAX_TOKENS
from lm_headroom.engine.likelihood import encode, predict
from lm_headroom.engine.loading import DTYPES, prepare
from lm_headroom.engine.memory import machine_bytes
from lm_headroom.engine.packing import Batches, Document, TokenSequence
from lm_headroom.errors import HeadroomError
from lm_headroom.models import architectures
from lm_headroom.models.chat import Chat, ChatSettings
from lm_headroom.models.checkpoint_files import SMALL_FILES
from lm_headroom.models.gguf_files import GGUF, find, read_shape
from lm_headroom.models.hub import fetch
from lm_headroom.models.sizes import model_from_config, model_sizes, read_config, with_layers
from lm_headroom.planning.costs import Costs, Load
from lm_headroom.planning.requests import gpus_of_job
from lm_headroom.planning.workload import (
    GIB,
    Hardware,
    PlannedJobs,
    Prompts,
    Request,
    hardware_line,
    hardware_of,
    jobs,
    prompt_files,
    recorded_loads,
    request,
)
from lm_headroom.progress import duration
from lm_headroom.scoring.gradient import products
from lm_headroom.study.config import Study
from lm_headroom.tasks.prompt_set import first_gold, pairs
from lm_headroom.tasks.prompt_set import read_prompts as read_prompt_set

REPEATS = 5
"""Number of timed passes of a measurement."""


def costs_of(model: Any) -> Costs:
    """Compute the costs of a model; one on the meta device suffices."""
    return Costs.from_sizes(model_sizes(model), model.get_output_embeddings().weight.element_size())


def load_of(batches: Batches) -> Load:
    """Compute the load of packed documents."""
    trees = [tree for batch in batches for tree in batch.trees]
    pairs = sum(t.trunk * (t.trunk + 1) / 2 + (t.columns - t.trunk) * t.columns for t in trees)
    return Load(batches.columns, pairs, sum(len(batch.positions) for batch in batches))


def measure_hardware(config: Any, dtype: str, threads: int) -> Hardware:
    """Measure this machine, with its first GPU if it has one."""
    forward, backward = measure_rates(config, DTYPES[dtype], threads)
    if torch.cuda.is_available():
        return Hardware("here", 1, float(torch.cuda.mem_get_info()[1]), forward, backward, 1e9)
    return Hardware("here", 0, float(machine_bytes("MemTotal")), forward, backward, 1e9)


def measure_rates(config: Any, dtype: torch.dtype, threads: int, columns: int = 1024) -> tuple[float, float]:
    """Measure this machine's operations per second in forward and backward passes, in layers of a model's shape.

    The rate follows from the time that two more layers add to a pass over documents of 128 tokens (median of several),
    since time outside the layers matters little in a whole model. Weights are random: speed does not depend on them.
    """
    torch.set_num_threads(threads)
    few, more = (_time_layers(config, dtype, n, columns) for n in (1, 3))
    forward, both = (_rate(a, b) for a, b in zip(few, more, strict=True))
    return forward, both


@dataclass(frozen=True)
class _Pass:
    operations: float
    seconds: float


def _rate(few: _Pass, more: _Pass) -> float:
    """Rate of the added layers; if other load on the machine distorted it, that of the whole larger pass."""
    whole = more.operations / more.seconds
    seconds = more.seconds - few.seconds
    added = (more.operations - few.operations) / seconds if seconds > 0 else 0.0
    return added if whole <= added <= 3 * whole else whole


def _time_layers(config: Any, dtype: torch.dtype, n_layers: int, columns: int) -> tuple[_Pass, _Pass]:
    """Time a forward pass, and a forward pass with its backward pass, of a model with ``n_layers`` layers."""
    small = with_layers(config, n_layers)
    device = "cuda" if torch.cuda.is_available() else "cpu"
    loaded = prepare(model_from_config(small, dtype, device), None)
    costs = costs_of(loaded.model)
    rng = np.random.default_rng(0)
    rows = rng.integers(10, config.get_text_config().vocab_size, (columns // 128, 129))
    batches = Batches(
        [Document(n, (TokenSequence(tuple(row), 1),)) for n, row in enumerate(rows.tolist())], columns, device
    )
    (batch,) = batches
    load = load_of(batches)

    def median(work: Callable[[], Any]) -> float:
        seconds = []
        for _ in range(REPEATS + 1):
            start = time.perf_counter()
            work()
            if device == "cuda":
                torch.cuda.synchronize()
            seconds.append(time.perf_counter() - start)
        # The first pass warms up.
        return statistics.median(seconds[1:])

    with torch.no_grad():
        ahead = _Pass(costs.forward(load), median(lambda: predict(loaded, batch)))
    both = median(lambda: products(loaded, batch, np.ones(len(rows))))
    return ahead, _Pass(ahead.operations + costs.backward(load), both)


class CountedPrompts(NamedTuple):
    """Loads of one task and shot as its tokens were counted, and the file with what made it."""

    loads: Prompts
    path: Path
    provenance: Mapping[str, Any]


def chat_of(study: Study, source: str, tokenizer: Any) -> Chat | None:
    """The chat template that a study applies to the model of a source.

    Raises:
        HeadroomError: see :class:`lm_headroom.models.chat.Chat`.
    """
    model = next((model for model in study.models.values() if model.checkpoint == source and model.chat_template), None)
    return Chat(tokenizer, ChatSettings(model.system_prompt, model.fewshot_as_multiturn)) if model else None


def read_prompts(
    study: Study, results: Path, tokenizer: Any, max_positions: int, sample: int, chat: Chat | None = None
) -> list[CountedPrompts]:
    """Compute the loads of all tasks and shots from the first ``sample`` documents of each prompts file, scaled up.

    Args:
        study: the typed study.
        results: the results folder.
        tokenizer, max_positions: of the model.
        sample: documents of each file.
        chat: its chat template, where it is applied.

    Raises:
        HeadroomError: prompts are missing; explains how to render them.
    """
    loads = []
    for task, shots, path in prompt_files(study, results):
        prompts = read_prompt_set(path)
        scoring = prompts.rows(IMPORTANCE, chat)
        tables = [(first_gold(scoring), False), (scoring, True), (prompts.rows(EVALUATION, chat), True)]
        counted = [_sampled(table, tokenizer, max_positions, sample, study, share) for table, share in tables]
        loads.append(CountedPrompts(Prompts(task, shots, *counted), path, prompts.artifact.provenance))
    return loads


def requests(study: Study, prompts: Mapping[Path, Mapping[str, Any]], costs: Costs) -> dict[str, Request]:
    """Compute the first request of each rule's longest job to a cluster, as the workflow's resource functions do.

    Raises:
        HeadroomError: prompts are missing, or lack the sizes of their text.
    """
    hardware = hardware_of(study)
    loads = [recorded_loads(path, provenance) for path, provenance in prompts.items()]
    planned = jobs(study, loads, costs, hardware)
    return {job.rule: request(job.rule, study, costs, hardware, job.longest) for job in planned}


def _sampled(table: Any, tokenizer: Any, max_positions: int, sample: int, study: Study, share: bool) -> Load:
    ids = table.column("doc_id").to_pylist()
    kept = set(list(dict.fromkeys(ids))[:sample])
    part = table.take([place for place, doc_id in enumerate(ids) if doc_id in kept])
    documents = encode(pairs(part), tokenizer, max_positions, study.add_bos)
    return load_of(Batches(documents, MAX_TOKENS["cpu"], share=share)).times(len(set(ids)) / len(kept))


def format_plan(
    model: Any,
    study: Study,
    costs: Costs,
    hardware: Hardware,
    planned: Sequence[PlannedJobs],
    asked: Mapping[str, Request],
) -> str:
    """Format the plan as text."""
    need = max(job.memory for job in planned)
    where = f"{hardware.devices} GPUs" if hardware.devices > 1 else ("1 GPU" if hardware.devices else "CPU")
    lines = [
        f"{model.config.model_type}, {costs.parameters / 1e9:.3g} B parameters, {costs.layers} layers x {costs.heads} "
        f"heads, {study.dtype}: {costs.weight_bytes / GIB:.1f} GiB of weights",
        f"{hardware.name}: {where}, {hardware.forward / 1e12:.3g} TFLOP/s reached"
        + ("" if math.isinf(hardware.total) else f", {hardware.total / GIB:.0f} GiB"),
        "",
        "| rule | jobs | PFLOP | GiB | longest job | all jobs | asks for |",
        "|---|---|---|---|---|---|---|",
    ]
    for job in planned:
        most = asked[job.rule]
        lines.append(
            f"| {job.rule} | {job.count} | {job.operations / 1e15:.3g} | {job.memory / GIB:.1f} "
            f"| {duration(job.longest)} | {duration(job.seconds)} "
            f"| {most.mem_mb / 1000:.0f} GB, {duration(60 * most.minutes)} |"
        )
    together = duration(sum(job.seconds for job in planned))
    lines += [
        "",
        f"{sum(job.count for job in planned)} jobs that run the model, {together} one after the other. The last column "
        "is what the longest of them asks a cluster for, by the study's device and hardware: memory of the host, time. "
        f"Each asks for {gpus_of_job(study)} GPUs and {study.threads} CPU cores, too. Jobs that a profile submits "
        "together ask for the memory and GPUs of the largest, and for the time of all.",
    ]
    if costs.weight_bytes > hardware.total:
        enough = math.ceil(1.2 * need / hardware.memory)
        lines.append(
            f"The weights do not fit: {costs.weight_bytes / GIB:.0f} of {hardware.total / GIB:.0f} GiB. About {enough} "
            "such devices would hold them (config key 'gpus'); with fewer, layers wait in the host's memory, many "
            "times as slow."
        )
    return "\n".join(lines)


def configuration(source: str) -> tuple[Any, Any]:
    """Read the configuration and the tokenizer of a checkpoint.

    Args:
        source: a folder or a hub name, which need not have weights, or a GGUF file.

    Raises:
        HeadroomError: they are not there, or cannot be read.
    """
    from transformers import AutoTokenizer

    is_folder, file = Path(source).is_dir(), None
    if not is_folder and source.endswith(GGUF):
        file, _ = find(source, None, source)
    # Of a model on the hub, all but its weights.
    folder = source if is_folder or file else fetch(source, None, lambda *_: list(SMALL_FILES), lambda *_: None)
    try:
        if file:
            return read_shape(file)
        return read_config(folder), AutoTokenizer.from_pretrained(folder, trust_remote_code=False)
    # transformers raises arbitrary errors of files that it cannot read.
    except Exception as error:
        what = str(error) if isinstance(error, OSError | ValueError) else f"{type(error).__name__}: {error}"
        raise HeadroomError(f"model {source!r}: no configuration or tokenizer there ({what})") from error


def plan(
    source: str,
    study: Study,
    results: Path,
    hardware: str,
    dtype: str | None,
    gpus: int | None,
    threads: int,
    sample: int,
) -> str:
    """Compute the plan of a study for one model.

    Args:
        source: a checkpoint folder (only its config and tokenizer are read), a hub name, or a GGUF file.
        study: the typed study.
        results: the results folder with the prompts.
        hardware: an entry of ``workflow/hardware.yaml``, or ``here``.
        dtype: number format; None for the study's.
        gpus: GPUs of a job; None for the study's.
        threads: CPU threads, for ``here`` and the entry ``cpu``.
        sample: number of documents of each prompts file whose tokens are counted.
    """
    settings = study.model_copy(update={"dtype": dtype or study.dtype, "gpus": gpus or study.gpus})
    config, tokenizer = configuration(source)
    model = model_from_config(config, DTYPES[settings.dtype])
    costs = costs_of(model)
    counted = read_prompts(
        settings, results, tokenizer, architectures.max_positions(config), sample, chat_of(settings, source, tokenizer)
    )
    if hardware == "here":
        node = measure_hardware(config, settings.dtype, threads)
    else:
        node = hardware_line(hardware, settings.dtype, settings.gpus, threads)
    planned = jobs(settings, [prompts.loads for prompts in counted], costs, node)
    asked = requests(settings, {prompts.path: prompts.provenance for prompts in counted}, costs)
    return format_plan(model, settings, costs, node, planned, asked)
