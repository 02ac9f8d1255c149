"""The command line as a user meets it."""

import dataclasses
import inspect
import re
import shlex
import signal
import subprocess
import sys
from importlib.metadata import version
from typing import get_type_hints

import pytest

from lm_headroom import cli
from lm_headroom.artifacts.code_digest import PACKAGE_ROOT
from lm_headroom.artifacts.ranking import RANKING
from lm_headroom.artifacts.store import write
from lm_headroom.cli import app_of, main
from lm_headroom.command_names import GROUPS, function_of, summary_of
from lm_headroom.options import as_typed, command_of, options_of_study, study_keys
from lm_headroom.study.compared import COMPARISONS
from lm_headroom.study.config import Study

COMMANDS = " ".join(GROUPS.values()).split()
# A path finder before all others that has no torch and no transformers.
WITHOUT_TORCH = """
import sys
class Without:
    def find_spec(self, name, path=None, target=None):
        if name.split(".")[0] in ("torch", "transformers", "lm_eval"):
            raise ModuleNotFoundError(f"no {name} here")
sys.meta_path.insert(0, Without())
from lm_headroom.cli import main
"""
HELP = f"""{WITHOUT_TORCH}
sys.exit(max(main(words) for words in (["--help"], *([name, "--help"] for name in sys.argv[1:]))))
"""


def test_the_version_is_printed(capsys):
    assert main(["--version"]) == 0
    assert capsys.readouterr().out.strip() == version("lm-headroom")


@pytest.mark.parametrize("command", COMMANDS)
def test_every_command_explains_itself_by_an_example(command, capsys):
    assert main([command, "--help"]) == 0
    printed = capsys.readouterr().out
    assert printed.startswith(f"Usage: lm-headroom {command}")
    assert summary_of(command) in " ".join(printed.split())
    example = shlex.split(re.sub(r"\s+", " ", printed.partition("Example: lm-headroom ")[2]))
    assert example[0] == command
    function, bound, _ = app_of(command).parse_args(example[1:], exit_on_error=False, print_error=False)
    assert function.__name__ == command.replace("-", "_")
    assert bound.arguments


def test_all_commands_explain_themselves_without_torch():
    done = subprocess.run([sys.executable, "-c", HELP, *COMMANDS], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert done.stdout.count("Usage: lm-headroom ") == 1 + len(COMMANDS)
    listed = " ".join(done.stdout.partition("Usage: lm-headroom run")[0].replace("│", "").split())
    assert all(f"{command} {summary_of(command)}" in listed for command in COMMANDS)
    assert all(f" {group} " in listed for group in GROUPS)


@pytest.mark.parametrize("option", ["--help", "--version"])
def test_commands_are_listed_without_an_import(option):
    """To import all of them takes most of a second."""
    code = f"import sys; from lm_headroom.cli import main; main(['{option}']); sys.exit('pyarrow' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], stdout=subprocess.DEVNULL).returncode == 0


def test_a_model_without_a_record_is_refused_before_torch_is_imported():
    words = ["score-induction", "--model", "no.json", "--out", "out", "--device", "cpu"]
    done = subprocess.run(
        [sys.executable, "-c", f"{WITHOUT_TORCH}\nsys.exit(main({words}))"], capture_output=True, text=True
    )
    assert done.stderr.startswith("lm-headroom score-induction: error: no.json: no such model record"), done.stderr


def test_steps_are_the_commands_that_run_them():
    places = {function_of(command) for command in COMMANDS}
    helpers = {
        "prepare_evaluation",
        "prepare_scoring",
        "compare",
        "compare_models",
        *(f"compare_{name}" for name in COMPARISONS),
    }
    steps = {path.stem for path in (PACKAGE_ROOT / "steps").glob("*.py")} - {"__init__", *helpers}
    assert {f"lm_headroom.steps.{step}:{step}" for step in steps} <= places


@pytest.mark.parametrize("command", [name for name in COMMANDS if "steps." in function_of(name)])
def test_defaults_and_choices_of_a_command_are_those_of_the_study(command):
    step = function_of(command).partition(":")[2]
    function, study = command_of(step), Study()
    parameters = dict(inspect.signature(function).parameters)
    defaults = {name: parameter.default for name, parameter in parameters.items()}
    for group in filter(dataclasses.is_dataclass, get_type_hints(function).values()):
        defaults |= {field.name: field.default for field in dataclasses.fields(group)}
    # Without sequences of the study, the command looks at no window.
    for name, key in study_keys(function).items():
        if defaults[name] not in (inspect.Parameter.empty, dataclasses.MISSING) and (step, name) != (
            "resolve_model", "sequences"
        ):  # fmt: skip
            value = key.value(study, study.tasks[0])
            assert key.recorded(defaults[name]) == key.recorded(value), name
    # What the study says, the command takes; what it still needs is no key of the study.
    words = shlex.split(options_of_study(study, step, study.tasks[0]))
    arguments = app_of(command).assemble_argument_collection()
    assert {word for word in words if word.startswith("--")} <= {
        name for argument in arguments for name in argument.names
    }


@pytest.mark.parametrize(
    "option", ["--aggregate", "--bos", "--correlation", "--iterative", "--seed", "--seeds", "--tasks"]
)
def test_an_option_has_one_help_text_in_all_commands(option):
    arguments = [
        argument for name in COMMANDS for argument in app_of(name).assemble_argument_collection(parse_docstring=True)
    ]
    assert len({argument.parameter.help for argument in arguments if argument.name == option}) == 1


def test_a_default_is_shown_as_one_types_it():
    assert as_typed((0, 10, 30)) == "0 10 30"
    assert as_typed(()) is None
    assert as_typed(None) is None
    assert as_typed("mean") == "mean"
    assert (
        "[default: ("
        not in subprocess.run(
            [sys.executable, "-m", "lm_headroom", "findings", "--help"], capture_output=True, text=True, check=True
        ).stdout
    )


def test_show_prints_provenance_columns_and_rows(tmp_path, capsys):
    path = tmp_path / "r.parquet"
    write(path, RANKING, {"rank": [0, 1], "layer": [0, 0], "head": [1, 0], "score": [0.125, 2.0]}, {"task": "copa"})
    assert main(["show", str(path), "--rows", "1"]) == 0
    printed = capsys.readouterr().out
    assert "ranking artifact, 2 rows" in printed
    assert "Facts\n  task: copa\n" in printed
    assert "rank (int32): 0 = least important, pruned first" in printed
    assert "rank=0, layer=0, head=1, score=0.125" in printed
    assert "score=2" not in printed


def test_mistakes_are_one_sentence_and_a_non_zero_exit(tmp_path):
    done = subprocess.run(
        [sys.executable, "-m", "lm_headroom", "show", str(tmp_path / "none.parquet")], capture_output=True, text=True
    )
    assert done.returncode == 1
    assert re.fullmatch(r"lm-headroom show: error: .*none\.parquet: no such file\n", done.stderr)


MODEL = ["--model", "m", "--prompts", "p", "--out", "o"]
PROMPTS = ["--task", "t", "--out", "o"]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (
            ["evaluate-pruned", *MODEL, "--rankings", "own", "--levels", "0", "101"],
            "--levels: '101': expected a whole number from 0 to 100",
        ),
        (
            ["evaluate-pruned", *MODEL, "--rankings", "best"],
            "--rankings: 'best' is no ranking; expected own, aggregate, iterative, reversed, random_N, token",
        ),
        (["evaluate-pruned", *MODEL, "--rankings", "random_01"], "--rankings: 'random_01' is no ranking; expected own"),
        (["render-prompts", *PROMPTS, "--shots", "-1"], "--shots: '-1': expected a whole number from 0"),
        (
            ["render-prompts", *PROMPTS, "--shots", "1", "--limit-evaluation", "some"],
            "--limit-evaluation: 'some': expected a whole number from 1, or 'all'",
        ),
        (["figure", "99", "--results", "r", "--out", "o"], "'99' is none of compare_induction"),
        (
            ["compare", "prunable", "--results", "r", "--out", "o", "--models", "a,step=1"],
            "--models: 'a,step=1': expected NAME, or NAME,group=G or",
        ),
        (["score-heads", *MODEL, "--criterion", "depth"], "'depth': expected one of token, example, target, loss_rise"),
        (["score-heads", *MODEL[:4]], "--out needs a value: the head-importance artifact"),
        (["show", "a", "b"], "unexpected 'b'"),
        (["show", "a", "--row", "1"], "Unknown option: --row. Did you mean --rows?"),
        (["aggregate-heads", "--tasks", "a", "--out", "o"], "--results needs a value: the model's results folder"),
        (["prune"], 'Unknown command "prune"'),
    ],
)
def test_wrong_arguments_are_named_in_one_line(arguments, message, capsys):
    assert main(arguments) == 2
    printed = capsys.readouterr().err
    assert message in printed
    assert printed.startswith("lm-headroom")
    assert printed.count("\n") == 1


def test_a_second_request_to_stop_does_not_reach_what_the_first_one_keeps(capsys):
    former = signal.signal(signal.SIGTERM, cli._stop)
    try:
        with pytest.raises(SystemExit) as stopped:
            signal.raise_signal(signal.SIGTERM)
        signal.raise_signal(signal.SIGTERM)
    finally:
        signal.signal(signal.SIGTERM, former)
    assert stopped.value.code == 128 + signal.SIGTERM
    assert capsys.readouterr().err.count("stopped by SIGTERM") == 1
