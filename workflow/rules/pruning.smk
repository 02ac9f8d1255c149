# Accuracy with heads, FFNs or both pruned, level by level. Own and aggregate rankings are two jobs: a new task changes
# every aggregate, and no own curve.


rule evaluate_own:
    input:
        model="results/{model}/model.json",
        prompts=f"results/prompts/{{task}}/{CELL}.parquet",
        ranking=f"results/{{model}}/ranking/heads/{{task}}/{CELL}.parquet",
        scores=CONTROL_SCORES,
    output:
        expand(HEAD_CURVE, ranking=OWN_RANKINGS, allow_missing=True),
    log:
        f"logs/{{model}}/evaluate_own/{{task}}/{CELL}.log",
    conda:
        "../../envs/model.yaml"
    threads: config["threads"]
    resources:
        **model_job("evaluate_own"),
    params:
        cache=CACHE,
        code=code_digest("steps.evaluate_pruned"),
        rankings=OWN_RANKINGS,
        scores=[f"--scores={path}" for path in CONTROL_SCORES],
        options=options("pruning.levels", "dtype", "add_bos"),
        folder=f"results/{{model}}/pruned_eval/heads/{{task}}/{CELL}",
    message:
        "Prune the heads of {wildcards.model} on {wildcards.task}, {wildcards.shot}-shot."
    shell:
        "python -m lm_headroom prune --model {input.model:q} --prompts {input.prompts:q} --ranking-file {input.ranking:q} "
        "--rankings {params.rankings:q} {params.scores:q} {params.options} "
        "--device {resources.device:q} --gpus {resources.gpus_per_job} --threads {threads} "
        "--token-budget {resources.token_budget} --cache {params.cache:q} "
        "--out {params.folder:q} 2>&1 | tee {log:q}"


use rule evaluate_own as evaluate_aggregate with:
    input:
        model="results/{model}/model.json",
        prompts=f"results/prompts/{{task}}/{CELL}.parquet",
        ranking=f"results/{{model}}/ranking/heads/aggregate/{CELL}.parquet",
    output:
        expand(HEAD_CURVE, ranking="aggregate", allow_missing=True),
    log:
        f"logs/{{model}}/evaluate_aggregate/{{task}}/{CELL}.log",
    # Where there is a joint grid, its job writes this curve too: the grid's edge is the same evaluations.
    wildcard_constraints:
        task=alternatives(UNSEEN if JOINT else ALL_TASKS),
    resources:
        **model_job("evaluate_aggregate"),
    params:
        cache=CACHE,
        code=code_digest("steps.evaluate_pruned"),
        rankings=["aggregate"],
        scores=[],
        options=options("pruning.levels", "dtype", "add_bos"),
        folder=f"results/{{model}}/pruned_eval/heads/{{task}}/{CELL}",
    message:
        "Prune {wildcards.model} on {wildcards.task} by the aggregate ranking, {wildcards.shot}-shot."


rule evaluate_joint:
    input:
        model="results/{model}/model.json",
        prompts=f"results/prompts/{{task}}/{CELL}.parquet",
        aggregate=f"results/{{model}}/ranking/heads/aggregate/{CELL}.parquet",
        heads=f"results/{{model}}/ranking/heads/{JOINT_RANKING}/{CELL}.parquet",
        ffns=f"results/{{model}}/ranking/ffns/{JOINT_RANKING}/{CELL}.parquet",
    output:
        joint=JOINT_CELLS,
        curve=expand(HEAD_CURVE, ranking="aggregate", allow_missing=True),
    log:
        f"logs/{{model}}/evaluate_joint/{{task}}/{CELL}.log",
    wildcard_constraints:
        task=alternatives(TASKS if JOINT else []),
    conda:
        "../../envs/model.yaml"
    threads: config["threads"]
    resources:
        **model_job("evaluate_joint"),
    params:
        cache=CACHE,
        code=code_digest("steps.evaluate_joint"),
        options=options(
            "pruning.levels", "joint.heads", "joint.ffns", "dtype", "add_bos"
        ),
    message:
        "Prune heads and FFNs of {wildcards.model} on {wildcards.task}, {wildcards.shot}-shot."
    shell:
        "python -m lm_headroom joint --model {input.model:q} --prompts {input.prompts:q} "
        "--curve-ranking {input.aggregate:q} --heads-ranking {input.heads:q} --ffns-ranking {input.ffns:q} "
        "{params.options} "
        "--device {resources.device:q} --gpus {resources.gpus_per_job} --threads {threads} "
        "--token-budget {resources.token_budget} --cache {params.cache:q} "
        "--curve {output.curve:q} --out {output.joint:q} 2>&1 | tee {log:q}"


rule evaluate_transfer:
    input:
        cells("ranking/heads", TASKS),
        model="results/{model}/model.json",
        prompts=f"results/prompts/{{task}}/{CELL}.parquet",
        correlations=f"results/{{model}}/correlation/cross_task/{CELL}.parquet",
    output:
        highest=expand(HEAD_CURVE, ranking="highest_srcc", allow_missing=True),
        lowest=expand(HEAD_CURVE, ranking="lowest_srcc", allow_missing=True),
    log:
        f"logs/{{model}}/evaluate_transfer/{{task}}/{CELL}.log",
    conda:
        "../../envs/model.yaml"
    threads: config["threads"]
    resources:
        **model_job("evaluate_transfer"),
    params:
        cache=CACHE,
        code=code_digest("steps.evaluate_transfer"),
        tasks=TASKS,
        options=options("transfer.levels", "correlation", "dtype", "add_bos"),
        folder=f"results/{{model}}/pruned_eval/heads/{{task}}/{CELL}",
    message:
        "Prune {wildcards.model} on {wildcards.task} by other tasks' rankings, {wildcards.shot}-shot."
    shell:
        "python -m lm_headroom transfer --model {input.model:q} --prompts {input.prompts:q} "
        "--correlations {input.correlations:q} --ranking-folder results/{wildcards.model:q}/ranking/heads "
        "--task {wildcards.task:q} --tasks {params.tasks:q} {params.options} "
        "--device {resources.device:q} --gpus {resources.gpus_per_job} --threads {threads} "
        "--token-budget {resources.token_budget} --cache {params.cache:q} "
        "--out {params.folder:q} 2>&1 | tee {log:q}"
