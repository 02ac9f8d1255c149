"""``python -m lm_headroom.warm.server``: a warm process. It imports libraries once and forks a process per job.

It holds no module of this package but these, so that each job runs the code of its own checkout as it is now.
"""

from __future__ import annotations

import contextlib
import gc
import importlib
import os
import socket
import sys
from collections.abc import Sequence
from pathlib import Path

from lm_headroom.warm import context, forks, keeper

_PYDANTIC = ("pydantic.dataclasses", "pydantic.type_adapter")
"""Which the package itself imports only where they are used, and each command uses them."""
_COMMON = ("cyclopts", "filelock", *_PYDANTIC, "pyarrow.parquet", "pyarrow.pandas_compat", "numpy", "pandas")
_TRANSFORMERS = ("torch", "transformers.models.auto.modeling_auto", "transformers.models.llama.modeling_llama")
_FORMATS = tuple(f"matplotlib.backends.backend_{name}" for name in ("pdf", "svg"))
_TOKENIZERS = ("transformers.models.auto.tokenization_auto", "transformers.convert_slow_tokenizer")
PRELOADS: dict[str, Sequence[str]] = {
    "model": (*_COMMON, *_TRANSFORMERS, *_TOKENIZERS, "pyarrow.dataset", "accelerate", "scipy.stats"),
    "resolve": (*_COMMON, *_TRANSFORMERS),
    "report": (*_COMMON, *_FORMATS, "matplotlib.pyplot", "seaborn", "scipy.stats", "markdown_it"),
    # The last is what datasets imports to open its first file.
    "prompts": (*_COMMON, "lm_eval.tasks", "datasets", "scipy.io"),
    "snakemake": (*_COMMON, "snakemake.cli", "snakemake.report.html_reporter", "smart_open", "yte", "filelock"),
}
"""Libraries that the jobs of each kind import."""


def main() -> None:
    """Import the libraries of a kind of job and serve."""
    kind, path, descriptor = sys.argv[1:]
    if kind == "model":
        # The hub's client reads these when it is imported; jobs that run models set them, too.
        os.environ.update(context.OFFLINE)
    for name in PRELOADS[kind]:
        with contextlib.suppress(ImportError):
            importlib.import_module(name)
    if kind == "snakemake":
        # Options come from plugins, which it looks for in every folder of packages: a tenth of a dry run's time.
        with contextlib.suppress(ImportError):
            importlib.import_module("snakemake.cli").get_argument_parser()
    if kind != "model":
        # Such jobs are short and leave few cycles; to look for them takes a seventh of a figure's time.
        gc.set_threshold(50_000)
    request = forks.serve(socket.socket(fileno=int(descriptor)), Path(path))
    if request is None:
        return
    forks.become(request)
    for name in [name for name in sys.modules if name.partition(".")[0] == context.PACKAGE.name]:
        del sys.modules[name]
    if request.body["module"] == context.PACKAGE.name:
        vars(importlib.import_module(keeper.__name__))["connection"] = request.connection
    forks.run(request)


if __name__ == "__main__":
    main()
