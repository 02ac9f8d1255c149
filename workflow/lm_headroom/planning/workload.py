"""Predict operations, time and memory of the jobs that run a model, and their requests to a cluster.

``lm-headroom plan``, which counts tokens and may measure the machine, and the workflow's resource functions, which know
the sizes of the model and of the prompts' text, share these formulas. No torch: the Snakefile imports this module.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import yaml

from lm_headroom.artifacts.catalogue import path_of
from lm_headroom.engine.batch_size import ITEM_SIZES, fitting_tokens
from lm_headroom.errors import HeadroomError, nearest
from lm_headroom.models.location import location_file, read_location
from lm_headroom.models.sequences import COPIES, sequence_length
from lm_headroom.planning.costs import Costs, Load
from lm_headroom.study.config import Study
from lm_headroom.study.criteria import CHOOSING
from lm_headroom.study.ranking_names import AGGREGATE, LEARNED, ORACLES
from lm_headroom.workflow_files import WORKFLOW

GIB = 2**30
MB = 10**6
START_UP = 6.0
"""Seconds until a job's work begins: imports and the proofs at load."""
RUNTIME_BYTES = 0.5 * GIB
"""Memory of a process that has imported torch and transformers."""
GPU_RUNTIME_BYTES = 4 * GIB
"""The same with CUDA's libraries, on the host."""
SNAKEMAKE_BYTES = 0.5 * GIB
"""Memory of the two Snakemake processes in a cluster job."""
CHARACTERS_PER_TOKEN = 3.0
"""Fewer than in English prose, so that times are overestimated rather than underestimated."""
MEMORY_FACTOR, MEMORY_GROWTH = 1.2, 1.5
"""Ratio of requested to predicted memory, and of each attempt's request to the one before."""
TIME_FACTOR, TIME_BASE, TIME_GROWTH = 3.0, 20 * 60.0, 2.0
"""The same for time, and seconds that every request includes."""
DEFAULT_REQUEST = (32_000, 24 * 60)
"""MB and minutes if nothing is known about a job."""
PASS, ORACLE, BACKWARD = range(3)
MEMORY_PROFILES = {
    **dict.fromkeys(("score_heads", "score_experts", "rank_heads_iteratively", "rank_custom", "learn_mask"), BACKWARD),
    **dict.fromkeys(("score_ffns", "select_ffns", "score_head_knockouts"), ORACLE),
}
"""Kind of pass that determines a job's memory, by rule; others are forward passes. See ``Costs.token_bytes``."""


@dataclass(frozen=True)
class Hardware:
    """Hardware of a job.

    Attributes:
        name: its entry in ``workflow/hardware.yaml``, or ``here``.
        devices: GPUs of a job; 0 for a CPU.
        memory: bytes of each GPU, or of the machine; infinity if unknown.
        forward, backward: operations per second that a pass reaches. GPUs hold different layers and therefore compute
            one after the other.
        load: bytes per second at which weights are read.
    """

    name: str
    devices: int
    memory: float
    forward: float
    backward: float
    load: float

    @property
    def total(self) -> float:
        """Memory of all devices in bytes."""
        return self.memory * max(1, self.devices)


@dataclass(frozen=True)
class PlannedJobs:
    """The jobs of one rule.

    Attributes:
        rule: its name.
        count: number of jobs.
        operations: floating-point operations of all jobs.
        seconds, longest: time of all jobs, and of the longest.
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
    """Loads of one task and shot: scoring documents with their first right choice, with all choices, and evaluation."""

    task: str
    shots: int
    scoring: Load
    scoring_choices: Load
    evaluation: Load


@dataclass(frozen=True)
class Request:
    """A job's request to a cluster: memory of the host in MB, and minutes."""

    mem_mb: int
    minutes: int


@cache
def hardware_table() -> dict[str, dict[str, float]]:
    """Read ``workflow/hardware.yaml``."""
    return dict(yaml.safe_load((WORKFLOW / "hardware.yaml").read_text(encoding="utf-8")))


def hardware_line(name: str, dtype: str, gpus: int = 1, threads: int = 1) -> Hardware:
    """Look up an entry of the hardware table.

    Args:
        name: name of the entry.
        dtype: number format.
        gpus: GPUs of a job.
        threads: threads of a job on a CPU, whose entry is per thread.

    Raises:
        HeadroomError: there is no such entry.
    """
    table = hardware_table()
    if name not in table:
        raise HeadroomError(f"hardware {name!r} is unknown{nearest(name, table)}; known: {', '.join(table)}")
    line = table[name]
    # The table has rates for 16 and 32 bits; 64 bits reach at most half of the latter.
    rate = line["tflops"] if ITEM_SIZES[dtype] == 2 else line["tflops_float32"] * 4 / ITEM_SIZES[dtype]
    rate *= 1e12 * line["reached"] * (threads if name == "cpu" else 1)
    memory = line["memory_gib"] * GIB if "memory_gib" in line else math.inf
    return Hardware(name, 0 if name == "cpu" else gpus, memory, rate, rate, line["load_gib_per_second"] * GIB)


def hardware_of(study: Study) -> Hardware:
    """Determine a study's hardware: a slow CPU, or its ``hardware`` key, else the slowest GPU of the table.

    Raises:
        HeadroomError: there is no such hardware.
    """
    gpus = [name for name in hardware_table() if name != "cpu"]
    slowest = min(gpus, key=lambda name: hardware_table()[name]["tflops"])
    # An unknown name is refused on a CPU, too.
    gpu = hardware_line(study.hardware or slowest, study.dtype, study.gpus)
    return hardware_line("cpu", study.dtype, threads=study.threads) if study.device == "cpu" else gpu


def operations(rule: str, study: Study, costs: Costs, prompts: Prompts | None) -> tuple[float, float]:
    """Compute the floating-point operations of one job, in forward and in backward passes.

    Args:
        rule: a rule that runs the model.
        study: the configuration.
        costs: costs of the model.
        prompts: loads of the job; None for induction and exports, which read no prompts.
    """
    if rule == "export_pruned":
        # A few dozen tokens.
        return 0.0, 0.0
    if rule == "score_induction" or prompts is None:
        lengths = [COPIES * sequence_length(seed) for seed in range(1, study.induction.sequences + 1)]
        return costs.induction(lengths), 0.0
    # What a function of the user's costs is not known: as much as the gradient score.
    if rule in ("score_heads", "rank_custom"):
        loads = [prompts.scoring] + [prompts.scoring_choices] * (rule == "score_heads" and study.scores_choosing)
        return sum(map(costs.forward, loads)), sum(map(costs.backward, loads))
    if rule == "rank_heads_iteratively":
        n_rounds = math.ceil(100 / study.pruning.step)
        scored = prompts.scoring_choices if study.importance.ranked_by in CHOOSING else prompts.scoring
        return n_rounds * costs.forward(scored), n_rounds * costs.backward(scored)
    if rule == "learn_mask":
        passes = study.learned_mask.passes
        return passes * costs.forward(prompts.scoring), passes * costs.backward(prompts.scoring)
    if rule == "score_experts":
        levels, experts = len(study.experts.levels_with_zero) - 1, study.experts
        ahead = costs.forward(prompts.scoring)
        ahead += (1 + levels * len(experts.rankings)) * costs.forward(prompts.evaluation)
        if set(experts.controls) & set(ORACLES):
            ahead += costs.expert_oracle(prompts.scoring_choices)
        return ahead, costs.backward(prompts.scoring)
    # `resample` keeps activations of a few scoring documents: at most the pass over all that `mean` takes.
    replaced = len(study.kinds_beside_zero(rule)) * costs.activations(prompts.scoring)
    return _evaluation(rule, study, costs, prompts) + replaced, 0.0


def _evaluation(rule: str, study: Study, costs: Costs, prompts: Prompts) -> float:
    """Compute the forward operations of one job that evaluates without some heads or FFNs, as :func:`operations`."""
    if rule == "score_head_knockouts":
        n_heads = study.oracle_heads(prompts.task)
        return costs.head_oracle(prompts.evaluation, None if n_heads == "all" else int(n_heads))
    # Imported where it is needed, since it imports numpy.
    from lm_headroom.analysis.head_selection import SELECTIONS
    from lm_headroom.analysis.ranking import count_at

    def remaining(percent: int) -> float:
        return 1 - count_at(percent, costs.layers) / costs.layers

    load, levels = prompts.evaluation, study.pruning.levels_with_zero
    if rule in ("score_ffns", "select_ffns"):
        on_evaluation = study.ffn.selection == ("evaluation" if rule == "score_ffns" else "scoring")
        judged = load if on_evaluation else prompts.scoring_choices
        curve = sum(costs.forward(load, ffns=remaining(level)) for level in levels if level)
        curves = 1 + (len(study.pruning.of_ffns) if rule == "score_ffns" else 0)
        return costs.oracle(judged) + curves * curve
    if rule == "evaluate_joint":
        heads, ffns = study.joint.heads_with_zero, study.joint.ffns_with_zero
        # The curve of heads, by the aggregate ranking, shares the grid's edge without pruned FFNs if the grid is by it.
        shared = heads if study.joint.ranking == AGGREGATE else [0]
        cells = [f for _ in heads for f in ffns] + [0 for level in levels if level not in shared]
        return sum(costs.forward(load, ffns=remaining(f)) for f in cells)
    # All rankings of a job share the whole model's evaluation, and the own ranking's criterion has its curve.
    ablate = study.induction.ablate
    passes = {
        "ablate_induction": 1 + len(SELECTIONS) * len(ablate.percents) * (1 + ablate.random),
        "evaluate_own": 1 + len({study.importance.ranked_by, *study.head_controls}) * (len(levels) - 1),
        "evaluate_aggregate": len(levels),
        "evaluate_iterative": len(levels),
        "evaluate_custom": len(levels),
        "evaluate_learned": len(levels),
        "evaluate_transfer": 1 + 2 * (len(study.transfer.levels_with_zero) - 1),
    }[rule]
    return passes * costs.forward(load)


def seconds(work: tuple[float, float], costs: Costs, hardware: Hardware) -> float:
    """Predict the seconds of a job with these forward and backward operations."""
    ahead, back = work
    # The backward rate includes the forward pass that a backward pass needs.
    computing = (ahead + back) / hardware.backward if back else ahead / hardware.forward
    return START_UP + costs.weight_bytes / hardware.load + computing


def memory(costs: Costs, hardware: Hardware, kind: int = PASS) -> float:
    """Predict the bytes of a job: weights, the largest batch that fits, logits, and on a CPU the process.

    Args:
        costs: costs of the model.
        hardware: hardware of the job.
        kind: ``PASS``, ``ORACLE`` or ``BACKWARD``.
    """
    device = "cuda" if hardware.devices else "cpu"
    free = hardware.total - costs.weight_bytes
    tokens = fitting_tokens(free, costs.logit_bytes, costs.token_bytes[kind], device, kind == BACKWARD)
    process = 0.0 if hardware.devices else RUNTIME_BYTES
    return costs.weight_bytes + tokens * costs.token_bytes[kind] + costs.logit_bytes + process


def jobs(study: Study, prompts: Sequence[Prompts], costs: Costs, hardware: Hardware) -> list[PlannedJobs]:
    """List the jobs of the rules that run the model, for one model and one seed."""
    tasks_of: dict[str, Sequence[str]] = {
        "score_heads": study.all_tasks,
        "score_ffns": study.tasks,
        "score_experts": study.expert_tasks,
        "evaluate_own": study.all_tasks,
        "rank_heads_iteratively": study.iterative_tasks,
        "evaluate_iterative": study.iterative_tasks,
        "evaluate_joint": study.joint_tasks,
        "evaluate_aggregate": study.aggregate_tasks,
        "evaluate_transfer": study.transfer_tasks,
        "score_head_knockouts": study.oracle_tasks,
        "score_induction": (),
        "ablate_induction": study.ablated_tasks,
        "select_ffns": study.selection_tasks,
    }
    by_rule: dict[str, Sequence[Prompts | None]] = {
        rule: [p for p in prompts if p.task in tasks] for rule, tasks in tasks_of.items()
    }
    for rules, are_learned in ((("rank_custom", "evaluate_custom"), False), (("learn_mask", "evaluate_learned"), True)):
        ranked = [p for p in prompts for name in study.custom_rankings_of(p.task) if (name == LEARNED) == are_learned]
        by_rule |= dict.fromkeys(rules, ranked)
    by_rule["score_induction"] = [None] if study.has_induction else []
    planned = []
    for rule, members in by_rule.items():
        work = [operations(rule, study, costs, p) for p in members]
        times = [seconds(each, costs, hardware) for each in work]
        if work:
            most = memory(costs, hardware, MEMORY_PROFILES.get(rule, PASS))
            planned.append(PlannedJobs(rule, len(work), sum(map(sum, work)), sum(times), max(times), most))
    return planned


def request(
    rule: str, study: Study, costs: Costs, hardware: Hardware, expected_seconds: float, attempt: int = 1
) -> Request:
    """Compute a job's request to a cluster.

    Args:
        rule: its rule.
        study: the configuration; its ``max_hours`` limits the request.
        costs: costs of the model.
        hardware: hardware of the job.
        expected_seconds: predicted time of the job.
        attempt: counts from 1; each attempt requests more than the one before.
    """
    if hardware.devices:
        # Weights pass through the host's memory, and stay there if the GPUs do not hold them.
        needed = float(GPU_RUNTIME_BYTES + costs.weight_bytes)
    else:
        # A weight that is being read exists twice: as in the file, and as in the model.
        needed = memory(costs, hardware, MEMORY_PROFILES.get(rule, PASS)) + costs.weight_bytes
    if rule == "export_pruned":
        # Sliced on the host in the checkpoint's format, at most 32 bits; a layer and a file exist twice.
        needed = max(needed, RUNTIME_BYTES + 2 * ITEM_SIZES["float32"] * costs.parameters)
    return _asked(
        study,
        (MEMORY_FACTOR * needed + SNAKEMAKE_BYTES) / MB,
        (TIME_FACTOR * expected_seconds + TIME_BASE) / 60,
        attempt,
    )


def default_request(study: Study, attempt: int) -> Request:
    """The request of a job about which nothing is known."""
    return _asked(study, *DEFAULT_REQUEST, attempt)


def _asked(study: Study, mem_mb: float, minutes: float, attempt: int) -> Request:
    memory, time = mem_mb * MEMORY_GROWTH ** (attempt - 1), minutes * TIME_GROWTH ** (attempt - 1)
    most = study.max_hours
    return Request(math.ceil(memory), math.ceil(time if most is None else min(time, 60 * most)))


def request_from_files(rule: str, study: Study, model: str, prompts: str | None, attempt: int = 1) -> Request:
    """Compute a job's request from files alone: the model's record, and the recorded sizes of the prompts.

    Raises:
        FileNotFoundError: one of the files does not exist yet.
        HeadroomError: one of the files lacks the sizes.
    """
    Path(model).stat()
    costs = record_costs(Path(model), ITEM_SIZES[study.dtype])
    sizes = None if prompts is None else recorded_prompts(prompts, Path(prompts).stat().st_mtime_ns)
    hardware = hardware_of(study)
    expected_seconds = seconds(operations(rule, study, costs, sizes), costs, hardware)
    return request(rule, study, costs, hardware, expected_seconds, attempt)


def record_costs(record: Path, item_size: int) -> Costs:
    """Compute the costs of a record's model, in numbers of ``item_size`` bytes.

    Raises:
        HeadroomError: the location file lacks the model's sizes.
    """
    try:
        return Costs.from_sizes(read_location(record)["sizes"], item_size)
    except (KeyError, TypeError) as error:
        raise HeadroomError(
            f"{record}: the size of this model is not recorded here. Delete {location_file(record)} and run the "
            "workflow again, which reads the checkpoint again"
        ) from error


@cache
def recorded_prompts(path: str, changed: int) -> Prompts:
    """Loads of a prompts artifact by its characters; ``changed`` is the file's time.

    Raises:
        HeadroomError: it is no such artifact, or does not say how much text it holds.
    """
    # Imported where it is needed, since it imports pyarrow.
    from lm_headroom.artifacts.store import provenance

    return recorded_loads(Path(path), provenance(Path(path)))


def prompt_files(study: Study, results: Path) -> list[tuple[str, int, Path]]:
    """List the prompts of a study: task, number of shots and file of each.

    Raises:
        HeadroomError: some are missing; explains how to render them.
    """
    files = [
        (task, shots, results / path_of("prompts", task=task, shot=shots, seed=study.seeds[0]))
        for task in study.all_tasks
        for shots in study.shots
    ]
    missing = next((path for *_, path in files if not path.is_file()), None)
    if missing is not None:
        raise HeadroomError(
            f"{missing}: no such prompts; tokens are counted on them. Render them first, which needs no model: "
            "snakemake prompts --configfile STUDY"
        )
    return files


def recorded_loads(path: Path, provenance: Mapping[str, Any]) -> Prompts:
    """Loads of a prompts artifact by its characters, which its provenance counts.

    Raises:
        HeadroomError: it does not say how much text it holds.
    """
    if "prompt_sizes" not in provenance:
        raise HeadroomError(
            f"{path}: these prompts lack the sizes of their text; an older lm-headroom may have made "
            f"them. Delete "
            "the file and run the workflow again, which renders it anew"
        )
    loads = {name: _load(sizes) for name, sizes in provenance["prompt_sizes"].items()}
    return Prompts(provenance["task"], provenance["shots"], **loads)


def _load(sizes: Mapping[str, int]) -> Load:
    ratio = CHARACTERS_PER_TOKEN
    return Load(sizes["columns"] / ratio, sizes["pairs"] / ratio**2, sizes["logits"] / ratio)
