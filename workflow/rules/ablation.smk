# Accuracy without the strongest induction heads, and without random heads of the same layers, where percents are named.


rule ablate_induction:
    input:
        model="results/{model}/model.json",
        prompts=f"results/prompts/{{task}}/{CELL}.parquet",
        prefix_matching="results/{model}/induction/prefix_matching.parquet",
        copying="results/{model}/induction/copying.parquet",
    output:
        ABLATION,
    log:
        f"logs/{{model}}/ablate_induction/{{task}}/{CELL}.log",
    wildcard_constraints:
        task=alternatives(ABLATED),
    conda:
        "../../envs/model.yaml"
    threads: config["threads"]
    resources:
        **model_job("ablate_induction"),
    params:
        cache=CACHE,
        code=code_digest("steps.ablate_induction"),
        options=options(
            "induction.ablate.percents", "induction.ablate.random", "dtype", "add_bos"
        ),
    message:
        "Ablate induction heads of {wildcards.model} on {wildcards.task}, {wildcards.shot}-shot."
    shell:
        "python -m lm_headroom ablate --model {input.model:q} --prompts {input.prompts:q} "
        "--prefix-matching {input.prefix_matching:q} --copying {input.copying:q} {params.options} "
        "--device {resources.device:q} --gpus {resources.gpus_per_job} --threads {threads} "
        "--token-budget {resources.token_budget} --cache {params.cache:q} --out {output:q} 2>&1 | tee {log:q}"


rule write_ablation:
    input:
        ABLATION_FILES,
        matrix=[*MATRIX, MATRIX_UNSEEN],
    output:
        csv=f"{ABLATION_STEM}.csv",
        md=f"{ABLATION_STEM}.md",
        html=report(
            f"{ABLATION_STEM}.html",
            caption="../report/induction_ablation.rst",
            category="{model}",
            subcategory="induction",
            labels={"result": "Table: without induction heads", "seed": "{seed}"},
        ),
    log:
        "logs/{model}/write_ablation/seed{seed}.log",
    conda:
        "../../envs/analysis.yaml"
    params:
        code=code_digest("report.tables.induction_ablation"),
        tasks=TASKS,
        shots=SHOTS,
        ablated=ABLATED,
        stem=ABLATION_STEM,
    message:
        "Write what {wildcards.model} loses without induction heads."
    shell:
        "python -m lm_headroom ablation-table --results results/{wildcards.model:q} "
        "--tasks {params.tasks:q} --shots {params.shots:q} --ablated {params.ablated:q} "
        "--seed {wildcards.seed:q} --out {params.stem:q} 2>&1 | tee {log:q}"


rule draw_ablation:
    input:
        ABLATION_FILES,
        matrix=[*MATRIX, MATRIX_UNSEEN],
    output:
        pdf=f"{FIGURE_STEMS['induction_ablation']}.pdf",
        png=report(
            f"{FIGURE_STEMS['induction_ablation']}.png",
            caption="../report/induction_ablation.rst",
            category="{model}",
            subcategory="induction",
            labels={"result": "Figure: without induction heads", "seed": "{seed}"},
        ),
    log:
        "logs/{model}/draw_ablation/seed{seed}.log",
    conda:
        "../../envs/analysis.yaml"
    params:
        code=code_digest("report.figures.induction_ablation"),
        tasks=TASKS,
        shots=SHOTS,
        ablated=ABLATED,
        stem=FIGURE_STEMS["induction_ablation"],
    message:
        "Draw what {wildcards.model} loses without induction heads."
    shell:
        "python -m lm_headroom ablation-figure --results results/{wildcards.model:q} "
        "--tasks {params.tasks:q} --shots {params.shots:q} --ablated {params.ablated:q} "
        "--seed {wildcards.seed:q} --out {params.stem:q} 2>&1 | tee {log:q}"
