"""Typed studies that are not read from a file."""

from lm_headroom.study.reading import parse_study


def study(**changes):
    config = {"models": {"m": {"source": "x"}}, "tasks": ["a", "b"], "shots": [0], **changes}
    return parse_study(config)
