"""``python -m lm_headroom``: what the workflow's rules call."""

from lm_headroom.cli import main

if __name__ == "__main__":
    raise SystemExit(main())
