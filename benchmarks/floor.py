"""k: how near evaluation and FFN oracle are to the time of their own matrix products alone, which no code can beat."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import partial
from typing import Any

import torch
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.flop_counter import FlopCounterMode

from benchmarks.bench import Bench, Row, best_batch
from benchmarks.contest import contest, ratio
from benchmarks.measures import evaluate, knock_out, oracle_documents, timed_layers
from benchmarks.rivals import Harness

PRODUCTS = ("mm", "addmm", "bmm", "baddbmm", "_scaled_dot_product_flash_attention_for_cpu")
"""Operations of a pass that multiply matrices."""


class Recorder(TorchDispatchMode):
    """Keeps the matrix products of what runs within it, with the parameters of the model and shapes of all else.

    Example:
        with Recorder() as recorder:
            model(ids)
        recorder.again()
    """

    def __init__(self) -> None:
        super().__init__()
        self._calls: list[Callable[[], Any]] = []
        self._stand_ins: dict[Any, torch.Tensor] = {}

    def __torch_dispatch__(self, function: Any, _: Any, args: Any = (), kwargs: Any = None) -> Any:
        """Run one operation, and keep it where it is a product."""
        if function.overloadpacket.__name__ in PRODUCTS:
            self._calls.append(partial(function, *map(self._kept, args), **(kwargs or {})))
        return function(*args, **(kwargs or {}))

    def _kept(self, value: Any) -> Any:
        """A parameter or its view as it is, so that memory is read as in the pass; numbers in the place of others."""
        if not isinstance(value, torch.Tensor) or isinstance(value._base, torch.nn.Parameter):
            return value
        spec = tuple(value.shape), value.stride(), value.dtype
        if spec not in self._stand_ins:
            stand_in = torch.empty_strided(*spec[:2], dtype=value.dtype)
            self._stand_ins[spec] = stand_in.copy_(value)
        return self._stand_ins[spec]

    def again(self) -> None:
        """Run the products alone."""
        with torch.no_grad():
            for call in self._calls:
                call()


def floors(bench: Bench, shots: int = 5) -> Iterator[Row]:
    """k: both at 5 shots in float32, in turns with HFLM and with their products alone."""
    ours, rival = bench.loaded(), Harness(bench.record, "float32")
    for task in bench.tasks:
        pairs = [row[:3] for row in bench.pairs(task, shots)]
        timed, n = oracle_documents(bench, task, shots)
        few = [row[:3] for row in bench.pairs(task, shots, n=n)]
        layers = timed_layers(ours.shape.layers, timed)
        theirs = partial(rival.log_likelihoods, pairs, best_batch(rival, pairs, bench.batches))
        theirs_by_layer = partial(rival.knock_out, few, best_batch(rival, few, bench.batches), layers)
        kinds: dict[str, tuple[Any, Callable[[], Any], Callable[[], Any], float]] = {
            "evaluation": (pairs, partial(evaluate, ours, pairs), theirs, 1.0),
            "FFN oracle": (few, partial(knock_out, ours, few), theirs_by_layer, ours.shape.layers / timed),
        }
        for what, (asked, run, other, times) in kinds.items():
            with Recorder() as recorder, FlopCounterMode(display=False) as whole:
                run()
            with FlopCounterMode(display=False) as products:
                recorder.again()
            timings = contest({"ours": run, "HFLM": other, "products": recorder.again}, bench.rounds)
            for name, row in (
                (f"{what} against its own matrix products alone", ratio(timings["ours"], timings["products"])),
                (f"{what}: HFLM against these products alone", ratio(timings["products"], timings["HFLM"], times)),
            ):
                yield {
                    "measure": "k",
                    "what": name,
                    "task": task,
                    "shots": shots,
                    **row,
                    "documents": len({doc_id for doc_id, *_ in asked}),
                    "equal": products.get_total_flops() == whole.get_total_flops() > 0,
                }
