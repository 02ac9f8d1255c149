# Induction scores of each model's heads, and how much of them pruning leaves.


rule score_induction:
    input:
        model="results/{model}/model.json",
    output:
        prefix_matching="results/{model}/induction/prefix_matching.parquet",
        copying="results/{model}/induction/copying.parquet",
    log:
        "logs/{model}/score_induction.log",
    conda:
        "../../envs/model.yaml"
    threads: config["threads"]
    resources:
        **model_job("score_induction"),
    params:
        cache="results/{model}/.cache/induction",
        code=code_digest("steps.score_induction"),
        options=options(
            "induction.sequences",
            "induction.bos",
            "copying.head_output",
            "copying.output_bias",
            "dtype",
        ),
    message:
        "Score prefix matching and copying of {wildcards.model}."
    shell:
        "python -m lm_headroom induction --model {input.model:q} {params.options} "
        "--device {resources.device:q} --gpus {resources.gpus_per_job} --threads {threads} "
        '--cache {params.cache:q} --out "$(dirname {output.copying:q})" 2>&1 | tee {log:q}'


rule retain_capacity:
    input:
        "results/{model}/induction/prefix_matching.parquet",
        "results/{model}/induction/copying.parquet",
        cells("ranking/heads", [*TASKS, "aggregate"]),
        tasks=MATRIX[0],
    output:
        f"results/{{model}}/capacity/{CELL}.parquet",
    log:
        f"logs/{{model}}/retain_capacity/{CELL}.log",
    conda:
        "../../envs/analysis.yaml"
    resources:
        mem_mb=get_cpu_memory,
        runtime=CPU_MINUTES,
    params:
        code=code_digest("steps.retain_capacity"),
        tasks=TASKS,
    message:
        "Count the induction capacity that pruning leaves, {wildcards.model}, {wildcards.shot}-shot."
    shell:
        "python -m lm_headroom capacity --results results/{wildcards.model:q} --tasks {params.tasks:q} "
        "--shots {wildcards.shot:q} --seed {wildcards.seed:q} --out {output:q} 2>&1 | tee {log:q}"
