"""``headroom verify`` on a small results folder that real code has written, with one thing wrong at a time."""

import io
import json
import re
import shutil
from collections import Counter
from importlib.metadata import version

import numpy as np
import pyarrow.parquet as pq
import pytest
import yaml
from PIL import Image

from headroom import table1, verify
from headroom.artifacts.head_importance import HEAD_IMPORTANCE
from headroom.artifacts.prompts import PROMPTS
from headroom.artifacts.ranking import RANKING
from headroom.artifacts.store import write
from headroom.cli import main
from headroom.digest import code_digest
from headroom.errors import HeadroomError
from headroom.figures import fig03
from headroom.figures.study import Study
from headroom.provenance import describe, model_facts
from headroom.ranking import as_columns, rank_heads
from headroom.readings import SCORED
from headroom.steps import aggregate_importance, correlate_shots
from headroom.study.reading import read_study
from headroom.task_digest import task_digest
from headroom.task_files import TASK_FOLDERS

RECORD = {"name": "m", "source": None, "revision": None, "family": "opt", "digest": "d" * 64, "origin": None}
TASKS, SHOTS, SEED = ("copa", "piqa"), (0, 1), 7
SCORES = "m/head_importance/copa/0shot-seed7.parquet"


def prompts(results, task, shots, text="a"):
    columns = {column.name: [0] for column in PROMPTS.columns}
    columns |= {name: [text] for name in ("purpose", "split", "context", "continuation", "metric")} | {"gold": [True]}
    facts = {"task": task, "shots": shots, "seed": SEED, "metric": "question", "data": {"source": "hub"}}
    options = {"limit_importance": 4, "limit_evaluation": 8, "sample": "first"}
    path = results / f"prompts/{task}/{shots}shot-seed{SEED}.parquet"
    write(path, PROMPTS, columns, describe("steps.render_prompts", {}, options, facts))
    return path


def head_scores(results, task, shots, seed):
    values = np.random.default_rng(seed).random((3, 4))
    layers, heads = np.indices(values.shape)
    columns = {name: values.ravel() for name in ("score", "stderr", "score_even", "score_odd", *SCORED)}
    columns |= {"layer": layers.ravel(), "head": heads.ravel()}
    facts = {"task": task, "shots": shots, "seed": SEED, **model_facts(RECORD, "float32")}
    options = {"reduction": "token", "last_layer_tokens": "all", "add_bos": False}
    record = describe("steps.score_heads", {"prompts": prompts(results, task, shots)}, options, facts)
    cell = f"{task}/{shots}shot-seed{SEED}.parquet"
    write(results / "m/head_importance" / cell, HEAD_IMPORTANCE, columns, record)
    write(results / "m/ranking/heads" / cell, RANKING, as_columns(rank_heads(values), values), record)


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """Prompts, scores and rankings of two tasks and shots, aggregates, correlations, Figure 3, Table 1."""
    results = tmp_path_factory.mktemp("made") / "results"
    model = results / "m"
    for number, (task, shots) in enumerate((task, shots) for task in TASKS for shots in SHOTS):
        head_scores(results, task, shots, number)
    for shots in SHOTS:
        cell = f"aggregate/{shots}shot-seed{SEED}.parquet"
        paths = (model / "head_importance" / cell, model / "ranking/heads" / cell)
        aggregate_importance.run(*paths, model, TASKS, shots, SEED, "mean")
    cross_shot = model / f"correlation/cross_shot/seed{SEED}.parquet"
    correlate_shots.run(cross_shot, model, TASKS, SHOTS, SEED)
    table1.write_table(cross_shot, model / f"tables/table1-seed{SEED}")
    fig03.draw(Study(model, TASKS, SHOTS, SEED), model / f"figures/fig03_head_importance-seed{SEED}")
    (model / "model.json").write_text(json.dumps(RECORD))
    (results / "matrix").mkdir()
    (results / "matrix" / "tasks.txt").write_text("copa\npiqa\n")
    (results / "report.html").write_text("Snakemake's")
    (model / ".parts").mkdir()
    (model / ".parts" / "unit.parquet").write_bytes(b"half")
    return results


@pytest.fixture
def results(made, tmp_path):
    """A copy to damage, in another folder than it was made in."""
    return shutil.copytree(made, tmp_path / "elsewhere" / "results")


def states(results, study=None):
    """Path to (state, reasons) of all that is not sound."""
    files = verify.verify(results, study)
    return {file.path: (file.state, file.reasons) for file in files if file.state != "sound"}


def test_results_are_sound_wherever_they_lie(results):
    assert states(results) == {}
    assert verify.count(verify.verify(results)) == {
        # 4 prompts, 2 x 6 scores and rankings, the correlations, 2 + 3 files of a figure and a table, the record.
        "sound": 23, "stale": 0, "orphaned": 0, "foreign": 0, "damaged": 0,
    }  # fmt: skip


def test_a_changed_input_makes_all_that_follows_stale(results):
    prompts(results, "copa", 0, "b")
    found = states(results)
    assert found[SCORES] == ("stale", ["made from another prompts/copa/0shot-seed7.parquet than is there now"])
    aggregate = "m/head_importance/aggregate/0shot-seed7.parquet"
    assert found[aggregate] == ("stale", [f"made from {SCORES}, which is stale"])
    assert found["m/tables/table1-seed7.csv"][0] == "stale"
    assert found["m/figures/fig03_head_importance-seed7.png"][0] == "stale"
    assert all(state == "stale" for state, _ in found.values())
    assert not [path for path in found if "1shot" in path or path.startswith("prompts")]


def test_other_code_is_stale(results, monkeypatch):
    monkeypatch.setattr(verify, "code_now", lambda step: "0123" if step == "figures.fig03" else code_digest(step))
    found = states(results)
    assert set(found) == {f"m/figures/fig03_head_importance-seed7.{suffix}" for suffix in ("pdf", "png")}
    assert all(reasons[0].startswith("made by other code: figures.fig03 was ") for _, reasons in found.values())


def change_facts(path, **changes):
    table = pq.read_table(path)
    facts = json.loads(table.schema.metadata[b"headroom"]) | changes
    pq.write_table(table.replace_schema_metadata({b"headroom": json.dumps(facts)}), path)


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
        ("m/figures/fig03_head_importance-seed7.png", truncate, "not a readable PNG"),
        ("m/figures/fig03_head_importance-seed7.pdf", truncate, "not a whole PDF"),
        ("m/tables/table1-seed7.csv", edit, "it has changed since it was written"),
        ("m/tables/table1-seed7.md", edit, "it has changed since it was written"),
        ("m/tables/table1-seed7.html", truncate, "not a whole page"),
        ("m/model.json", truncate, "not a model record"),
    ],
)
def test_damage_is_found(results, path, damage, reason):
    damage(results / path)
    state, reasons = states(results)[path]
    assert state == "damaged"
    assert reason in reasons[0]


def test_what_is_not_of_its_place_is_foreign(results):
    shutil.copy(results / SCORES, results / "m/head_importance/copa/0shot-seed8.parquet")
    shutil.copy(results / "m/ranking/heads/copa/0shot-seed7.parquet", results / "m/head_importance/piqa/x.parquet")
    shutil.copy(results / "m/figures/fig03_head_importance-seed7.pdf", results / "m/figures/fig99.pdf")
    Image.new("RGB", (1, 1)).save(results / "m/figures/photo.png")
    (results / "notes.txt").write_text("mine")
    found = {path: (state, reasons[0]) for path, (state, reasons) in states(results).items()}
    assert found == {
        "m/head_importance/copa/0shot-seed8.parquet": ("foreign", f"it was made for {SCORES}"),
        "m/head_importance/piqa/x.parquet": ("foreign", "no file of headroom's has this place"),
        "m/figures/fig99.pdf": ("foreign", "it was made for m/figures/fig03_head_importance-seed7"),
        "m/figures/photo.png": ("foreign", "this file was not written by headroom (it carries no provenance)"),
        "notes.txt": ("foreign", "no file of headroom's has this place"),
    }


def test_a_plain_or_other_artifact_at_a_place_is_foreign(results):
    pq.write_table(pq.read_table(results / SCORES).replace_schema_metadata(None), results / SCORES)
    shutil.copy(results / "m/ranking/heads/piqa/0shot-seed7.parquet", results / "m/head_importance/piqa")
    found = states(results)
    assert found[SCORES][0] == found["m/head_importance/piqa/0shot-seed7.parquet"][0] == "foreign"
    assert (
        "expected a head_importance artifact, found 'ranking'"
        in found["m/head_importance/piqa/0shot-seed7.parquet"][1][0]
    )


def test_another_model_under_the_name_is_foreign(results):
    (results / "m/model.json").write_text(json.dumps({**RECORD, "digest": "e" * 64}))
    state, reasons = states(results)[SCORES]
    assert (state, reasons) == ("foreign", [f"of model m {'d' * 16}; m/model.json is of m {'e' * 16}"])
    (results / "m").rename(results / "n")
    found = states(results)
    assert found["n/model.json"] == ("foreign", ["it is the record of model 'm'"])
    assert found[f"n{SCORES[1:]}"][0] == "foreign"


def test_lost_inputs_leave_orphans(results):
    (results / "prompts/copa/0shot-seed7.parquet").unlink()
    found = states(results)
    assert found[SCORES] == ("orphaned", ["made from prompts/copa/0shot-seed7.parquet, which is gone"])
    assert found["m/head_importance/aggregate/0shot-seed7.parquet"][0] == "stale"
    (results / "m/model.json").unlink()
    assert states(results)[SCORES][1][0] == "the model's record, m/model.json, is gone or damaged"
    (results / "m/tables/table1-seed7.html").unlink()
    assert "is not beside it" in states(results)["m/tables/table1-seed7.csv"][1][0]


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
    found = states(results, study(limits={"importance": 5, "evaluation": 8}))
    assert found["prompts/copa/0shot-seed7.parquet"] == ("stale", ["made with limit_importance 4; the study has 5"])
    found = states(results, study(importance={"reduction": "example"}, tasks=["piqa", "copa"], dtype="bfloat16"))
    assert found[SCORES][1] == [
        "made with dtype float32; the study has bfloat16",
        "made with reduction token; the study has example",
    ]
    aggregate = found["m/head_importance/aggregate/0shot-seed7.parquet"]
    assert "made with tasks ['copa', 'piqa']; the study has ['piqa', 'copa']" in aggregate[1]
    found = states(results, study(shots=[1, 0], data={"source": "embedded"}))
    assert found["prompts/copa/1shot-seed7.parquet"][1] == ["made with data hub; the study has embedded"]


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


def test_every_option_is_a_key_of_the_study(study):
    wanted = verify._wanted(study())
    keys = {key for options in [verify._COMMON, *verify._OPTIONS.values()] for key in options.values()}
    assert keys <= set(wanted)
    assert all(verify.code_now(step) for step in verify._OPTIONS)


def test_the_command_lists_and_fails(results, capsys):
    assert main(["verify", str(results)]) == 0
    assert capsys.readouterr().out == f"{results}: 23 files: 23 sound\n"
    truncate(results / SCORES)
    assert main(["verify", str(results)]) == 1
    printed = capsys.readouterr()
    assert "Damaged: unreadable, or not of the schema of its place\n  m/head_importance/copa/0shot-seed7" in printed.out
    assert "not all is sound: " in printed.err
    assert "1 damaged" in printed.err
    assert main(["verify", str(results), "--json"]) == 1
    found = json.loads(capsys.readouterr().out)
    assert found["counts"]["damaged"] == 1
    assert {file["path"]: file["state"] for file in found["files"]}[SCORES] == "damaged"


def test_what_is_no_results_folder_is_refused(results, tmp_path):
    with pytest.raises(HeadroomError, match="no such folder"):
        verify.verify(tmp_path / "none")
    with pytest.raises(HeadroomError, match="one model's folder"):
        verify.verify(results / "m")
    (tmp_path / "empty").mkdir()
    with pytest.raises(HeadroomError, match="no results here"):
        verify.verify(tmp_path / "empty")


def test_a_thousand_artifacts_are_each_opened_as_often_as_one(made, tmp_path, monkeypatch):
    """Copies under other seeds are foreign, and judged all the same: the work grows with their number alone."""
    opened = Counter()
    kept = io.open

    def counted(file, *args, **kwargs):
        opened[str(file)] += 1
        return kept(file, *args, **kwargs)

    results = shutil.copytree(made, tmp_path / "results")
    for seed in range(1000):
        shutil.copy(results / SCORES, results / f"m/head_importance/copa/0shot-seed{seed + 100}.parquet")
    monkeypatch.setattr("builtins.open", counted)
    monkeypatch.setattr(io, "open", counted)
    assert len(states(results)) == 1000
    others = {count for path, count in opened.items() if re.search(r"0shot-seed\d{3,4}\.parquet$", path)}
    assert max(others, default=0) <= 2
    assert max(opened.values()) < 20, "nothing is read once per artifact"
