# Rankings whose importance is computed again after each step of heads that go, and curves under them. No job of these
# is planned unless pruning.schedule is recomputed.


rule recompute_heads:
    input:
        model="results/{model}/model.json",
        prompts=f"results/prompts/{{task}}/{CELL}.parquet",
    output:
        RECOMPUTED_RANKING,
    log:
        f"logs/{{model}}/recompute_heads/{{task}}/{CELL}.log",
    conda:
        "../../envs/model.yaml"
    threads: config["threads"]
    resources:
        **model_job("recompute_heads"),
    params:
        parts=PARTS,
        code=code_digest("steps.recompute_heads"),
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
        "--token-budget {resources.token_budget} --parts {params.parts:q} --out {output:q} 2>&1 | tee {log:q}"


use rule evaluate_own as evaluate_recomputed with:
    input:
        model="results/{model}/model.json",
        prompts=f"results/prompts/{{task}}/{CELL}.parquet",
        ranking=RECOMPUTED_RANKING,
    output:
        expand(HEAD_CURVE, ranking=RECOMPUTED, allow_missing=True),
    log:
        f"logs/{{model}}/evaluate_recomputed/{{task}}/{CELL}.log",
    resources:
        **model_job("evaluate_recomputed"),
    params:
        parts=PARTS,
        code=code_digest("steps.evaluate_pruned"),
        rankings=[RECOMPUTED],
        scores=[],
        options=options("pruning.levels", "dtype", "add_bos"),
        folder=f"results/{{model}}/pruned_eval/heads/{{task}}/{CELL}",
    message:
        "Prune {wildcards.model} on {wildcards.task} by recomputed importance, {wildcards.shot}-shot."
