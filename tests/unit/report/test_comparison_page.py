"""The page that compares models: verdicts, shares and tables are the artifacts' own, and its choices change them."""

import base64
import gzip
import json
import re

import pytest

from lm_headroom.artifacts.comparison import COMPARED_INDUCTION, COMPARED_PRUNABLE
from lm_headroom.artifacts.file_provenance import read_provenance
from lm_headroom.artifacts.store import read
from lm_headroom.cli import main
from lm_headroom.report import comparison
from lm_headroom.report.products import named
from lm_headroom.study.config import Study
from tests.support.compared_study import LABELS, run, write_compared

PRODUCTS = [
    "models=The models",
    "prunable/seed7=How much of the models can be pruned",
    "induction=The induction <scores>",
    "figures/prunable-seed7=Comparison: what can be pruned",
]


def write(folder, products=PRODUCTS, labels=LABELS):
    command = ["page", "comparison", "--results", str(folder), "--models", *map(str, labels), "--products", *products]
    return main([*command, "--out", str(folder / "comparison" / "index")])


@pytest.fixture
def compared(tmp_path):
    return write_compared(tmp_path / "results")


@pytest.fixture(scope="module")
def page_path(tmp_path_factory):
    """One page for all tests, which only read it."""
    compared = write_compared(tmp_path_factory.mktemp("compared") / "results")
    assert run(compared, "figure", "compare_prunable") == 0
    assert write(compared) == 0
    return compared / "comparison" / "index.html"


def prunable(page_path, **chosen):
    rows = read(page_path.parent / "prunable/seed7.parquet", COMPARED_PRUNABLE).to_pylist()
    return [row for row in rows if all(row[name] == value for name, value in chosen.items())]


def test_what_it_holds_is_the_artifact(page_path):
    packed = re.search(r'id="data">([^<]*)<', page_path.read_text())[1]
    data = json.loads(gzip.decompress(base64.b64decode(packed)))
    expected = prunable(page_path)
    assert len(data["rows"]) == len(expected) == 24
    for row, source in zip(data["rows"], expected, strict=True):
        for name in ("model", "outcome", "component", "percent", "estimate", "below", "score"):
            assert row[name] == source[name]
        assert row["cell"] == f"{source['shots']}-shot, seed 7"
        assert row["verdict"].startswith(source["verdict"])
        assert source["percent"] is None or f"{source['percent']}% (point estimate" in row["verdict"]
    assert any(row["percent"] is None for row in expected)
    assert any(row["percent"] for row in expected)
    assert data["pages"]["late"] == {"index": "../late/index.html", "explorer": "../late/explorer.html"}


def test_the_score_of_a_cost_is_what_readers_expect():
    row = prunable_row_of("gold_bits_per_byte", -1.5)
    (shown,) = comparison.data(["m"], {"prunable/seed7": [row]})["rows"]
    assert (shown["score"], shown["verdict"]) == (1.5, "inconclusive")


def prunable_row_of(outcome, score):
    """A row of the artifact, inconclusive."""
    names = ("component", "percent", "estimate", "below", "reason", "shots")
    return {**dict.fromkeys(names), "model": "m", "verdict": "inconclusive", "outcome": outcome, "score": score}


def test_choices_change_verdicts_and_shares(page_path, open_page):
    page = open_page(page_path, ready="#shares .main-svg")
    shown = {}
    for component, outcome in (("heads", "accuracy"), ("ffns", "gold_probability")):
        page.select_option("#component", component)
        page.select_option("#outcome", outcome)
        page.select_option("#cell", "5-shot, seed 7")
        expected = prunable(page_path, component=component, outcome=outcome, shots=5)
        lines = page.locator("#verdicts tr")
        assert [line.locator("th").inner_text() for line in lines.all()] == [row["model"] for row in expected]
        for line, row in zip(lines.all(), expected, strict=True):
            assert line.locator("strong").inner_text().startswith(row["verdict"])
            assert (row["reason"] or "") in line.inner_text()
        tested, estimates = page.evaluate("document.getElementById('shares').data.map(t => [t.y, t.x, t.error_x])")
        known = [row for row in expected if row["percent"] is not None]
        assert tested[:2] == [[row["model"] for row in known], [row["percent"] for row in known]]
        upper = [100 if row["below"] is None else row["below"] for row in known]
        assert [x + more for x, more in zip(tested[1], tested[2]["array"], strict=True)] == upper
        assert estimates[1] == [row["estimate"] for row in expected]
        shown[component] = page.inner_text("#verdicts")
    assert shown["heads"] != shown["ffns"]
    assert page.locator("#verdicts tr").nth(1).locator("a").first.get_attribute("href") == "../late/index.html"
    assert page.locator("figure img").evaluate("image => image.naturalWidth") > 500
    assert page.problems == []
    assert all(url.startswith(("file:", "data:", "blob:")) for url in page.requested)
    assert page.pdf()[:5] == b"%PDF-"


def test_an_address_brings_back_what_was_chosen(page_path, open_page):
    page = open_page(page_path, "component=ffns&outcome=gold_probability&cell=nowhere", "#shares .main-svg")
    assert (page.input_value("#component"), page.input_value("#outcome")) == ("ffns", "gold_probability")
    assert page.input_value("#cell").endswith("seed 7"), "a cell that is not there changes nothing"
    page.select_option("#component", "heads")
    assert "component=heads&outcome" in page.url or "outcome=gold_probability&component=heads" in page.url
    assert page.locator("#verdicts a").first.inner_text() == "all results"
    assert page.problems == []


def test_tables_are_the_artifacts_and_sort(page_path, open_page):
    page = open_page(page_path, ready="#shares .main-svg")
    part = page.locator("details#induction")
    part.locator("summary").click()
    rows = read(page_path.parent / "induction.parquet", COMPARED_INDUCTION).to_pylist()
    assert part.locator("summary").inner_text() == f"The induction <scores> ({len(rows)} rows)"
    lines = part.locator("tbody tr")
    lines.first.wait_for()
    assert lines.count() == len(rows)
    column = list(rows[0]).index("maximum")
    part.get_by_role("button", name="maximum").click()
    values = [float(line.locator("td").nth(column).inner_text()) for line in lines.all()]
    assert values == pytest.approx(sorted(row["maximum"] for row in rows), rel=1e-3)


def test_it_says_what_it_was_made_from(page_path):
    provenance = read_provenance(page_path)
    assert {source["path"] for source in provenance["inputs"].values()} == {
        f"comparison/{path}"
        for path in ("models.parquet", "prunable/seed7.parquet", "induction.parquet", "figures/prunable-seed7.png")
    }
    assert provenance["options"]["models"] == ["early", "late", "deep"]


def test_artifacts_of_other_models_and_missing_figures_are_refused(compared, capsys):
    assert write(compared, PRODUCTS[:3], LABELS[:2]) != 0
    assert "models" in capsys.readouterr().err
    assert write(compared) != 0
    assert "figures/prunable-seed7.png: no such file, which the page shows" in capsys.readouterr().err


def test_a_study_of_several_models_has_it():
    page = named("page")["comparison"]
    settings = {"tasks": ["a"], "shots": [0], "seeds": [1, 2], "induction": {"sequences": 0}}
    one, two = ({**settings, "models": {name: {"source": name} for name in names}} for names in ("m", "mn"))
    assert not page.is_of(Study.model_validate(one))
    study = Study.model_validate(two)
    assert page.paths(study) == ["comparison/index.html"]
    entries = page.values(study)["products"]
    assert {"models=The models", "prunable/seed2=How much of the models can be pruned, seed 2"} <= set(entries)
    assert "figures/profiles-seed1=Comparison: importance by depth, seed 1" in entries
    assert not [entry for entry in entries if "induction" in entry]
    assert [f"comparison/{entry.partition('=')[0]}" for entry in entries] == [
        path.rpartition(".")[0] for path in page.reads(study)
    ]
