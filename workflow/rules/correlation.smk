# Rank correlations of head scores, between tasks and between shots, and Table 1.


rule correlate_tasks:
    input:
        cells("head_importance", [*TASKS, "aggregate"]),
        tasks=MATRIX[0],
    output:
        f"results/{{model}}/correlation/cross_task/{CELL}.parquet",
    log:
        f"logs/{{model}}/correlate_tasks/{CELL}.log",
    conda:
        "../../envs/analysis.yaml"
    resources:
        mem_mb=get_cpu_memory,
        runtime=CPU_MINUTES,
    params:
        code=code_digest("steps.correlate_tasks"),
        tasks=TASKS,
        options=options("aggregate"),
    message:
        "Correlate the tasks' head scores, {wildcards.model}, {wildcards.shot}-shot."
    shell:
        "python -m lm_headroom correlate --results results/{wildcards.model:q} --tasks {params.tasks:q} "
        "--shots {wildcards.shot:q} --seed {wildcards.seed:q} {params.options} --out {output:q} "
        "2>&1 | tee {log:q}"


rule correlate_shots:
    input:
        cells("head_importance", [*TASKS, "aggregate"], shot=SHOTS),
        matrix=MATRIX,
    output:
        "results/{model}/correlation/cross_shot/seed{seed}.parquet",
    log:
        "logs/{model}/correlate_shots/seed{seed}.log",
    conda:
        "../../envs/analysis.yaml"
    resources:
        mem_mb=get_cpu_memory,
        runtime=CPU_MINUTES,
    params:
        code=code_digest("steps.correlate_shots"),
        tasks=TASKS,
        shots=SHOTS,
    message:
        "Correlate the shots' head scores, {wildcards.model}."
    shell:
        "python -m lm_headroom correlate-shots --results results/{wildcards.model:q} --tasks {params.tasks:q} "
        "--shots {params.shots:q} --seed {wildcards.seed:q} --out {output:q} 2>&1 | tee {log:q}"


rule write_table1:
    input:
        "results/{model}/correlation/cross_shot/seed{seed}.parquet",
    output:
        csv=f"{TABLE1_STEM}.csv",
        md=f"{TABLE1_STEM}.md",
        html=report(
            f"{TABLE1_STEM}.html",
            caption="../report/table1.rst",
            category="{model}",
            subcategory="correlation",
            labels={"result": "Table 1: correlation between shots", "seed": "{seed}"},
        ),
    log:
        "logs/{model}/write_table1/seed{seed}.log",
    conda:
        "../../envs/analysis.yaml"
    params:
        code=code_digest("report.tables.table1"),
        stem=TABLE1_STEM,
    message:
        "Write Table 1 of {wildcards.model}."
    shell:
        "python -m lm_headroom table1 {input:q} --out {params.stem:q} 2>&1 | tee {log:q}"
