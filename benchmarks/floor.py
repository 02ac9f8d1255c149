"""k and l: how near a computation is to the time of its own matrix products alone, which no code can beat."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from functools import partial
from typing import Any

import torch
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.flop_counter import FlopCounterMode

from benchmarks.bench import Row
from benchmarks.contest import Timed, ratio

PRODUCTS = ("mm", "addmm", "bmm", "baddbmm", "_scaled_dot_product_flash_attention_for_cpu")
"""Operations of a pass that multiply matrices."""
AGAINST_PRODUCTS = "lm-headroom against its own matrix products alone"
HFLM_AGAINST_PRODUCTS = "HFLM against these products alone"


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


class Products:
    """The matrix products of a computation, another contestant beside it.

    Attributes:
        again: runs them alone.
        are_all: whether they are all floating-point operations of the computation.
    """

    def __init__(self, run: Callable[[], Any]) -> None:
        with Recorder() as recorder, FlopCounterMode(display=False) as whole:
            run()
        self.again = recorder.again
        with FlopCounterMode(display=False) as products:
            self.again()
        self.are_all = products.get_total_flops() == whole.get_total_flops() > 0

    def rows(self, measure: str, times: Mapping[str, Timed], row: Row, repeated: float = 1.0) -> Iterator[Row]:
        """Rows of this computation and of HFLM against these products.

        Args:
            measure: the letter.
            times: of the contestants *ours*, *HFLM* and *products*.
            row: the computation's own row.
            repeated: how often HFLM would have to do what was timed.
        """
        for what, shares in (
            (AGAINST_PRODUCTS, ratio(times["ours"], times["products"])),
            (HFLM_AGAINST_PRODUCTS, ratio(times["products"], times["HFLM"], repeated)),
        ):
            shared = {name: row[name] for name in ("task", "shots", "documents")}
            yield {"measure": measure, "what": what, **shared, **shares, "equal": self.are_all}
