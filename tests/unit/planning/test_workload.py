"""What cluster jobs ask for: by the files of a study alone, as the plan says, more with size and each attempt."""

import json
import subprocess
import sys
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest

from lm_headroom.artifacts.prompts import PROMPTS
from lm_headroom.artifacts.store import provenance, write
from lm_headroom.errors import HeadroomError
from lm_headroom.models.location import location_file, read_location
from lm_headroom.models.resolve import resolve
from lm_headroom.models.sizes import model_sizes
from lm_headroom.planning import plan, workload
from lm_headroom.planning.costs import Costs
from lm_headroom.tasks.prompt_sizes import prompt_sizes
from tests.support.checkpoints import checkpoint
from tests.support.tiny_models import tiny_model
from tests.support.typed_studies import study

RULES = {
    "score_heads", "score_ffns", "score_induction", "evaluate_own", "evaluate_joint", "evaluate_aggregate",
    "evaluate_transfer",
}  # fmt: skip


def columns(n_documents, context="The sun rose {} times"):
    """Prompts of two choices, the second of which is right."""
    table = {column.name: [] for column in PROMPTS.columns}
    for purpose in ("importance", "evaluation"):
        for number in range(n_documents):
            for choice, text in enumerate((" again", " never")):
                row = {
                    "doc_id": number, "question": number, "purpose": purpose, "split": "x", "choice": choice,
                    "context": context.format(number), "continuation": text, "gold": choice == 1, "metric": "choice",
                    "choice_length": 6, "turns": None, "reply": None,
                }  # fmt: skip
                for name, values in table.items():
                    values.append(row[name])
    return table


def write_prompts(path, task="a", n_documents=3, **more):
    table = columns(n_documents)
    write(path, PROMPTS, table, {"task": task, "shots": 0, "prompt_sizes": prompt_sizes(table), **more})
    return str(path)


@pytest.fixture
def record(tmp_path):
    """The record of a tiny model."""
    path = tmp_path / "model.json"
    path.write_text(json.dumps({"name": "tiny"}))
    location_file(path).write_text(json.dumps({"path": "x", "sizes": model_sizes(tiny_model("opt"))}))
    return str(path)


def test_text_is_counted_by_what_reads_it():
    counts = prompt_sizes(columns(1, "abc"))
    # "abc", the space that both choices begin with, and five letters of each.
    evaluation = {"columns": 4 + 5 + 5, "pairs": 14 * 15 // 2, "logits": 12}
    assert counts["evaluation"] == counts["scoring_choices"] == evaluation
    # The right choice alone.
    assert counts["scoring"] == {"columns": 3 + 6, "pairs": 9 * 10 // 2, "logits": 6}
    assert prompt_sizes(columns(2, "abc"))["evaluation"] == {name: 2 * value for name, value in evaluation.items()}


def test_choices_with_contexts_of_their_own_share_what_they_begin_with():
    table = columns(1)
    table["context"] = ["the fox ran", "the dog ran"] * 2
    table["continuation"] = [" home"] * 4
    assert prompt_sizes(table)["evaluation"] == {"columns": 4 + 12 + 12, "pairs": 28 * 29 // 2, "logits": 10}


def test_resolving_notes_how_large_the_model_is(tmp_path, tokenizer):
    folder = tmp_path / "tiny"
    tiny_model("llama").save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    resolve("tiny", str(folder), None, tmp_path / "model.json")
    assert read_location(tmp_path / "model.json")["sizes"] == model_sizes(tiny_model("llama"))
    assert workload.record_costs(tmp_path / "model.json", 8) == plan.costs_of(tiny_model("llama"))


def test_a_configuration_of_no_use_is_refused_when_it_is_resolved(tmp_path):
    folder = checkpoint(tmp_path / "m")
    settings = {"model_type": "opt", "hidden_size": 7, "word_embed_proj_dim": 7, "num_attention_heads": 4}
    (folder / "config.json").write_text(json.dumps(settings))
    with pytest.raises(HeadroomError, match=r"model 'm': the configuration in .*/m cannot be used: .*num_heads"):
        resolve("m", str(folder), None, tmp_path / "model.json")
    assert not (tmp_path / "model.json").exists()


@pytest.mark.parametrize("device", ["cpu", "cuda"])
def test_the_plan_and_the_jobs_ask_for_the_same(tmp_path, record, device):
    settings = study(device=device, unseen=["c"], transfer={"tasks": ["b"], "levels": [10, 50]})
    paths = {
        task: write_prompts(tmp_path / "prompts" / task / "0shot-seed1234.parquet", task, n)
        for task, n in {"a": 3, "b": 5, "c": 4}.items()
    }
    costs = workload.record_costs(Path(record), 4)
    planned = plan.requests(settings, {Path(path): provenance(Path(path)) for path in paths.values()}, costs)
    assert set(planned) == RULES
    others = {"score_heads": "abc", "evaluate_own": "abc", "evaluate_transfer": "b", "evaluate_aggregate": "c"}
    for rule, expected in planned.items():
        files = [None] if rule == "score_induction" else [paths[task] for task in others.get(rule, "ab")]
        asked = [workload.request_from_files(rule, settings, record, path) for path in files]
        assert max(asked, key=lambda each: each.minutes) == expected, rule
        assert max(each.mem_mb for each in asked) == expected.mem_mb, rule


def test_larger_models_and_more_text_ask_for_more(tmp_path, record):
    sizes = {
        name: {key: 10**7 * value for key, value in counts.items()} for name, counts in prompt_sizes(columns(2)).items()
    }
    few = write_prompts(tmp_path / "few.parquet", n_documents=2)
    many = write_prompts(tmp_path / "many.parquet", n_documents=2, prompt_sizes=sizes)
    settings = study(device="cpu", threads=1)
    small = workload.request_from_files("evaluate_own", settings, record, few)
    # The least that any job asks for.
    assert 20 <= small.minutes <= 22
    assert 1000 < small.mem_mb < 2000
    assert workload.request_from_files("evaluate_own", settings, record, many).minutes > 2 * small.minutes
    large = {**model_sizes(tiny_model("opt")), "parameters": 10**10, "attention": 10**8, "ffn": 10**8}
    costs = Costs.from_sizes(large, 4)
    node = workload.hardware_of(settings)
    assert workload.request("evaluate_own", settings, costs, node, 0).mem_mb > 2 * 40_000


def test_each_attempt_asks_for_more_up_to_the_partitions_limit(tmp_path, record):
    path = write_prompts(tmp_path / "p.parquet")
    for rule in sorted(RULES):
        asked = [workload.request_from_files(rule, study(), record, path, attempt) for attempt in (1, 2, 3)]
        for before, after in pairwise(asked):
            assert after.mem_mb == pytest.approx(1.5 * before.mem_mb, rel=1e-3)
            assert after.minutes == pytest.approx(2 * before.minutes, abs=2)
    settings = study(max_hours=0.5)
    limits = [workload.request_from_files("evaluate_own", settings, record, path, n).minutes for n in (1, 2, 3)]
    assert limits[0] < 30
    assert limits[1:] == [30, 30]
    assert [workload.default_request(settings, n) for n in (1, 2)] == [
        workload.Request(m, 30) for m in (32_000, 48_000)
    ]


def test_an_export_asks_for_the_checkpoint_in_its_own_format(record):
    """It has no prompts; a checkpoint of 32 bits is read on the host, whatever the study's number format."""
    assert workload.request_from_files("export_pruned", study(device="cpu"), record, None).minutes == 21
    large = {**model_sizes(tiny_model("opt")), "parameters": 10**10}
    settings = study(device="auto", dtype="bfloat16")
    costs, node = Costs.from_sizes(large, 2), workload.hardware_of(settings)
    asked = {rule: workload.request(rule, settings, costs, node, 0) for rule in ("evaluate_own", "export_pruned")}
    assert asked["evaluate_own"].mem_mb < 40_000 < 80_000 < asked["export_pruned"].mem_mb


def test_hardware_is_the_studys_or_the_slowest():
    assert workload.hardware_of(study(device="cpu", hardware="h200-141gb")).name == "cpu"
    assert workload.hardware_of(study()).name == "a100-40gb"
    node = workload.hardware_of(study(hardware="h200-141gb", gpus=2, dtype="bfloat16"))
    assert (node.name, node.devices, node.total) == ("h200-141gb", 2, 2 * 139 * workload.GIB)
    # Numbers of 32 bits are many times as slow on a GPU, and threads make a CPU faster.
    assert workload.hardware_of(study(hardware="h200-141gb")).forward < node.forward / 10
    cpus = [workload.hardware_of(study(device="cpu", threads=n)).forward for n in (1, 8)]
    assert cpus[1] == pytest.approx(8 * cpus[0])
    with pytest.raises(HeadroomError, match=r"hardware 'h200' is unknown \(did you mean 'h200-141gb'\?\)"):
        workload.hardware_of(study(hardware="h200"))


def test_files_that_are_not_there_or_do_not_say(tmp_path, record):
    """What is not there yet is Snakemake's business; what says nothing is named."""
    prompts = write_prompts(tmp_path / "p.parquet")
    for model, path in ((str(tmp_path / "none.json"), prompts), (record, str(tmp_path / "none.parquet"))):
        with pytest.raises(FileNotFoundError) as error:
            workload.request_from_files("score_heads", study(), model, path)
        # Snakemake compares the name with the job's inputs.
        assert error.value.filename in (model, path)
    old = tmp_path / "old.json"
    old.write_text('{"name": "tiny"}')
    place = '{"path": "x", "sizes": {"layers": 2}}'
    for text in ("", "{", '{"path": "x"}', place):
        location_file(old).write_text(text)
        with pytest.raises(
            HeadroomError, match=r"old\.json: the size of this model is not recorded here\. Delete .*/\.old"
        ):
            workload.request_from_files("score_heads", study(), str(old), prompts)
    write(tmp_path / "old.parquet", PROMPTS, columns(1), {"task": "a", "shots": 0})
    with pytest.raises(HeadroomError, match=r"old\.parquet: these prompts lack the sizes of their text"):
        workload.request_from_files("score_heads", study(), record, str(tmp_path / "old.parquet"))


def test_submitting_needs_no_torch(tmp_path, record):
    path = write_prompts(tmp_path / "p.parquet")
    code = (
        "import json, sys; from lm_headroom.study.reading import parse_study;"
        "from lm_headroom.planning.workload import request_from_files;"
        "request_from_files('evaluate_own', parse_study(json.loads(sys.argv[1])), *sys.argv[2:]);"
        "sys.exit('torch' in sys.modules)"
    )
    done = subprocess.run(
        [sys.executable, "-c", code, study().model_dump_json(), record, path], capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr


def test_ablations_and_other_selections_are_planned_where_a_study_has_them(tmp_path, record):
    ablate = {"sequences": 2, "ablate": {"percents": [2, 5], "random": 3, "tasks": ["a", "c"]}}
    settings = study(device="cpu", unseen=["c"], induction=ablate, ffn={"selection_bias": True})
    paths = {
        task: write_prompts(tmp_path / "prompts" / task / "0shot-seed1234.parquet", task, n)
        for task, n in {"a": 3, "b": 5, "c": 4}.items()
    }
    costs = workload.record_costs(Path(record), 4)
    prompts = [workload.recorded_prompts(path, 0) for path in paths.values()]
    planned = {job.rule: job for job in workload.jobs(settings, prompts, costs, workload.hardware_of(settings))}
    assert set(planned) == RULES - {"evaluate_transfer"} | {"ablate_induction", "select_ffns"}
    assert (planned["ablate_induction"].count, planned["select_ffns"].count) == (2, 2)
    assert set(plan.requests(settings, {Path(path): provenance(Path(path)) for path in paths.values()}, costs)) == set(
        planned
    )
    # The whole model, and by three choices two levels, each with three controls.
    ahead, _ = workload.operations("ablate_induction", settings, costs, prompts[0])
    assert ahead == pytest.approx(25 * costs.forward(prompts[0].evaluation))
    # The same work as the study's own scores would be on the other documents, but for control curves.
    other = study(device="cpu", ffn={"selection": "scoring"}, pruning={"controls": []})
    assert workload.operations("select_ffns", settings, costs, prompts[1]) == workload.operations(
        "score_ffns", other, costs, prompts[1]
    )


def test_a_grid_shares_its_edge_with_the_curve_of_heads_where_both_are_by_the_aggregate(tmp_path, record):
    costs = workload.record_costs(Path(record), 4)
    prompts = workload.recorded_prompts(write_prompts(tmp_path / "0shot-seed1234.parquet"), 0)
    grid = {"joint": {"heads": [10, 50], "ffns": [50]}, "pruning": {"levels": [0, 50, 90]}}
    by_aggregate, by_task = (
        workload.operations(
            "evaluate_joint", study(**{**grid, "joint": {**grid["joint"], "ranking": ranking}}), costs, prompts
        )[0]
        for ranking in ("aggregate", "task")
    )
    # Of the curve's levels, 90 alone is not in the grid, and 0 is the whole model.
    assert by_task - by_aggregate == pytest.approx(costs.forward(prompts.evaluation))


def test_a_criterion_of_choosing_costs_a_pass_over_all_choices_where_a_study_names_it(tmp_path, record):
    costs = workload.record_costs(Path(record), 4)
    prompts = workload.recorded_prompts(write_prompts(tmp_path / "0shot-seed1234.parquet"), 0)
    one, every = ((costs.forward(load), costs.backward(load)) for load in (prompts.scoring, prompts.scoring_choices))
    assert every > one
    both = pytest.approx(tuple(np.add(one, every)))
    control = study(pruning={"controls": ["choosing_fisher"]})
    own = study(importance={"criterion": "choosing_fisher"})
    for asked, scoring, round_ in ((study(), one, one), (control, both, one), (own, both, every)):
        assert workload.operations("score_heads", asked, costs, prompts) == scoring
        assert workload.operations("rank_custom", asked, costs, prompts) == one
        rounds = workload.operations("rank_heads_iteratively", asked, costs, prompts)
        assert rounds == pytest.approx(tuple(10 * np.array(round_)))
