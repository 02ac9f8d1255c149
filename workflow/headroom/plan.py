"""``headroom plan``: what the jobs of a study will take on a given machine, before any of them runs."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import yaml

from headroom.artifacts.prompts import EVALUATION, IMPORTANCE
from headroom.checkpoints import DTYPES
from headroom.costs import Costs, Load, costs_of, load_of, measured_rates, model_from_config
from headroom.errors import HeadroomError, nearest
from headroom.induction import sequence_length
from headroom.likelihood import encode
from headroom.memory import MOST, fitting_tokens, machine_bytes
from headroom.packing import Batches
from headroom.progress import duration
from headroom.ranking import count_at
from headroom.steps.read_prompts import first_gold, pairs, rows
from headroom.study_config import read_study, transfer_tasks

WORKFLOW = Path(__file__).resolve().parents[1]
GIB = 2**30
START_UP = 6.0
"""Seconds until a job's work begins: imports and the proofs at load."""
RUNTIME_BYTES = 0.5 * GIB
"""Of a process that has imported torch and transformers."""


@dataclass(frozen=True)
class Hardware:
    """A node.

    Attributes:
        name: its line in ``workflow/hardware.yaml``, or ``here``.
        devices: GPUs of a job; 0 for a CPU.
        memory: bytes of each of them, or of the machine.
        forward, backward: operations per second that a pass reaches, over all devices.
        load: bytes per second at which weights are read.
    """

    name: str
    devices: int
    memory: float
    forward: float
    backward: float
    load: float


@dataclass(frozen=True)
class Job:
    """The jobs of one rule.

    Attributes:
        rule: its name.
        count: how many jobs.
        operations: floating-point operations of all, forward and backward passes apart.
        seconds: of all jobs, and of the longest.
        memory: bytes of one job on the device (or of the process, on a CPU).
    """

    rule: str
    count: int
    operations: float
    seconds: float
    longest: float
    memory: float


@dataclass(frozen=True)
class Prompts:
    """One task and shot: loads of its scoring and its evaluation documents."""

    task: str
    shots: int
    scoring: Load
    evaluation: Load


def hardware_line(name: str, config: Any, dtype: str, threads: int) -> Hardware:
    """A line of the table, or this machine, measured.

    Raises:
        HeadroomError: no such line.
    """
    if name == "here":
        forward, backward = measured_rates(config, DTYPES[dtype], threads)
        if torch.cuda.is_available():
            memory, devices = float(torch.cuda.mem_get_info()[1]), 1
        else:
            memory, devices = float(machine_bytes("MemTotal")), 0
        return Hardware("here", devices, memory, forward, backward, 1e9)
    table = yaml.safe_load((WORKFLOW / "hardware.yaml").read_text(encoding="utf-8"))
    if name not in table:
        raise HeadroomError(f"hardware {name!r} is unknown{nearest(name, table)}; known: here, {', '.join(table)}")
    line = table[name]
    rate = line["tflops"] * 1e12 * line["reached"] * line["devices"]
    return Hardware(name, line["devices"], line["memory_gib"] * GIB, rate, rate, line["load_gib_per_second"] * GIB)


def read_prompts(study: Mapping[str, Any], results: Path, tokenizer: Any, window: int, sample: int) -> list[Prompts]:
    """Loads of all tasks and shots, counted on the first ``sample`` documents of each prompts file and scaled.

    Raises:
        HeadroomError: prompts are missing; says how to render them.
    """
    found = []
    for task in [*study["tasks"], *study["unseen"]]:
        for shots in study["shots"]:
            path = results / "prompts" / task / f"{shots}shot-seed{study['seeds'][0]}.parquet"
            if not path.is_file():
                raise HeadroomError(
                    f"{path}: no such prompts; tokens are counted on them. Render them first, which needs no model: "
                    "snakemake prompts --configfile STUDY"
                )
            scoring = _sampled(first_gold(rows(path, IMPORTANCE)), tokenizer, window, sample, study, share=False)
            judged = _sampled(rows(path, EVALUATION), tokenizer, window, sample, study, share=True)
            found.append(Prompts(task, shots, scoring, judged))
    return found


def _sampled(table: Any, tokenizer: Any, window: int, sample: int, study: Mapping[str, Any], share: bool) -> Load:
    ids = table.column("doc_id").to_pylist()
    kept = set(list(dict.fromkeys(ids))[:sample])
    part = table.take([place for place, doc_id in enumerate(ids) if doc_id in kept])
    documents = encode(pairs(part), tokenizer, window, study["add_bos"])
    return load_of(Batches(documents, MOST["cpu"], share=share)).times(len(set(ids)) / len(kept))


def jobs(study: Mapping[str, Any], prompts: Sequence[Prompts], costs: Costs, hardware: Hardware) -> list[Job]:
    """The jobs of the rules that run the model, for one model and one seed."""
    levels = sorted({0, *study["pruning"]["levels"]})
    joint = [sorted({0, *study["joint"][name]}) if study["joint"][name] else [] for name in ("heads", "ffns")]
    tasks, transfer = set(study["tasks"]), set(transfer_tasks(study))
    seen = [p for p in prompts if p.task in tasks]

    def remaining(percent: int) -> float:
        return 1 - count_at(percent, costs.layers) / costs.layers

    def own(load: Load) -> float:
        rankings = 1 + len(study["pruning"]["controls"])
        # All rankings share the whole model's evaluation.
        return (1 + rankings * (len(levels) - 1)) * costs.forward(load)

    def ffns(p: Prompts) -> float:
        judged = p.evaluation if study["ffn"]["selection"] == "evaluation" else p.scoring
        curve = sum(costs.forward(p.evaluation, ffns=remaining(level)) for level in levels if level)
        return costs.oracle(judged) + curve

    def grid(load: Load) -> float:
        heads, layers = joint
        # The edge without FFNs pruned and the curve of heads share their levels.
        cells = [(h, f) for h in {*heads, *levels} for f in layers if f == 0 or h in heads]
        return sum(costs.forward(load, ffns=remaining(f)) for _, f in cells)

    plans: list[tuple[str, list[float], list[float], int]] = [
        ("score_heads", [costs.forward(p.scoring) for p in prompts], [costs.backward(p.scoring) for p in prompts], 2),
        ("score_ffns", [ffns(p) for p in seen], [], 1),
        ("evaluate_own", [own(p.evaluation) for p in prompts], [], 0),
    ]
    has_grid = all(joint)
    if has_grid:
        plans.append(("evaluate_joint", [grid(p.evaluation) for p in seen], [], 0))
    alone = [p for p in prompts if not has_grid or p.task not in tasks]
    plans.append(("evaluate_aggregate", [len(levels) * costs.forward(p.evaluation) for p in alone], [], 0))
    steps = 1 + 2 * len({0, *study["transfer"]["levels"]} - {0})
    moved = [steps * costs.forward(p.evaluation) for p in prompts if p.task in transfer]
    plans.append(("evaluate_transfer", moved, [], 0))
    lengths = [4 * sequence_length(seed) for seed in range(1, study["induction"]["sequences"] + 1)]
    plans.append(("score_induction", [costs.induction(lengths)], [], 0))
    return [_job(rule, ahead, back, kind, costs, hardware) for rule, ahead, back, kind in plans if ahead]


def _job(rule: str, ahead: Sequence[float], back: Sequence[float], kind: int, costs: Costs, hardware: Hardware) -> Job:
    fixed = START_UP + costs.weight_bytes / hardware.load
    both = list(back) or [0.0] * len(ahead)
    # A backward pass has a rate of its own, measured with the forward pass that it needs.
    seconds = [
        fixed + ((a + b) / hardware.backward if b else a / hardware.forward)
        for a, b in zip(ahead, both, strict=True)
    ]  # fmt: skip
    return Job(rule, len(ahead), sum(ahead) + sum(both), sum(seconds), max(seconds), memory(costs, hardware, kind))


def memory(costs: Costs, hardware: Hardware, kind: int = 0) -> float:
    """Bytes of a job: weights, a batch of the budget that the free memory gives, logits, and on a CPU the process.

    Args:
        costs: of the model.
        hardware: the node.
        kind: 0 a pass, 1 the FFN oracle, 2 a backward pass.
    """
    free = hardware.memory * max(1, hardware.devices) - costs.weight_bytes
    device = "cuda" if hardware.devices else "cpu"
    budget = fitting_tokens(free, costs.logit_bytes, costs.token_bytes[kind], device, kind == 2)
    process = 0.0 if hardware.devices else RUNTIME_BYTES
    return costs.weight_bytes + budget * costs.token_bytes[kind] + costs.logit_bytes + process


def describe(model: Any, dtype: str, costs: Costs, hardware: Hardware, planned: Sequence[Job]) -> str:
    """The plan as text."""
    need = max(job.memory for job in planned)
    total = hardware.memory * max(1, hardware.devices)
    where = f"{hardware.devices} GPUs" if hardware.devices > 1 else ("1 GPU" if hardware.devices else "CPU")
    lines = [
        f"{model.config.model_type}, {costs.parameters / 1e9:.3g} B parameters, {costs.layers} layers x {costs.heads} "
        f"heads, {dtype}: {costs.weight_bytes / GIB:.1f} GiB of weights",
        f"{hardware.name}: {where}, {total / GIB:.0f} GiB, {hardware.forward / 1e12:.3g} TFLOP/s reached",
        "",
        "| rule | jobs | PFLOP | GiB | longest job | all jobs |",
        "|---|---|---|---|---|---|",
    ]
    for job in planned:
        lines.append(
            f"| {job.rule} | {job.count} | {job.operations / 1e15:.3g} | {job.memory / GIB:.1f} "
            f"| {duration(job.longest)} | {duration(job.seconds)} |"
        )
    together = duration(sum(job.seconds for job in planned))
    lines += ["", f"{sum(job.count for job in planned)} jobs that run the model, {together} one after the other."]
    if costs.weight_bytes > total:
        enough = math.ceil(1.2 * need / (hardware.memory))
        lines.append(
            f"The weights do not fit: {costs.weight_bytes / GIB:.0f} of {total / GIB:.0f} GiB. About {enough} such "
            "devices would hold them; with fewer, layers wait in the host's memory, many times as slow."
        )
    return "\n".join(lines)


def plan(source: str, study: Path, results: Path, hardware: str, dtype: str | None, threads: int, sample: int) -> str:
    """The plan of a study for one model.

    Args:
        source: a checkpoint folder (its config and tokenizer are read, no weights) or a hub name.
        study: the study file.
        results: the results folder, which has the prompts.
        hardware: a line of ``workflow/hardware.yaml``, or ``here``.
        dtype: number format; None for the study's.
        threads: CPU threads, for ``here``.
        sample: documents of each prompts file that tokens are counted on.
    """
    from transformers import AutoConfig, AutoTokenizer

    settings = read_study(study)
    dtype = dtype or settings["dtype"]
    try:
        config, tokenizer = AutoConfig.from_pretrained(source), AutoTokenizer.from_pretrained(source)
    except (OSError, ValueError) as error:
        raise HeadroomError(f"model {source!r}: no configuration or tokenizer there ({error})") from error
    model = model_from_config(config, DTYPES[dtype])
    costs = costs_of(model)
    found = read_prompts(settings, results, tokenizer, config.max_position_embeddings, sample)
    node = hardware_line(hardware, config, dtype, threads)
    return describe(model, dtype, costs, node, jobs(settings, found, costs, node))
