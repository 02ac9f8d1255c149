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


def pinned(name):
    """Package to version of a file of pins."""
    lines = (ROOT / "envs" / name).read_text().splitlines()
    pins = dict(line.split("==") for line in lines if line and not line.startswith("#"))
    return {canonicalize_name(package): version for package, version in pins.items()}


def test_each_dependency_has_a_lower_bound_that_its_pin_satisfies():
    pins, others = pinned("requirements.txt"), pinned("requirements-dev.txt") | pinned("requirements-torchao.txt")
    extras = dict(PROJECT["optional-dependencies"])
    apart = [Requirement(text) for name in ("docs", "torchao") for text in extras.pop(name)]
    wanted = [Requirement(text) for text in sum(extras.values(), PROJECT["dependencies"])]
    # Setuptools builds the package.
    assert {canonicalize_name(one.name) for one in wanted} == set(pins) - {"setuptools"}
    assert {canonicalize_name(one.name) for one in apart} <= set(others)
    for one in [*wanted, *apart]:
        assert [bound.operator for bound in one.specifier] == [">="], one
        assert one.specifier.contains((pins | others)[canonicalize_name(one.name)]), one


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


PRELUDE = """
import datasets
from pathlib import Path

def load_dataset(path, *_, **__):
    files = Path("records", Path(path).name).glob("*.parquet")
    return datasets.DatasetDict({file.stem: datasets.Dataset.from_parquet(str(file)) for file in files})

datasets.load_dataset = load_dataset
"""
"""Gives lm-eval the records that lie here in place of the hub's."""
SMALL = {
    "facebook/opt-125m": "tiny-opt",
    "{source: hub}": "{source: mirror, mirror: records}",
    "{importance: 500, evaluation: 1000}": "{importance: 4, evaluation: 4}\ninduction: {sequences: 0}\ndevice: cpu\n"
    "outcomes: [accuracy]\npruning: {levels: [0, 50]}\njoint: {heads: [], ffns: []}\ntransfer: {tasks: []}",
    "[0, 5]": "[0]",
    "--workflow-profile profiles/slurm": "--workflow-profile profiles/slurm --dry-run --forceall",
}
"""Parts of the README, and what stands in their place on a machine without a hub and a cluster."""


def test_all_that_follows_the_demo_in_the_readme_runs_by_the_wheel(installed, apart):
    page = (ROOT / "README.md").read_text()
    record, own = re.search(r"```json\n(.*?)```", page, re.DOTALL)[1], re.search(r"`tasks: (.*capitals.*)`", page)[1]
    (apart / "capitals.jsonl").write_text(record * 24)
    for part, small in {**SMALL, "[piqa, winogrande]": own}.items():
        assert part in page, part
        page = page.replace(part, small)
    shutil.copytree(ROOT / "profiles", apart / "profiles")
    (apart / ".venv").symlink_to(installed.parents[1])
    demo, *blocks = re.findall(r"```(yaml|sh|python)\n(.*?)```", page, re.DOTALL)
    assert demo[1].startswith("make demo")
    printed = []
    for language, text in blocks:
        if language == "yaml":
            (apart / "my-study.yaml").write_text(text)
            continue
        command = [installed, "-c", PRELUDE + text]
        if language == "sh":
            command = ["bash", "-e", "-c", text if ".venv" in text else f". .venv/bin/activate\n{text}"]
        done = run(command, apart)
        assert done.returncode == 0, done.stdout
        printed.append(done.stdout)
    study, session, cluster = printed
    assert "jobs ran" in study
    assert (apart / "results/opt-125m/pruned_eval/heads/capitals/0shot-seed1234/own.parquet").is_file()
    assert "'acc,none'" in session
    assert "| score_heads | 2 |" in cluster
    assert re.search(r"Score the heads of opt-125m on piqa, 0-shot. It asks for \d+ MB, \d+ minutes, 1 cores", cluster)
    shown = run([installed, "-m", "lm_headroom", "verify", "results", "--study", "my-study.yaml"], apart)
    assert shown.returncode == 0, shown.stdout
    planned = run([installed.with_name("lm-headroom"), "run", "my-study.yaml", "--dry-run"], apart)
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


def test_the_wheel_has_the_workflows_files_and_no_modules_of_a_checkout(installed):
    [site] = (installed.parents[1] / "lib").glob("*/site-packages")
    assert (site / "lm_headroom" / "workflow" / "workflow" / "tasks" / "lm-eval.json").is_file()
    assert not list((site / "lm_headroom" / "workflow").rglob("setup.py"))


def test_jobs_import_nothing_of_the_wheels_environment_but_the_package(installed, tmp_path):
    """Those of `--sdm conda` have an environment of their own, whose packages are other builds."""
    [site] = (installed.parents[1] / "lib").glob("*/site-packages")
    lines = ["module headroom:", f'    snakefile: "{site}/lm_headroom/workflow/Snakefile"', "    config: {}"]
    lines += ["use rule * from headroom as headroom_*", "rule look:", '    output: "seen.txt"']
    lines += ['    shell: "ls $PYTHONPATH > {output}; python -m lm_headroom --version >> {output}"']
    (tmp_path / "Snakefile").write_text("\n".join(lines) + "\n")
    done = run([installed, "-m", "snakemake", "--cores", "1", "look"], tmp_path)
    assert done.returncode == 0, done.stdout
    assert (tmp_path / "seen.txt").read_text().splitlines() == ["lm_headroom", PROJECT["version"]]


def test_another_workflow_imports_this_as_a_module(tmp_path):
    """With its own configuration file, whose keys are not the study's."""
    (tmp_path / "own.yaml").write_text("study: {tasks: [copa], shots: [0]}\n")
    lines = ['configfile: "own.yaml"', "module headroom:", f'    snakefile: "{ROOT}/Snakefile"']
    lines += ['    config: config["study"]', "use rule * from headroom as headroom_*"]
    (tmp_path / "Snakefile").write_text("\n".join(lines) + "\n")
    planned = run([sys.executable, "-m", "snakemake", "--dry-run", "--cores", "1", "headroom_prompts"], tmp_path)
    assert planned.returncode == 0, planned.stdout
    assert re.search(r"^headroom_render_prompts +1$", planned.stdout, re.MULTILINE), planned.stdout
