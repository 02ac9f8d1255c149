"""The site of the documentation, whose warnings are errors, and its page of commands."""

import os
import re
import subprocess
import sys

import pytest

from tests.support import command_page
from tests.support.paths import ROOT


def test_the_page_of_commands_is_what_their_help_prints():
    assert command_page.PAGE.read_text() == command_page.text()


@pytest.mark.slow
def test_the_site_builds_without_a_network_and_a_warning(tmp_path):
    pytest.importorskip("myst_nb")
    nowhere = dict.fromkeys(("http_proxy", "https_proxy", "HTTP_PROXY", "HTTPS_PROXY"), "http://127.0.0.1:9")
    command = [sys.executable, "-m", "sphinx", "-q", "-W", "--keep-going", "docs", str(tmp_path)]
    done = subprocess.run(command, cwd=ROOT, env=os.environ | nowhere, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    pages = {path.relative_to(ROOT / "docs").with_suffix(".html") for path in (ROOT / "docs").rglob("*.md")}
    assert {path.relative_to(tmp_path) for path in tmp_path.rglob("*.html")} >= pages
    start = (tmp_path / "index.html").read_text()
    linked = re.findall(r'<a class="reference internal" href="([^"#]+)', start)
    assert "own_ranking.html" in linked, "a page that README.md links"
    assert all((tmp_path / path).is_file() for path in linked)
