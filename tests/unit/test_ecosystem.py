"""What hosts and tools read beside the code: it parses, and runs what `make` runs."""

import yaml

from tests.support.paths import ROOT


def test_the_hosts_checks_are_makes():
    jobs = yaml.safe_load((ROOT / ".github" / "workflows" / "test.yml").read_text())["jobs"]
    assert [step["run"] for step in jobs["test"]["steps"] if "run" in step] == ["make test"]


def test_hooks_before_a_commit_run_the_tools_of_make_check():
    [repository] = yaml.safe_load((ROOT / ".pre-commit-config.yaml").read_text())["repos"]
    check = (ROOT / "Makefile").read_text().partition("\ncheck:")[2].partition("\n\n")[0]
    for hook in repository["hooks"]:
        words = hook["entry"].removeprefix(".venv/bin/")
        assert f"\t{words}" in check, words
