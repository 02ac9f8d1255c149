# What rankings of heads and FFNs are worth over random order, from artifacts alone: seconds, no model.


rule write_gains:
    input:
        CURVE_FILES,
        AGGREGATE_CURVE_FILES,
        FFN_CURVE_FILES,
        FFN_CONTROL_FILES,
        matrix=MATRIX,
    output:
        csv=f"{GAINS_STEM}.csv",
        md=f"{GAINS_STEM}.md",
        html=report(
            f"{GAINS_STEM}.html",
            caption="../report/gains.rst",
            category="{model}",
            subcategory="pruned evaluation",
            labels={"result": "What rankings are worth", "seed": "{seed}"},
        ),
    log:
        "logs/{model}/write_gains/seed{seed}.log",
    conda:
        "../../envs/analysis.yaml"
    params:
        code=code_digest("report.tables.gains"),
        tasks=TASKS,
        shots=SHOTS,
        controls=CONTROLS,
        stem=GAINS_STEM,
    message:
        "Write what rankings of heads and FFNs are worth, {wildcards.model}."
    shell:
        "python -m lm_headroom worth --results results/{wildcards.model:q} "
        "--tasks {params.tasks:q} --shots {params.shots:q} --controls {params.controls:q} "
        "--seed {wildcards.seed:q} --out {params.stem:q} 2>&1 | tee {log:q}"
