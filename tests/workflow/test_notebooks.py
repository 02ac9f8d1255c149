"""The notebooks of the documentation run to their end, and what is committed shows such a run."""

import nbformat
import pytest

from lm_headroom.results.matrix import ResultsMatrix
from tests.support.small_study import write_study
from tests.support.tiny_models import tiny_model

pytest.importorskip("nbclient")
pytest.importorskip("ipykernel")
from tests.support.notebooks import FOLDER, run

NOTEBOOKS = sorted(FOLDER.glob("*.ipynb"))


@pytest.fixture
def beside_a_demo(tmp_path, tokenizer):
    """A folder of notebooks in a checkout in which the demo has run: results of its shape, and a tiny model's files."""
    folder = tmp_path / "docs" / "notebooks"
    folder.mkdir(parents=True)
    model = tmp_path / "resources" / "models" / "SmolLM2-135M-Instruct"
    tiny_model("llama").float().save_pretrained(model)
    tokenizer.save_pretrained(model)
    results = tmp_path / "results" / "SmolLM2-135M-Instruct"
    controls = ("random_1", "second_order")
    write_study(ResultsMatrix(results, ("arc_easy", "piqa", "copa"), (0,), 1234, "spearman", controls))
    return folder


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_a_notebook_runs_to_its_end(path, beside_a_demo):
    book = run(path, beside_a_demo)
    committed = nbformat.read(path, as_version=4)
    for cell, shown in zip(book.cells, committed.cells, strict=True):
        if cell.cell_type == "code":
            kinds = [[part.output_type for part in each.outputs] for each in (cell, shown)]
            assert kinds[0] == kinds[1], cell.source
