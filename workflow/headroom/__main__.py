"""``python -m headroom``: what the workflow's rules call."""

from headroom.cli import main

if __name__ == "__main__":
    raise SystemExit(main())
