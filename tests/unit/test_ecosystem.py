"""What hosts and tools read beside the code: it parses, and runs what `make` runs."""

import os
import re
import shutil
import subprocess
import sys
import tomllib

import pytest
import yaml

from tests.support.paths import ROOT

SERVED = re.findall(r"[0-9.]+", (ROOT / "envs" / "find-python.sh").read_text().partition('served="')[2].split('"')[0])


def test_the_hosts_checks_are_makes_under_every_python_that_is_served():
    jobs = yaml.safe_load((ROOT / ".github" / "workflows" / "test.yml").read_text())["jobs"]
    commands = {name: [step["run"] for step in job["steps"] if "run" in step] for name, job in jobs.items()}
    # The browser of the tests of pages is installed before: make may not.
    assert {name: steps[-1:] for name, steps in commands.items()} == {"test": ["make test"], "check": ["make check"]}
    assert all("chromium" in step for steps in commands.values() for step in steps[:-1])
    pythons = [step["with"]["python-version"] for job in jobs.values() for step in job["steps"] if "with" in step]
    others = jobs["check"]["strategy"]["matrix"]["python"]
    assert pythons == [SERVED[-1], "${{ matrix.python }}"]
    assert [*others, SERVED[-1]] == SERVED
    oldest = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["requires-python"]
    assert oldest == f">={SERVED[-1]}"


def find_python(folder, *arguments, **scripts):
    """Run the search for a Python with these commands alone on the path, each a script or the path of a command."""
    tools = {name: shutil.which(name) for name in ("sh", "awk", "df", "basename")}
    for name, command in (tools | scripts).items():
        path = folder / name.replace("_", ".")
        if command.startswith("/"):
            path.symlink_to(command)
        else:
            path.write_text(f"#!/bin/sh\n{command}\n")
            path.chmod(0o755)
    return subprocess.run(
        ["sh", str(ROOT / "envs" / "find-python.sh"), *arguments],
        cwd=folder, env={"PATH": str(folder)}, capture_output=True, text=True,
    )  # fmt: skip


def python_of(version, has_venv=True):
    """A command that answers as a Python of this version does."""
    return f'case "$2" in *version_info*) echo {version};; *) exit {int(not has_venv)};; esac'


def test_make_takes_the_newest_python_that_runs_and_is_served(tmp_path):
    printed = find_python(
        tmp_path, python3_13="exit 127", python3_12=python_of("3.12"), python3_11=python_of("3.11"),
        python3=python_of("3.9"),
    )  # fmt: skip
    assert (printed.returncode, printed.stdout) == (0, "python3.12\n")


def test_make_takes_the_python_that_is_named(tmp_path):
    printed = find_python(tmp_path, "python3.11", python3_12=python_of("3.12"), python3_11=python_of("3.11"))
    assert printed.stdout == "python3.11\n"


def test_make_takes_python3_where_it_has_no_other_name(tmp_path):
    assert find_python(tmp_path, python3=python_of("3.12")).stdout == "python3\n"


@pytest.mark.parametrize(
    "scripts, lack",
    [
        ({}, "one of Python 3.13 3.12 3.11 (tried: python3.13 python3.12 python3.11 python3; on Debian: apt-get"),
        ({"python3": python_of("3.9")}, "one of Python 3.13 3.12 3.11"),
        ({"python3_11": python_of("3.11", has_venv=False)}, "the venv module of python3.11 (on Debian: apt-get"),
        ({"python3": python_of("3.11"), "df": "echo; echo x x x 1048576"}, "3 GB of free space here, where 1 GB"),
    ],
)
def test_make_names_what_a_machine_lacks_before_it_downloads(tmp_path, scripts, lack):
    missing = find_python(tmp_path, **scripts)
    assert (missing.returncode, missing.stdout) == (1, "")
    assert lack in missing.stderr


def test_all_that_is_lacking_is_named_at_once(tmp_path):
    missing = find_python(tmp_path, df="echo; echo x x x 0")
    assert "one of Python" in missing.stderr
    assert "3 GB of free space" in missing.stderr


def test_the_container_image_passes_its_linter():
    hadolint = shutil.which("hadolint", path=os.pathsep.join([os.path.dirname(sys.executable), os.environ["PATH"]]))
    if hadolint is None:
        pytest.skip("hadolint has no build for this machine")
    done = subprocess.run([hadolint, str(ROOT / "Dockerfile")], capture_output=True, text=True)
    assert done.returncode == 0, done.stdout


def test_the_apptainer_recipe_installs_what_the_container_image_installs():
    recipe, image = (ROOT / "apptainer.def").read_text(), (ROOT / "Dockerfile").read_text()
    assert f"From: {re.search(r'^FROM (.+)$', image, re.M)[1]}" in recipe
    install = "make -C /opt/lm-headroom install"
    assert f"    {install}\n" in recipe
    assert f"RUN {install}\n" in image
    sections = re.findall(r"^%(\w+)", recipe, re.M)
    assert sections == ["arguments", "files", "post", "environment", "runscript", "help"]
    copied = re.findall(r"^    (\S+) /opt/lm-headroom/(\S+)$", recipe, re.M)
    assert all(source == target and (ROOT / source).exists() for source, target in copied)
    shipped = {part.split("/")[0].strip('"') for part in re.findall(r'"[^"]+"', (ROOT / "setup.py").read_text())}
    assert {name for name in ("Snakefile", "config.yaml", "envs", "profiles", "workflow") if name in shipped} <= {
        source for source, _ in copied
    }


def test_issue_templates_and_the_catalogue_entry_are_whole():
    for path in (ROOT / ".github" / "ISSUE_TEMPLATE").glob("*.yml"):
        template = yaml.safe_load(path.read_text())
        assert {"name", "description", "body"} <= set(template), path.name
        assert all(part["attributes"]["label"] for part in template["body"])
    usage = yaml.safe_load((ROOT / ".snakemake-workflow-catalog.yml").read_text())["usage"]
    assert usage["software-stack-deployment"]["conda"] is any((ROOT / "envs").glob("*.yaml"))
    assert usage["report"]


def test_hooks_before_a_commit_run_the_tools_of_make_check():
    [repository] = yaml.safe_load((ROOT / ".pre-commit-config.yaml").read_text())["repos"]
    check = (ROOT / "Makefile").read_text().partition("\ncheck:")[2].partition("\n\n")[0]
    for hook in repository["hooks"]:
        words = hook["entry"].removeprefix(".venv/bin/")
        assert f"\t{words}" in check, words
