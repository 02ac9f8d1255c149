"""Measure h: pruned checkpoints against the whole model: size, memory, speed, and accuracy beside them.

``python -m benchmarks.pruned FOLDER`` prints the memory that a checkpoint takes, in a process of its own.
"""

from __future__ import annotations

import subprocess
import sys
import tempfile
from collections.abc import Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from transformers import AutoConfig, AutoModelForCausalLM

from lm_headroom.analysis.ranking import count_at
from lm_headroom.artifacts.ordered import read_ffn_ranking, read_ranking
from lm_headroom.engine.likelihood import encode, likelihoods
from lm_headroom.engine.loading import gates_without
from lm_headroom.engine.memory import MIB, peak_memory
from lm_headroom.engine.packing import Batches
from lm_headroom.models.location import checkpoint_folder
from lm_headroom.options import AggregatedCells, EvaluationSettings
from lm_headroom.pruned.model import load_pruned
from lm_headroom.steps.aggregate_ffns import aggregate_ffns
from lm_headroom.steps.aggregate_heads import aggregate_heads
from lm_headroom.steps.export_pruned import export_pruned
from lm_headroom.steps.render_prompts import render_prompts
from lm_headroom.steps.score_ffns import score_ffns
from lm_headroom.steps.score_heads import score_heads
from lm_headroom.study.ranking_names import AGGREGATE

if TYPE_CHECKING:
    from benchmarks.bench import Bench, Row

TASKS = ("arc_easy", "piqa")
HEADS, FFNS = (0, 30, 50, 70, 90), (0, 20)
SCORING, COMPARED = 8, 4
"""Documents per task that rankings come from, and whose likelihoods are held against the masked model's."""
PROMPT, SHORT, ANSWER = 256, 32, 32
"""Tokens of a prefill; of a shorter one, and tokens that are decoded one by one after it."""
SEED = 1234


def pruned(bench: Bench, levels: Sequence[int] = HEADS, ffn_levels: Sequence[int] = FFNS) -> Iterator[Row]:
    """h: each cell of a grid of levels as an exported checkpoint, in turns with the whole model."""
    from benchmarks.bench import NEAR
    from benchmarks.contest import contest, ratio, say
    from benchmarks.rivals import Harness

    tasks = [task for task in TASKS if task in bench.tasks] or list(bench.tasks[:1])
    settings = EvaluationSettings(model=bench.record, device="cpu", threads=torch.get_num_threads())
    checkpoint = checkpoint_folder(bench.record)
    masked = bench.loaded()
    dense = AutoModelForCausalLM.from_pretrained(checkpoint, dtype=torch.float32).eval()
    documents = {task: bench.pairs(task, 0, n=bench.documents_pruned) for task in tasks}
    tokens = torch.randint(10, dense.config.vocab_size, (1, PROMPT), generator=torch.Generator().manual_seed(SEED))
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        whole = _memory(checkpoint)
        rankings = _rank(bench, folder / "results" / "model", tasks, settings)
        for percent_heads in levels:
            for percent_ffns in ffn_levels:
                out = folder / "export"
                percents = [percent_heads, percent_ffns]
                export_pruned(settings=settings, ranking=list(rankings.values()), percent=percents, out=out)
                # Plain checkpoints, too: where nothing is pruned, the export is one.
                model = AutoModelForCausalLM.from_pretrained(out, dtype=torch.float32).eval()
                both = {"pruned": model, "whole": dense}
                prefill = contest({key: partial(_prefill, m, tokens) for key, m in both.items()}, bench.rounds)
                decode = contest({key: partial(_decode, m, tokens[:, :SHORT]) for key, m in both.items()}, bench.rounds)
                harness = Harness(bench.record, "float32", model)
                heads = read_ranking(rankings["heads"]).order
                ffns = read_ffn_ranking(rankings["ffns"]).order
                gone = heads[: count_at(percent_heads, len(heads))], ffns[: count_at(percent_ffns, len(ffns))]
                accuracy, far = {}, 0.0
                for task, rows in documents.items():
                    values = harness.log_likelihoods([row[:3] for row in rows], 8)
                    accuracy[task] = _accuracy(rows, values)
                    first = list(dict.fromkeys(row[0] for row in rows))[:COMPARED]
                    few = [row[:3] for row in rows if row[0] in first]
                    ours = likelihoods(
                        masked,
                        Batches(encode(few, masked.tokenizer, masked.max_positions), 1024),
                        gates_without(masked.shape, gone[0]) if gone[0] else None,
                        frozenset(gone[1]),
                    ).values
                    far = max(far, float(np.abs(ours - values[: len(few)]).max()))
                say(f"h {percents}: furthest {far:.1e} nats")
                yield {
                    "measure": "h",
                    "what": "pruned checkpoints against the whole model",
                    "task": f"heads {percent_heads}%, FFNs {percent_ffns}%",
                    "shots": 0,
                    **ratio(prefill["pruned"], prefill["whole"]),
                    "decode": ratio(decode["pruned"], decode["whole"]),
                    "tokens_per_second": {
                        "prefill": round(PROMPT / prefill["pruned"].median, 1),
                        "decode": round(ANSWER / decode["pruned"].median, 1),
                    },
                    "parameters": [model.num_parameters(), dense.num_parameters()],
                    "bytes": [_weight_bytes(out), _weight_bytes(checkpoint)],
                    "memory": [_memory(out), whole],
                    "accuracy": accuracy,
                    "documents": bench.documents_pruned,
                    "equal": far < NEAR,
                }


def _rank(bench: Bench, results: Path, tasks: list[str], settings: EvaluationSettings) -> dict[str, Path]:
    """The aggregate rankings of heads and FFNs over the tasks, at 0 shots."""
    cell = f"0shot-seed{SEED}.parquet"
    n = min(SCORING, bench.documents_pruned)
    for task in tasks:
        prompts = results.parent / "prompts" / task / cell
        limits = {"limit_importance": n, "limit_evaluation": n}
        data = str(bench.records)
        render_prompts(task=task, shots=0, seed=SEED, data=data, **limits, metric="answer", out=prompts)
        scores = results / "head_importance" / task / cell
        score_heads(settings=settings, prompts=prompts, out=scores)
        scores = results / "ffn_importance" / task / cell
        score_ffns(settings=settings, prompts=prompts, selection="scoring", out=scores)
    result = {}
    for component, step in (("heads", aggregate_heads), ("ffns", aggregate_ffns)):
        result[component] = results / "ranking" / component / AGGREGATE / cell
        out = results / "aggregate" / f"{component}.parquet"
        cells = AggregatedCells(results=results, tasks=tasks, shots=0, seed=SEED)
        step(cells=cells, out=out, ranking=result[component])
    return result


@torch.no_grad()
def _prefill(model: Any, tokens: torch.Tensor) -> None:
    model(input_ids=tokens, use_cache=True, logits_to_keep=1)


def _decode(model: Any, tokens: torch.Tensor) -> torch.Tensor:
    options = {"max_new_tokens": ANSWER, "min_new_tokens": ANSWER, "do_sample": False, "pad_token_id": 0}
    generated: torch.Tensor = model.generate(tokens, **options)
    return generated


def _accuracy(rows: list[tuple[Any, ...]], values: np.ndarray) -> list[float]:
    """Share of documents whose likeliest choice is a right one, its standard error, and how many documents."""
    right = []
    for doc_id in dict.fromkeys(row[0] for row in rows):
        places = [place for place, row in enumerate(rows) if row[0] == doc_id]
        right.append(bool(rows[max(places, key=lambda place: values[place])][3]))
    mean = float(np.mean(right))
    error = float(np.std(right, ddof=1) / np.sqrt(len(right))) if len(right) > 1 else 0.0
    return [round(mean, 3), round(error, 3), len(right)]


def _weight_bytes(folder: Path) -> int:
    return sum(path.stat().st_size for path in folder.glob("*.safetensors"))


def _memory(folder: Path) -> int:
    """Bytes that loading a checkpoint, a prefill and decoding add to a process that has imported everything."""
    command = [sys.executable, "-m", "benchmarks.pruned", str(folder)]
    return int(subprocess.run(command, capture_output=True, text=True, check=True).stdout)


def _measure(folder: Path) -> int:
    """The same for this process."""
    before = peak_memory()["peak_memory_mib"]
    model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32)
    tokens = torch.arange(10, 10 + PROMPT)[None] % model.config.vocab_size
    _prefill(model, tokens)
    _decode(model, tokens[:, :SHORT])
    return (peak_memory()["peak_memory_mib"] - before) * MIB


if __name__ == "__main__":
    # transformers' modules are imported when they are first asked for: before the memory is looked at.
    _ = AutoConfig, AutoModelForCausalLM, load_pruned
    print(_measure(Path(sys.argv[1])))
