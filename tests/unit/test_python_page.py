"""The public Python functions: looked up lazily, and their examples and page run as they stand."""

import doctest
import inspect
import subprocess
import sys

import pytest

import lm_headroom
from tests.support.paths import ROOT
from tests.support.small_study import small
from tests.support.tiny_models import tiny_model

PAGE = (ROOT / "docs" / "python.md").read_text()


@pytest.fixture
def session(tmp_path, tokenizer):
    """What an example finds in a user's session."""
    model = tiny_model("llama")
    ids = tokenizer("Water boils at one", return_tensors="pt").input_ids
    return {"model": model, "tokenizer": tokenizer, "ids": ids, "results": small(tmp_path).results.parent}


def run(text, session, name):
    test = doctest.DocTestParser().get_doctest(text, dict(session), name, name, 0)
    printed = []
    doctest.DocTestRunner().run(test, out=printed.append)
    assert not printed, "".join(printed)
    return len(test.examples)


def test_the_page_prints_what_it_says(session):
    assert run(PAGE.replace("```", ""), session, "python.md") > 10


@pytest.mark.parametrize("name", sorted(set(lm_headroom.__all__) - {"load_pruned"}))
def test_a_function_has_an_example_that_runs(session, name):
    assert run(getattr(lm_headroom, name).__doc__, session, name)


@pytest.mark.parametrize("name", lm_headroom.__all__)
def test_the_page_has_each_function_with_its_arguments(name):
    signature = inspect.signature(getattr(lm_headroom, name))
    bare = [each.replace(annotation=inspect.Parameter.empty) for each in signature.parameters.values()]
    assert f"| `{name}{signature.replace(parameters=bare, return_annotation=inspect.Signature.empty)}` |" in PAGE
    assert name in dir(lm_headroom)


def test_importing_the_package_and_reading_results_needs_no_torch():
    code = "import sys, lm_headroom; lm_headroom.load_results; print('torch' in sys.modules)"
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=ROOT / "workflow"
    )
    assert done.stdout == "False\n"
    with pytest.raises(AttributeError, match="no attribute 'masks'"):
        _ = lm_headroom.masks
