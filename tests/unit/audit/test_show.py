"""``lm-headroom show`` on figures, tables, pages and records; test_cli.py has artifacts."""

import csv
import json

import pandas as pd
import pytest

from lm_headroom.artifacts.code_digest import code_digest
from lm_headroom.artifacts.file_provenance import read_provenance
from lm_headroom.artifacts.store import ArtifactError
from lm_headroom.cli import main
from lm_headroom.models.resolve import resolve
from tests.support.checkpoints import checkpoint
from tests.support.small_study import small

LISTS = ["--tasks", "piqa", "copa", "record", "--shots", "0", "5", "--seed", "7"]


@pytest.fixture(scope="module")
def results(tmp_path_factory):
    """A model's results with a figure, a table and the findings, written by their commands."""
    results = small(tmp_path_factory.mktemp("study")).results
    study = ["--results", str(results), *LISTS]
    more = ["--controls", "random_1", "--unseen", "mathqa", "--transfer", "copa"]
    assert main(["figure", "fig05", *study, *more, "--out", str(results / "figures" / "fig05")]) == 0
    assert main(["findings", *study, *more, "--joint", "--out", str(results / "findings" / "seed7")]) == 0
    assert main(["table", "reference", *study, "--joint", "--out", str(results / "tables" / "reference")]) == 0
    one = ["--results", str(results), "--seed", "7"]
    assert main(["table", "table1", *one, "--out", str(results / "tables" / "table1")]) == 0
    return results


@pytest.mark.parametrize(
    ("file", "kind", "step", "read", "not_read"),
    [
        ("figures/fig05.png", "figure", "report.figures.fig05", "pruned_eval/heads/copa/5shot-seed7/random_1", "ffns"),
        ("figures/fig05.pdf", "figure", "report.figures.fig05", "pruned_eval/heads/copa/5shot-seed7/random_1", "ffns"),
        ("findings/seed7.md", "findings", "report.findings.page", "capacity/5shot-seed7", None),
        ("findings/seed7.html", "findings", "report.findings.page", "pruned_eval/joint/record/0shot-seed7", None),
        ("tables/reference.csv", "table", "report.tables.reference", "induction/copying", "capacity"),
        ("tables/reference.md", "table", "report.tables.reference", "ffn_importance/piqa/0shot-seed7", "capacity"),
        ("tables/table1.csv", "table", "report.tables.table1", "correlation/cross_shot/seed7", "pruned_eval"),
        ("tables/table1.html", "table", "report.tables.table1", "correlation/cross_shot/seed7", "pruned_eval"),
    ],
)
def test_what_made_a_figure_or_page(results, capsys, file, kind, step, read, not_read):
    assert main(["show", str(results / file)]) == 0
    printed = capsys.readouterr().out
    assert printed.startswith(f"{results / file}: {kind}\n")
    assert f"  {step}, code {code_digest(step)} (as installed now)\n" in printed
    assert ("matplotlib 3." if kind == "figure" else "markdown-it-py 4.") in printed
    assert f"  model/{read}.parquet " in printed
    assert not_read is None or not_read not in printed
    if step != "report.tables.table1":
        assert '  tasks: ["piqa", "copa", "record"]\n' in printed
    assert read_provenance(results / file)["place"] == f"model/{file.rpartition('.')[0]}"


def test_tables_stay_plain(results):
    """What made a CSV stands in the page beside it: readers get columns and rows, and nothing else."""
    frame = pd.read_csv(results / "tables" / "table1.csv")
    assert frame["shots"].tolist() == ["0-5"]
    with (results / "tables" / "reference.csv").open() as file:
        assert len({len(row) for row in csv.reader(file)}) == 1
    assert "<!--" not in (results / "findings" / "seed7.md").read_text()


def test_provenance_survives_what_a_format_escapes(tmp_path):
    import matplotlib.pyplot as plt

    from lm_headroom.report import pages
    from lm_headroom.report.figures import style

    written = {"kind": "figure", "options": {"text": 'a (b) \\ "c" <d> & é\n--> \\) %%EOF'}}
    figure, _ = plt.subplots()
    style.save(figure, tmp_path / "f", written)
    pages.write_page(tmp_path / "p", "title", "text\n", written)
    for name in ("f.png", "f.pdf", "p.html", "p.md"):
        shown = read_provenance(tmp_path / name)
        shown.pop("files", None)
        assert shown == written, name


def test_a_file_apart_from_its_page_says_so(results, tmp_path):
    path = tmp_path / "table1.csv"
    path.write_text((results / "tables" / "table1.csv").read_text())
    with pytest.raises(ArtifactError, match=r"table1.html, which would say what made it, is not beside it"):
        read_provenance(path)


def test_a_models_record_and_its_checkpoint(tmp_path, capsys):
    folder = checkpoint(tmp_path / "opt")
    record = resolve("tiny", str(folder), None, tmp_path / "results" / "tiny" / "model.json")
    path = str(tmp_path / "results" / "tiny" / "model.json")
    assert main(["show", path]) == 0
    printed = capsys.readouterr().out
    assert f"  digest: {record['digest']}\n" in printed
    assert f"  folder: {folder}\n" in printed
    assert f"  models.resolve, code {code_digest('models.resolve')} (as installed now)" in printed
    folder.rename(tmp_path / "gone")
    assert main(["show", path]) == 0
    assert "Checkpoint on this machine\n  none" in capsys.readouterr().out


def test_what_is_not_headrooms_is_refused(tmp_path, capsys):
    for name, content, message in (
        ("x.html", "<html></html>", "was not written by lm-headroom"),
        ("x.pdf", "%PDF-1.4\n%%EOF", "was not written by lm-headroom"),
        ("x.txt", "", r"expected one of lm-headroom's files: .parquet"),
        ("model.json", json.dumps([1]), "not a model record"),
    ):
        (tmp_path / name).write_text(content)
        assert main(["show", str(tmp_path / name)]) == 1
        assert message in capsys.readouterr().err
