# Accuracy with heads pruned, level by level. Own and aggregate rankings are two jobs: a new task changes every
# aggregate, and no own curve.


rule evaluate_own:
    input:
        model="results/{model}/model.json",
        prompts=f"results/prompts/{{task}}/{CELL}.parquet",
        ranking=f"results/{{model}}/ranking/heads/{{task}}/{CELL}.parquet",
    output:
        expand(
            f"results/{{model}}/pruned_eval/heads/{{task}}/{CELL}/{{ranking}}.parquet",
            ranking=OWN_RANKINGS,
            allow_missing=True,
        ),
    log:
        f"logs/{{model}}/evaluate_own/{{task}}/{CELL}.log",
    conda:
        "../../envs/model.yaml"
    threads: config["threads"]
    resources:
        gpu=1,
        # Resources, not params: these change speed and memory, and must not rerun anything.
        token_budget=config["token_budget"],
        device=config["device"],
    params:
        code=code_digest("steps.evaluate_pruned"),
        rankings=OWN_RANKINGS,
        options=options("pruning.levels", "dtype", "add_bos"),
        folder=f"results/{{model}}/pruned_eval/heads/{{task}}/{CELL}",
    message:
        "Prune the heads of {wildcards.model} on {wildcards.task}, {wildcards.shot}-shot."
    shell:
        "python -m headroom prune --model {input.model} --prompts {input.prompts} --ranking-file {input.ranking} "
        "--rankings {params.rankings} {params.options} "
        "--device {resources.device} --threads {threads} --token-budget {resources.token_budget} "
        "--out {params.folder} 2>&1 | tee {log}"


use rule evaluate_own as evaluate_aggregate with:
    input:
        model="results/{model}/model.json",
        prompts=f"results/prompts/{{task}}/{CELL}.parquet",
        ranking=f"results/{{model}}/ranking/heads/aggregate/{CELL}.parquet",
    output:
        f"results/{{model}}/pruned_eval/heads/{{task}}/{CELL}/aggregate.parquet",
    log:
        f"logs/{{model}}/evaluate_aggregate/{{task}}/{CELL}.log",
    params:
        code=code_digest("steps.evaluate_pruned"),
        rankings=["aggregate"],
        options=options("pruning.levels", "dtype", "add_bos"),
        folder=f"results/{{model}}/pruned_eval/heads/{{task}}/{CELL}",
    message:
        "Prune {wildcards.model} on {wildcards.task} by the aggregate ranking, {wildcards.shot}-shot."
