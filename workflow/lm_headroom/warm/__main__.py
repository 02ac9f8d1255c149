"""``python -m lm_headroom.warm KIND MODULE ARGUMENT...``: run a module in a warm process of a kind, or here."""

import runpy
import sys

from lm_headroom.warm.client import run

if __name__ == "__main__":
    kind, module, *arguments = sys.argv[1:]
    status = run(kind, module, arguments)
    if status is None:
        sys.argv[1:] = arguments
        runpy.run_module(module, run_name="__main__", alter_sys=True)
    sys.exit(status)
