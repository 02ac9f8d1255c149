"""The notebooks of the documentation, run as a reader runs them.

``make notebooks`` runs each on the model and results of `make demo`, and writes its outputs into it.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import nbformat
from nbclient import NotebookClient

from tests.support.paths import ROOT

FOLDER = ROOT / "docs" / "notebooks"


def run(path: Path, folder: Path) -> Any:
    """The notebook with the outputs that it has in a folder; an error in a cell is raised."""
    book = nbformat.read(path, as_version=4)
    client = NotebookClient(
        book,
        timeout=600,
        kernel_name="python3",
        record_timing=False,
        # What a cell prints is one output, however it is cut on its way.
        coalesce_streams=True,
        resources={"metadata": {"path": str(folder)}},
    )
    client.execute()
    for cell in book.cells:
        # Progress bars and warnings are no results.
        cell.outputs = [output for output in cell.get("outputs", ()) if output.get("name") != "stderr"]
        if cell.cell_type != "code":
            del cell["outputs"]
    return book


if __name__ == "__main__":
    for path in sorted(FOLDER.glob("*.ipynb")):
        nbformat.write(run(path, FOLDER), path)
