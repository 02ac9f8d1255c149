# Prompts of each task, shot and seed, rendered by lm-eval; the last step that needs the data.


rule render_prompts:
    input:
        get_data_files,
    output:
        place("prompts"),
    log:
        f"logs/render_prompts/{{task}}/{CELL}.log",
    localrule: True
    conda:
        "../../envs/prompts.yaml"
    resources:
        # Not params: where the records lie does not matter.
        where=lambda wildcards: RECORDS.options(wildcards.task),
    params:
        code=code_digest("steps.render_prompts"),
        definition=lambda wildcards: TASK_DIGESTS[wildcards.task],
        records=get_records,
        options=options("render_prompts"),
    message:
        "Render {wildcards.task}, {wildcards.shot}-shot, seed {wildcards.seed}."
    shell:
        step(
            "render-prompts --task {wildcards.task:q} --shots {wildcards.shot:q} --seed {wildcards.seed:q} "
            "{resources.where} {params.options} --out {output:q}"
        )
