"""The measures a to g and j to m: what is timed against what, and how the results are held against each other."""

from __future__ import annotations

import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any
from unittest.mock import patch

import numpy as np
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer, OPTConfig

from benchmarks.bench import LONG, NEAR, Bench, Row, best_batch
from benchmarks.contest import contest, ratio, say
from benchmarks.floor import Products
from benchmarks.pair import run_pair
from benchmarks.rivals import Harness, copying_by_vocabulary, released_importance
from lm_headroom.analysis.ranking import count_at, random_ranking
from lm_headroom.artifacts.copying import COPYING
from lm_headroom.artifacts.prefix_matching import PREFIX_MATCHING
from lm_headroom.artifacts.store import write
from lm_headroom.engine.likelihood import encode, likelihoods, sequence_slices
from lm_headroom.engine.loading import LoadedModel, gates_without
from lm_headroom.engine.memory import token_budget
from lm_headroom.engine.packing import Batches
from lm_headroom.models.location import checkpoint_folder
from lm_headroom.models.resolve import resolve
from lm_headroom.scoring import gradient
from lm_headroom.scoring.copying import copying_scores
from lm_headroom.scoring.knockout import knock_out_ffns
from lm_headroom.scoring.prefix_matching import prefix_matching_scores, ranked_vocabulary, sequence, start_token


def evaluation(bench: Bench) -> Iterator[Row]:
    """a: likelihoods of real prompts, in float32 and bfloat16 on either side; k: their products alone, at 5 shots."""
    models = {dtype: bench.loaded(dtype) for dtype in ("float32", "bfloat16")}
    rivals = {dtype: Harness(bench.record, dtype) for dtype in models}
    for shots in bench.documents:
        for task in bench.tasks:
            rows = bench.pairs(task, shots)
            pairs = [row[:3] for row in rows]
            best = {dtype: best_batch(rival, pairs, bench.batches) for dtype, rival in rivals.items()}
            contestants: dict[str, Callable[[], Any]] = {}
            for dtype in models:
                contestants[f"ours {dtype}"] = partial(evaluate, models[dtype], pairs)
                contestants[f"HFLM {dtype}"] = partial(rivals[dtype].log_likelihoods, pairs, best[dtype])
            products = Products(contestants["ours float32"]) if shots == max(bench.documents) else None
            if products:
                contestants["products"] = products.again
            times = contest(contestants, bench.rounds)
            documents = encode(pairs, models["float32"].tokenizer, models["float32"].max_positions)
            right = {name: _right(documents, rows, times[name].result) for name in times if name != "products"}
            whole = np.array([document.truncated == 0 for document in documents])
            far = _furthest(documents, times["ours float32"].result, times["HFLM float32"].result)
            say(f"a {task} {shots}-shot: HFLM batches {best}, furthest {far:.1e} nats")
            for ours, rival in (("float32", "float32"), ("bfloat16", "bfloat16"), ("bfloat16", "float32")):
                a, b = f"ours {ours}", f"HFLM {rival}"
                difference = (right[a].astype(float) - right[b])[whole]
                # One document says nothing.
                error = difference.std(ddof=1) / np.sqrt(len(difference)) if len(difference) > 1 else 1.0
                # Equal precision: the same numbers. Else the accuracies of the same documents, within two errors.
                same = far < NEAR if ours == rival == "float32" else abs(difference.mean()) <= max(2 * error, 1e-9)
                row = {
                    "measure": "a",
                    "what": f"evaluation, {ours} against HFLM in {rival} (batch {best[rival]})",
                    "task": task,
                    "shots": shots,
                    **ratio(times[a], times[b]),
                    "accuracy": [round(float(right[a][whole].mean()), 3), round(float(right[b][whole].mean()), 3)],
                    "documents": len(documents),
                    "equal": bool(same),
                }
                yield row
                if products and ours == rival == "float32":
                    yield from products.rows("k", times | {"ours": times[a], "HFLM": times[b]}, row)


def oracle(bench: Bench, shots: int = 5, sampled: int = 3) -> Iterator[Row]:
    """b: the FFN oracle over all layers against an evaluation per layer, of which ``sampled`` are timed.

    l: its matrix products alone.
    """
    ours, rival = bench.loaded(), Harness(bench.record, "float32")
    n_layers = ours.shape.layers
    for task in bench.tasks:
        timed, n = oracle_documents(bench, task, shots, sampled)
        layers = timed_layers(n_layers, timed)
        pairs = [row[:3] for row in bench.pairs(task, shots, n=n)]
        best = best_batch(rival, pairs, bench.batches)
        products = Products(partial(knock_out, ours, pairs))
        times = contest(
            {
                "ours": partial(knock_out, ours, pairs),
                "HFLM": partial(rival.knock_out, pairs, best, layers),
                "products": products.again,
            },
            bench.few_rounds,
        )
        documents = encode(pairs, ours.tokenizer, ours.max_positions)
        knocked = times["ours"].result.ablated
        far = max(
            _furthest(documents, knocked[layer].values, result)
            for layer, result in zip(layers, times["HFLM"].result, strict=True)
        )
        say(f"b {task}: furthest {far:.1e} nats")
        row = {
            "measure": "b",
            "what": f"FFN oracle over {n_layers} layers against as many evaluations by HFLM (1 to {sampled} timed)",
            "task": task,
            "shots": shots,
            **ratio(times["ours"], times["HFLM"], n_layers / timed),
            "documents": len(documents),
            "equal": bool(far < NEAR),
        }
        yield row
        yield from products.rows("l", times, row, n_layers / timed)


def timed_layers(n_layers: int, timed: int) -> list[int]:
    """The layers whose FFN HFLM goes without, spread over all."""
    layers: list[int] = np.linspace(0, n_layers - 1, timed).round().astype(int).tolist()
    return layers


def oracle_documents(bench: Bench, task: str, shots: int, sampled: int = 3) -> tuple[int, int]:
    """Layers timed by HFLM, and documents; it takes minutes over long passages."""
    return 1 if task in LONG else sampled, min(3, bench.documents[shots])


def head_importance(bench: Bench, shots_of: Sequence[int] = (0, 5)) -> Iterator[Row]:
    """c: gradient head importance against the released way."""
    ours = bench.loaded()
    path = checkpoint_folder(bench.record)
    model = AutoModelForCausalLM.from_pretrained(path, dtype=torch.float32).eval()
    for shots in shots_of:
        for task in bench.tasks:
            documents = encode(bench.gold(task, shots), ours.tokenizer, ours.max_positions)

            def by_documents(documents: Any = documents) -> np.ndarray:
                budget = token_budget(ours.model, ours.device, differentiates=True)
                total: np.ndarray = gradient.contributions(ours, documents, budget).absolute.sum(axis=0)
                return total

            times = contest(
                {"ours": by_documents, "released": partial(released_importance, model, documents)}, bench.rounds
            )
            theirs = times["released"].result
            far = float(np.abs(times["ours"].result - theirs).max() / theirs.max())
            say(f"c {task} {shots}-shot: furthest {far:.1e} of the largest score")
            yield {
                "measure": "c",
                "what": "head importance against batches of one, weight gradients and all logits",
                "task": task,
                "shots": shots,
                **ratio(times["ours"], times["released"]),
                "documents": len(documents),
                "equal": bool(far < 1e-3),
            }


def attention_statistics(bench: Bench, shots_of: Sequence[int] = (0, 5)) -> Iterator[Row]:
    """j: the passes that all criteria come from, in turns with the same passes without how heads attend."""
    ours = bench.loaded()
    for shots in shots_of:
        for task in bench.tasks:
            documents = encode(bench.gold(task, shots), ours.tokenizer, ours.max_positions)

            # Not scores, which need two documents: few are this long.
            def scored(documents: Any = documents) -> np.ndarray:
                budget = token_budget(ours.model, ours.device, differentiates=True)
                return gradient.contributions(ours, documents, budget).absolute

            def without(score: Any = scored) -> Any:
                with patch.object(gradient, "attention_statistics", _no_statistics):
                    return score()

            times = contest({"all": scored, "without": without}, bench.rounds)
            yield {
                "measure": "j",
                "what": "passes of all criteria against the same without attention statistics",
                "task": task,
                "shots": shots,
                **ratio(times["all"], times["without"]),
                "documents": len(documents),
                "equal": bool(np.array_equal(times["all"].result, times["without"].result)),
            }


def _no_statistics(q: torch.Tensor, *_: Any) -> tuple[torch.Tensor, torch.Tensor]:
    """Zeros in the place of entropy and sink, [column, head]."""
    zeros = q.new_zeros(()).expand(q.shape[1], q.shape[0])
    return zeros, zeros


def induction(bench: Bench, seed: int = 1, sampled: Sequence[int] = (0, 15, 29)) -> Iterator[Row]:
    """d: copying against logits of the vocabulary, for some layers; prefix matching against kept attention maps."""
    ours = bench.loaded()
    ranked, _ = ranked_vocabulary(ours.tokenizer)
    start, _ = start_token(ours.tokenizer)
    tokens = sequence(ranked, seed, times=4)
    layers = [layer for layer in sampled if layer < ours.shape.layers]
    results = contest(
        {
            "ours": lambda: copying_scores(ours, tokens, start),
            "vocabulary": lambda: copying_by_vocabulary(ours.model, tokens, start, layers),
        },
        bench.rounds,
    )
    # In float32 the vocabulary's probabilities are too coarse to be a witness: float64, on a shorter sequence.
    path = checkpoint_folder(bench.record)
    wide = AutoModelForCausalLM.from_pretrained(path, dtype=torch.float64).eval()
    short = sequence(ranked, seed)
    reference = copying_by_vocabulary(wide, short, start, layers)
    far = float(np.abs(copying_scores(ours, short, start)[layers] - reference).max())
    say(f"d: furthest {far:.1e}")
    yield {
        "measure": "d",
        "what": f"copying, {len(tokens)} tokens, against logits of the whole vocabulary ({len(layers)} layers timed)",
        "task": "",
        "shots": None,
        **ratio(results["ours"], results["vocabulary"], ours.shape.layers / len(layers)),
        "documents": 1,
        "equal": bool(far < 1e-4),
    }
    tokens = sequence(ranked, seed)

    def by_maps() -> np.ndarray:
        """Attention maps of all layers kept, as ``output_attentions`` gives them."""
        model = eager
        ids = torch.tensor([[start, *(tokens * 4)]])
        with torch.no_grad():
            maps = model(input_ids=ids, output_attentions=True, use_cache=False).attentions
        length, total = len(tokens), np.zeros((ours.shape.layers, ours.shape.heads))
        for layer, attention in enumerate(maps):
            for t in range(length, 4 * length):
                for copy in range(t // length):
                    total[layer] += attention[0, :, t + 1, copy * length + t % length + 2].numpy() / (3 * length)
        return total

    eager = AutoModelForCausalLM.from_pretrained(path, dtype=torch.float32, attn_implementation="eager").eval()
    results = contest({"ours": lambda: prefix_matching_scores(ours, tokens, start), "maps": by_maps}, bench.rounds)
    far = float(np.abs(results["ours"].result - results["maps"].result).max())
    yield {
        "measure": "d",
        "what": f"prefix matching, {4 * len(tokens)} tokens, against kept attention maps",
        "task": "",
        "shots": None,
        **ratio(results["ours"], results["maps"]),
        "documents": 1,
        "equal": bool(far < 1e-4),
    }


def pair(bench: Bench, shots: int = 5) -> Iterator[Row]:
    """e: all jobs of a (task, shot) pair as the workflow runs them, start-up included, against one process of loops."""
    for task, n in bench.pairs_whole.items():
        run = run_pair(bench, task, shots, n)
        yield {
            "measure": "e",
            "what": f"all jobs of a pair, start-up included, against a loop of {run.evaluations} evaluations by HFLM",
            "task": task,
            "shots": shots,
            **ratio(run.times["ours"], run.times["loops"]),
            "documents": n,
            "equal": run.same,
        }
        for rule, (planned, seconds, planned_bytes, took_bytes) in run.jobs.items():
            for what, expected, measured in (("time", planned, seconds), ("memory", planned_bytes, took_bytes)):
                yield {
                    "measure": "g",
                    "what": f"{what} of a job over what `lm-headroom plan` says, float32",
                    "task": f"{rule}, {task}",
                    "shots": shots,
                    "ratio": round(measured / expected, 3),
                    "spread": [round(measured / expected, 3)] * 2,
                    "documents": n,
                    "equal": 0.75 <= measured / expected <= 1.25,
                }


def removed_heads(bench: Bench) -> Iterator[Row]:
    """m: a pass without half of the heads against the whole pass, for random weights in the shape of an OPT.

    OPT has as many key-value heads as heads, so that each removed head takes its keys and values along.
    """
    shots = max(bench.documents)
    # More than elsewhere: weights are cut once for all documents.
    pairs = [row[:3] for row in bench.pairs(bench.tasks[0], shots, n=4 * bench.documents[shots])]
    tokenizer = AutoTokenizer.from_pretrained(checkpoint_folder(bench.record))
    config = OPTConfig(
        vocab_size=len(tokenizer), hidden_size=1024, word_embed_proj_dim=1024, ffn_dim=4096, num_attention_heads=16,
        num_hidden_layers=6, max_position_embeddings=2048,
    )  # fmt: skip
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        AutoModelForCausalLM.from_config(config).save_pretrained(folder / "opt")
        tokenizer.save_pretrained(folder / "opt")
        resolve("opt", str(folder / "opt"), None, folder / "model.json")
        ours, rival = replace(bench, record=folder / "model.json").loaded(), Harness(folder / "model.json", "float32")
        pruned = random_ranking(config.num_hidden_layers, config.num_attention_heads, 1)
        pruned = pruned[: count_at(50, len(pruned))]
        documents = encode(pairs, ours.tokenizer, ours.max_positions)
        batches = Batches(documents, token_budget(ours.model, ours.device))
        times = contest(
            {
                "pruned": partial(likelihoods, ours, batches, gates_without(ours.shape, pruned)),
                "whole": partial(likelihoods, ours, batches),
            },
            3 * bench.rounds,
        )
        with rival.without(pruned):
            far = _furthest(documents, times["pruned"].result.values, rival.log_likelihoods(pairs, 1))
    yield {
        "measure": "m",
        "what": "an evaluation without half of the heads against one with all, random weights in the shape of an OPT",
        "task": "",
        "shots": None,
        **ratio(times["pruned"], times["whole"]),
        "documents": len(documents),
        "equal": bool(far < NEAR),
    }


def start_up(bench: Bench, rounds_each: int = 2) -> Iterator[Row]:
    """f: commands that need no model, from the shell to their end, against the import of torch alone."""
    from lm_headroom.artifacts.provenance import build_provenance

    columns: dict[str, list[Any]] = {"layer": [], "head": [], "mean": [], "variance": [], "n_sequences": []}
    for layer, head in np.ndindex(12, 12):
        for name, value in zip(columns, (layer, head, 1.0 / (1 + layer + head), 0.1, 1), strict=True):
            columns[name].append(value)
    with tempfile.TemporaryDirectory() as folder:
        results = Path(folder)
        for kind in (PREFIX_MATCHING, COPYING):
            write(
                results / "induction" / f"{kind.name}.parquet",
                kind,
                columns,
                build_provenance("steps.score_induction", {}, {}),
            )
        commands = {
            "show": ["show", str(results / "induction" / "copying.parquet")],
            "render-prompts": ["render-prompts", "--task", "copa", "--shots", "0", "--data", str(bench.records),
                        "--limit-importance", "4", "--limit-evaluation", "4", "--out", str(results / "p.parquet")],
            "figure fig10": ["figure", "fig10", "--results", folder, "--out", str(results / "fig10")],
        }  # fmt: skip
        for name, arguments in commands.items():
            times = contest(
                {
                    "ours": partial(_process, ["-m", "lm_headroom", *arguments]),
                    "torch": partial(_process, ["-c", "import torch"]),
                },
                rounds_each * bench.rounds,
            )
            yield {
                "measure": "f",
                "what": f"`lm-headroom {name}`, whole, against `import torch`",
                "task": "",
                "shots": None,
                **ratio(times["ours"], times["torch"]),
                "documents": 0,
                "equal": times["ours"].median < 1.5 or name.startswith("figure"),
            }


def _process(arguments: Sequence[str]) -> None:
    subprocess.run([sys.executable, *arguments], check=True, capture_output=True)


def evaluate(loaded: LoadedModel, pairs: Any) -> np.ndarray:
    """Log-likelihoods of (doc_id, context, continuation) as jobs compute them, nats."""
    documents = encode(pairs, loaded.tokenizer, loaded.max_positions)
    values: np.ndarray = likelihoods(loaded, Batches(documents, token_budget(loaded.model, loaded.device))).values
    return values


def knock_out(loaded: LoadedModel, pairs: Any) -> Any:
    """Log-likelihoods without each FFN in turn, as jobs compute them."""
    documents = encode(pairs, loaded.tokenizer, loaded.max_positions)
    return knock_out_ffns(loaded, Batches(documents, token_budget(loaded.model, loaded.device, keeps_layers=True)))


def _right(documents: Any, rows: Any, values: np.ndarray) -> np.ndarray:
    gold = [row[3] for row in rows]
    return np.array(
        [gold[part.start + int(values[part].argmax())] for _, part in sequence_slices(documents)], dtype=bool
    )


def _furthest(documents: Any, ours: np.ndarray, theirs: np.ndarray) -> float:
    """Largest difference of log-likelihoods; documents that were cut to the window are cut differently, so left out."""
    far = [0.0]
    for document, (_, part) in zip(documents, sequence_slices(documents), strict=True):
        if not document.truncated:
            far.append(float(np.abs(ours[part] - theirs[part]).max()))
    return max(far)
