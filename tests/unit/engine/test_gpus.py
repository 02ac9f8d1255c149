"""GPUs of a job: which can be seen, and that processes beside each other get different ones. No GPU is needed."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from lm_headroom.checkout import WARM
from lm_headroom.engine import gpus
from lm_headroom.engine.gpus import Device, visible_gpus

TWO = """\
GPU 0: NVIDIA H200 (UUID: GPU-5d5ba0d6-0000)
GPU 1: NVIDIA H200 (UUID: GPU-77c1f3e2-0000)
"""
MIG = """\
GPU 0: NVIDIA A100-SXM4-40GB (UUID: GPU-5d5ba0d6-0000)
  MIG 3g.20gb     Device  0: (UUID: MIG-aaaa)
  MIG 3g.20gb     Device  1: (UUID: MIG-bbbb)
GPU 1: NVIDIA A100-SXM4-40GB (UUID: GPU-77c1f3e2-0000)
"""
FIRST, SECOND = "GPU-5d5ba0d6-0000", "GPU-77c1f3e2-0000"


@pytest.fixture
def host(tmp_path, monkeypatch):
    """Makes this a host whose driver lists what it is given, with a folder of locks of its own."""

    def make(listing, visible=None):
        program = tmp_path / "bin" / "nvidia-smi"
        program.parent.mkdir(exist_ok=True)
        program.write_text(f"#!/bin/sh\n[ \"$1\" = -L ] && cat <<'END'\n{listing}END\n")
        program.chmod(0o755)
        monkeypatch.setenv("PATH", f"{program.parent}:{os.environ['PATH']}")
        monkeypatch.setenv("TMPDIR", str(tmp_path))
        if visible is None:
            monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
        else:
            monkeypatch.setenv("CUDA_VISIBLE_DEVICES", visible)

    return make


@pytest.mark.parametrize(
    ("listing", "variable", "expected"),
    [
        (TWO, None, [(FIRST, FIRST), (SECOND, SECOND)]),
        (TWO, "1", [("1", SECOND)]),
        (TWO, "1,0", [("1", SECOND), ("0", FIRST)]),
        (TWO, "GPU-77c1", [("GPU-77c1", SECOND)]),
        (TWO, "", []),
        (TWO, "-1", []),
        # As CUDA does, nothing behind what is no device.
        (TWO, "1,-1,0", [("1", SECOND)]),
        (TWO, "NoDevFiles", []),
        (TWO, "0,0", [("0", FIRST)]),
        # A GPU that is cut up is used by its parts.
        (MIG, None, [("MIG-aaaa", "MIG-aaaa"), ("MIG-bbbb", "MIG-bbbb"), (SECOND, SECOND)]),
        (MIG, "MIG-bbbb", [("MIG-bbbb", "MIG-bbbb")]),
        ("No devices were found\n", None, []),
    ],
)
def test_what_can_be_seen(host, listing, variable, expected):
    host(listing, variable)
    assert visible_gpus(os.environ) == [Device(*pair) for pair in expected]


def test_numbers_without_the_drivers_list_belong_to_the_schedulers_job(monkeypatch):
    """Two jobs of Slurm on a node may each have a GPU 0 that is not the other's."""
    monkeypatch.setattr(gpus, "_list_gpus", lambda: [])
    keys = [
        [device.key for device in visible_gpus({"CUDA_VISIBLE_DEVICES": "0", **job})]
        for job in ({}, {"SLURM_JOB_ID": "7"}, {"SLURM_JOB_ID": "8"}, {"SLURM_JOB_ID": "7"})
    ]
    assert keys[1] == keys[3]
    assert len({key for (key,) in keys}) == 3
    assert visible_gpus({}) == []


class Holder:
    """A process that claims GPUs and keeps them until it ends."""

    CODE = (
        "import os, sys; from lm_headroom.engine.gpus import claim; claim(int(sys.argv[1]));"
        "print(os.environ.get('CUDA_VISIBLE_DEVICES'), 'torch' in sys.modules, flush=True); sys.stdin.read()"
    )

    def __init__(self, count):
        command = [sys.executable, "-c", self.CODE, str(count)]
        pipe = subprocess.PIPE
        self.process = subprocess.Popen(command, stdin=pipe, stdout=pipe, stderr=pipe, text=True)

    def claimed(self):
        names, torch = self.process.stdout.readline().split()
        assert torch == "False"
        return names

    def end(self, number=signal.SIGTERM):
        self.process.send_signal(number)
        self.process.communicate()


@pytest.fixture
def holder():
    """Makes holders and ends what is left of them."""
    holders = []

    def make(count=1):
        holders.append(Holder(count))
        return holders[-1]

    yield make
    for each in holders:
        if each.process.poll() is None:
            each.end()


def test_processes_get_different_gpus_and_a_third_waits_for_a_killed_one(host, holder):
    host(TWO)
    first, second = holder(), holder()
    names = [first.claimed(), second.claimed()]
    assert sorted(names) == [FIRST, SECOND]
    third = holder()
    assert third.process.stderr.readline() == "waiting for a GPU: other lm-headroom jobs hold all visible ones\n"
    first.end(signal.SIGKILL)
    assert third.claimed() == names[0]


def test_a_process_keeps_to_what_it_may_see(host, holder):
    host(TWO, "1")
    assert holder().claimed() == "1"
    host(TWO)
    # The same GPU under its other name is taken.
    assert holder().claimed() == FIRST


def test_jobs_of_two_gpus_do_not_wait_for_each_other_with_one_each(host, holder):
    host(TWO)
    one = holder()
    claim = one.claimed()
    both = [holder(2), holder(2)]
    waiting = "waiting for 2 GPUs: other lm-headroom jobs hold all visible ones\n"
    assert [each.process.stderr.readline() for each in both] == [waiting] * 2
    # They hold nothing while they wait.
    other = holder()
    assert {claim, other.claimed()} == {FIRST, SECOND}
    one.end()
    other.end()
    end = time.monotonic() + 600
    while time.monotonic() < end and not (done := [each for each in both if _has_said(each)]):
        time.sleep(0.1)
    assert done[0].claimed() == f"{FIRST},{SECOND}"
    done[0].end()
    (left,) = (each for each in both if each is not done[0])
    assert left.claimed() == f"{FIRST},{SECOND}"


def _has_said(holder):
    import select

    return bool(select.select([holder.process.stdout], [], [], 0)[0])


def headroom(*options):
    """A command that runs a model, in a process of its own; there is none, so it ends before torch comes in."""
    command = [sys.executable, "-m", "lm_headroom", "score-induction", "--model", "no.json", "--out", "out", *options]
    return subprocess.run(command, capture_output=True, text=True, env={**os.environ, WARM: "0"})


def locks():
    folder = Path(os.environ["TMPDIR"]) / f"lm-headroom-gpus-{os.getuid()}"
    return {path.name for path in folder.glob("*")} if folder.is_dir() else set()


def test_a_cpu_claims_nothing(host):
    host(TWO)
    assert "no.json: no such model record" in headroom("--device", "cpu").stderr
    assert "no.json: no such model record" in headroom("--gpus", "0").stderr
    assert locks() == set()
    assert "no.json: no such model record" in headroom().stderr
    assert locks() == {"turn", FIRST}


def test_more_than_can_be_seen_is_refused(host):
    host(TWO, "1")
    done = headroom("--gpus", "2")
    assert done.returncode == 1
    assert done.stderr == (
        "lm-headroom score-induction: error: the job needs 2 GPUs (config key 'gpus', option --gpus) but "
        "only 1 is visible (CUDA_VISIBLE_DEVICES=1); ask for fewer, or for a node with more\n"
    )


@pytest.mark.parametrize(
    ("listing", "torch_finds_one", "device", "expected"),
    [("", True, "auto", False), ("", False, "auto", True), ("", True, "cpu", True), (TWO, False, "auto", False)],
)
def test_a_gpu_that_only_torch_finds_is_one(host, monkeypatch, listing, torch_finds_one, device, expected):
    """As AMD's: a kept model's forks could not use it."""
    import torch

    host(listing)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: torch_finds_one)
    assert gpus.runs_on_cpu(device) is expected


def test_a_folder_of_somebody_else_is_refused(host, tmp_path):
    host(TWO)
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / f"lm-headroom-gpus-{os.getuid()}").symlink_to(tmp_path / "elsewhere")
    assert "this folder belongs to another user; remove it" in headroom().stderr


def test_a_job_beside_others_has_no_hub():
    """Nodes may have no network, where a look for news of a model would hang."""
    import inspect

    from lm_headroom.steps.resolve_model import resolve_model
    from lm_headroom.steps.score_induction import score_induction

    code = (
        "from lm_headroom.cli import _prepare_to_run; from lm_headroom.options import ModelSettings;"
        "_prepare_to_run(ModelSettings(model='no.json', device='cpu'));"
        "from huggingface_hub import constants;"
        "import datasets; print(constants.HF_HUB_OFFLINE, datasets.config.HF_HUB_OFFLINE)"
    )
    assert "settings" in inspect.signature(score_induction).parameters
    assert "settings" not in inspect.signature(resolve_model).parameters
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.stdout == "True True\n", done.stderr
