# What few-shot seeds change, of studies with two or more.


rule average_seeds:
    input:
        cells("head_importance", [*TASKS, "aggregate"], shot=SHOTS, seed=SEEDS),
        matrix=[*MATRIX, MATRIX_SEEDS],
    output:
        SEED_SCORES,
    log:
        "logs/{model}/average_seeds.log",
    conda:
        "../../envs/analysis.yaml"
    resources:
        mem_mb=get_cpu_memory,
        runtime=CPU_MINUTES,
    params:
        code=code_digest("steps.average_seeds"),
        tasks=TASKS,
        shots=SHOTS,
        options=options("seeds"),
    message:
        "Average the head scores of {wildcards.model} over few-shot seeds."
    shell:
        "python -m lm_headroom average-seeds --results results/{wildcards.model:q} "
        "--tasks {params.tasks:q} --shots {params.shots:q} {params.options} --out {output:q} 2>&1 | tee {log:q}"


rule write_seeds:
    input:
        cells("head_importance", [*TASKS, "aggregate"], shot=SHOTS, seed=SEEDS),
        expand(
            HEAD_CURVE,
            task=TASKS,
            shot=SHOTS,
            seed=SEEDS,
            ranking="own",
            allow_missing=True,
        ),
        matrix=[*MATRIX, MATRIX_SEEDS],
    output:
        csv=f"{SEEDS_STEM}.csv",
        md=f"{SEEDS_STEM}.md",
        html=report(
            f"{SEEDS_STEM}.html",
            caption="../report/seeds.rst",
            category="{model}",
            subcategory="few-shot seeds",
            labels={"result": "What few-shot seeds change"},
        ),
    log:
        "logs/{model}/write_seeds.log",
    conda:
        "../../envs/analysis.yaml"
    params:
        code=code_digest("report.tables.seeds"),
        tasks=TASKS,
        shots=SHOTS,
        options=options("seeds", "sample"),
        stem=SEEDS_STEM,
    message:
        "Write the table of few-shot seeds of {wildcards.model}."
    shell:
        "python -m lm_headroom seeds --results results/{wildcards.model:q} "
        "--tasks {params.tasks:q} --shots {params.shots:q} {params.options} --out {params.stem:q} 2>&1 | tee {log:q}"
