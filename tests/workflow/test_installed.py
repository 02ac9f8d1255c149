"""A wheel: what it needs, and that a study runs by it in an empty folder, far from any checkout."""

import os
import re
import shutil
import subprocess
import sys
import sysconfig
import tomllib
import venv

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

from tests.support.paths import ROOT
from tests.support.workflow_studies import PARTS, tiny_study

PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
TARGET = "results/tiny/head_importance/arc_easy/0shot-seed1234.parquet"


def test_each_dependency_has_a_lower_bound_that_its_pin_satisfies():
    lines = (ROOT / "envs" / "requirements.txt").read_text().splitlines()
    pinned = dict(line.split("==") for line in lines if line and not line.startswith("#"))
    pins = {canonicalize_name(name): version for name, version in pinned.items()}
    texts = [*PROJECT["dependencies"], *(text for extra in PROJECT["optional-dependencies"].values() for text in extra)]
    wanted = [Requirement(text) for text in texts]
    # Setuptools builds the package.
    assert {canonicalize_name(one.name) for one in wanted} == set(pins) - {"setuptools"}
    for one in wanted:
        assert [bound.operator for bound in one.specifier] == [">="], one
        assert one.specifier.contains(pins[canonicalize_name(one.name)]), one


@pytest.fixture(scope="module")
def installed(tmp_path_factory):
    """The Python of an environment that has the wheel, and all else from the environment that runs the tests."""
    folder = tmp_path_factory.mktemp("installed")
    source = folder / "source"
    source.mkdir()
    for part in (*PARTS, "setup.py", "pyproject.toml", "README.md", "LICENSE"):
        copy = shutil.copytree if (ROOT / part).is_dir() else shutil.copy
        copy(ROOT / part, source / part)
    pip = [sys.executable, "-m", "pip", "--quiet", "--disable-pip-version-check"]
    wheels = folder / "wheels"
    subprocess.run(
        [*pip, "wheel", str(source), "--no-deps", "--no-build-isolation", "--wheel-dir", str(wheels)], check=True
    )
    venv.create(folder / "venv")
    python = folder / "venv" / "bin" / "python"
    [wheel] = wheels.glob("*.whl")
    subprocess.run([*pip, "--python", str(python), "install", "--no-deps", "--no-index", str(wheel)], check=True)
    shutil.rmtree(source)
    # Only the folder itself: its .pth files, one of which may name a checkout, are not followed.
    [site] = (folder / "venv" / "lib").glob("*/site-packages")
    (site / "shared.pth").write_text(sysconfig.get_paths()["purelib"] + "\n")
    return python


def run(command, folder):
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    return subprocess.run(
        command, cwd=folder, env=environment, text=True, stdout=subprocess.PIPE, stderr=subprocess.STDOUT
    )


@pytest.fixture
def apart(tmp_path, tokenizer):
    """A folder with nothing but a study, its model and its records."""
    laid_out = tiny_study(tmp_path / "laid_out", tokenizer).folder
    folder = tmp_path / "apart"
    folder.mkdir()
    for name in ("study.yaml", "tiny-opt", "records"):
        shutil.move(laid_out / name, folder / name)
    shutil.rmtree(laid_out)
    return folder


def test_a_study_runs_by_the_wheel(installed, apart):
    done = run([installed.with_name("lm-headroom"), "run", "study.yaml", "--cores", "2", TARGET], apart)
    assert done.returncode == 0, done.stdout
    shown = run([installed, "-m", "lm_headroom", "verify", "results", "--study", "study.yaml"], apart)
    assert shown.returncode == 0, shown.stdout
    planned = run([installed.with_name("lm-headroom"), "run", "study.yaml", "--dry-run", TARGET], apart)
    assert "Nothing to be done" in planned.stdout, planned.stdout


def test_options_of_snakemake_and_its_exit_status_pass_through(installed, apart):
    done = run([installed.with_name("lm-headroom"), "run", "study.yaml", "--dry-run", "nothing"], apart)
    assert done.returncode == 1
    assert "nothing" in done.stdout


def test_the_checkout_and_the_wheel_have_the_same_digests(installed, tmp_path):
    code = (
        "from lm_headroom.artifacts.code_digest import code_digest; import lm_headroom.workflow_files as files;"
        "print(files.WORKFLOW); print(code_digest('steps.score_heads', 'steps.render_prompts'))"
    )
    places, digests = zip(
        *(
            subprocess.run(
                [python, "-c", code], env=env, cwd=tmp_path, text=True, check=True, capture_output=True
            ).stdout.split()
            for python, env in (
                (installed, {"PATH": os.defpath}),
                (sys.executable, {"PATH": os.defpath, "PYTHONPATH": str(ROOT / "workflow")}),
            )
        ),
        strict=True,
    )
    assert places == (
        str(next(installed.parents[1].glob("lib/*/site-packages")) / "lm_headroom" / "workflow" / "workflow"),
        str(ROOT / "workflow"),
    )
    assert digests[0] == digests[1]


def test_another_workflow_imports_this_as_a_module(tmp_path):
    """With its own configuration file, whose keys are not the study's."""
    (tmp_path / "own.yaml").write_text("study: {tasks: [copa], shots: [0]}\n")
    lines = ['configfile: "own.yaml"', "module headroom:", f'    snakefile: "{ROOT}/Snakefile"']
    lines += ['    config: config["study"]', "use rule * from headroom as headroom_*"]
    (tmp_path / "Snakefile").write_text("\n".join(lines) + "\n")
    planned = run([sys.executable, "-m", "snakemake", "--dry-run", "--cores", "1", "headroom_prompts"], tmp_path)
    assert planned.returncode == 0, planned.stdout
    assert re.search(r"^headroom_render_prompts +1$", planned.stdout, re.MULTILINE), planned.stdout
