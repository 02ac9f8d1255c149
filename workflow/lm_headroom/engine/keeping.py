"""Keep a loaded model in a process whose forks run jobs."""

from __future__ import annotations

import io
import sys
from contextlib import redirect_stderr
from pathlib import Path

import torch

from lm_headroom.artifacts.model_record import read_record
from lm_headroom.engine import loading
from lm_headroom.models.location import checkpoint_folder
from lm_headroom.warm import context


def identity(record: Path, dtype: str) -> str:
    """A name for a model as this code loads it in a number format: it changes with any file that has a part in it.

    Args:
        record: the model's record, model.json.
        dtype: number format.

    Raises:
        HeadroomError: the record or the checkpoint is missing.
    """
    content, checkpoint = read_record(record), checkpoint_folder(record)
    model = [loading.kept_as(record, dtype), content, str(checkpoint), context.stamps(checkpoint)]
    return context.digest(context.key("model"), context.sources(), sys.path, model)


def keep(record: Path, dtype: str, device: str) -> None:
    """Load a model with its weights, prove its interventions, and keep it for jobs in forks of this process.

    Args:
        record: the model's record, model.json.
        dtype: number format.
        device: the device, which is the CPU.

    Raises:
        HeadroomError: see :func:`lm_headroom.engine.loading.load`.
    """
    # A fork has none of its parent's threads, and would wait for them.
    torch.set_num_threads(1)
    with redirect_stderr(io.StringIO()) as printed:
        loaded = loading.load(record, dtype, device)
        _ = loaded.model, loaded.interventions
    loading.KEPT[loading.kept_as(record, dtype)] = loaded, printed.getvalue()
