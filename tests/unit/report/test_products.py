"""The table of products, and the page of artifacts that is made from it."""

from importlib import import_module
from types import SimpleNamespace

import pytest
from jinja2 import Template

from lm_headroom.artifacts.catalogue import CATALOGUE
from lm_headroom.report import documentation, products
from lm_headroom.study.config import Study
from tests.support.paths import ROOT


def study(**changes):
    return Study.model_validate({"tasks": ["a", "b"], "shots": [0, 5], "models": {"m": {"source": "there"}}, **changes})


@pytest.mark.parametrize("page", documentation.TABLES, ids=lambda page: page.name)
def test_pages_have_their_tables(page):
    name, text = documentation.TABLES[page]
    assert f"<!-- {name}: begin -->\n{text()}<!-- {name}: end -->" in page.read_text()
    assert documentation.with_table(page) == page.read_text()


def test_the_table_of_outcomes_has_their_margins():
    assert "| points | lm-eval's acc; the paper | 2 |" in documentation.outcomes()
    assert "| Signal and Noise, arXiv 2508.13144 | 1% |" in documentation.outcomes()


@pytest.mark.parametrize("product", products.PRODUCTS, ids=lambda product: f"{product.kind}-{product.name}")
def test_each_product_has_a_function_and_a_caption(product):
    module, _, name = product.function.partition(":")
    assert callable(getattr(import_module(f"lm_headroom.{module}"), name))
    assert (ROOT / "workflow" / "report" / f"{product.caption}.rst").is_file()


def test_each_caption_is_of_a_product():
    captions = {path.stem for path in (ROOT / "workflow" / "report").glob("*.rst")} - {"workflow"}
    assert captions == {product.caption for product in products.PRODUCTS}


def test_the_report_calls_tasks_by_their_names():
    """Of a study whose tasks have keys of their own; Snakemake hands its values over as JSON has them."""
    mine = {"name": "mine", "file": "mine.jsonl"}
    config = study(tasks=["a", mine], unseen=[{"name": "b", "data": {"source": "hub"}}]).model_dump()
    text = Template((ROOT / "workflow" / "report" / "workflow.rst").read_text())
    words = " ".join(text.render(snakemake=SimpleNamespace(config=config)).split())
    assert "for m on a, mine (and, unseen by the aggregate, b) with 0, 5 shots." in words
    assert words.startswith("How much of a language model")


def test_rules_and_paths_are_told_apart():
    everything = [*products.PRODUCTS, *products.COMPARISONS]
    assert len({product.rule for product in everything}) == len(everything)
    assert len({product.stem for product in products.PRODUCTS}) == len(products.PRODUCTS)


def test_what_a_product_reads_is_of_the_study():
    settings = study(unseen=["c"], pruning={"controls": ["random_1", "token"], "schedule": "iterative"})
    there = {path for row in CATALOGUE for path in row.paths(settings, model="{model}", seed="{seed}")}
    for product in products.of_study(settings):
        read = set(product.reads(settings))
        assert read, product.name
        assert product.base in ("headroom", "explorer", "index") or read <= there, product.name


def test_what_a_study_lacks_is_not_drawn():
    without = study(shots=[1], joint={"heads": []}, induction={"sequences": 0}, pruning={"controls": ["reversed"]})
    names = {product.name for product in products.of_study(without)}
    assert not names & {
        "fig07",
        "fig09",
        "fig10",
        "fig11",
        "fig12",
        "fig14",
        "fig15",
        "fig17",
        "gains",
        "table1",
        "seeds",
    }
    assert {"fig03", "fig08", "fig13", "headroom", "findings"} <= names
    paths = products.named("figure")["fig03"].paths(without)
    assert paths == [f"m/figures/fig03_head_importance-seed1234.{suffix}" for suffix in ("pdf", "svg", "png")]


def test_a_command_says_what_the_study_has():
    settings = study(pruning={"controls": ["target", "random_1"], "schedule": "iterative"}, margin=3)
    figure = products.named("figure")
    assert (
        figure["fig05"]
        .command(settings)
        .endswith("--controls random_1 target --iterative --width double --title above")
    )
    assert figure["fig06"].command(settings).endswith("--shots 0 5 --controls random_1 --width double --title above")
    assert "--outcomes accuracy=3 gold_probability=1" in products.named("findings")["findings"].command(settings)
