# Rank correlations between the head scores of tasks.


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
    params:
        code=code_digest("steps.correlate_tasks"),
        tasks=TASKS,
        options=options("aggregate"),
    message:
        "Correlate the tasks' head scores, {wildcards.model}, {wildcards.shot}-shot."
    shell:
        "python -m headroom correlate --results results/{wildcards.model} --tasks {params.tasks} "
        "--shots {wildcards.shot} --seed {wildcards.seed} {params.options} --out {output} "
        "2>&1 | tee {log}"
