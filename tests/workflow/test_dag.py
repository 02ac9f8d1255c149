"""What reruns after what, on dry runs of a finished study."""

import os
import re
import time

import pytest

ALL_MODEL_JOBS = {"score_heads", "evaluate_own", "evaluate_aggregate", "score_induction"}


def edit(study, module, text="\n\nADDED = 1\n"):
    path = study.folder / "workflow" / "headroom" / module
    path.write_text(path.read_text() + text)


def test_a_finished_study_has_nothing_to_do(finished):
    assert finished.planned() == {}


def test_touching_and_commenting_is_no_reason(study):
    edit(study, "importance.py", "\n# A comment.\n")
    edit(study, "steps/evaluate_pruned.py", "\n# A comment.\n")
    later = time.time() + 100
    for path in (study.folder / "workflow").rglob("*"):
        os.utime(path, (later, later))
    assert study.planned() == {}


def test_a_changed_docstring_is_no_reason(study):
    path = study.folder / "workflow" / "headroom" / "pruning.py"
    text = path.read_text()
    path.write_text(text.replace('"""Evaluation with', '"""What it does: evaluation with', 1))
    assert path.read_text() != text
    assert study.planned() == {}


def test_touched_inputs_of_equal_content_are_no_reason(study):
    later = time.time() + 100
    for path in (study.folder / "results").rglob("*.parquet"):
        os.utime(path, (later, later))
    assert study.planned() == {}


def test_a_new_task_runs_its_jobs_and_what_gathers(study):
    study.configure(tasks=["arc_easy", "winogrande", "piqa"])
    assert study.planned() == {
        "render_prompts": 2,
        "score_heads": 2,
        "aggregate_importance": 2,
        "evaluate_own": 2,
        # The aggregate changes, so all its curves do: two shots of three tasks.
        "evaluate_aggregate": 6,
        "correlate_tasks": 2,
        "correlate_shots": 1,
        "write_table1": 1,
        "draw_fig03": 1,
        "draw_fig05": 1,
        "draw_fig08": 1,
        "draw_task_importance": 2,
        "write_findings": 1,
    }


def test_a_new_task_reaches_a_single_figure_even_without_snakemakes_records(study):
    import shutil

    shutil.rmtree(study.folder / ".snakemake")
    study.configure(tasks=["arc_easy", "winogrande", "piqa"])
    plan = study.planned("fig03")
    assert plan["score_heads"] == 2
    assert plan["aggregate_importance"] == 2
    assert plan["draw_fig03"] == 1


def test_a_removed_task_changes_what_gathers_only(study):
    study.configure(tasks=["arc_easy"])
    assert study.planned() == {
        "aggregate_importance": 2,
        "evaluate_aggregate": 2,
        "correlate_tasks": 2,
        "correlate_shots": 1,
        "write_table1": 1,
        "draw_fig03": 1,
        "draw_fig05": 1,
        "draw_fig08": 1,
        "draw_task_importance": 2,
        "write_findings": 1,
    }


def test_a_new_shot_runs_its_own_cells(study):
    study.configure(shots=[0, 1, 2])
    plan = study.planned()
    assert plan == {
        "render_prompts": 2,
        "score_heads": 2,
        "aggregate_importance": 1,
        "evaluate_own": 2,
        "evaluate_aggregate": 2,
        "correlate_tasks": 1,
        "correlate_shots": 1,
        "write_table1": 1,
        "draw_fig03": 1,
        "draw_fig05": 1,
        "draw_fig08": 1,
        "write_findings": 1,
    }


def test_a_single_shot_correlates_no_shots(study):
    study.configure(shots=[1])
    assert not {"correlate_shots", "write_table1"} & set(study.planned())


def test_a_new_level_scores_nothing(study):
    study.configure(pruning={"levels": [0, 5, 50, 75], "rankings": ["own", "aggregate", "reversed", "random_1"]})
    assert study.planned() == {"evaluate_own": 4, "evaluate_aggregate": 4, "draw_fig05": 1, "write_findings": 1}


def test_editing_the_pruning_module_scores_no_head(study):
    edit(study, "pruning.py")
    assert study.planned() == {"evaluate_own": 4, "evaluate_aggregate": 4, "draw_fig05": 1, "write_findings": 1}


def test_editing_the_importance_module_renders_no_prompt(study):
    edit(study, "importance.py")
    plan = study.planned()
    assert plan["score_heads"] == 4
    assert not {"render_prompts", "score_induction", "draw_fig10a"} & set(plan)


def test_editing_a_figure_draws_that_figure(study):
    edit(study, "figures/fig08.py")
    assert study.planned() == {"draw_fig08": 1}


def test_editing_the_command_line_is_no_reason(study):
    edit(study, "cli.py")
    assert study.planned() == {}


def test_method_options_reach_the_steps_that_use_them(study):
    study.configure(importance={"reduction": "example"})
    plan = study.planned()
    assert plan["score_heads"] == 4
    assert "render_prompts" not in plan
    study.configure(importance={}, correlation="argsort")
    assert study.planned() == {"draw_fig08": 1}
    study.configure(correlation="spearman", induction={"sequences": 3})
    assert study.planned() == {"score_induction": 1, "draw_fig10a": 1, "write_findings": 1}


def test_speed_options_are_no_reason(study):
    study.configure(token_budget=64, device="cpu", threads=1)
    assert study.planned() == {}


@pytest.mark.parametrize(
    ("deleted", "expected"),
    [
        ("tiny/figures/fig10a_prefix_matching.png", {"draw_fig10a": 1}),
        (
            "tiny/correlation/cross_task/0shot-seed1234.parquet",
            {"correlate_tasks": 1, "draw_fig08": 1, "write_findings": 1},
        ),
        ("tiny/induction/prefix_matching.parquet", {"score_induction": 1, "draw_fig10a": 1, "write_findings": 1}),
        (
            "tiny/pruned_eval/heads/winogrande/1shot-seed1234/random_1.parquet",
            {"evaluate_own": 1, "draw_fig05": 1, "write_findings": 1},
        ),
    ],
)
def test_a_deleted_artifact_comes_back_with_what_depends_on_it(study, deleted, expected):
    study.result(deleted).unlink()
    assert study.planned() == expected


def test_a_deleted_model_record_runs_the_model_anew(study):
    """The way to say that a checkpoint folder has changed."""
    study.result("tiny/model.json").unlink()
    plan = study.planned()
    assert plan["resolve_model"] == 1
    assert plan["score_heads"] == plan["evaluate_own"] == 4
    assert plan["score_induction"] == 1
    assert "render_prompts" not in plan


def test_limits_that_change_places_are_a_change(study):
    """Snakemake compares params as a set of values: named options make them differ."""
    study.configure(limits={"importance": 8, "evaluation": 6})
    assert study.planned("prompts") == {"render_prompts": 4}


def test_deleted_prompts_come_back_with_all_that_follows(study):
    study.result("prompts/winogrande/0shot-seed1234.parquet").unlink()
    plan = study.planned()
    assert plan["render_prompts"] == 1
    assert plan["score_heads"] == 1
    assert plan["evaluate_own"] == 1
    assert plan["evaluate_aggregate"] == 2
    assert plan["correlate_tasks"] == 1


def test_every_artifact_is_listed_by_the_default_target(finished):
    """Whatever a run leaves under results/, deleting it brings it back: each file is an output of a planned job."""
    done = finished.snakemake("--dry-run", "--cores", "2", "--forceall", "--quiet", "host")
    outputs = set(
        re.findall(r"results/[^\s,]+", "\n".join(re.findall(r"^rule all:\n\s+input: (.*)$", done.stdout, re.M)))
    )
    assert outputs, done.stdout
    there = {str(p.relative_to(finished.folder)) for p in (finished.folder / "results").rglob("*") if p.is_file()}
    assert there - outputs == {"results/matrix/tasks.txt", "results/matrix/shots.txt"}


def test_another_source_of_the_model_runs_its_jobs(study):
    (study.folder / "tiny-opt").rename(study.folder / "moved-opt")
    study.configure(models={"tiny": {"source": "moved-opt"}})
    plan = study.planned()
    assert plan["resolve_model"] == 1
    assert plan["score_heads"] == 4
    assert plan["score_induction"] == 1
    assert "render_prompts" not in plan


def test_a_task_yaml_counts_by_its_content(study):
    path = study.folder / "workflow" / "tasks" / "arc.yaml"
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
