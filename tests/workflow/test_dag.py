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
from tests.support.paths import ROOT, SNAKEMAKE, environment_of_runs
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
    """As shipped, but of fewer tasks, and from a local checkpoint: no hub can be reached here."""
    study = yaml.safe_load((ROOT / "workflow" / "studies" / f"{name}.yaml").read_text())
    for model in study["models"].values():
        model["source"] = str(finished.folder / "tiny-opt")
    study |= {name: study[name][:2] for name in ("tasks", "shots") if name in study}
    (tmp_path / "study.yaml").write_text(yaml.safe_dump(study))
    command = [*SNAKEMAKE, "--snakefile", ROOT / "Snakefile", "--directory", tmp_path,
               "--configfile", tmp_path / "study.yaml", "--dry-run", "--quiet", "rules"]  # fmt: skip
    done = subprocess.run(command, capture_output=True, text=True, cwd=tmp_path, env=environment_of_runs())
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


def test_what_changes_no_result_is_no_reason(study):
    """Comments, a docstring, the command line, options of speed, and files that are touched: all at once."""
    edit(study, "scoring/gradient.py", "\n# A comment.\n")
    edit(study, "steps/evaluate_pruned.py", "\n# A comment.\n")
    edit(study, "cli.py")
    path = study.folder / "workflow" / "lm_headroom" / "scoring" / "pruned_evaluation.py"
    text = path.read_text()
    path.write_text(text.replace('"""', '"""Another sentence. ', 1))
    assert path.read_text() != text
    study.configure(token_budget=64, device="cpu", threads=1, gpus=2, hardware="h200-141gb", max_hours=1.5)
    later = time.time() + 100
    for path in (*(study.folder / "workflow").rglob("*"), *(study.folder / "results").rglob("*.parquet")):
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


def test_editing_or_deleting_a_figure_draws_that_figure(study):
    edit(study, "report/figures/fig08.py")
    study.result("tiny/figures/fig10_induction.png").unlink()
    assert study.planned() == {"draw_fig08": 1, "draw_fig10": 1, "write_index": 1}


JUDGED_PAGES = {"write_headroom", "write_outcomes", "write_findings", "write_reference", "write_explorer"}
TRANSFER_FIGURES = {"draw_fig09", "draw_fig16", "write_findings", "write_losses"}


@pytest.mark.parametrize(
    ("changes", "expected", "figures"),
    [
        (
            {"correlation": "argsort", "margin": 5},
            {"evaluate_transfer": 2},
            {"draw_fig08", *TRANSFER_FIGURES, *JUDGED_PAGES, *COMPARED},
        ),
        (
            {"induction": {"sequences": 3}, "joint": {"heads": [0, 50], "ffns": [0, 34], "ranking": "task"}},
            {"score_induction": 1, "retain_capacity": 2, "evaluate_joint": 4},
            INDUCTION_FIGURES | CURVE_FIGURES,
        ),
        (
            {"copying": {"output_bias": True}, "transfer": {"tasks": ["winogrande"], "levels": [50, 75]}},
            {"score_induction": 1, "retain_capacity": 2, "evaluate_transfer": 2},
            INDUCTION_FIGURES | TRANSFER_FIGURES,
        ),
    ],
    # Sets print in another order in each worker.
    ids=["correlation and margin", "induction and joint", "copying and transfer"],
)
def test_method_options_reach_the_steps_that_use_them(finished, tmp_path, changes, expected, figures):
    """Two options each, which no step shares; by Snakemake's records, and by the results' own provenance."""
    for records_last in (True, False):
        study = finished.copy(tmp_path / f"{records_last}", records_last)
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


def test_importance_options_score_the_heads_anew(study):
    study.configure(importance={"criterion": "second_order"})
    plan = study.planned()
    assert plan["score_heads"] == 6
    assert not {"render_prompts", "score_ffns"} & set(plan)


def test_ffn_selection_scores_the_ffns_anew(study):
    study.configure(ffn={"selection": "evaluation"})
    plan = work(study.planned())
    assert plan == FFNS


@pytest.mark.parametrize(
    "deleted",
    [
        {
            "correlation/cross_task/0shot-seed1234.parquet": {"correlate_tasks": 1, "evaluate_transfer": 1},
            "induction/copying.parquet": {"score_induction": 1, "retain_capacity": 2},
            "pruned_eval/heads/winogrande/1shot-seed1234/random_1.parquet": {"evaluate_own": 1},
            "ffn_importance/arc_easy/0shot-seed1234.parquet": {
                "score_ffns": 1, "aggregate_ffns": 1, "evaluate_joint": 2, "correlate_oracle": 1,
            },
        },
        {
            "pruned_eval/heads/winogrande/1shot-seed1234/lowest_srcc.parquet": {"evaluate_transfer": 1},
            "pruned_eval/joint/winogrande/1shot-seed1234.parquet": {"evaluate_joint": 1},
            "capacity/1shot-seed1234.parquet": {"retain_capacity": 1},
        },
    ],
    ids=["scores", "curves"],
)  # fmt: skip
def test_deleted_artifacts_come_back_with_what_depends_on_them(study, deleted):
    """No rule is expected of two of them, so that each rule's count tells of one."""
    assert sum(map(len, deleted.values())) == len(set().union(*deleted.values()))
    for path in deleted:
        study.result(f"tiny/{path}").unlink()
    assert work(study.planned()) == {rule: count for jobs in deleted.values() for rule, count in jobs.items()}


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
