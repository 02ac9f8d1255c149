"""Figures and pages go where one says, whichever of their suffixes is given."""

import pytest

from lm_headroom.cli import main
from tests.support.small_study import small


@pytest.mark.parametrize(
    "command, out, written",
    [
        (["table", "headroom", "--seeds", "7", "--unseen", "mathqa"], "copa.md", {"copa.md", "copa.csv", "copa.html"}),
        (["table", "headroom", "--seeds", "7"], "copa-v1.2", {"copa-v1.2.md", "copa-v1.2.csv", "copa-v1.2.html"}),
        (["figure", "fig05"], "copa.png", {"copa.png", "copa.pdf", "copa.svg"}),
    ],
)
def test_what_is_written_for_one_task_leaves_the_studys_alone(tmp_path, capfd, command, out, written):
    study, folder = small(tmp_path), tmp_path / "mine"
    before = {path: path.read_bytes() for path in study.results.rglob("*") if path.is_file()}
    folder.mkdir()
    more = ["--tasks", "copa", "--shots", "0", "--seed", "7", "--results", str(study.results)]
    assert main([*command, *more, "--out", str(folder / out)]) == 0, capfd.readouterr().err
    assert {path.name for path in folder.iterdir()} == written
    assert {path: path.read_bytes() for path in study.results.rglob("*") if path.is_file()} == before
    printed = capfd.readouterr().err
    assert all((str(folder / name) in printed) == (out in written) for name in written)


def test_a_suffix_of_another_kind_is_refused(tmp_path, capfd):
    more = ["--tasks", "copa", "--shots", "0", "--seed", "7", "--results", str(small(tmp_path).results)]
    assert main(["figure", "fig05", *more, "--out", str(tmp_path / "copa.csv")]) != 0
    assert "a figure is not written as .csv; expected .pdf, .svg, .png, or no suffix" in capfd.readouterr().err
