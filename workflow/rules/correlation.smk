# Rank correlations of head scores, between tasks and between shots, and of gradient scores with the oracles.


rule correlate_tasks:
    input:
        gather("head_importance", task=[*TASKS, AGGREGATE], shot="{shot}"),
        tasks=LISTS["tasks"],
    output:
        place("cross_task"),
    log:
        f"logs/{{model}}/correlate_tasks/{CELL}.log",
    conda:
        "../../envs/analysis.yaml"
    resources:
        mem_mb=get_cpu_memory,
        runtime=CPU_MINUTES,
    params:
        code=code_digest("steps.correlate_tasks"),
        options=options("correlate_tasks"),
    message:
        "Correlate the tasks' head scores, {wildcards.model}, {wildcards.shot}-shot."
    shell:
        step(
            "correlate-tasks --results results/{wildcards.model:q} --shots {wildcards.shot:q} "
            "--seed {wildcards.seed:q} {params.options} --out {output:q}"
        )


rule correlate_shots:
    input:
        gather("head_importance", task=[*TASKS, AGGREGATE]),
        matrix=MATRIX,
    output:
        place("cross_shot"),
    log:
        "logs/{model}/correlate_shots/seed{seed}.log",
    conda:
        "../../envs/analysis.yaml"
    resources:
        mem_mb=get_cpu_memory,
        runtime=CPU_MINUTES,
    params:
        code=code_digest("steps.correlate_shots"),
        options=options("correlate_shots"),
    message:
        "Correlate the shots' head scores, {wildcards.model}."
    shell:
        step(
            "correlate-shots --results results/{wildcards.model:q} {params.options} "
            "--seed {wildcards.seed:q} --out {output:q}"
        )


rule correlate_oracle:
    input:
        gather("ffn_gradient", task=TASKS),
        gather("ffn_importance", task=TASKS),
        gather("head_importance", task=STUDY.oracle_tasks),
        gather("head_oracle"),
        matrix=MATRIX,
    output:
        place("oracle_agreement"),
    log:
        "logs/{model}/correlate_oracle/seed{seed}.log",
    conda:
        "../../envs/analysis.yaml"
    resources:
        mem_mb=get_cpu_memory,
        runtime=CPU_MINUTES,
    params:
        code=code_digest("steps.correlate_oracle"),
        options=options("correlate_oracle"),
    message:
        "Correlate gradient scores with the oracle, {wildcards.model}."
    shell:
        step(
            "correlate-oracle --results results/{wildcards.model:q} {params.options} --seed {wildcards.seed:q} --out {output:q}"
        )
