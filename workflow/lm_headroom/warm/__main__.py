"""``python -m lm_headroom.warm KIND MODULE ARGUMENT...``: run a module in a warm process of a kind, or by itself."""

import os
import sys

from lm_headroom.warm.client import run

if __name__ == "__main__":
    kind, module, *arguments = sys.argv[1:]
    status = run(kind, module, arguments)
    if status is None:
        # A fresh interpreter: the module may be to import another copy of this package.
        os.execv(sys.executable, [sys.executable, "-m", module, *arguments])
    sys.exit(status)
