"""The page of commands, made of what `--help` prints: signatures and docstrings.

``make options`` writes docs/commands.md by it.
"""

from __future__ import annotations

import inspect
from collections.abc import Iterator
from typing import Annotated, Any, Literal, get_args, get_origin

from lm_headroom.cli import app_of
from lm_headroom.command_names import GROUPS
from lm_headroom.options import as_typed
from tests.support.paths import ROOT

PAGE = ROOT / "docs" / "commands.md"
_HEAD = """# Commands

The rules of the workflow call these commands, and so can you: each step of a study is one. `make options` writes this
page from their signatures and docstrings, which `lm-headroom COMMAND --help` prints, too.
"""


def text() -> str:
    """The page."""
    return _HEAD + "".join(line for group, names in GROUPS.items() for line in _section(group, names.split()))


def _section(group: str, names: list[str]) -> Iterator[str]:
    yield f"\n## {group}\n"
    for name in names:
        app = app_of(name)
        yield f"\n### {name}\n\n{inspect.cleandoc(app.help).partition(chr(10) * 2)[0]}\n\n"
        yield "| option | default | meaning |\n|---|---|---|\n"
        for argument in app.assemble_argument_collection(parse_docstring=True):
            if argument.show:
                yield _row(argument)
        yield f"\n```sh\n{app.help_epilogue.removeprefix('Example: ')}\n```\n"


def _row(argument: Any) -> str:
    default = "required" if argument.required else as_typed(_unset(argument.field_info.default))
    # Of a type with other values beside its words, such as numbers, the help says which.
    words = next((get_args(hint) for hint in _hints(argument.hint) if get_origin(hint) is Literal), ())
    values = words if _kinds(argument.hint) <= {str, type(None)} else ()
    meaning = " ".join((argument.parameter.help or "").split())
    if values:
        meaning += f" One of {', '.join(f'`{value}`' for value in values)}."
    names = ", ".join(f"`{name}`" for name in argument.names)
    shown = default if default in ("required", None) else f"`{default}`"
    return f"| {names} | {shown or ''} | {meaning.replace('|', chr(92) + '|')} |\n"


def _unset(default: Any) -> Any:
    return None if default is inspect.Parameter.empty else default


def _kinds(hint: Any) -> set[Any]:
    """Types of the values that an option takes."""
    parts = get_args(hint)[:1] if get_origin(hint) is Annotated else get_args(hint)
    if get_origin(hint) is Literal:
        return {type(value) for value in parts}
    return set().union(*(_kinds(part) for part in parts)) if parts else {hint}


def _hints(hint: Any) -> Iterator[Any]:
    yield hint
    for part in get_args(hint):
        yield from _hints(part)


if __name__ == "__main__":
    PAGE.write_text(text(), encoding="utf-8")
