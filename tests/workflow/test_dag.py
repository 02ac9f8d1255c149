"""What reruns after what, on dry runs of a finished study."""

import json
import os
import re
import shutil
import subprocess
import sys
import time
from collections import Counter

import pytest
import yaml

from lm_headroom.study.compared import COMPARISONS
from tests.support.paths import ROOT, SNAKEMAKE
from tests.support.workflow_studies import drawn, edit, new_study, work

# The figures of the tiny study, by the rule that draws them.
HEAD_FIGURES = {"draw_fig03", "draw_fig12", "draw_fig13", "write_criteria_agreement", "write_explorer"}
CURVE_FIGURES = {"draw_fig05", "draw_fig06", "draw_fig07", "draw_fig09", "draw_fig16", "draw_prunable_share"} | {
    f"write_{page}"
    for page in ("findings", "reference", "headroom", "losses", "criteria", "gains", "outcomes", "explorer")
}
COMPARED = {"draw_prunable_share", "write_criteria"}
ORACLE_PAGES = {
    "draw_oracle_ffns",
    "write_oracle",
    "write_linearity",
    "draw_criteria_agreement",
    "write_criteria_agreement",
}
INDUCTION_FIGURES = {
    *("draw_fig10", "draw_fig11", "draw_fig18", "draw_fig19", "write_findings", "write_reference"),
    *("draw_criteria_agreement", "write_criteria_agreement", "write_explorer"),
}


def test_a_finished_study_has_nothing_to_do(finished):
    assert finished.planned() == {}


COUNTING = """
import atexit, collections, json, os, sys
counts = collections.Counter()
def count(event, arguments):
    # Snakemake compiles an expression or two per job; a module is longer.
    if event in ("open", "subprocess.Popen") or event == "compile" and len(arguments[0] or "") > 500:
        counts[event] += 1
sys.addaudithook(count)
path = os.environ["LM_HEADROOM_TEST_COUNTS"]
atexit.register(lambda: open(path, "a").write(json.dumps(counts) + chr(10)))
"""
"""What Python runs at its start: counts files opened, sources parsed and processes started, of each process."""


def test_the_papers_study_is_at_most_305_jobs_and_planned_at_once_for_four_models(tmp_path):
    """14 + 2 tasks, three numbers of shots, transfer and a control; four models have nothing parsed four times."""
    # A copy without byte code, none of which is written: what is parsed depends on no other process.
    checkout = new_study(tmp_path / "checkout", byte_code=False).folder
    (tmp_path / "counting").mkdir()
    (tmp_path / "counting" / "sitecustomize.py").write_text(COUNTING)
    path = os.pathsep.join([str(tmp_path / "counting"), os.environ.get("PYTHONPATH", "")])
    study = yaml.safe_load((ROOT / "workflow" / "studies" / "opt-66b.yaml").read_text())
    counts, totals = [], []
    for n_models in (1, 2, 4):
        study["models"] = {f"model{n}": {"source": f"nobody/model{n}"} for n in range(n_models)}
        (tmp_path / "study.yaml").write_text(yaml.safe_dump(study))
        command = [sys.executable, "-m", "snakemake", "--snakefile", checkout / "Snakefile", "--directory", tmp_path,
                   "--configfile", tmp_path / "study.yaml", "--dry-run", "--quiet", "rules"]  # fmt: skip
        log = tmp_path / f"{n_models}.json"
        env = {**os.environ, "PYTHONPATH": path, "LM_HEADROOM_TEST_COUNTS": str(log), "PYTHONDONTWRITEBYTECODE": "1"}
        done = subprocess.run(command, capture_output=True, text=True, check=True, cwd=tmp_path, env=env)
        totals.append(sum((Counter(json.loads(line)) for line in log.read_text().splitlines()), Counter()))
        counts.append(int(re.search(r"total\s+(\d+)", done.stdout + done.stderr)[1]))
        # What models add shows in fewer tasks, too, which are planned sooner.
        study |= {"tasks": study["tasks"][:2], "unseen": study["unseen"][:1], "shots": study["shots"][:2]}
    # Two of them write pages that show all others: the explorer and the first page.
    assert 250 < counts[0] <= 305
    assert counts[2] <= 2 * counts[1]
    # Two models are compared, which one is not.
    one, two, four = totals
    assert one["compile"] > 50, "modules are parsed for their digests"
    assert four["compile"] == two["compile"]
    assert four["subprocess.Popen"] == two["subprocess.Popen"] == one["subprocess.Popen"]
    assert four["open"] <= two["open"] + 2 * 3


@pytest.mark.parametrize("name", ["pythia-training", "opt-sizes", "base-vs-instruct"])
def test_studies_of_several_models_plan_their_comparison(name, tmp_path, finished):
    """As shipped, but from a local checkpoint: no hub can be reached here."""
    study = yaml.safe_load((ROOT / "workflow" / "studies" / f"{name}.yaml").read_text())
    for model in study["models"].values():
        model["source"] = str(finished.folder / "tiny-opt")
    (tmp_path / "study.yaml").write_text(yaml.safe_dump(study))
    command = [*SNAKEMAKE, "--snakefile", ROOT / "Snakefile", "--directory", tmp_path,
               "--configfile", tmp_path / "study.yaml", "--dry-run", "--quiet", "rules"]  # fmt: skip
    done = subprocess.run(command, capture_output=True, text=True, cwd=tmp_path)
    assert done.returncode == 0, done.stdout + done.stderr
    plan = dict(re.findall(r"^(\w+)\s+(\d+)$", done.stdout + done.stderr, re.M))
    assert plan["resolve_model"] == plan["score_induction"] == str(len(study["models"]))
    assert {plan[f"compare_{what}"] for what in ("models", *COMPARISONS)} == {"1"}
    assert {plan[f"draw_compare_{what}"] for what in COMPARISONS} == {"1"}


def test_a_single_model_is_compared_with_nothing(study):
    done = study.snakemake("--dry-run", "--forceall", "--quiet", "host")
    assert done.returncode == 0, done.stdout
    assert not re.search(r"rule \w*compare", done.stdout)
    assert not study.result("matrix/models.txt").exists()


def test_a_second_model_runs_its_jobs_and_the_comparison(study):
    study.configure(models={"tiny": {"source": "tiny-opt"}, "again": {"source": "tiny-opt"}})
    plan = study.planned()
    assert work(plan) == {
        "resolve_model": 1, "score_heads": 6, "score_ffns": 4, "aggregate_heads": 2, "aggregate_ffns": 2,
        "evaluate_own": 6, "evaluate_joint": 4, "evaluate_aggregate": 2, "evaluate_transfer": 2, "correlate_tasks": 2,
        "correlate_shots": 1, "correlate_oracle": 1, "score_induction": 1, "retain_capacity": 2, "compare_models": 1,
        **{f"compare_{what}": 1 for what in COMPARISONS},
    }  # fmt: skip
    # Each comparison needs no more of the new model than it compares.
    assert work(study.planned("comparison_induction")) == {
        "resolve_model": 1, "score_induction": 1, "compare_models": 1, "compare_induction": 1,
    }  # fmt: skip


def test_touching_and_commenting_is_no_reason(study):
    edit(study, "scoring/gradient.py", "\n# A comment.\n")
    edit(study, "steps/evaluate_pruned.py", "\n# A comment.\n")
    later = time.time() + 100
    for path in (study.folder / "workflow").rglob("*"):
        os.utime(path, (later, later))
    assert study.planned() == {}


def test_a_changed_docstring_is_no_reason(study):
    path = study.folder / "workflow" / "lm_headroom" / "scoring" / "pruned_evaluation.py"
    text = path.read_text()
    path.write_text(text.replace('"""', '"""Another sentence. ', 1))
    assert path.read_text() != text
    assert study.planned() == {}


def test_touched_inputs_of_equal_content_are_no_reason(study):
    later = time.time() + 100
    for path in (study.folder / "results").rglob("*.parquet"):
        os.utime(path, (later, later))
    assert study.planned() == {}


def test_a_new_task_runs_its_jobs_and_what_gathers(study):
    study.configure(tasks=["arc_easy", "winogrande", "piqa"])
    plan = study.planned()
    assert work(plan) == {
        "render_prompts": 2,
        "score_heads": 2,
        "score_ffns": 2,
        "aggregate_heads": 2,
        "aggregate_ffns": 2,
        "evaluate_own": 2,
        # The aggregate changes, so all its curves do: two shots of three tasks, and of the unseen one.
        "evaluate_joint": 6,
        "evaluate_aggregate": 2,
        "evaluate_transfer": 2,
        "correlate_tasks": 2,
        "correlate_shots": 1,
        "correlate_oracle": 1,
        "retain_capacity": 2,
    }
    # Figure 10 alone shows the model, not the tasks.
    everything = {"draw_fig03", "draw_fig04", "draw_fig08", "write_table1"} | CURVE_FIGURES | INDUCTION_FIGURES
    everything |= ORACLE_PAGES
    assert drawn(plan) == (everything | HEAD_FIGURES) - {"draw_fig10"}


def test_a_new_unseen_task_changes_no_aggregate(study):
    study.configure(unseen=["lambada_openai", "piqa"])
    plan = study.planned()
    assert work(plan) == {"render_prompts": 2, "score_heads": 2, "evaluate_own": 2, "evaluate_aggregate": 2}
    assert drawn(plan) == {"draw_fig09", "draw_fig16", "write_findings", "write_losses"}


def test_a_new_task_reaches_a_single_figure_even_without_snakemakes_records(study):
    shutil.rmtree(study.folder / ".snakemake")
    study.configure(tasks=["arc_easy", "winogrande", "piqa"])
    plan = study.planned("fig03")
    assert plan["score_heads"] == 2
    assert plan["aggregate_heads"] == 2
    assert plan["draw_fig03"] == 1


def test_a_removed_task_changes_what_gathers_only(study):
    study.configure(tasks=["arc_easy"], transfer={"tasks": []})
    assert work(study.planned()) == {
        "aggregate_heads": 2,
        "aggregate_ffns": 2,
        "evaluate_joint": 2,
        "evaluate_aggregate": 2,
        "correlate_tasks": 2,
        "correlate_shots": 1,
        "correlate_oracle": 1,
        "retain_capacity": 2,
    }


def test_a_new_shot_runs_its_own_cells(study):
    study.configure(shots=[0, 1, 2])
    assert work(study.planned()) == {
        "render_prompts": 3,
        "score_heads": 3,
        "score_ffns": 2,
        "aggregate_heads": 1,
        "aggregate_ffns": 1,
        "evaluate_own": 3,
        "evaluate_joint": 2,
        "evaluate_aggregate": 1,
        "evaluate_transfer": 1,
        "correlate_tasks": 1,
        "correlate_shots": 1,
        "correlate_oracle": 1,
        "retain_capacity": 1,
    }


def test_a_single_shot_correlates_no_shots(study):
    study.configure(shots=[1])
    assert not {"correlate_shots", "write_table1"} & set(study.planned())


FFNS = {"score_ffns": 4, "aggregate_ffns": 2, "evaluate_joint": 4, "correlate_oracle": 1}
"""A curve of FFNs is of the job that scores them; the joint grid takes their aggregate, the gradient is compared."""
EVALUATIONS = {**FFNS, "evaluate_own": 6, "evaluate_aggregate": 2}


def test_a_new_level_scores_no_head(study):
    study.configure(pruning={"levels": [0, 5, 50, 75], "controls": ["reversed", "random_1"]})
    plan = study.planned()
    assert work(plan) == EVALUATIONS
    assert drawn(plan) == CURVE_FIGURES | {"draw_fig04"} | ORACLE_PAGES


def test_a_new_level_of_the_grid_evaluates_the_grid(study):
    study.configure(joint={"heads": [0, 50], "ffns": [0, 34, 67]})
    assert work(study.planned()) == {"evaluate_joint": 4}


def test_a_study_may_leave_induction_out(study):
    study.configure(induction={"sequences": 0})
    agreement = {"draw_criteria_agreement": 1, "write_criteria_agreement": 1}
    pages = {"write_explorer": 1, "write_index": 1}
    assert study.planned() == {"write_findings": 1, "write_reference": 1, **agreement, **pages}
    pages = ("results/tiny/findings/seed1234.md", "results/tiny/tables/reference-seed1234.md")
    study.run(*pages)
    assert study.planned(*pages) == {}
    text = study.result("tiny/findings/seed1234.md").read_text()
    assert "The study leaves induction scores out" in text
    assert "3 x 4 = 12" in study.result("tiny/tables/reference-seed1234.md").read_text()
    shutil.rmtree(study.result("tiny"))
    rules = set(study.planned())
    assert {"score_heads", "draw_fig03", "write_findings"} <= rules
    assert not rules & {"score_induction", "retain_capacity", "draw_fig10", "draw_fig11", "draw_fig18", "draw_fig19"}


def test_a_window_too_short_for_the_induction_sequences_is_said_before_any_job(study):
    study.configure(induction={"sequences": 21})
    done = study.snakemake("--dry-run")
    assert done.returncode != 0
    assert (
        "model 'tiny': an input of 261 tokens, the longest of 21 induction sequences, does not fit its context "
        "window of 256; set induction.sequences to at most 20, or to 0 to leave induction out"
        in " ".join(done.stdout.split())
    )
    assert "Traceback" not in done.stdout


def test_no_grid_leaves_the_aggregates_curve(study):
    """Without a grid another rule makes the same curve; what is there stays as it is only if it would be the same."""
    study.configure(joint={"heads": []})
    plan = study.planned()
    assert work(plan) == {"evaluate_aggregate": 4}
    assert "draw_fig07" not in plan


def test_editing_the_pruning_module_scores_no_head(study):
    edit(study, "scoring/pruned_evaluation.py")
    plan = work(study.planned())
    assert {**EVALUATIONS, "evaluate_transfer": 2}.items() <= plan.items()
    assert not {"score_heads", "aggregate_heads", "render_prompts", "score_induction"} & set(plan)


def test_editing_the_oracle_module_scores_ffns_only(study):
    edit(study, "scoring/knockout.py")
    assert work(study.planned()) == FFNS


def test_editing_the_copying_module_evaluates_nothing(study):
    edit(study, "scoring/copying.py")
    plan = study.planned()
    assert work(plan) == {"score_induction": 1, "retain_capacity": 2}
    assert drawn(plan) == INDUCTION_FIGURES


def test_editing_the_importance_module_renders_no_prompt(study):
    edit(study, "scoring/gradient.py")
    plan = study.planned()
    assert plan["score_heads"] == 6
    assert not {"render_prompts", "score_ffns", "score_induction", "draw_fig10", "draw_fig04"} & set(plan)


def test_editing_a_figure_draws_that_figure(study):
    edit(study, "report/figures/fig08.py")
    assert study.planned() == {"draw_fig08": 1, "write_index": 1}


def test_editing_the_command_line_is_no_reason(study):
    edit(study, "cli.py")
    assert study.planned() == {}


@pytest.mark.parametrize(
    ("changes", "expected", "figures"),
    [
        (
            {"correlation": "argsort"},
            {"evaluate_transfer": 2},
            {"draw_fig08", "draw_fig09", "draw_fig16", "write_findings", "write_losses"},
        ),
        (
            {"margin": 5},
            {},
            {"write_headroom", "write_outcomes", "write_findings", "write_reference", "write_explorer", *COMPARED},
        ),
        (
            {"induction": {"sequences": 3}},
            {"score_induction": 1, "retain_capacity": 2},
            INDUCTION_FIGURES,
        ),
        ({"copying": {"output_bias": True}}, {"score_induction": 1, "retain_capacity": 2}, INDUCTION_FIGURES),
        (
            {"joint": {"heads": [0, 50], "ffns": [0, 34], "ranking": "task"}},
            {"evaluate_joint": 4},
            CURVE_FIGURES,
        ),
        (
            {"transfer": {"tasks": ["winogrande"], "levels": [50, 75]}},
            {"evaluate_transfer": 2},
            {"draw_fig09", "draw_fig16", "write_findings", "write_losses"},
        ),
    ],
    # Sets print in another order in each worker.
    ids=["correlation", "margin", "induction", "copying", "joint", "transfer"],
)
def test_method_options_reach_the_steps_that_use_them(study, changes, expected, figures):
    study.configure(**changes)
    plan = study.planned()
    assert work(plan) == expected
    assert drawn(plan, all_outcomes="margin" not in changes) <= figures


def test_the_oracle_of_heads_is_a_job_per_task_and_shot(study):
    study.configure(head_oracle={"tasks": ["winogrande", "lambada_openai"], "heads": 5})
    plan = study.planned()
    assert work(plan) == {"score_head_knockouts": 4, "correlate_oracle": 1}
    assert drawn(plan) == ORACLE_PAGES | {"draw_oracle_heads", "write_findings"}


def test_a_control_by_the_oracle_removes_each_head_and_reads_it(study):
    tasks = [*study.config["tasks"], *study.config["unseen"]]
    study.configure(
        head_oracle={"tasks": tasks}, pruning={**study.config["pruning"], "controls": ["random_1", "oracle_loss"]}
    )
    plan = study.planned()
    assert plan["score_head_knockouts"] == plan["evaluate_own"] == 2 * len(tasks)
    printed = study.snakemake("--dry-run", "--printshellcmds", "--cores", "1").stdout
    assert "--oracle=results/tiny/head_oracle/winogrande/0shot-seed1234.parquet" in printed


@pytest.mark.parametrize("changes", [{"reduction": "example"}, {"criterion": "second_order"}], ids=str)
def test_importance_options_score_the_heads_anew(study, changes):
    study.configure(importance=changes)
    plan = study.planned()
    assert plan["score_heads"] == 6
    assert not {"render_prompts", "score_ffns"} & set(plan)


def test_ffn_selection_scores_the_ffns_anew(study):
    study.configure(ffn={"selection": "evaluation"})
    plan = work(study.planned())
    assert plan == FFNS


def test_speed_options_are_no_reason(study):
    study.configure(token_budget=64, device="cpu", threads=1)
    assert study.planned() == {}


@pytest.mark.parametrize(
    ("deleted", "expected"),
    [
        ("figures/fig10_induction.png", {"draw_fig10": 1, "write_index": 1}),
        ("correlation/cross_task/0shot-seed1234.parquet", {"correlate_tasks": 1, "evaluate_transfer": 1}),
        ("induction/copying.parquet", {"score_induction": 1, "retain_capacity": 2}),
        ("pruned_eval/heads/winogrande/1shot-seed1234/random_1.parquet", {"evaluate_own": 1}),
        ("pruned_eval/heads/winogrande/1shot-seed1234/lowest_srcc.parquet", {"evaluate_transfer": 1}),
        ("pruned_eval/joint/winogrande/1shot-seed1234.parquet", {"evaluate_joint": 1}),
        ("capacity/1shot-seed1234.parquet", {"retain_capacity": 1}),
        (
            "ffn_importance/arc_easy/0shot-seed1234.parquet",
            {"score_ffns": 1, "aggregate_ffns": 1, "evaluate_joint": 2, "correlate_oracle": 1},
        ),
    ],
)
def test_a_deleted_artifact_comes_back_with_what_depends_on_it(study, deleted, expected):
    study.result(f"tiny/{deleted}").unlink()
    plan = study.planned()
    assert (plan if deleted.startswith("figures") else work(plan)) == expected


def test_limits_that_change_places_are_a_change(study):
    """Snakemake compares params as a set of values: named options make them differ."""
    study.configure(limits={"importance": 8, "evaluation": 6})
    assert study.planned("prompts") == {"render_prompts": 6}


@pytest.mark.parametrize("changes", [{"prompts": "harness"}, {"metric": "answer"}], ids=str)
def test_other_prompts_are_rendered_anew(study, changes):
    study.configure(**changes)
    assert study.planned("prompts") == {"render_prompts": 6}


def test_deleted_prompts_come_back_with_all_that_follows(study):
    study.result("prompts/winogrande/0shot-seed1234.parquet").unlink()
    plan = study.planned()
    assert plan["render_prompts"] == 1
    assert plan["score_heads"] == 1
    assert plan["evaluate_own"] == 1
    assert plan["evaluate_joint"] == 2
    assert plan["evaluate_aggregate"] == 1
    assert plan["correlate_tasks"] == 1


def test_every_artifact_is_listed_by_the_default_target(finished):
    """Whatever a run leaves under results/, deleting it brings it back: each file is an output of a planned job."""
    done = finished.snakemake("--dry-run", "--cores", "2", "--forceall", "--quiet", "host")
    outputs = set(
        re.findall(r"results/[^\s,]+", "\n".join(re.findall(r"^rule all:\n\s+input: (.*)$", done.stdout, re.M)))
    )
    assert outputs, done.stdout
    there = {
        str(path.relative_to(finished.folder))
        for path in (finished.folder / "results").rglob("*")
        # Hidden files are no results.
        if path.is_file() and not any(part.startswith(".") for part in path.relative_to(finished.folder).parts)
    }
    assert there - outputs == {f"results/matrix/{name}.txt" for name in ("tasks", "shots", "unseen", "seeds")}


def test_a_task_yaml_counts_by_its_content(study):
    path = study.folder / "workflow" / "tasks" / "paper" / "arc.yaml"
    text = (
        "task: arc_easy\noutput_type: multiple_choice\ndataset_path: x\ntraining_split: train\n"
        "validation_split: validation\ndoc_to_text: 'Q: {{question}}'\n"
        "doc_to_target: '{{choices.label.index(answerKey)}}'\ndoc_to_choice: '{{choices.text}}'\n"
    )
    path.write_text(text)
    plan = study.planned()
    assert plan["render_prompts"] == 2
    study.run("prompts")
    path.write_text("# Why this task has a YAML of its own.\n" + text)
    assert "render_prompts" not in study.planned("prompts")
    path.write_text(text.replace("Q:", "Question:"))
    assert study.planned("prompts") == {"render_prompts": 2}


def test_speed_options_of_clusters_are_no_reason(study):
    study.configure(gpus=2, hardware="h200-141gb", max_hours=1.5)
    assert study.planned() == {}


def test_a_job_takes_the_gpus_of_the_study_whatever_the_limit_of_all(study):
    """The default profile lets one GPU be used at a time; a job of two then runs alone, with two."""
    study.configure(device="auto", gpus=2)
    done = study.snakemake("--dry-run", "--forceall", "--printshellcmds")
    assert done.returncode == 0, done.stdout
    commands = re.findall(r"python -m lm_headroom .*--device .*", done.stdout)
    assert len(commands) > 20
    assert all("--device auto --gpus 2 --threads 1" in command for command in commands)


@pytest.mark.parametrize("profile", ["slurm", "generic"])
def test_profiles_of_clusters_plan_a_study_of_which_nothing_is_made(profile, study):
    """Memory and time are not known before models and prompts are there."""
    plans = []
    for _ in range(2):
        done = study.snakemake("--dry-run", "--forceall", "--workflow-profile", f"profiles/{profile}")
        assert done.returncode == 0, done.stdout
        plans.append(re.search(r"Job stats:\n(.*?)\n\n", done.stdout, re.DOTALL)[1])
        shutil.rmtree(study.folder / "results", ignore_errors=True)
    assert plans[0] == plans[1]
    assert "score_heads" in plans[0]


def test_each_rule_runs_beside_snakemake_or_asks_for_memory_and_time():
    text = "\n".join(path.read_text() for path in sorted((ROOT / "workflow" / "rules").glob("*.smk")))
    rules = dict(re.findall(r"^(?:use rule \w+ as|rule) (\w+)(?: with)?:\n(.*?)(?=^\S|\Z)", text, re.M | re.S))
    local = {name for name, body in rules.items() if "localrule: True" in body}
    running = {name for name, body in rules.items() if f'model_job("{name}")' in body}
    # One inherits what it asks for.
    small = {name for name, body in rules.items() if "mem_mb=get_cpu_memory" in body} | {"aggregate_ffns"}
    assert sorted([*local, *running, *small]) == sorted(rules)
    # Rules that loops make.
    looped = [body for body in re.findall(r"^    rule:\n(.*?)(?=^ {0,3}\S|\Z)", text, re.M | re.S) if "shell:" in body]
    assert len(looped) == 2
    assert all(("localrule: True" in body) != ("mem_mb=get_cpu_memory" in body) for body in looped)
    profile = yaml.safe_load((ROOT / "profiles" / "slurm" / "config.yaml").read_text())["__variables__"]
    listed = [*profile["single_rules"], *(rule for rules in profile["groups_of_rules"].values() for rule in rules)]
    assert sorted(listed) == sorted(running)


@pytest.mark.parametrize(("chains", "groups"), [(100, 6), (1, 18), (0, 0)])
def test_jobs_of_a_model_and_task_are_submitted_together(chains, groups, study):
    """Three tasks have two submissions each, or one for each chain of jobs."""
    profile = study.folder / "profiles" / "slurm" / "config.yaml"
    text = profile.read_text()
    assert "chains_per_submission: 100\n" in text
    profile.write_text(text.replace("chains_per_submission: 100\n", f"chains_per_submission: {chains}\n"))
    done = study.snakemake("--dry-run", "--forceall", "--workflow-profile", "profiles/slurm")
    assert done.returncode == 0, done.stdout
    submitted = re.findall(r"Group job (score|evaluate)_tiny_(\w+) ", done.stdout)
    assert len(submitted) == groups
    if chains == 100:
        assert len(set(submitted)) == groups, "one of each kind for a task"


def test_a_model_of_unknown_size_keeps_no_run_from_starting(study):
    import json

    path = study.result("tiny/.model.json")
    place = json.loads(path.read_text())
    del place["sizes"]
    path.write_text(json.dumps(place))
    done = study.snakemake("--dry-run", "--forceall", "--workflow-profile", "profiles/slurm")
    assert done.returncode == 0, done.stdout
    assert done.stdout.count("results/tiny/model.json: the size of this model is not recorded here") == 1


def test_unknown_hardware_is_named_before_anything_runs(study):
    study.configure(hardware="h200")
    done = study.snakemake("--dry-run", "--cores", "2")
    assert done.returncode == 1
    assert "hardware 'h200' is unknown (did you mean 'h200-141gb'?)" in done.stdout


def test_a_workflow_profile_that_is_not_there_is_named_before_anything_runs(finished):
    done = finished.snakemake("--dry-run", "--workflow-profile", "profiles/slrum")
    assert done.returncode == 1
    assert "there is no workflow profile profiles/slrum: expected one of " in done.stdout


EXPORT = "results/tiny/pruned/{}/1shot-seed1234"
"""A pruned checkpoint's folder, which is made when it is asked for."""


def test_a_pruned_checkpoint_is_one_job(finished):
    levels = (
        "aggregate/heads50-ffns34", "winogrande/heads0-ffns100", "lambada_openai/heads90-ffns0",
        "aggregate/heads50-ffns0-even", "winogrande/heads50-ffns34-even",
    )  # fmt: skip
    assert finished.planned(*map(EXPORT.format, levels)) == {"export_pruned": len(levels)}


@pytest.mark.parametrize(
    "levels",
    [
        "aggregate/heads101-ffns0", "aggregate/heads050-ffns0", "piqa/heads50-ffns0", "aggregate/heads50",
        "aggregate/heads50-ffns0-odd", "aggregate/heads50-even", "winogrande/heads50-ffns0-experts0",
        "winogrande/heads50-ffns0-experts25", "aggregate/heads50-ffns0-even-experts25",
    ],
)  # fmt: skip
def test_a_pruned_checkpoint_that_cannot_be_is_no_target(finished, levels):
    """Above 100%, the same by another name, of no task or no experts of the study, or half a name."""
    done = finished.snakemake("--dry-run", "--cores", "1", EXPORT.format(levels))
    assert done.returncode == 1
    assert "MissingRuleException" in done.stdout or "MissingInputException" in done.stdout


def test_a_pruned_checkpoint_needs_the_rankings_that_prune_it_and_no_other(study):
    for component in ("heads", "ffns"):
        shutil.rmtree(study.result(f"tiny/ranking/{component}"))
    assert study.planned(EXPORT.format("winogrande/heads50-ffns0")) == {"score_heads": 1, "export_pruned": 1}
    assert study.planned(EXPORT.format("winogrande/heads0-ffns50")) == {"score_ffns": 1, "export_pruned": 1}


def test_an_even_checkpoint_is_another_target_and_prunes_as_many_in_each_layer(study):
    target = EXPORT.format("aggregate/heads60-ffns0-even")
    study.run(target)
    manifest = json.loads((study.folder / target / "lm_headroom.json").read_text())
    # Of three layers of four heads, whole rounds: 60% are 7, of which 6 are pruned.
    assert (manifest["even"], manifest["pruned"]["heads"]["count"]) == (True, 6)
    left = json.loads((study.folder / target / "config.json").read_text())["heads_left"]
    assert [len(heads) for heads in left] == [2, 2, 2]
    assert study.planned(target) == {}
    assert study.planned(EXPORT.format("aggregate/heads60-ffns0")) == {"export_pruned": 1}


def test_a_pruned_checkpoint_is_made_once_and_again_when_it_would_be_another(study):
    target = EXPORT.format("aggregate/heads50-ffns34")
    study.run(target)
    assert study.planned(target) == {}
    assert study.planned() == {}
    done = subprocess.run(
        [sys.executable, "-m", "lm_headroom", "verify", study.result("")], capture_output=True, text=True,
        env=os.environ | {"PYTHONPATH": str(study.folder / "workflow")},
    )  # fmt: skip
    assert done.returncode == 0, done.stdout
    assert (study.folder / target / "README.md").read_text().count("steps.score_heads `") == 2, "a task each"
    edit(study, "scoring/copying.py")
    assert study.planned(target) == {}
    records, kept = study.folder / ".snakemake", study.folder / "kept"
    records.rename(kept)
    assert study.planned(target) == {}
    edit(study, "pruned/model.py")
    assert study.planned(target) == {"export_pruned": 1}, "the manifest says so where Snakemake's records are lost"
    shutil.rmtree(records)
    kept.rename(records)
    assert study.planned(target) == {"export_pruned": 1}
    # A failed job leaves no half of a checkpoint, and Snakemake no whole one.
    (study.folder / "tiny-opt" / "model.safetensors").write_bytes(b"damaged")
    assert study.snakemake("--cores", "1", target).returncode == 1
    assert not (study.folder / target).exists()


def test_a_second_seed_makes_a_copy_of_the_matrix_and_what_seeds_change(study):
    study.configure(seeds=[1234, 7])
    plan = study.planned()
    assert {name: plan[name] for name in ("average_seeds", "write_seeds", "write_findings")} == {
        "average_seeds": 1, "write_seeds": 1, "write_findings": 1,
    }  # fmt: skip
    assert work(plan) == {
        "render_prompts": 6, "score_heads": 6, "score_ffns": 4, "aggregate_heads": 2, "aggregate_ffns": 2,
        "evaluate_own": 6, "evaluate_joint": 4, "evaluate_aggregate": 2, "evaluate_transfer": 2, "correlate_tasks": 2,
        "correlate_shots": 1, "retain_capacity": 2, "average_seeds": 1,
        "correlate_oracle": 1,
    }  # fmt: skip
    assert study.result("matrix/seeds.txt").read_text() == "1234\n", "a dry run writes nothing"
    study.run("results/tiny/model.json")
    assert study.result("matrix/seeds.txt").read_text() == "1234\n7\n"
