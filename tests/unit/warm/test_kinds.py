"""Which warm process a command is handed to, against what the command takes."""

from importlib.util import find_spec
from typing import get_type_hints

import pytest

from lm_headroom.cli import _function
from lm_headroom.command_names import GROUPS, warm_kind
from lm_headroom.options import ModelSettings
from lm_headroom.warm.server import PRELOADS


@pytest.mark.parametrize("command", " ".join(GROUPS.values()).split())
def test_a_command_that_runs_a_model_goes_where_its_libraries_are(command):
    hints = get_type_hints(_function(command)).values()
    runs_a_model = any(isinstance(hint, type) and issubclass(hint, ModelSettings) for hint in hints)
    assert warm_kind(command) == "model" if runs_a_model else warm_kind(command) in (None, *PRELOADS)


@pytest.mark.parametrize("name", sorted({name for names in PRELOADS.values() for name in names}))
def test_what_a_warm_process_imports_is_there(name):
    """A name that is not would be passed over, and each job would wait for what it means."""
    assert find_spec(name)


def test_commands_that_run_models_are_recognised():
    assert issubclass(get_type_hints(_function("evaluate-pruned"))["settings"], ModelSettings)


def test_a_model_in_a_folder_is_resolved_where_it_is_scored(tmp_path):
    """One import of torch serves both; what may ask a hub goes elsewhere, since a warm process for models cannot."""
    here, code = ["--source", str(tmp_path), "--out", "model.json"], "--trust-remote-code"
    assert warm_kind("resolve-model", here) == "model"
    assert warm_kind("resolve-model", [*here, code]) == "resolve"
    assert warm_kind("resolve-model", ["--source", "nobody/model", "--out", str(tmp_path)]) == "resolve"
    assert warm_kind("render-prompts", here) == "prompts"
