# Pruned checkpoints that are smaller, each made when its folder is asked for; no target lists them.


rule export_pruned:
    input:
        model=RECORD,
        rankings=get_pruned_rankings,
        scored=lambda wildcards: [
            place("prompts", task=task, **wildcards)
            for task in STUDY.tasks_with_means(wildcards.ranked)
        ],
    output:
        directory(f"results/{catalogue.PRUNED}"),
    log:
        f"logs/{catalogue.PRUNED}.log",
    conda:
        "../../envs/model.yaml"
    threads: config["threads"]
    resources:
        **model_job("export_pruned"),
    params:
        code=code_digest("steps.export_pruned"),
        options=options("export_pruned"),
        prompts=lambda wildcards, input: [f"--prompts={path}" for path in input.scored],
        percents=lambda wildcards: list(catalogue.pruned_by(**wildcards).values()),
        even=lambda wildcards: ["--even"] * catalogue.is_even(wildcards.pruned),
    message:
        "Export {wildcards.model} without {wildcards.pruned}, in percent ({wildcards.ranked})."
    shell:
        model_step(
            "export-pruned --ranking {input.rankings:q} --percent {params.percents:q} {params.even:q} {params.prompts:q} "
            "--out {output:q}",
            "",
        )
