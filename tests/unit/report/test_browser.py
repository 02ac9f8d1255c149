"""Chromium for tests of pages: found, installed by apt, or its lack explained."""

import shutil

import pytest

from tests.support import browser


@pytest.fixture
def programs(tmp_path, monkeypatch):
    """The only folder that programs are looked for in, with a function that puts a shell script there."""
    folder = tmp_path / "bin"
    folder.mkdir()
    shell = shutil.which("sh")
    monkeypatch.setenv("PATH", str(folder))
    monkeypatch.setattr("os.geteuid", lambda: 0)

    def add(name, *lines):
        path = folder / name
        path.write_text("\n".join([f"#!{shell}", *lines, ""]))
        path.chmod(0o755)
        return str(path)

    return add


def test_the_chromium_that_is_there_is_used(programs, tmp_path):
    programs("apt-get", "exit 1")
    path = programs("google-chrome")
    assert browser.install(tmp_path / "lock") == path


def test_apt_installs_it_after_an_update_of_its_lists(programs, tmp_path):
    log, chromium = tmp_path / "log", tmp_path / "bin" / "chromium"
    chmod, updated = shutil.which("chmod", path="/bin:/usr/bin"), tmp_path / "updated"
    programs(
        "apt-get",
        f'echo "$1" >> {log}',
        f'if [ "$1" = update ]; then : > {updated}; exit; fi',
        f"[ -e {updated} ] || exit 1",
        f"echo '#!/bin/sh' > {chromium}; {chmod} +x {chromium}",
    )
    assert browser.install(tmp_path / "lock") == str(chromium)
    assert log.read_text().split() == ["install", "update", "install"]


def test_what_apt_says_is_the_reason_of_a_skip(programs, tmp_path):
    programs("apt-get", "echo reading lists", "echo E: no such package; exit 100")
    with pytest.raises(browser.Unavailable, match="apt-get install .* chromium failed: E: no such package$"):
        browser.install(tmp_path / "lock")


@pytest.mark.parametrize(("user", "has_apt"), [(1000, True), (0, False)])
def test_who_may_not_install_is_told_what_is_missing(programs, tmp_path, monkeypatch, user, has_apt):
    monkeypatch.setattr("os.geteuid", lambda: user)
    if has_apt:
        programs("apt-get", "exit 99")
    with pytest.raises(browser.Unavailable, match="only root with apt-get can install chromium here"):
        browser.install(tmp_path / "lock")
