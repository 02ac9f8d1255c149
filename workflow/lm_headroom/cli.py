"""The command line, which is all that the workflow's rules call: names of commands, and where each is declared.

A command's module is imported when the command runs or explains itself: what needs no model starts without torch.
"""

from __future__ import annotations

import os
import signal
import sys
from collections.abc import Sequence
from importlib import import_module
from io import TextIOWrapper
from typing import Any

from cyclopts import App, CycloptsError, Group, MissingArgumentError, Parameter, UnusedCliTokensError

from lm_headroom.checkout import check_job
from lm_headroom.command_names import GROUPS, function_of, summary_of
from lm_headroom.errors import MORE_MEMORY, HeadroomError
from lm_headroom.options import Command, ModelSettings, as_typed, written
from lm_headroom.places import check_writable
from lm_headroom.warm import keeper
from lm_headroom.warm.context import OFFLINE


def app_of(command: str | None) -> App:
    """The application of one command, or of all, which imports none of them."""
    options: dict[str, Any] = {
        "default_parameter": Parameter(
            consume_multiple=1, allow_repeating=True, negative_iterable=(), negative_none=(), show_default=as_typed
        ),
        "help_format": "plaintext",
        "version_flags": () if command else ("--version",),
    }
    if command is None:
        app = App(name="lm-headroom", help="How much of a language model does in-context learning need?", **options)
        for n, (group, names) in enumerate(GROUPS.items()):
            shown = Group(group, sort_key=n)
            for m, name in enumerate(names.split()):
                app.command(function_of(name), name=name, help=summary_of(name), group=shown, sort_key=m)
    else:
        function = _function(command)
        example = " ".join((function.__doc__ or "").partition("Example:")[2].split())
        app = App(name=f"lm-headroom {command}", help_epilogue=f"Example: {example}", **options)
        app.default(function)
    for flag in ("--help", *app.version_flags):
        app[flag].show = False
    return app


def _function(command: str) -> Command:
    module, _, name = function_of(command).partition(":")
    function: Command = getattr(import_module(module), name)
    return function


def main(arguments: Sequence[str] | None = None) -> int:
    """Run a command: 0 on success, 1 with a sentence where the user can mend it, 2 for a wrong command line."""
    words = list(sys.argv[1:] if arguments is None else arguments)
    command = words[0] if words and words[0] in " ".join(GROUPS.values()).split() else None
    name = f"lm-headroom {command}" if command else "lm-headroom"
    # Names and texts of files that this terminal's encoding lacks are no reason to stop.
    if isinstance(sys.stdout, TextIOWrapper):
        sys.stdout.reconfigure(errors="backslashreplace")
    # A scheduler's time limit, or a cancelled run: as an exception, so that finished units are kept on the way out.
    signal.signal(signal.SIGTERM, _stop)
    try:
        app = app_of(command)
        function, bound, _ = app.parse_args(words[bool(command) :], exit_on_error=False, print_error=False)
        if function not in (app.help_print, app.version_print):
            check_job()
            for path, is_folder in written(function, bound.arguments):
                check_writable(path, is_folder)
            settings = bound.arguments.get("settings")
            if isinstance(settings, ModelSettings):
                _prepare_to_run(settings)
                _check_record(settings)
        function(*bound.args, **bound.kwargs)
    except CycloptsError as error:
        print(f"{name}: error: {_sentence(error)}", file=sys.stderr)
        return 2
    # A file that cannot be read or written is for the user to mend, and says so itself.
    except (HeadroomError, OSError) as error:
        print(f"{name}: error: {error}", file=sys.stderr)
        return 1
    except (MemoryError, RuntimeError) as error:
        if not _out_of_memory(error):
            raise
        print(f"{name}: error: out of memory ({error}); {MORE_MEMORY}", file=sys.stderr)
        return 1
    return 0


def _sentence(error: CycloptsError) -> str:
    """What is wrong with a command line, on one line."""
    if isinstance(error, MissingArgumentError) and error.argument is not None:
        name = error.argument.name
        described = error.app.assemble_argument_collection(parse_docstring=True) if error.app else ()
        meaning = next((argument.parameter.help for argument in described if argument.name == name), "")
        return f"{name} needs a value: {' '.join((meaning or '').split())}"
    if isinstance(error, UnusedCliTokensError):
        return f"unexpected {' '.join(error.unused_tokens or ())!r}"
    text = " ".join(str(error).split())
    name = error.argument.name if error.argument is not None else ""
    return text if name in text else f"Invalid value for {name}: {text}"


def _stop(number: int, frame: object) -> None:
    # Whoever asks all processes of a run asks the command that waits for this one, too, which passes it on.
    signal.signal(number, signal.SIG_IGN)
    print("stopped by SIGTERM; a later run goes on from the finished units", file=sys.stderr, flush=True)
    sys.exit(128 + number)


def _out_of_memory(error: BaseException) -> bool:
    if "torch" not in sys.modules:
        return isinstance(error, MemoryError)
    from lm_headroom.engine.packing import out_of_memory

    return out_of_memory(error)


def _check_record(settings: ModelSettings) -> None:
    """Refuse a model without a record here, not after the seconds that torch takes."""
    if not settings.model.is_file():
        from lm_headroom.artifacts.model_record import read_record

        read_record(settings.model)


def _prepare_to_run(settings: ModelSettings) -> None:
    """Settle what torch and transformers read when they are imported: no hub, and which GPUs there are."""
    from lm_headroom.engine.gpus import claim, runs_on_cpu

    # Models and prompts are there; a library that looks for news of them would hang on a node without a network.
    os.environ.update(OFFLINE)
    if settings.device != "cpu":
        claim(settings.gpus)
    # A fork of a process that uses a GPU cannot use it.
    if keeper.connection is not None and runs_on_cpu(settings.device):
        from lm_headroom.engine import keeping

        model, dtype = settings.model, settings.dtype
        keeper.hand_over(lambda: keeping.identity(model, dtype), lambda: keeping.keep(model, dtype, settings.device))
