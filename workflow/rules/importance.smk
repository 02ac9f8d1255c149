# Importance of heads (eq. 8, 9) and FFNs (eq. 7) on each task, and of their aggregates (eq. 10), with rankings.


rule score_heads:
    input:
        model="results/{model}/model.json",
        prompts=f"results/prompts/{{task}}/{CELL}.parquet",
    output:
        scores=f"results/{{model}}/head_importance/{{task}}/{CELL}.parquet",
        ranking=f"results/{{model}}/ranking/heads/{{task}}/{CELL}.parquet",
        ffn_gradient=f"results/{{model}}/ffn_gradient/{{task}}/{CELL}.parquet",
    log:
        f"logs/{{model}}/score_heads/{{task}}/{CELL}.log",
    conda:
        "../../envs/model.yaml"
    threads: config["threads"]
    resources:
        **model_job("score_heads"),
    params:
        cache=CACHE,
        code=code_digest("steps.score_heads"),
        options=options(
            "importance.reduction", "importance.last_layer_tokens", "dtype", "add_bos"
        ),
    message:
        "Score the heads of {wildcards.model} on {wildcards.task}, {wildcards.shot}-shot."
    shell:
        "python -m lm_headroom head-importance --model {input.model:q} --prompts {input.prompts:q} "
        "{params.options} "
        "--device {resources.device:q} --gpus {resources.gpus_per_job} --threads {threads} "
        "--token-budget {resources.token_budget} --cache {params.cache:q} "
        "--out {output.scores:q} --ranking {output.ranking:q} --ffn-gradient {output.ffn_gradient:q} 2>&1 | tee {log:q}"


rule score_ffns:
    input:
        model="results/{model}/model.json",
        prompts=f"results/prompts/{{task}}/{CELL}.parquet",
    output:
        scores=f"results/{{model}}/ffn_importance/{{task}}/{CELL}.parquet",
        ranking=f"results/{{model}}/ranking/ffns/{{task}}/{CELL}.parquet",
        curve=expand(FFN_CURVE, ranking="own", allow_missing=True),
        controls=expand(FFN_CURVE, ranking=FFN_CONTROLS, allow_missing=True),
    log:
        f"logs/{{model}}/score_ffns/{{task}}/{CELL}.log",
    conda:
        "../../envs/model.yaml"
    threads: config["threads"]
    resources:
        **model_job("score_ffns"),
    params:
        cache=CACHE,
        code=code_digest("steps.score_ffns"),
        controls=FFN_CONTROLS,
        options=options("ffn.selection", "pruning.levels", "dtype", "add_bos"),
    message:
        "Score and prune the FFNs of {wildcards.model} on {wildcards.task}, {wildcards.shot}-shot."
    shell:
        "python -m lm_headroom ffn-importance --model {input.model:q} --prompts {input.prompts:q} "
        "--controls {params.controls:q} {params.options} "
        "--device {resources.device:q} --gpus {resources.gpus_per_job} --threads {threads} "
        "--token-budget {resources.token_budget} --cache {params.cache:q} "
        "--out {output.scores:q} --ranking {output.ranking:q} --curve {output.curve:q} 2>&1 | tee {log:q}"


rule aggregate_heads:
    input:
        cells("head_importance", TASKS),
        tasks=MATRIX[0],
    output:
        scores=f"results/{{model}}/head_importance/aggregate/{CELL}.parquet",
        ranking=f"results/{{model}}/ranking/heads/aggregate/{CELL}.parquet",
    log:
        f"logs/{{model}}/aggregate_heads/{CELL}.log",
    conda:
        "../../envs/analysis.yaml"
    resources:
        mem_mb=get_cpu_memory,
        runtime=CPU_MINUTES,
    params:
        code=code_digest("steps.aggregate_heads"),
        tasks=TASKS,
        options=options("aggregate"),
    message:
        "Aggregate head importance over tasks, {wildcards.model}, {wildcards.shot}-shot."
    shell:
        "python -m lm_headroom rank --results results/{wildcards.model:q} "
        "--tasks {params.tasks:q} --shots {wildcards.shot:q} --seed {wildcards.seed:q} {params.options} --scores-out {output.scores:q} --out {output.ranking:q} "
        "2>&1 | tee {log:q}"


use rule aggregate_heads as aggregate_ffns with:
    input:
        cells("ffn_importance", TASKS),
        tasks=MATRIX[0],
    output:
        scores=f"results/{{model}}/ffn_importance/aggregate/{CELL}.parquet",
        ranking=f"results/{{model}}/ranking/ffns/aggregate/{CELL}.parquet",
    log:
        f"logs/{{model}}/aggregate_ffns/{CELL}.log",
    params:
        code=code_digest("steps.aggregate_ffns"),
        tasks=TASKS,
        options=f"{options('aggregate')} --component ffns",
    message:
        "Aggregate FFN importance over tasks, {wildcards.model}, {wildcards.shot}-shot."
