"""A model's first page: it opens with the verdicts, its tables sort and filter, and its links lead to files."""

import csv
from pathlib import Path

import pytest

from lm_headroom.artifacts.catalogue import fill
from lm_headroom.artifacts.file_provenance import read_provenance
from lm_headroom.cli import main
from lm_headroom.errors import HeadroomError
from lm_headroom.report.products import captions, named
from lm_headroom.study.config import Study
from tests.support.small_study import small

PRODUCTS = [
    "figures/fig05_heads_pruned-seed7=Figure 05: accuracy",
    "figures/fig10_induction=Figure 10: induction <heads>",
    "tables/losses-seed7=Accuracies and losses",
    "findings/seed7=Findings in words",
]

PRODUCTS_OF_TABLE = list(named("figure").values())


@pytest.fixture(scope="module")
def page_path(tmp_path_factory):
    study = small(tmp_path_factory.mktemp("index"))
    where = ["--results", str(study.results)]
    cells = ["--tasks", *study.tasks, "--shots", "0", "5", "--seed", "7"]
    for command in (
        ["figure", "fig05", *cells],
        ["figure", "fig10"],
        ["table", "losses", *cells],
        ["findings", *cells],
    ):
        name = {"findings": "findings/seed7", "table": "tables/losses-seed7"}.get(command[0])
        stem = name or next(p for p in PRODUCTS if command[1] in p).partition("=")[0]
        assert main([*command, *where, "--out", str(study.results / stem)]) == 0
    assert main(["page", "index", *where, "--products", *PRODUCTS, "--out", str(study.results / "index")]) == 0
    return study.results / "index.html"


def test_the_page_opens_with_the_verdicts_and_their_figure(page_path, open_page):
    page = open_page(page_path)
    verdicts = page.locator(".short li")
    assert "<noscript>These tables need JavaScript" in page_path.read_text()
    short = (page_path.parent / "findings/seed7.md").read_text().partition("## In short\n")[2].partition("\n## ")[0]
    assert verdicts.count() == short.count("\n- ") + short.startswith("- ")
    assert all(item.locator("strong").count() for item in verdicts.all())
    assert page.locator("h2").first.inner_text() == "At a glance"
    first = page.locator("figure img").first
    assert first.get_attribute("src").startswith("data:image/png")
    assert first.evaluate("image => image.naturalWidth") > 1000
    assert page.problems == []
    assert all(url.startswith(("file:", "data:")) for url in page.requested)
    assert page.pdf()[:5] == b"%PDF-"


def test_figures_are_within_the_page_with_their_captions(page_path, open_page):
    page = open_page(page_path)
    sources = [image.get_attribute("src") for image in page.locator("figure img").all()]
    assert len(sources) == 2
    assert all(source.startswith("data:image/png") for source in sources)
    caption = page.locator("figcaption").first.inner_text()
    assert "Figure 5 shows the accuracy of model with the least important heads pruned" in caption
    assert "{{" not in page.inner_text("body")


@pytest.mark.parametrize("product", PRODUCTS_OF_TABLE, ids=lambda product: product.name)
def test_each_figure_has_a_caption_that_needs_no_study(product):
    stem = fill(product.stem, model="model", seed=1234).partition("/")[2]
    (text,) = captions([f"{stem}=a label"], "my-model").values()
    assert text.strip()
    assert ("my-model" in text) != product.compares
    assert "{" not in text


def test_a_figure_that_no_row_has_is_refused():
    with pytest.raises(HeadroomError, match="--products figures/fig99-seed1: no figure of docs/artifacts.md"):
        captions(["figures/fig99-seed1=Figure 99"], "model")


def test_all_results_are_two_clicks_away(page_path, open_page):
    page = open_page(page_path)
    links = [link.get_attribute("href") for link in page.locator("a").all()]
    assert all((page_path.parent / link).is_file() for link in links)
    stems = {product.partition("=")[0] for product in PRODUCTS}
    assert {str(Path(link).with_suffix("")) for link in links} == stems
    assert "induction <heads>" in page.inner_text("body"), "a label is text"


def test_tables_sort_and_filter(page_path, open_page):
    page = open_page(page_path)
    part = page.locator("details.table")
    part.locator("summary").click()
    rows = list(csv.DictReader((page_path.parent / "tables/losses-seed7.csv").open()))
    shown = part.locator("tbody tr")
    shown.first.wait_for()
    assert shown.count() == len(rows)
    column = list(rows[0]).index("task")
    part.locator("input").fill("copa")
    matching = [row for row in rows if any("copa" in value for value in row.values())]
    assert shown.count() == len(matching) < len(rows)
    assert part.locator("output").inner_text() == f"{len(matching)} of {len(rows)} rows"
    part.locator("input").fill("")
    name = next(n for n, v in rows[0].items() if v.replace(".", "").isdigit() and len({row[n] for row in rows}) > 2)
    button = part.get_by_role("button", name=name.replace("_", " ")).first
    numbers = sorted(float(row[name]) for row in rows if row[name])
    for expected in (numbers[0], numbers[-1]):
        button.click()
        cell = shown.first.locator("td").nth(list(rows[0]).index(name)).inner_text()
        assert float(cell) == pytest.approx(expected, rel=1e-3)
    assert column >= 0
    # Averages have no p: empty cells come last, whichever way.
    p, place = part.get_by_role("button", name="mcnemar p"), list(rows[0]).index("mcnemar_p")
    for _ in range(2):
        p.click()
        assert shown.first.locator("td").nth(place).inner_text() != ""
        assert shown.last.locator("td").nth(place).inner_text() == ""


def test_it_says_what_it_was_made_from(page_path):
    inputs = read_provenance(page_path)["inputs"]
    assert {
        "model/figures/fig05_heads_pruned-seed7.png",
        "model/figures/fig10_induction.png",
        "model/findings/seed7.md",
        "model/tables/losses-seed7.csv",
    } == {source["path"] for source in inputs.values()}


def test_what_is_missing_is_named(tmp_path, capsys):
    command = ["page", "index", "--results", str(tmp_path / "m"), "--products", "findings/seed7=F", "--out"]
    assert main([*command, str(tmp_path / "index")]) != 0
    assert "findings/seed7.md: no such file, which the page shows" in capsys.readouterr().err


def test_a_study_lists_all_its_products():
    study = Study.model_validate({"tasks": ["a", "b"], "shots": [0], "seeds": [1, 2], "models": {"m": {"source": "x"}}})
    index = named("page")["index"]
    entries = index.values(study)["products"]
    assert "tables/headroom=How much can be pruned, seed 1" not in entries
    assert "tables/headroom=How much can be pruned" in entries
    assert {"findings/seed1=Findings in words, seed 1", "findings/seed2=Findings in words, seed 2"} <= set(entries)
    assert len({entry.partition("=")[0] for entry in entries}) == len(entries)
    assert not [entry for entry in entries if "{" in entry or entry.startswith("index")]
