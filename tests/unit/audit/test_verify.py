"""``lm-headroom verify`` on a small results folder that real code has written, with one thing wrong at a time."""

import contextlib
import io
import json
import os
import re
import shutil
import socket
import subprocess
from collections import Counter
from importlib.metadata import version
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest
import yaml
from PIL import Image
from PIL.PngImagePlugin import PngInfo

from lm_headroom.artifacts import store
from lm_headroom.artifacts.code_digest import code_digest
from lm_headroom.artifacts.content import Digests
from lm_headroom.artifacts.model_record import write_record
from lm_headroom.artifacts.prompts import PROMPTS
from lm_headroom.artifacts.provenance import build_provenance
from lm_headroom.artifacts.store import read, write
from lm_headroom.audit import verify
from lm_headroom.cli import main
from lm_headroom.errors import HeadroomError
from lm_headroom.models.resolve import resolve
from lm_headroom.report.products import COMPARISONS, PRODUCTS
from lm_headroom.study.reading import read_study
from lm_headroom.tasks.data import mirror_records
from lm_headroom.tasks.digest import task_digest
from lm_headroom.tasks.files import TASK_FOLDERS
from lm_headroom.tasks.own import own_file_records
from tests.support.checkpoints import checkpoint
from tests.support.sound_results import RECORD, SEED, SHOTS, TASKS, prompts, write_results

SCORES = "m/head_importance/copa/0shot-seed7.parquet"


@pytest.fixture(scope="module")
def whole_results(tmp_path_factory):
    """Prompts, scores and rankings of two tasks and shots, aggregates, correlations, Figure 3, Table 1."""
    return write_results(tmp_path_factory.mktemp("made") / "results")


@pytest.fixture
def results(whole_results, tmp_path):
    """A copy to damage, in another folder than it was made in."""
    return shutil.copytree(whole_results, tmp_path / "elsewhere" / "results")


def states(results, study=None):
    """Path to (state, reasons) of all that is not sound."""
    files = verify.verify(results, study)
    return {file.path: (file.state, file.reasons) for file in files if file.state != "sound"}


def test_results_are_sound_wherever_they_lie(results):
    assert states(results) == {}
    assert verify.count(verify.verify(results)) == {
        # 4 prompts, 2 x 6 scores and rankings, correlations, 2 + 3 files of a figure and a table, the record, a list.
        "sound": 25, "stale": 0, "missing inputs": 0, "unrecognised": 0, "damaged": 0,
    }  # fmt: skip


def test_a_changed_input_makes_all_that_follows_stale(results):
    prompts(results, "copa", 0, "b")
    judged = states(results)
    assert judged[SCORES] == ("stale", ["made from another prompts/copa/0shot-seed7.parquet than is there now"])
    aggregate = "m/head_importance/aggregate/0shot-seed7.parquet"
    assert judged[aggregate] == ("stale", [f"made from {SCORES}, which is stale"])
    assert judged["m/tables/table1-seed7.csv"][0] == "stale"
    assert judged["m/figures/fig03_head_importance-seed7.png"][0] == "stale"
    assert all(state == "stale" for state, _ in judged.values())
    assert not [path for path in judged if "1shot" in path or path.startswith("prompts")]


def test_other_code_is_stale(results, monkeypatch):
    monkeypatch.setattr(
        verify, "code_now", lambda step: "0123" if step == "report.figures.fig03" else code_digest(step)
    )
    judged = states(results)
    assert set(judged) == {f"m/figures/fig03_head_importance-seed7.{suffix}" for suffix in ("pdf", "svg", "png")}
    assert all(reasons[0].startswith("made by other code: report.figures.fig03 was ") for _, reasons in judged.values())


def change_facts(path, **changes):
    table = pq.read_table(path)
    provenance = json.loads(table.schema.metadata[b"lm_headroom"]) | changes
    pq.write_table(table.replace_schema_metadata({b"lm_headroom": json.dumps(provenance)}), path)


@pytest.mark.parametrize(
    ("definition", "digest", "other"),
    [
        ("paper/copa.yaml", task_digest("copa", TASK_FOLDERS / "paper"), "0123"),
        (f"lm-eval {version('lm_eval')}", f"lm-eval {version('lm_eval')}", "lm-eval 0.4.0"),
    ],
)
def test_another_definition_of_the_task_is_stale(results, definition, digest, other):
    """YAMLs count by their content, lm-eval's own tasks by its version."""
    name = "prompts/copa/0shot-seed7.parquet"
    change_facts(results / name, definition=definition, definition_digest=digest)
    assert name not in states(results)
    change_facts(results / name, definition=definition, definition_digest=other)
    assert states(results)[name] == ("stale", [f"the definition of task copa was {other}, is {digest}"])


def test_the_studys_own_definition_decides_whatever_its_folder_is_called(results, study):
    """Folders of task YAMLs that the study has had since, or that are called as one of lm-headroom's is."""
    name, folder = "prompts/copa/0shot-seed7.parquet", results.parent / "paper"
    folder.mkdir()
    (folder / "copa.yaml").write_text("task: copa\ndoc_to_text: mine\n")
    built_in, mine = task_digest("copa", TASK_FOLDERS / "paper"), task_digest("copa", folder)
    own = study(task_folders=["paper"], prompts="harness")
    change_facts(results / name, definition="paper/copa.yaml", definition_digest=built_in)
    assert states(results, own)[name] == ("stale", [f"the definition of task copa was {built_in}, is {mine}"])
    change_facts(results / name, definition="paper/copa.yaml", definition_digest=mine)
    assert name not in states(results, own)
    assert states(results, study(prompts="paper"))[name][0] == "stale"


def test_a_step_that_is_gone_is_stale(results):
    change_facts(results / SCORES, step="steps.no_such_step")
    assert "steps.no_such_step was" in states(results)[SCORES][1][0]
    assert "is gone" in states(results)[SCORES][1][0]


def drop_column(path):
    table = pq.read_table(path)
    pq.write_table(table.drop_columns("stderr"), path)


def truncate(path):
    path.write_bytes(path.read_bytes()[:-40])


def edit(path):
    path.write_text(path.read_text() + "1,2\n")


@pytest.mark.parametrize(
    ("path", "damage", "reason"),
    [
        (SCORES, truncate, "not a readable Parquet file"),
        (SCORES, drop_column, "column 'stderr' (double) is missing"),
        ("m/figures/fig03_head_importance-seed7.png", truncate, "it has changed since it was written"),
        ("m/figures/fig03_head_importance-seed7.pdf", truncate, "it has changed since it was written"),
        ("m/tables/table1-seed7.csv", edit, "it has changed since it was written"),
        ("m/tables/table1-seed7.md", edit, "it has changed since it was written"),
        ("m/tables/table1-seed7.html", truncate, "it has changed since it was written"),
        ("m/model.json", truncate, "not a model record"),
    ],
)
def test_damage_is_found(results, path, damage, reason):
    damage(results / path)
    state, reasons = states(results)[path]
    assert state == "damaged"
    assert reason in reasons[0]


def test_what_is_not_of_its_place_is_unrecognised(results):
    shutil.copy(results / SCORES, results / "m/head_importance/copa/0shot-seed8.parquet")
    shutil.copy(results / "m/ranking/heads/copa/0shot-seed7.parquet", results / "m/head_importance/piqa/x.parquet")
    for suffix in ("pdf", "png"):
        shutil.copy(results / f"m/figures/fig03_head_importance-seed7.{suffix}", results / f"m/figures/fig99.{suffix}")
    shutil.copy(results / "m/figures/fig03_head_importance-seed7.pdf", results / "m/figures/alone.pdf")
    Image.new("RGB", (1, 1)).save(results / "m/figures/photo.png")
    (results / "notes.txt").write_text("mine")
    judged = {path: (state, reasons[0]) for path, (state, reasons) in states(results).items()}
    assert judged == {
        "m/head_importance/copa/0shot-seed8.parquet": (
            "unrecognised",
            f"it was made for {SCORES}; move it there, or delete it and run the workflow again",
        ),
        "m/head_importance/piqa/x.parquet": ("unrecognised", "lm-headroom writes no file at this path"),
        "m/figures/fig99.pdf": ("unrecognised", "it was made for m/figures/fig03_head_importance-seed7"),
        "m/figures/fig99.png": ("unrecognised", "it was made for m/figures/fig03_head_importance-seed7"),
        "m/figures/alone.pdf": (
            "unrecognised",
            "alone.png, which would say what made it, is not beside it; if there was none, this file was not written "
            "by lm-headroom",
        ),
        "m/figures/photo.png": ("unrecognised", "this file was not written by lm-headroom (it carries no provenance)"),
        "notes.txt": ("unrecognised", "lm-headroom writes no file at this path"),
    }


def test_a_plain_or_other_artifact_at_a_place_is_unrecognised(results):
    pq.write_table(pq.read_table(results / SCORES).replace_schema_metadata(None), results / SCORES)
    shutil.copy(results / "m/ranking/heads/piqa/0shot-seed7.parquet", results / "m/head_importance/piqa")
    judged = states(results)
    assert judged[SCORES][0] == judged["m/head_importance/piqa/0shot-seed7.parquet"][0] == "unrecognised"
    assert (
        "expected a head_importance artifact, found 'ranking'"
        in judged["m/head_importance/piqa/0shot-seed7.parquet"][1][0]
    )


def test_another_model_under_the_name_is_unrecognised(results):
    write_record(results / "m/model.json", {**RECORD, "digest": "e" * 64})
    state, reasons = states(results)[SCORES]
    assert (state, reasons) == ("unrecognised", [f"of model m {'d' * 16}; m/model.json is of m {'e' * 16}"])
    (results / "m").rename(results / "n")
    judged = states(results)
    assert judged["n/model.json"] == ("unrecognised", ["it is the record of model 'm'"])
    assert judged[f"n{SCORES[1:]}"][0] == "unrecognised"


def test_lost_inputs_are_missing_inputs(results):
    (results / "prompts/copa/0shot-seed7.parquet").unlink()
    judged = states(results)
    assert judged[SCORES] == ("missing inputs", ["made from prompts/copa/0shot-seed7.parquet, which is gone"])
    assert judged["m/head_importance/aggregate/0shot-seed7.parquet"][0] == "stale"
    (results / "m/model.json").unlink()
    assert states(results)[SCORES][1][0] == "the model's record, m/model.json, is gone or damaged"
    (results / "m/tables/table1-seed7.html").unlink()
    assert "is not beside it" in states(results)["m/tables/table1-seed7.csv"][1][0]


def flip(path, rng):
    """Change one bit."""
    raw = bytearray(path.read_bytes())
    raw[int(rng.integers(len(raw)))] ^= 1 << int(rng.integers(8))
    path.write_bytes(raw)


@pytest.mark.parametrize(
    "suffix",
    [
        *(f"figures/fig03_head_importance-seed7.{suffix}" for suffix in ("pdf", "svg", "png")),
        *(f"tables/table1-seed7.{suffix}" for suffix in ("csv", "md", "html")),
        "model.json",
    ],
)
def test_any_bit_of_what_is_drawn_or_written_counts(results, suffix):
    path, rng = results / "m" / suffix, np.random.default_rng(3)
    whole = path.read_bytes()
    for _ in range(40):
        flip(path, rng)
        file = verify.File(f"m/{suffix}")
        verify._read(file, results)
        assert file.state in ("damaged", "unrecognised"), (
            "a PNG or page whose provenance has lost its name is unrecognised"
        )
        path.write_bytes(whole)
    assert states(results) == {}


def digits(text):
    return re.sub(r"\d", lambda digit: str((int(digit[0]) + 1) % 10), text, count=1)


@pytest.mark.parametrize(
    ("name", "change"),
    [
        ("tables/table1-seed7.html", lambda page: page[: page.index("<td>")] + digits(page[page.index("<td>") :])),
        ("tables/table1-seed7.html", lambda page: page.replace("</body>", "<script>alert(1)</script></body>")),
        ("tables/table1-seed7.html", lambda page: page.replace("<head>\n", "<head>\n<script src='x'></script>")),
        ("tables/table1-seed7.html", lambda page: page + "<!-- more -->"),
        ("tables/table1-seed7.html", lambda page: page.replace("&quot;numpy", "&quot;numpi")),
        ("tables/table1-seed7.html", lambda page: page.replace("&quot;", "&#34;", 1)),
        ("tables/table1-seed7.html", lambda page: page.replace("\n", "\r\n")),
        ("tables/table1-seed7.md", digits),
        ("tables/table1-seed7.csv", digits),
    ],
)
def test_pages_whose_numbers_or_code_have_changed_are_damaged(results, name, change):
    path = results / "m" / name
    before = path.read_text()
    path.write_bytes(change(before).encode())
    assert path.read_bytes() != before.encode()
    state, reasons = states(results)[f"m/{name}"]
    assert (state, "it has changed since it was written" in reasons[0]) == ("damaged", True)


def test_pictures_drawn_over_or_saved_again_are_damaged(results):
    path = results / "m/figures/fig03_head_importance-seed7.png"
    with Image.open(path) as image:
        text = PngInfo()
        text.add_text("lm-headroom", image.info["lm-headroom"])
        image.putpixel((5, 5), (0, 0, 0, 255))
        image.save(path, pnginfo=text)
    assert states(results)["m/figures/fig03_head_importance-seed7.png"][0] == "damaged"
    assert states(results)["m/figures/fig03_head_importance-seed7.pdf"][0] == "damaged", "nothing vouches for it"


@pytest.mark.parametrize(
    ("key", "value"), [("family", "llama"), ("layers", 9), ("heads", 9), ("origin", {}), ("more", 1)]
)
def test_an_edited_record_is_named(results, key, value):
    path = results / "m/model.json"
    record = json.loads(path.read_text())
    path.write_text(json.dumps(record | {key: value}))
    judged = states(results)
    assert judged["m/model.json"] == (
        "damaged",
        ["it has changed since it was written; delete it and run the workflow again"],
    )
    assert judged[SCORES][0] == "missing inputs"
    del record["seal"]
    path.write_text(json.dumps(record | {key: value}))
    assert states(results)["m/model.json"][0] == "damaged"
    # With another seal the results say it.
    write_record(path, record | {key: value})
    state, reasons = states(results)[SCORES]
    assert state == "stale"
    assert f"of a model whose {key} was " in reasons[0]


def test_an_edited_list_of_the_study_is_named(results, study):
    path = results / "matrix/tasks.txt"
    for text, state in (("copa\npiga\n", "stale"), ("copa\npiqa", "damaged"), ("copa\ncopa\n", "damaged"),
                        ("copa\n\npiqa\n", "damaged"), ("piqa\ncopa\nrte\n", "stale")):  # fmt: skip
        path.write_text(text)
        assert states(results)["matrix/tasks.txt"][0] == state, text
        assert states(results, study())["matrix/tasks.txt"][0] == state, text
    path.write_text("piqa\ncopa\n")
    assert "matrix/tasks.txt" not in states(results), "no file depends on the order"
    assert states(results, study())["matrix/tasks.txt"] == (
        "stale",
        ["it lists piqa, copa; the study has copa, piqa"],
    )
    path.write_bytes(b"copa\n\xff\n")
    assert states(results)["matrix/tasks.txt"][0] == "damaged"
    (results / "matrix/more.txt").write_text("x\n")
    assert states(results)["matrix/more.txt"][0] == "unrecognised"


def test_a_list_is_longer_than_what_a_figure_shows_of_it(results):
    """A study that has not ended yet may have nothing but figures of one number of shots."""
    path = results / "matrix/shots.txt"
    path.write_text("0\n1\n5\n")
    assert states(results) == {}
    path.write_text("5\n")
    assert states(results)["matrix/shots.txt"][0] == "stale"


class TestOutside:
    """What lies outside the results is judged by content, where it is still there."""

    @pytest.mark.parametrize("beside", [True, False], ids=["relative", "absolute"])
    def test_records_in_a_mirror(self, results, study, tmp_path, beside):
        """A relative one lies beside the results, wherever verify is called."""
        mirror = (results.parent if beside else tmp_path) / "mirror"
        folder = mirror / "copa"
        folder.mkdir(parents=True)
        (folder / "train.parquet").write_bytes(b"one")
        name = "prompts/copa/0shot-seed7.parquet"
        records = mirror_records(folder, Digests())
        change_facts(results / name, data={"sha": "x"}, records=records)
        mirrored = study(data={"source": "mirror", "mirror": "mirror" if beside else str(mirror)})
        assert name not in states(results)
        assert name not in states(results, mirrored)
        (folder / "train.parquet").write_bytes(b"two")
        os.utime(folder / "train.parquet", (1, 1))
        reason = "made from other records of task copa: train.parquet changed since"
        assert states(results, mirrored)[name] == ("stale", [reason])
        (folder / "train.parquet").write_bytes(b"one")
        (folder / "validation.parquet").write_bytes(b"more")
        assert states(results, mirrored)[name][0] == "stale"
        shutil.rmtree(folder)
        assert name not in states(results, mirrored), "it cannot be looked at"

    def test_a_mirror_that_is_a_copy_of_the_embedded_records(self, results, study):
        folder = results.parent / "mirror" / "copa"
        folder.mkdir(parents=True)
        (folder / "source.json").write_text('{"package": "x"}')
        (folder / "train.parquet").write_bytes(b"one")
        name = "prompts/copa/0shot-seed7.parquet"
        change_facts(results / name, data={"package": "x"}, records=mirror_records(folder, Digests()))
        mirrored = study(data={"source": "mirror", "mirror": "mirror"})
        assert name not in states(results, mirrored)
        (folder / "train.parquet").write_bytes(b"two")
        assert states(results, mirrored)[name][1][-1] == "made with data embedded; the study has mirror"

    def test_a_file_of_records_that_is_not_here_is_not_judged(self, results, study):
        name, path = "prompts/copa/0shot-seed7.parquet", results.parent / "copa.csv"
        entry = {"name": "copa", "file": path.name, "question": "q", "choices": ["a", "b"], "answer": "r"}
        own = study(tasks=[entry, "piqa"])
        path.write_text("q,a,b,r\nx,y,z,0\n")
        change_facts(
            results / name,
            definition="study",
            definition_digest=own.all_entries["copa"].digest,
            data={"source": "study"},
            records=own_file_records(own.all_entries["copa"], results.parent, Digests()),
        )
        assert name not in states(results, own)
        path.write_text("q,a,b,r\nx,y,z,1\n")
        assert states(results, own)[name][0] == "stale"
        path.unlink()
        assert name not in states(results, own)

    def test_embedded_records(self, results):
        folder = results.parent / "resources" / "data" / "copa"
        folder.mkdir(parents=True)
        (folder / "train.parquet").write_bytes(b"one")
        name = "prompts/copa/0shot-seed7.parquet"
        change_facts(results / name, data={"package": "x"}, records=mirror_records(folder, Digests()))
        assert name not in states(results)
        (folder / "train.parquet").write_bytes(b"two")
        assert states(results)[name][0] == "stale"

    def test_a_checkpoint_that_has_changed(self, results, tmp_path):
        folder = checkpoint(tmp_path / "checkpoint")
        resolve("m", str(folder), None, results / "m" / "model.json")
        assert "m/model.json" not in states(results)
        checkpoint(folder, 1.0)
        state, reasons = states(results)["m/model.json"]
        assert (state, reasons[0].startswith("digest is ")) == ("stale", True)
        shutil.rmtree(folder)
        assert "m/model.json" not in states(results), "it cannot be looked at"


class TestLinks:
    """What a link leads to is judged in its place; a link to nowhere, or in a circle, is named."""

    def test_a_models_results_may_lie_elsewhere(self, results, tmp_path):
        (results / "m").rename(tmp_path / "disk")
        (results / "m").symlink_to(tmp_path / "disk")
        assert states(results) == {}
        assert verify.count(verify.verify(results))["sound"] == 25
        truncate(results / SCORES)
        assert states(results)[SCORES][0] == "damaged"

    def test_so_may_a_step_a_file_and_the_results_themselves(self, results, tmp_path):
        for name in ("m/head_importance", "m/ranking/heads/copa/0shot-seed7.parquet", "m/tables"):
            (results / name).rename(tmp_path / name.replace("/", "-"))
            (results / name).symlink_to(tmp_path / name.replace("/", "-"))
        (tmp_path / "link").symlink_to(results)
        assert states(tmp_path / "link") == {}
        edit(tmp_path / "link/m/tables/table1-seed7.csv")
        assert set(states(tmp_path / "link")) == {"m/tables/table1-seed7.csv"}

    def test_links_to_nowhere_and_in_circles(self, results):
        (results / "m/nowhere").symlink_to("none")
        (results / "m/itself").symlink_to("itself")
        (results / "m/above").symlink_to(results)
        (results / "m/here").symlink_to(".")
        (results / "again").symlink_to("m")
        (results / "m/one").symlink_to("two")
        (results / "m/two").symlink_to("one")
        judged = states(results)
        assert set(judged) == {f"m/{name}" for name in ("nowhere", "itself", "above", "here", "one", "two")} | {"again"}
        assert judged["m/nowhere"] == ("damaged", ["a link that leads nowhere (No such file or directory)"])
        assert judged["again"] == ("damaged", ["it leads to m, which is looked into there"])

    def test_many_links_among_each_other_end(self, results, tmp_path):
        for one in range(12):
            (tmp_path / f"outside{one}").mkdir()
            for other in range(12):
                (tmp_path / f"outside{one}" / f"to{other}").symlink_to(tmp_path / f"outside{other}")
        (results / "outside").symlink_to(tmp_path / "outside0")
        assert len(states(results)) < 200


class TestOddFiles:
    """No file keeps verify from the others."""

    def test_pipes_sockets_and_devices_are_not_opened(self, results):
        os.mkfifo(results / "m/tables/pipe.csv")
        os.mkfifo(results / "m/head_importance/copa/1shot-seed8.parquet")
        (results / "prompts/zero").symlink_to("/dev/zero")
        with socket.socket(socket.AF_UNIX) as listening, contextlib.chdir(results):
            listening.bind("socket.html")
            judged = states(results)
        names = {"m/tables/pipe.csv", "m/head_importance/copa/1shot-seed8.parquet", "prompts/zero", "socket.html"}
        assert set(judged) == names
        assert all(judged[name] == ("damaged", ["it is neither a file nor a folder"]) for name in names)

    @pytest.mark.parametrize("name", [SCORES, "m/model.json", "m/tables/table1-seed7.html",
                                      "m/figures/fig03_head_importance-seed7.png", "matrix/tasks.txt"])  # fmt: skip
    def test_a_pipe_or_folder_in_a_files_place(self, results, name):
        for put in (os.mkfifo, os.mkdir):
            shutil.rmtree(results / name) if (results / name).is_dir() else (results / name).unlink()
            put(results / name)
            if put is os.mkdir:
                (results / name / "inside").write_text("x")
                assert states(results)[f"{name}/inside"][0] == "unrecognised"
            else:
                assert states(results)[name][0] == "damaged"

    def test_what_may_not_be_read_is_named(self, results, monkeypatch):
        closed = {results / SCORES, results / "m/tables/table1-seed7.html", results / "m/model.json"}
        plain, scan = io.open, os.scandir

        def opened(file, *arguments, **options):
            if file in closed or (isinstance(file, str) and Path(file) in closed):
                raise PermissionError(13, "Permission denied", str(file))
            return plain(file, *arguments, **options)

        def scanned(path):
            if path == results / "prompts/copa":
                raise PermissionError(13, "Permission denied", str(path))
            return scan(path)

        monkeypatch.setattr(io, "open", opened)
        monkeypatch.setattr(os, "scandir", scanned)
        monkeypatch.setattr(store.pq, "ParquetFile", lambda path, **_: opened(path))
        judged = states(results)
        assert judged["prompts/copa"] == ("damaged", ["this folder cannot be looked into (Permission denied)"])
        assert all(judged[str(path.relative_to(results))][0] == "damaged" for path in closed)

    def test_names_that_are_no_text(self, results, capsys):
        folder = os.fsencode(results / "m/tables")
        for name in (b"\xff\xfe.csv", "t\u00e4glich.csv".encode(), b"a\nresults: 1 files: 1 sound", b"\x1b[31m.md"):
            with open(os.path.join(folder, name), "w") as file:
                file.write("x")
        assert len(states(results)) == 4
        assert main(["verify", str(results)]) == 1
        printed = capsys.readouterr().out
        assert "m/tables/\\udcff\\udcfe.csv" in printed
        assert "m/tables/t\u00e4glich.csv" in printed
        assert "\nresults: 1 files" not in printed
        assert "\x1b" not in printed
        assert main(["verify", str(results), "--json"]) == 1
        assert len(json.loads(capsys.readouterr().out)["files"]) == 29

    def test_a_huge_file_is_not_read(self, results):
        """Sparse: to read it would take hours, and fill the memory."""
        for name in ("m/notes.txt", SCORES, "m/tables/more.csv", "m/figures/more.pdf", "m/model.json",
                     "matrix/tasks.txt", "m/figures/more.png", "m/tables/more.html",
                     "m/tables/table1-seed7.csv"):  # fmt: skip
            with (results / name).open("ab") as file:
                file.truncate(1 << 43)
        judged = states(results)
        assert judged[SCORES][0] == judged["m/model.json"][0] == judged["m/tables/table1-seed7.csv"][0] == "damaged"

    def test_deep_folders(self, results):
        try:
            with contextlib.chdir(results):
                for _ in range(1200):
                    os.mkdir("d")
                    os.chdir("d")
                with open("x", "w"):
                    pass
            assert len(states(results)) == 1
        finally:
            # Python's own removal of folders is recursive.
            subprocess.run(["rm", "-r", results / "d"], check=True)


TWISTED = [1, "text", True, [1], {"a": 1}, {"a": {"b": None}}, [["a", 1]]]


class TestMalformedProvenance:
    """Whatever a provenance holds, its file is judged and the others are, too."""

    @pytest.mark.parametrize(
        "key",
        [*store._PROVENANCE, "shots", "seed", "dtype", "metric", "ranking"],
    )
    def test_values_of_other_types(self, results, study, capsys, key):
        whole = (results / SCORES).read_bytes()
        for value in TWISTED:
            (results / SCORES).write_bytes(whole)
            change_facts(results / SCORES, **{key: value})
            judged = states(results, study())
            assert not {name for name in judged if "1shot" in name}, "others are judged as ever"
            expected = store._PROVENANCE.get(key)
            if expected and not isinstance(value, expected):
                assert judged[SCORES][0] == "damaged"
                assert f"{key} is of type {type(value).__name__}, expected {expected.__name__}" in judged[SCORES][1][0]
            assert main(["show", str(results / SCORES)]) in (0, 1)
            assert "Traceback" not in capsys.readouterr().err

    @pytest.mark.parametrize("inputs", [{"x": None}, {"x": {}}, {"x": {"path": "a"}}, {"x": {"path": 1, "digest": "b"}},
                                        {"x": {"path": "a", "digest": None}}, {"x": []}, {"x": "prompts"},
                                        {"x": {"path": "/dev/zero", "digest": "b"}},
                                        {"x": {"path": "../../x", "digest": "b"}},
                                        {"x": {"path": "m", "digest": "b"}}])  # fmt: skip
    def test_inputs_that_are_none(self, results, inputs):
        change_facts(results / SCORES, inputs=inputs)
        assert states(results)[SCORES][0] in ("damaged", "missing inputs", "stale")

    @pytest.mark.parametrize("key", ["inputs", "options", "step", "code"])
    def test_keys_that_are_gone(self, results, key):
        change_facts(results / SCORES, **{key: None})
        state, reasons = states(results)[SCORES]
        assert (state, reasons[0]) == ("damaged", f"its provenance has no {key}")

    @pytest.mark.parametrize("text", [b"", b"[]", b"1", b"{", b"\xff", b"null", b"[" * 100_000, b'{"a":' * 100_000,
                                      b'{"inputs": ' + b"[" * 90_000, b"1" * 5000])  # fmt: skip
    @pytest.mark.parametrize("place", ["parquet", "page", "record"])
    def test_what_is_no_object(self, results, capsys, text, place):
        path = {"parquet": results / SCORES, "page": results / "m/tables/table1-seed7.html",
                "record": results / "m/model.json"}[place]  # fmt: skip
        if place == "parquet":
            pq.write_table(pq.read_table(path).replace_schema_metadata({b"lm_headroom": text}), path)
        elif place == "page":
            written = b'content="' + text.replace(b'"', b"&quot;") + b'"'
            path.write_bytes(re.sub(rb'content="[^"]*"', written, path.read_bytes(), count=1))
        else:
            path.write_bytes(text)
        name = str(path.relative_to(results))
        assert states(results)[name][0] in ("damaged", "unrecognised")
        assert main(["show", str(path)]) == 1
        assert "Traceback" not in capsys.readouterr().err

    def test_a_check_that_fails_by_itself_hides_no_other(self, results, monkeypatch):
        """What nobody has thought of."""
        plain = verify.read

        def failing(path, kind):
            if path == results / SCORES:
                raise RecursionError("too deep")
            return plain(path, kind)

        monkeypatch.setattr(verify, "read", failing)
        judged = states(results)
        assert judged[SCORES] == ("damaged", ["it cannot be judged (RecursionError: too deep)"])
        assert "m/model.json" not in judged

    def test_circles_of_inputs_end(self, results):
        for one, other in ((SCORES, "m/ranking/heads/copa/0shot-seed7.parquet"),
                           ("m/ranking/heads/copa/0shot-seed7.parquet", SCORES)):  # fmt: skip
            change_facts(results / one, inputs={"x": {"path": other, "digest": "0"}})
        assert states(results)[SCORES][0] == "stale"


@pytest.fixture
def study(tmp_path):
    """The study that the results are of."""
    config = {
        "models": {"m": {"source": "somewhere"}},
        "tasks": list(TASKS),
        "shots": list(SHOTS),
        "seeds": [SEED],
        "limits": {"importance": 4, "evaluation": 8},
        "data": {"source": "hub"},
    }

    def with_changes(**changes):
        (tmp_path / "study.yaml").write_text(yaml.safe_dump({**config, **changes}))
        return read_study(tmp_path / "study.yaml")

    return with_changes


def test_results_of_a_study_have_its_options(results, study):
    assert states(results, study()) == {}
    judged = states(results, study(limits={"importance": 5, "evaluation": 8}))
    assert judged["prompts/copa/0shot-seed7.parquet"] == ("stale", ["made with limit_importance 4; the study has 5"])
    judged = states(results, study(importance={"reduction": "example"}, tasks=["piqa", "copa"], dtype="bfloat16"))
    assert judged[SCORES][1] == [
        "made with dtype float32; the study has bfloat16",
        "made with criterion token; the study has example",
    ]
    aggregate = judged["m/head_importance/aggregate/0shot-seed7.parquet"]
    assert "made with tasks ['copa', 'piqa']; the study has ['piqa', 'copa']" in aggregate[1]
    judged = states(results, study(shots=[1, 0], data={"source": "embedded"}))
    assert judged["prompts/copa/1shot-seed7.parquet"][1] == ["made with data hub; the study has embedded"]


def test_all_documents_are_another_limit_than_a_number_of_them(results, study):
    """Null is a value of the study: artifacts record it as such, and not as an option that they lack."""
    name = "prompts/copa/0shot-seed7.parquet"
    change_facts(results / name, options={"limit_importance": None, "limit_evaluation": None, "sample": "first"})
    assert states(results, study(limits={"importance": None, "evaluation": None})).get(name) is None
    assert states(results, study(limits={"importance": None, "evaluation": 8}))[name] == (
        "stale",
        ["made with limit_evaluation null; the study has 8"],
    )
    change_facts(results / name, options={"sample": "first"})
    assert states(results, study()).get(name) is None, "an older file may lack an option"


def test_what_the_study_has_no_more_is_judged_by_itself(results, study):
    assert states(results, study(shots=[1], limits={"importance": 4, "evaluation": 8}, tasks=list(TASKS))) == {
        "m/correlation/cross_shot/seed7.parquet": ("stale", ["made with shots [0, 1]; the study has [1]"]),
        **{
            f"m/tables/table1-seed7.{suffix}": (
                "stale",
                ["made from m/correlation/cross_shot/seed7.parquet, which is stale"],
            )
            for suffix in ("csv", "html", "md")
        },
    }


@pytest.mark.parametrize("product", [*PRODUCTS, *COMPARISONS], ids=lambda product: product.stem)
def test_a_product_is_compared_with_the_study_by_its_place(product, study):
    assert verify.code_now(product.module)
    path = f"{product.stem.format(model='m', seed=7)}.{product.suffixes[0]}"
    assert verify._product(path, product.module) is product
    shown = set(verify._shown(product, study()))
    assert shown - {"labels"} == set(product.options) - ({"shots"} if product.is_of_paper else {"sample"})
    assert ("labels" in shown) == ("models" in product.options)


def test_the_command_lists_and_fails(results, capsys):
    assert main(["verify", str(results)]) == 0
    assert capsys.readouterr().out == (
        "Not judged: report.html, Snakemake's report, which holds copies; make it again to be sure of it\n"
        f"{results}: 25 files: 25 sound\n"
    )
    truncate(results / SCORES)
    assert main(["verify", str(results)]) == 1
    printed = capsys.readouterr()
    assert "Damaged: unreadable, or not of the schema of its place\n  m/head_importance/copa/0shot-seed7" in printed.out
    assert "verification failed: " in printed.err
    assert "1 damaged" in printed.err
    assert main(["verify", str(results), "--json"]) == 1
    judged = json.loads(capsys.readouterr().out)
    assert judged["counts"]["damaged"] == 1
    assert {file["path"]: file["state"] for file in judged["files"]}[SCORES] == "damaged"


def test_what_is_no_results_folder_is_refused(results, tmp_path):
    with pytest.raises(HeadroomError, match="no such folder"):
        verify.verify(tmp_path / "none")
    with pytest.raises(HeadroomError, match="one model's folder"):
        verify.verify(results / "m")
    (tmp_path / "empty").mkdir()
    with pytest.raises(HeadroomError, match="no results here"):
        verify.verify(tmp_path / "empty")


def test_each_of_a_thousand_artifacts_is_read_once(whole_results, tmp_path, monkeypatch):
    """Copies under other seeds are unrecognised, and judged all the same."""
    opened = Counter()
    plain = store.pq.ParquetFile

    def counted(path, **options):
        opened[path] += 1
        return plain(path, **options)

    monkeypatch.setattr(store.pq, "ParquetFile", counted)
    results = shutil.copytree(whole_results, tmp_path / "results")
    for seed in range(1000):
        shutil.copy(results / SCORES, results / f"m/head_importance/copa/0shot-seed{seed + 100}.parquet")
    assert len(states(results)) == 1000
    assert set(opened.values()) == {1}
    assert len(opened) == len(list(results.rglob("[!.]*.parquet"))) - 1, "all but the hidden one"


@pytest.mark.parametrize("source", ["embedded", "mirror"])
def test_records_that_changed_make_prompts_stale_where_they_are_there(tmp_path, study, source):
    results = tmp_path / "results"
    folder = tmp_path / ("resources/data" if source == "embedded" else "mirror") / "copa"
    folder.mkdir(parents=True)
    (folder / "train.parquet").write_bytes(b"records")
    path = prompts(results, "copa", 0)
    data = {"source": "mirror", **({"package": "p"} if source == "embedded" else {})}
    provenance = {"task": "copa", "shots": 0, "seed": SEED, "data": data, "records": mirror_records(folder, Digests())}
    options = {"limit_importance": 4, "limit_evaluation": 8, "sample": "first"}
    columns = {name: read(path, PROMPTS).column(name).to_pylist() for name in (c.name for c in PROMPTS.columns)}
    write(path, PROMPTS, columns, build_provenance("steps.render_prompts", {}, options, provenance))
    config = study(data={"source": source, "mirror": str(tmp_path / "mirror") if source == "mirror" else None})
    assert states(results, config) == {}
    (folder / "train.parquet").write_bytes(b"RECORDS")
    reason = "made from other records of task copa: train.parquet changed since"
    assert states(results, config) == {"prompts/copa/0shot-seed7.parquet": ("stale", [reason])}
    # Without the study nobody says where a mirror lies.
    assert bool(states(results)) == (source == "embedded")
    (folder / "train.parquet").unlink()
    assert states(results, config) == {}, "records that are not here are not judged"
