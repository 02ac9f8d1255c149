"""Disks and folders."""

import json
import os
import shutil
import subprocess
from contextlib import contextmanager, suppress
from pathlib import Path

from tests.errors.page import Cases

CASES = Cases()


# Files and disks.


@contextmanager
def disk(folder, options):
    """A small file system of its own, where this user may mount one."""
    folder.mkdir()
    mounted = subprocess.run(["mount", "-t", "tmpfs", "-o", "size=64k", "none", folder], capture_output=True)
    try:
        if mounted.returncode == 0 and options:
            subprocess.run(["mount", "-o", f"remount,{options}", folder], check=True)
        yield mounted.returncode == 0
    finally:
        if mounted.returncode == 0:
            subprocess.run(["umount", folder], check=True)


@CASES.case("the disk is full")
def _(bench):
    record, prompts = bench.record(), bench.prompts()
    with disk(bench.folder / "disk", "") as mounted:
        out = bench.older("disk/scores.parquet")
        if mounted:
            fill(bench.folder / "disk")
        else:
            bench.patch.setattr("lm_headroom.artifacts.store.pq.write_table", full_disk)
        return bench.headroom("score-heads", "--model", record, "--prompts", prompts, "--device", "cpu", "--out", out)


def fill(folder):
    """Take all the room that is left."""
    with suppress(OSError), (folder / "filler").open("wb", buffering=0) as file:
        while True:
            file.write(bytes(1024))


def full_disk(table, path, **options):
    """What a full disk does to a write: a part of the file, then an error."""
    Path(path).write_bytes(b"PAR1")
    raise OSError(28, "No space left on device")


@CASES.case("results on a read-only disk")
def _(bench):
    study = bench.study()
    with disk(bench.folder / "disk", "ro") as mounted:
        if not mounted:
            bench.patch.setattr(os, "access", lambda path, mode: path != bench.folder / "disk")
        scores = study.path("head_importance", 0, task="copa")
        return bench.headroom("rank-heads", "--scores", scores, "--out", bench.folder / "disk" / "ranking.parquet")


@CASES.case("a results folder that is a file")
def _(bench):
    study = bench.study()
    scores = study.path("head_importance", 0, task="copa").rename(bench.folder / "scores.parquet")
    shutil.rmtree(bench.folder / "results")
    return bench.headroom("rank-heads", "--scores", scores, "--out", bench.older("results") / "ranking.parquet")


@CASES.case("an output that is a folder")
def _(bench):
    study = bench.study()
    (bench.folder / "ranking.parquet").mkdir()
    scores = study.path("head_importance", 0, task="copa")
    return bench.headroom("rank-heads", "--scores", scores, "--out", bench.folder / "ranking.parquet")


@CASES.case("an export into a folder that is not empty")
def _(bench):
    bench.older("export/notes.txt")
    return bench.export("--ranking", bench.ranking(), "--percent", 50)


@CASES.case("an export over another, beside which there is more")
def _(bench):
    ranking = bench.ranking(model=json.loads(bench.record().read_text()))
    shutil.rmtree(bench.folder / "checkpoint")
    assert bench.export("--ranking", ranking, "--percent", 50).status == 0
    bench.older("export/notes.txt")
    shutil.rmtree(bench.folder / "checkpoint")
    return bench.export("--ranking", ranking, "--percent", 50)


@CASES.case("an export for which the disk has no room")
def _(bench):
    ranking = bench.ranking(model=json.loads(bench.record().read_text()))
    shutil.rmtree(bench.folder / "checkpoint")
    bench.patch.setattr(shutil, "disk_usage", lambda path: shutil._ntuple_diskusage(10**9, 10**9, 1000))
    return bench.export("--ranking", ranking, "--percent", 50)
