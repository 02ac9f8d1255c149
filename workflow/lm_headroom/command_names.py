"""Names of the commands, and what is known of each before its module is imported: standard library only."""

import os
from collections.abc import Sequence
from functools import cache
from itertools import pairwise
from pathlib import Path

GROUPS = {
    "Study": "run fetch-package prepare-embedded-model prepare-embedded-data resolve-model render-prompts plan",
    "Score": "score-heads score-head-knockouts score-ffns select-ffns score-experts score-induction aggregate-heads "
    "aggregate-ffns average-seeds rank-heads rank-heads-iteratively rank-custom learn-mask",
    "Evaluate": "evaluate-pruned evaluate-joint evaluate-transfer evaluate-custom ablate-induction",
    "Analyse": "correlate-tasks correlate-shots correlate-oracle retain-capacity compare",
    "Report": "figure table page findings",
    "Publish": "export-pruned push",
    "Look": "model task status show verify",
}
"""Commands as the help groups them."""
_ELSEWHERE = {
    **dict.fromkeys(("run", "plan", "model", "task", "status", "show", "verify", "push"), "commands"),
    **dict.fromkeys(("compare", "figure", "table", "page", "findings"), "report.commands"),
}
"""Command to the module that declares it, where that is no step of the workflow."""
_WARM_GROUPS = {"Score": "model", "Evaluate": "model", "Analyse": "report", "Report": "report"}
_WARM = {"render-prompts": "prompts", "resolve-model": "resolve", "export-pruned": "model"}


def function_of(command: str) -> str:
    """Module and name of the function that declares a command: a step's are the command's own name."""
    name = command.replace("-", "_")
    return f"lm_headroom.{_ELSEWHERE.get(command, f'steps.{name}')}:{name}"


def summary_of(command: str) -> str:
    """The first sentence of a command's help, read from its file: to import all commands takes longer than the help.

    Example:
        >>> summary_of("render-prompts")
        'Render the prompts of a task with lm-eval.'
    """
    module, _, name = function_of(command).partition(":")
    return " ".join(_docstrings(module)[name].partition("\n\n")[0].split())


@cache
def _docstrings(module: str) -> dict[str, str]:
    # Each job begins by importing this module, and only the list of commands reads files.
    import ast

    path = Path(__file__).parent.joinpath(*module.split(".")[1:]).with_suffix(".py")
    functions = (node for node in ast.parse(path.read_bytes()).body if isinstance(node, ast.FunctionDef))
    return {function.name: ast.get_docstring(function) or "" for function in functions}


def warm_kind(command: str, options: Sequence[str] = ()) -> str | None:
    """What a warm process imports for a command, a key of :data:`lm_headroom.warm.server.PRELOADS`; None for nothing.

    Args:
        command: its name.
        options: what stands behind it on the command line.

    Example:
        >>> warm_kind("figure")
        'report'
    """
    if command == "resolve-model" and _needs_no_hub(options):
        return "model"
    groups = (group for group, names in GROUPS.items() if command in names.split())
    return _WARM.get(command) or _WARM_GROUPS.get(next(groups, ""))


def _needs_no_hub(options: Sequence[str]) -> bool:
    """Whether a model is resolved from a folder that has no code of its own, which may lie on a hub.

    It then imports what scoring does, whose warm process the study needs next, and which reaches no hub.
    """
    named = (source for option, source in pairwise(options) if option == "--source")
    return "--trust-remote-code" not in options and any(map(os.path.isdir, named))
