# The oracle of heads, where the study asks for it, and how far the gradient ranks heads and FFNs as the oracles do.


rule score_head_knockouts:
    input:
        model="results/{model}/model.json",
        prompts=f"results/prompts/{{task}}/{CELL}.parquet",
    output:
        f"results/{{model}}/head_oracle/{{task}}/{CELL}.parquet",
    log:
        f"logs/{{model}}/score_head_knockouts/{{task}}/{CELL}.log",
    conda:
        "../../envs/model.yaml"
    threads: config["threads"]
    resources:
        **model_job("score_head_knockouts"),
    params:
        cache=CACHE,
        code=code_digest("steps.score_head_knockouts"),
        options=get_knockout_options,
    message:
        "Remove heads of {wildcards.model} one at a time on {wildcards.task}, {wildcards.shot}-shot."
    shell:
        "python -m lm_headroom head-oracle --model {input.model:q} --prompts {input.prompts:q} "
        "{params.options} "
        "--device {resources.device:q} --gpus {resources.gpus_per_job} --threads {threads} "
        "--token-budget {resources.token_budget} --cache {params.cache:q} "
        "--out {output:q} 2>&1 | tee {log:q}"


rule correlate_oracle:
    input:
        cells("ffn_gradient", TASKS, shot=SHOTS),
        FFN_FILES,
        cells("head_importance", ORACLE_TASKS, shot=SHOTS),
        HEAD_ORACLE_FILES,
        matrix=MATRIX,
    output:
        ORACLE_AGREEMENT,
    log:
        "logs/{model}/correlate_oracle/seed{seed}.log",
    conda:
        "../../envs/analysis.yaml"
    resources:
        mem_mb=get_cpu_memory,
        runtime=CPU_MINUTES,
    params:
        code=code_digest("steps.correlate_oracle"),
        tasks=TASKS,
        shots=SHOTS,
        head_tasks=ORACLE_TASKS,
    message:
        "Correlate gradient scores with the oracle, {wildcards.model}."
    shell:
        "python -m lm_headroom correlate-oracle --results results/{wildcards.model:q} --tasks {params.tasks:q} "
        "--shots {params.shots:q} --head-tasks {params.head_tasks:q} --seed {wildcards.seed:q} --out {output:q} "
        "2>&1 | tee {log:q}"


rule write_oracle:
    input:
        ORACLE_AGREEMENT,
    output:
        csv=f"{ORACLE_STEM}.csv",
        md=f"{ORACLE_STEM}.md",
        html=report(
            f"{ORACLE_STEM}.html",
            caption="../report/oracle.rst",
            category="{model}",
            subcategory="correlation",
            labels={"result": "Gradient against oracle: table", "seed": "{seed}"},
        ),
    log:
        "logs/{model}/write_oracle/seed{seed}.log",
    conda:
        "../../envs/analysis.yaml"
    params:
        code=code_digest("report.tables.oracle"),
        stem=ORACLE_STEM,
    message:
        "Write the table of gradient scores against the oracle, {wildcards.model}."
    shell:
        "python -m lm_headroom oracle-table {input:q} --out {params.stem:q} 2>&1 | tee {log:q}"


rule draw_oracle:
    input:
        ORACLE_AGREEMENT,
        cells("ffn_gradient", TASKS, shot=SHOTS),
        FFN_FILES,
        cells("head_importance", ORACLE_TASKS, shot=SHOTS),
        HEAD_ORACLE_FILES,
        matrix=MATRIX,
    output:
        pdf=f"{FIGURE_STEMS['oracle']}.pdf",
        png=report(
            f"{FIGURE_STEMS['oracle']}.png",
            caption="../report/oracle.rst",
            category="{model}",
            subcategory="correlation",
            labels={"result": "Gradient against oracle", "seed": "{seed}"},
        ),
    log:
        "logs/{model}/draw_oracle/seed{seed}.log",
    conda:
        "../../envs/analysis.yaml"
    params:
        code=code_digest("report.figures.oracle"),
        tasks=TASKS,
        shots=SHOTS,
        stem=FIGURE_STEMS["oracle"],
    message:
        "Draw gradient scores against the oracle, {wildcards.model}."
    shell:
        "python -m lm_headroom oracle-figure --results results/{wildcards.model:q} "
        "--tasks {params.tasks:q} --shots {params.shots:q} "
        "--seed {wildcards.seed:q} --out {params.stem:q} 2>&1 | tee {log:q}"
