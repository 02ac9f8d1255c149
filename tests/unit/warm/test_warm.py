"""Jobs in warm processes, beside the same jobs in processes of their own."""

import json
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import psutil
import pytest

from lm_headroom.checkout import WARM, WARM_SECONDS
from lm_headroom.warm import client
from tests.support.paths import ROOT

pytestmark = pytest.mark.slow
KIND = "prompts"
"""One that imports no torch."""
JOB = """
import json, os, resource, signal, sys, tempfile
STREAMS = sys.stdin, sys.stdout, sys.stderr
print(json.dumps({
    "arguments": sys.argv[1:], "folder": os.getcwd(), "variable": os.environ.get("MINE"), "umask": os.umask(0o22),
    "files": resource.getrlimit(resource.RLIMIT_NOFILE), "temporary": tempfile.gettempdir(), "input": sys.stdin.read(),
    "nice": os.nice(0), "scheduler": os.sched_getscheduler(0),
    "ignored": signal.getsignal(signal.SIGHUP) is signal.SIG_IGN, "encoding": sys.stdout.encoding,
    "streams": [[text.line_buffering, text.write_through, text.isatty()] for text in STREAMS],
    "path": sys.path,
    "handlers": [signal.getsignal(n) is signal.SIG_DFL for n in (signal.SIGTERM, signal.SIGCHLD)], "name": __name__,
}))
print("to the error stream", file=sys.stderr)
sys.exit(int(sys.argv[1]))
"""
WAITING = """
import os, pathlib, signal, sys, time
def stop(number, frame):
    # As the commands do: where all processes are asked, the waiting one passes it on.
    signal.signal(number, signal.SIG_IGN)
    print("asked to stop", flush=True)
    sys.exit(7)
signal.signal(signal.SIGTERM, stop)
with open("runs", "a") as file:
    print(os.getpid(), file=file)
while not pathlib.Path("go").exists():
    time.sleep(0.02)
print("to the end")
"""


ENDING = """
import atexit, sys, threading, time
atexit.register(print, "at exit")
thread = threading.Thread(target=lambda: (time.sleep(0.3), print("from a thread")))
thread.start()
print("no end of line", end="")
{}
"""
ENDS = {
    "by itself": "",
    "with a status": "sys.exit(7)",
    "with a large status": "sys.exit(259)",
    "with a text": "sys.exit('a text')",
    "with an error": "raise ValueError('an error')",
    "with an interrupt": "raise KeyboardInterrupt",
    "with an error of its own kind": "class Mine(BaseException): pass\nraise Mine('mine')",
    "with a closed stream": "import os; sys.stdout.flush(); os.close(1)",
}


@pytest.fixture(scope="module")
def sockets():
    """A short folder for sockets; the warm processes end with it."""
    with tempfile.TemporaryDirectory(prefix="warm-", dir="/tmp") as folder:
        yield Path(folder)


@pytest.fixture
def start(sockets, tmp_path):
    """Start a module of ``tmp_path`` in a warm process, or in one of its own."""

    def starting(module, *arguments, warm=True, kind=KIND, prepare=None, **more):
        command = [sys.executable, "-m", "lm_headroom.warm", kind, module, *arguments]
        env = {**os.environ, "TMPDIR": str(sockets), "LANG": "C.UTF-8", WARM: "1" if warm else "0", **more}
        pipes = dict.fromkeys(("stdin", "stdout", "stderr"), subprocess.PIPE)

        def prepared():
            # A shell starts programs in the background with an interrupt ignored, and they start others so.
            for number in (signal.SIGINT, signal.SIGQUIT, signal.SIGHUP):
                signal.signal(number, signal.SIG_DFL)
            if prepare is not None:
                prepare()

        return subprocess.Popen(command, cwd=tmp_path, env=env, text=True, preexec_fn=prepared, **pipes)

    return starting


def warm_processes(sockets):
    """The warm processes whose sockets are in a folder."""
    return [
        process for process in psutil.process_iter(["cmdline"])
        if "lm_headroom.warm.server" in (process.info["cmdline"] or []) and str(sockets) in " ".join(process.cmdline())
    ]  # fmt: skip


def wait_for(what, seconds=60):
    """Wait until something is true, and return it."""
    end = time.monotonic() + seconds
    while not (outcome := what()):
        assert time.monotonic() < end
        time.sleep(0.02)
    return outcome


def runs(tmp_path):
    """Processes that have begun to run the waiting job."""
    path = tmp_path / "runs"
    return [int(line) for line in path.read_text().split()] if path.exists() else []


def with_a_terminals_hangup_ignored():
    signal.signal(signal.SIGHUP, signal.SIG_IGN)


def with_another_mask_and_limit():
    os.umask(0o77)
    import resource

    resource.setrlimit(resource.RLIMIT_NOFILE, (512, 4096))
    os.nice(1)
    # Not SCHED_IDLE, under which it would wait for whatever else runs.
    os.sched_setscheduler(0, os.SCHED_BATCH, os.sched_param(0))


@pytest.mark.parametrize("unbuffered", ["", "1"])
@pytest.mark.parametrize("prepare", [None, with_a_terminals_hangup_ignored, with_another_mask_and_limit])
def test_a_job_is_as_it_would_be_by_itself(start, sockets, tmp_path, prepare, unbuffered):
    status = "3" if unbuffered else "0"
    (tmp_path / "job.py").write_text(JOB)
    outcomes = []
    for warm in (False, True):
        job = start("job", status, "two words", warm=warm, prepare=prepare, MINE="a value", PYTHONUNBUFFERED=unbuffered)
        output, errors = job.communicate("from the input")
        outcomes.append((json.loads(output), errors, job.returncode))
    assert outcomes[0] == outcomes[1]
    assert outcomes[0][0]["arguments"] == [status, "two words"]
    assert outcomes[0][2] == int(status)
    assert warm_processes(sockets)


@pytest.mark.parametrize(
    ("seconds", "stays"), [("1", False), *((text, True) for text in ("inf", "a minute", "nan", "-1"))]
)
def test_it_stays_as_long_as_a_variable_says_and_a_minute_where_that_is_no_number(
    start, sockets, tmp_path, seconds, stays
):
    (tmp_path / "job.py").write_text(JOB)
    before = {process.pid for process in warm_processes(sockets)}
    # In an environment of its own, so that none of the processes that are there serves.
    job = start("job", "0", **{WARM_SECONDS: seconds, "OWN": seconds})
    job.communicate("")
    assert job.returncode == 0
    [process] = [process for process in warm_processes(sockets) if process.pid not in before]
    if stays:
        # Another job finds it, as it would not find one that is about to end.
        start("job", "0", **{WARM_SECONDS: seconds, "OWN": seconds}).communicate("")
        assert [other.pid for other in warm_processes(sockets) if other.pid not in before] == [process.pid]
    else:
        assert psutil.wait_procs([process], timeout=600)[0]


@pytest.mark.parametrize("end", ENDS)
def test_a_job_ends_as_it_would_by_itself(start, tmp_path, end):
    """Threads are waited for, what is registered for the end runs, and all that was printed arrives."""
    (tmp_path / "job.py").write_text(ENDING.format(ENDS[end]))
    outcomes = []
    for warm in (False, True):
        job = start("job", warm=warm)
        output, errors = job.communicate()
        # The traceback above the last line has frames of the warm process, too.
        outcomes.append((output, errors.splitlines()[-1:], job.returncode))
    assert outcomes[0] == outcomes[1]


def test_jobs_share_a_process_that_only_this_user_can_ask(start, sockets, tmp_path):
    (tmp_path / "job.py").write_text("import os; print(os.getppid())")
    parents = {start("job", PYTEST_CURRENT_TEST=str(n)).communicate()[0] for n in range(3)}
    assert len(parents) == 1
    folder = sockets / f"lm-headroom-{os.getuid()}"
    assert folder.stat().st_mode & 0o777 == 0o700
    assert all(path.stat().st_mode & 0o777 == 0o600 for path in folder.glob("*.sock"))
    other = start("job", ANOTHER="library may read this").communicate()[0]
    assert other not in parents


def test_a_changed_package_is_the_one_that_runs(start, tmp_path):
    (tmp_path / "mine").mkdir()
    (tmp_path / "job.py").write_text("import mine.code; print(mine.code.VALUE)")
    for value in (1, 22):
        (tmp_path / "mine" / "code.py").write_text(f"VALUE = {value}\n")
        assert start("job").communicate()[0] == f"{value}\n"


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGKILL])
def test_signals_reach_the_job(start, tmp_path, number):
    """Asked to stop, it ends in its own way; who asked and is killed takes it along."""
    (tmp_path / "waiting.py").write_text(WAITING)
    job = start("waiting")
    (pid,) = wait_for(lambda: runs(tmp_path))
    assert pid != job.pid
    job.send_signal(number)
    output = job.communicate()[0]
    assert (job.returncode, output) == ((7, "asked to stop\n") if number == signal.SIGTERM else (-9, ""))
    wait_for(lambda: not psutil.pid_exists(pid))


def test_a_terminals_stop_stops_the_job_until_it_goes_on(start, tmp_path):
    """The job would keep its cores: it is in no group of the terminal."""
    (tmp_path / "waiting.py").write_text(WAITING)
    job = start("waiting")
    (pid,) = wait_for(lambda: runs(tmp_path))
    both = [psutil.Process(pid), psutil.Process(job.pid)]
    job.send_signal(signal.SIGTSTP)
    wait_for(lambda: all(process.status() == psutil.STATUS_STOPPED for process in both))
    job.send_signal(signal.SIGCONT)
    (tmp_path / "go").touch()
    assert job.communicate()[0] == "to the end\n"


def test_a_killed_job_ends_as_a_killed_process_does(start, tmp_path):
    (tmp_path / "waiting.py").write_text(WAITING)
    job = start("waiting")
    (pid,) = wait_for(lambda: runs(tmp_path))
    os.kill(pid, signal.SIGKILL)
    job.communicate()
    assert job.returncode == -signal.SIGKILL


def test_a_killed_warm_process_takes_its_jobs_along_and_they_run_by_themselves(start, sockets, tmp_path):
    (tmp_path / "waiting.py").write_text(WAITING)
    job = start("waiting")
    (pid,) = wait_for(lambda: runs(tmp_path))
    parent = psutil.Process(pid).ppid()
    os.kill(parent, signal.SIGKILL)
    wait_for(lambda: len(runs(tmp_path)) == 2)
    assert not psutil.pid_exists(pid)
    assert runs(tmp_path)[1] == job.pid
    (tmp_path / "go").touch()
    assert job.communicate()[0] == "to the end\n"
    assert job.returncode == 0


def test_a_job_that_is_asked_to_stop_with_its_warm_process_does_not_run_again(start, tmp_path):
    """As where a system or a scheduler asks all processes of a user or a run."""
    (tmp_path / "waiting.py").write_text(WAITING)
    job = start("waiting")
    (pid,) = wait_for(lambda: runs(tmp_path))
    for process in (psutil.Process(pid).ppid(), pid, job.pid):
        os.kill(process, signal.SIGTERM)
    wait_for(lambda: job.poll() is not None or len(runs(tmp_path)) > 1)
    (tmp_path / "go").touch()
    assert job.communicate()[0] == "asked to stop\n"
    assert job.returncode in (7, -signal.SIGTERM)
    assert runs(tmp_path) == [pid]


def test_a_command_that_was_asked_to_stop_ends_where_its_job_is_killed(start, tmp_path):
    (tmp_path / "waiting.py").write_text(WAITING.replace("sys.exit(7)", "pathlib.Path('asked').touch()"))
    job = start("waiting")
    (pid,) = wait_for(lambda: runs(tmp_path))
    job.send_signal(signal.SIGTERM)
    wait_for((tmp_path / "asked").exists)
    os.kill(psutil.Process(pid).ppid(), signal.SIGKILL)
    wait_for(lambda: job.poll() is not None or len(runs(tmp_path)) > 1)
    (tmp_path / "go").touch()
    job.communicate()
    assert (job.returncode, runs(tmp_path)) == (-signal.SIGTERM, [pid])


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT, signal.SIGHUP])
def test_a_warm_process_that_is_asked_to_end_lets_its_job_end_first(start, sockets, tmp_path, number):
    temporary = sockets / str(int(number))
    temporary.mkdir()
    (tmp_path / "waiting.py").write_text(WAITING)
    job = start("waiting", TMPDIR=str(temporary))
    (pid,) = wait_for(lambda: runs(tmp_path))
    process = psutil.Process(pid).parent()
    process.send_signal(number)
    wait_for(lambda: not list(temporary.glob("*/*.sock")) or len(runs(tmp_path)) > 1)
    (tmp_path / "go").touch()
    assert job.communicate()[0] == "to the end\n"
    assert (job.returncode, runs(tmp_path)) == (0, [pid])
    assert psutil.wait_procs([process], timeout=600)[0]


def test_it_ends_where_its_socket_is_gone(start, sockets, tmp_path):
    (tmp_path / "job.py").write_text("import os; print(os.getppid())")
    parent = int(start("job").communicate()[0])
    for path in (sockets / f"lm-headroom-{os.getuid()}").glob("*.sock"):
        path.unlink()
    wait_for(lambda: not psutil.pid_exists(parent))


def test_environments_share_the_lock_of_a_kind(start, sockets, tmp_path):
    """A lock is never removed: each that a study of its own had would stay."""
    (tmp_path / "job.py").write_text("")
    for number in range(2):
        start("job", OWN=str(number)).communicate()
    locks = (sockets / f"lm-headroom-{os.getuid()}").glob(f"{KIND}*.lock")
    assert [path.name for path in locks] == [f"{KIND}.lock"]


@pytest.mark.parametrize("change", ["a folder of another kind", "a long path"])
def test_without_a_socket_jobs_run_by_themselves(start, tmp_path, change):
    (tmp_path / "job.py").write_text("import os; print(os.getpid())")
    temporary = tmp_path / ("x" * 120)
    temporary.mkdir()
    if change == "a folder of another kind":
        temporary = tmp_path / "t"
        temporary.mkdir()
        (temporary / f"lm-headroom-{os.getuid()}").write_text("")
    job = start("job", TMPDIR=str(temporary))
    assert job.communicate()[0] == f"{job.pid}\n"


def test_a_folder_that_a_warm_process_made_stays_for_the_next_job(start, sockets, tmp_path):
    """Matplotlib makes one where it cannot write to a home, and registers its removal, which each job would run."""
    (tmp_path / "job.py").write_text("print('drawn')")
    for _ in range(2):
        job = start("job", kind="report", HOME=os.devnull, MPLCONFIGDIR="", XDG_CONFIG_HOME="", XDG_CACHE_HOME="")
        assert job.communicate() == ("drawn\n", "")
        assert list(sockets.glob("matplotlib-*"))


def in_a_folder_that_is_gone():
    with tempfile.TemporaryDirectory() as folder:
        os.chdir(folder)


def test_a_job_in_a_folder_that_is_gone_runs_by_itself(start):
    job = start("this", prepare=in_a_folder_that_is_gone)
    output, errors = job.communicate()
    assert output.startswith("The Zen of Python"), errors
    assert job.returncode == 0


def test_a_job_in_a_folder_that_no_other_process_can_enter_runs_by_itself(monkeypatch, tmp_path):
    monkeypatch.setenv(WARM, "1")
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    monkeypatch.setattr(os, "access", lambda path, mode: Path(path) != Path.cwd())
    assert client.run(KIND, "this", []) is None
    assert not list(tmp_path.iterdir())


class TestKept:
    """A model that is kept for the jobs of a study."""

    @pytest.fixture(scope="class")
    @staticmethod
    def record(tmp_path_factory, tokenizer):
        from lm_headroom.models.resolve import resolve
        from tests.support.tiny_models import tiny_model

        folder = tmp_path_factory.mktemp("kept")
        tiny_model("llama").save_pretrained(folder / "checkpoint")
        tokenizer.save_pretrained(folder / "checkpoint")
        resolve("tiny", str(folder / "checkpoint"), None, folder / "model.json")
        return folder / "model.json"

    @pytest.fixture
    def score(self, record, sockets):
        def scoring(out, warm=True, model=record, folder=None, **more):
            command = [sys.executable, "-m", "lm_headroom", "score-induction", "--model", model, "--device", "cpu",
                       "--out", out, "--sequences", "2", "--threads", "2"]  # fmt: skip
            env = {**os.environ, "TMPDIR": str(sockets), "PYTHONPATH": str(ROOT / "workflow"), WARM: str(int(warm))}
            return subprocess.run(command, cwd=folder, env=env | more, capture_output=True, text=True)

        return scoring

    def kept(self, sockets):
        return {path.name for path in (sockets / f"lm-headroom-{os.getuid()}").glob("kept-*.sock")}

    def test_scores_are_those_of_a_job_by_itself(self, score, sockets, tmp_path):
        import pyarrow.parquet as pq

        tables = []
        for n, warm in enumerate((False, True, True)):
            (tmp_path / str(n)).mkdir()
            done = score(tmp_path / str(n), warm)
            assert done.returncode == 0, done.stderr
            tables.append(pq.read_table(tmp_path / str(n) / "prefix_matching.parquet").to_pydict())
        assert tables[0] == tables[1] == tables[2]
        assert len(self.kept(sockets)) == 1

    def test_a_model_that_is_named_from_the_jobs_folder_is_kept(self, score, record, tmp_path):
        """As rules name it. A model is kept by one thread, and each job asks for two: its proofs say who made them."""
        from lm_headroom.engine.kept_proofs import proofs_file

        folder = shutil.copytree(record.parent, tmp_path / "study")
        proofs = proofs_file(folder / record.name)
        proofs.unlink(missing_ok=True)
        for _ in range(2):
            done = score("out", model=record.name, folder=folder)
            assert done.returncode == 0, done.stderr
        assert [proof["conditions"]["threads"] for proof in json.loads(proofs.read_text())["proofs"]] == [1]

    @pytest.mark.parametrize("change", ["a link to nothing in the checkpoint", "a folder in place of the lock"])
    def test_a_job_that_cannot_be_handed_over_goes_on(self, score, record, sockets, tmp_path, change):
        temporary = sockets / change.split()[1]
        folder = temporary / f"lm-headroom-{os.getuid()}"
        folder.mkdir(mode=0o700, parents=True)
        link = record.parent / "checkpoint" / ".#config.json"
        if change == "a folder in place of the lock":
            (folder / "kept.lock").mkdir()
        else:
            link.symlink_to("nobody@nowhere")
        done = score(tmp_path, TMPDIR=str(temporary))
        link.unlink(missing_ok=True)
        assert done.returncode == 0, done.stderr
        assert list(folder.glob("model-*.sock"))

    def test_changed_weights_are_refused_as_by_a_job_by_itself(self, score, record, sockets, tmp_path):
        assert score(tmp_path).returncode == 0
        weights = record.parent / "checkpoint" / "model.safetensors"
        whole = weights.read_bytes()
        weights.write_bytes(whole[:-1] + bytes([whole[-1] ^ 1]))
        try:
            warm, cold = score(tmp_path), score(tmp_path, warm=False)
        finally:
            weights.write_bytes(whole)
        assert (warm.returncode, warm.stderr) == (cold.returncode, cold.stderr)
        assert "digest" in warm.stderr

    def test_a_killed_keeper_loses_nothing(self, score, sockets, tmp_path):
        assert score(tmp_path).returncode == 0
        killed = warm_processes(sockets)
        for process in killed:
            process.kill()
        # One that is still dying would take the job, and the job would then run by itself.
        psutil.wait_procs(killed, timeout=600)
        assert score(tmp_path).returncode == 0
        assert len(warm_processes(sockets)) == 2
