"""The site of the documentation, made of this folder's pages as they are in the repository; `make docs` builds it."""

from __future__ import annotations

import os
import re
from pathlib import Path

from sphinx.application import Sphinx

project = "lm-headroom"
copyright = author = "The lm-headroom developers"

extensions = ["myst_nb", "sphinxcontrib.mermaid"]
source_suffix = {".md": "myst-nb", ".ipynb": "myst-nb"}
exclude_patterns = ["_build"]
nitpicky = True

# Anchors of headings are those that the repository's viewer makes.
myst_heading_anchors = 4
myst_fence_as_directive = ["mermaid"]
# Notebooks show the outputs that are committed, which the tests make again.
nb_execution_mode = "off"

html_theme = "pydata_sphinx_theme"
html_title = "lm-headroom"
html_theme_options = {"show_nav_level": 2, "secondary_sidebar_items": ["page-toc"]}
html_show_sourcelink = False


ROOT = Path(__file__).resolve().parents[1]
PAGES = {
    ROOT / "README.md": "index.md",
    ROOT / "CHANGELOG.md": "changelog.md",
    ROOT / "CONTRIBUTING.md": "contributing.md",
}
"""Files of the repository's root that are pages of the site."""


def fit_to_site(app: Sphinx, page: str, source: list[str]) -> None:
    """Put in place what a page includes, and lead links that leave this folder to the site's page, file or a name."""
    folder = (Path(app.srcdir) / page).parent
    included = re.search(r"```{include} (.+)\n```\n", source[0])
    if included:
        file = (folder / included[1]).resolve()
        app.env.note_dependency(str(file))
        source[0] = source[0].replace(included[0], _with_links(file.read_text("utf-8"), file.parent, folder))
    else:
        source[0] = _with_links(source[0], folder, folder)


def _with_links(text: str, here: Path, there: Path) -> str:
    """The text of a page in one folder with its links as another folder needs them."""

    def link(match: re.Match[str]) -> str:
        title, path, anchor = match.groups()
        target = (here / path).resolve()
        if target in PAGES:
            target = ROOT / "docs" / PAGES[target]
        if target.is_dir():
            return f"`{title.strip('`')}`"
        return f"[{title}]({os.path.relpath(target, there)}{anchor})" if target.is_file() else match[0]

    return re.sub(r"\[([^]]+)\]\(([^)#:]+)((?:#[^)]*)?)\)", link, text)


def setup(app: Sphinx) -> None:
    """Connect what this file adds."""
    app.connect("source-read", fit_to_site)
