# FFNs ranked by the other documents than the study ranks by, and how optimistic the documents that judge make a ranking.


rule select_ffns:
    input:
        model="results/{model}/model.json",
        prompts=f"results/prompts/{{task}}/{CELL}.parquet",
    output:
        scores=FFN_SELECTION,
        curve=OTHER_CURVE,
    log:
        f"logs/{{model}}/select_ffns/{{task}}/{CELL}.log",
    wildcard_constraints:
        task=alternatives(TASKS if SELECTION_BIAS else []),
    conda:
        "../../envs/model.yaml"
    threads: config["threads"]
    resources:
        **model_job("select_ffns"),
    params:
        cache=CACHE,
        code=code_digest("steps.select_ffns"),
        options=options("ffn.selection", "pruning.levels", "dtype", "add_bos"),
    message:
        "Score the FFNs of {wildcards.model} on other documents of {wildcards.task}, {wildcards.shot}-shot."
    shell:
        "python -m lm_headroom ffn-selection --model {input.model:q} --prompts {input.prompts:q} "
        "{params.options} "
        "--device {resources.device:q} --gpus {resources.gpus_per_job} --threads {threads} "
        "--token-budget {resources.token_budget} --cache {params.cache:q} "
        "--curve {output.curve:q} --out {output.scores:q} 2>&1 | tee {log:q}"


rule write_selection_bias:
    input:
        SELECTION_FILES,
        FFN_FILES,
        FFN_CURVE_FILES,
        matrix=MATRIX,
    output:
        csv=f"{SELECTION_BIAS_STEM}.csv",
        md=f"{SELECTION_BIAS_STEM}.md",
        html=report(
            f"{SELECTION_BIAS_STEM}.html",
            caption="../report/selection_bias.rst",
            category="{model}",
            subcategory="FFN importance",
            labels={
                "result": "Table: ranked and judged alike, or apart",
                "seed": "{seed}",
            },
        ),
    log:
        "logs/{model}/write_selection_bias/seed{seed}.log",
    conda:
        "../../envs/analysis.yaml"
    params:
        code=code_digest("report.tables.selection_bias"),
        tasks=TASKS,
        shots=SHOTS,
        stem=SELECTION_BIAS_STEM,
    message:
        "Write how optimistic FFN rankings of {wildcards.model} are."
    shell:
        "python -m lm_headroom optimism --results results/{wildcards.model:q} "
        "--tasks {params.tasks:q} --shots {params.shots:q} "
        "--seed {wildcards.seed:q} --out {params.stem:q} 2>&1 | tee {log:q}"
