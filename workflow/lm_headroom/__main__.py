"""``python -m lm_headroom``: what the workflow's rules call."""

import sys

from lm_headroom.command_names import warm_kind
from lm_headroom.warm.client import run


def _main() -> int:
    arguments = sys.argv[1:]
    status = run(warm_kind(arguments[0], arguments[1:]) if arguments else None, "lm_headroom", arguments)
    if status is None:
        from lm_headroom.cli import main

        status = main(arguments)
    return status


if __name__ == "__main__":
    raise SystemExit(_main())
