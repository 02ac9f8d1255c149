"""A device that is no hardware: its tensors lie on the host, and torch refuses to mix them with others, as of a GPU."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves, tree_map

DEVICE = torch.device("lazy")
"""A name that torch knows and has no kernels for, and that autograd asks for no streams."""


class Pretended(Tensor):
    """A tensor of the pretended device; ``held`` has its values."""

    held: Tensor
    __torch_function__ = torch._C._disabled_torch_function_impl

    @staticmethod
    def __new__(cls, held: Tensor) -> "Pretended":
        """Take shape and strides from the values."""
        return Tensor._make_wrapper_subclass(
            cls,
            held.shape,
            strides=held.stride(),
            storage_offset=held.storage_offset(),
            dtype=held.dtype,
            device=DEVICE,
        )

    def __init__(self, held: Tensor) -> None:
        self.held = held

    def tolist(self) -> Any:
        """As of a GPU's tensor, which torch copies to the host."""
        return self.held.tolist()

    @classmethod
    def __torch_dispatch__(cls, operation: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        """Compute on the host; the result is of the pretended device unless another one is asked for."""
        kwargs = dict(kwargs or {})
        tensors = [leaf for leaf in tree_leaves((args, kwargs)) if isinstance(leaf, Tensor)]
        is_there = any(isinstance(tensor, Pretended) for tensor in tensors)
        if kwargs.get("device") is not None:
            is_there = torch.device(kwargs["device"]).type == DEVICE.type
            kwargs["device"] = torch.device("cpu")
        elif is_there and operation is not torch.ops.aten.copy_.default:
            # A tensor of a GPU may be indexed by numbers on the host, and computed with a single number there.
            name = operation._schema.name.removeprefix("aten::")
            held = tensors[:1] if name == "index" else [args[0], args[2]] if name.startswith("index_put") else tensors
            if any(tensor.dim() and not isinstance(tensor, Pretended) for tensor in held):
                raise RuntimeError(f"{name}: tensors of the host and of the device meet")
        result = operation(*tree_map(_held, args), **tree_map(_held, kwargs))
        if operation._schema.name.endswith("_"):
            return args[0]
        return tree_map(lambda x: Pretended(x) if isinstance(x, Tensor) else x, result) if is_there else result


def _held(value: Any) -> Any:
    return value.held if isinstance(value, Pretended) else value


class _Operations(TorchDispatchMode):
    def __torch_dispatch__(self, operation: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        return Pretended.__torch_dispatch__(operation, types, args, kwargs)


class _NewTensors(TorchFunctionMode):
    """Makes a tensor from numbers on the host first, since torch shows no mode of operations that it makes one."""

    def __torch_function__(self, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = dict(kwargs or {})
        if function is torch.tensor and kwargs.get("device") is not None:
            device = kwargs.pop("device")
            return function(*args, **kwargs).to(device)
        return function(*args, **kwargs)


@contextmanager
def pretending() -> Iterator[None]:
    """Let torch make tensors on the pretended device for the length of a block."""
    with _NewTensors(), _Operations():
        yield


def moved(model: nn.Module) -> nn.Module:
    """A model with its weights on the pretended device."""
    for module in model.modules():
        for name, weight in module._parameters.items():
            if weight is not None:
                module._parameters[name] = nn.Parameter(Pretended(weight.data), weight.requires_grad)
        for name, buffer in module._buffers.items():
            if buffer is not None:
                module._buffers[name] = Pretended(buffer)
    return model
