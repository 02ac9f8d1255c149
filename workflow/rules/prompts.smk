# Prompts of each task, shot and seed, rendered by lm-eval; the last step that needs the data.


rule render_prompts:
    input:
        get_data_files,
    output:
        f"results/prompts/{{task}}/{CELL}.parquet",
    log:
        f"logs/render_prompts/{{task}}/{CELL}.log",
    conda:
        "../../envs/prompts.yaml"
    resources:
        # Not params: where the records lie does not matter.
        data=get_data(),
    params:
        code=code_digest("steps.render_prompts"),
        definition=get_task_digest,
        records=get_records,
        options=options(
            "limits.importance", "limits.evaluation", "sample", "prompts", "metric"
        ),
    message:
        "Render {wildcards.task}, {wildcards.shot}-shot, seed {wildcards.seed}."
    shell:
        "python -m lm_headroom prompts --task {wildcards.task:q} --shots {wildcards.shot:q} --seed {wildcards.seed:q} "
        "--data={resources.data:q} {params.options} "
        "--out {output:q} 2>&1 | tee {log:q}"
