# What rankings of heads and FFNs are worth over random order, from artifacts alone: seconds, no model.


rule write_worth:
    input:
        CURVE_FILES,
        AGGREGATE_CURVE_FILES,
        FFN_CURVE_FILES,
        FFN_CONTROL_FILES,
        matrix=MATRIX,
    output:
        csv=f"{WORTH_STEM}.csv",
        md=f"{WORTH_STEM}.md",
        html=report(
            f"{WORTH_STEM}.html",
            caption="../report/worth.rst",
            category="{model}",
            subcategory="pruned evaluation",
            labels={"result": "What rankings are worth", "seed": "{seed}"},
        ),
    log:
        "logs/{model}/write_worth/seed{seed}.log",
    conda:
        "../../envs/analysis.yaml"
    params:
        code=code_digest("report.tables.gains"),
        tasks=TASKS,
        shots=SHOTS,
        controls=CONTROLS,
        stem=WORTH_STEM,
    message:
        "Write what rankings of heads and FFNs are worth, {wildcards.model}."
    shell:
        "python -m lm_headroom worth --results results/{wildcards.model:q} "
        "--tasks {params.tasks:q} --shots {params.shots:q} --controls {params.controls:q} "
        "--seed {wildcards.seed:q} --out {params.stem:q} 2>&1 | tee {log:q}"
