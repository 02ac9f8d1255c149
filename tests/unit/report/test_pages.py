"""Pages and tables as files: what names in them may not do."""

import csv

import pytest

from lm_headroom.report.pages import write_page, write_table

MADE = {"kind": "table"}


@pytest.mark.parametrize(
    "text",
    [
        "<script>alert(1)</script>",
        "<img src=x onerror=alert(1)>",
        "a <b>bold</b> claim",
        "<!-- hidden -->",
        "<svg/onload=alert(1)>",
        "</body></html><script src=//evil></script>",
        "[link](javascript:alert(1))",
        "<javascript:alert(1)>",
    ],
)
def test_html_in_names_is_text(tmp_path, text):
    """A cell, a note, a title and a paragraph may hold what looks like HTML; browsers show it and run nothing."""
    write_table(tmp_path / "t", text, ["model", text], [[text, 1.0]], MADE, notes=[text])
    write_page(tmp_path / "p", text, f"{text}\n\n- {text}\n", MADE)
    for name in ("t.html", "p.html"):
        page = (tmp_path / name).read_text()
        body = page.partition("<body>")[2].rpartition("</body>")[0]
        assert "alert" not in body or "alert(1)" in body
        for tag in ("<script", "<img", "<b>", "<svg", "<!--", "</body", 'href="javascript'):
            assert tag not in body.lower(), (name, tag)
        head = page.partition("<title>")[2].partition("</title>")[0]
        assert "<" not in head


@pytest.mark.parametrize("text", ["=1+1", "+cmd|' /C calc'!A0", "-2+3", "@SUM(A1)", "\t=1", "\r=1"])
def test_a_cell_that_begins_like_a_formula_is_text_to_a_spreadsheet(tmp_path, text):
    write_table(tmp_path / "t", "title", [text, "loss"], [[text, -0.5], ["plain", 2]], MADE)
    with (tmp_path / "t.csv").open(newline="") as file:
        lines = list(csv.reader(file))
    shown = f"'{text}".replace("\t", " ").replace("\r", " ")
    assert lines == [[shown, "loss"], [shown, "-0.5"], ["plain", "2"]]
