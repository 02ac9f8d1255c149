# Pruned checkpoints that are smaller, each made when its folder is asked for; no target lists them.


rule export_pruned:
    input:
        model="results/{model}/model.json",
        rankings=get_pruned_rankings,
    output:
        directory(PRUNED),
    log:
        f"logs/{{model}}/export_pruned/{{ranked}}/heads{{heads}}-ffns{{ffns}}/{CELL}.log",
    conda:
        "../../envs/model.yaml"
    threads: config["threads"]
    resources:
        **model_job("export_pruned"),
    params:
        code=code_digest("steps.export_pruned"),
        percents=get_pruned_percents,
        options=options("dtype"),
    message:
        "Export {wildcards.model} without {wildcards.heads}% of heads, {wildcards.ffns}% of FFNs ({wildcards.ranked})."
    shell:
        "python -m lm_headroom export --model {input.model:q} --ranking {input.rankings:q} --percent {params.percents:q} "
        "{params.options} --device {resources.device:q} --gpus {resources.gpus_per_job} --threads {threads} "
        "--out {output:q} 2>&1 | tee {log:q}"
