# Rankings whose importance is computed again after each step of heads that go, and curves under them. No job of these
# is planned unless pruning.schedule is iterative.


rule rank_heads_iteratively:
    input:
        model="results/{model}/model.json",
        prompts=f"results/prompts/{{task}}/{CELL}.parquet",
    output:
        ITERATIVE_RANKING,
    log:
        f"logs/{{model}}/rank_heads_iteratively/{{task}}/{CELL}.log",
    conda:
        "../../envs/model.yaml"
    threads: config["threads"]
    resources:
        **model_job("rank_heads_iteratively"),
    params:
        cache=CACHE,
        code=code_digest("steps.rank_heads_iteratively"),
        options=options(
            "pruning.step",
            "importance.reduction",
            "importance.last_layer_tokens",
            "dtype",
            "add_bos",
        ),
    message:
        "Score the heads of {wildcards.model} again and again on {wildcards.task}, {wildcards.shot}-shot."
    shell:
        "python -m lm_headroom recompute --model {input.model:q} --prompts {input.prompts:q} {params.options} "
        "--device {resources.device:q} --gpus {resources.gpus_per_job} --threads {threads} "
        "--token-budget {resources.token_budget} --cache {params.cache:q} --out {output:q} 2>&1 | tee {log:q}"


use rule evaluate_own as evaluate_iterative with:
    input:
        model="results/{model}/model.json",
        prompts=f"results/prompts/{{task}}/{CELL}.parquet",
        ranking=ITERATIVE_RANKING,
    output:
        expand(HEAD_CURVE, ranking=ITERATIVE, allow_missing=True),
    log:
        f"logs/{{model}}/evaluate_iterative/{{task}}/{CELL}.log",
    resources:
        **model_job("evaluate_iterative"),
    params:
        cache=CACHE,
        code=code_digest("steps.evaluate_pruned"),
        rankings=[ITERATIVE],
        scores=[],
        options=options("pruning.levels", "dtype", "add_bos"),
        folder=f"results/{{model}}/pruned_eval/heads/{{task}}/{CELL}",
    message:
        "Prune {wildcards.model} on {wildcards.task} by iterative re-scoring, {wildcards.shot}-shot."
