# What differs between the models of a study, where there are two or more: a file and a figure for each comparison.


rule compare_models:
    input:
        MODEL_RECORDS,
        models=MATRIX_MODELS,
    output:
        COMPARED_MODELS,
    log:
        "logs/comparison/compare_models.log",
    conda:
        "../../envs/analysis.yaml"
    resources:
        mem_mb=get_cpu_memory,
        runtime=CPU_MINUTES,
    params:
        code=code_digest("steps.compare_models"),
        what="models",
        models=COMPARED,
        options="",
    message:
        "Compare the models."
    shell:
        "python -m lm_headroom compare {params.what:q} --results results --models {params.models:q} {params.options} "
        "--out {output:q} 2>&1 | tee {log:q}"


use rule compare_models as compare_prunable with:
    input:
        MODEL_RECORDS,
        COMPARED_CURVES,
        PROMPT_FILES,
        matrix=MATRIX,
        models=MATRIX_MODELS,
    output:
        f"results/comparison/{COMPARISONS['prunable']}.parquet",
    log:
        f"logs/comparison/compare_{COMPARISONS['prunable']}.log",
    params:
        code=code_digest("steps.compare_prunable"),
        what="prunable",
        models=COMPARED,
        options=f"{MATRIX_OPTIONS} --seed {{seed}} {options('margin')}",
    message:
        "Compare what can be pruned of the models."


use rule compare_models as compare_rankings with:
    input:
        MODEL_RECORDS,
        COMPARED_SCORES,
        matrix=MATRIX,
        models=MATRIX_MODELS,
    output:
        f"results/comparison/{COMPARISONS['rankings']}.parquet",
    log:
        f"logs/comparison/compare_{COMPARISONS['rankings']}.log",
    params:
        code=code_digest("steps.compare_rankings"),
        what="rankings",
        models=COMPARED,
        options=f"{MATRIX_OPTIONS} --seed {{seed}}",
    message:
        "Compare the rankings of the models' heads."


use rule compare_models as compare_profiles with:
    input:
        MODEL_RECORDS,
        COMPARED_PROFILES,
        matrix=MATRIX,
        models=MATRIX_MODELS,
    output:
        f"results/comparison/{COMPARISONS['profiles']}.parquet",
    log:
        f"logs/comparison/compare_{COMPARISONS['profiles']}.log",
    params:
        code=code_digest("steps.compare_profiles"),
        what="profiles",
        models=COMPARED,
        options=f"{MATRIX_OPTIONS} --seed {{seed}}",
    message:
        "Compare importance by depth of the models."


use rule compare_models as compare_induction with:
    input:
        MODEL_RECORDS,
        COMPARED_INDUCTION,
        models=MATRIX_MODELS,
    output:
        f"results/comparison/{COMPARISONS['induction']}.parquet",
    log:
        f"logs/comparison/compare_{COMPARISONS['induction']}.log",
    params:
        code=code_digest("steps.compare_induction"),
        what="induction",
        models=COMPARED,
        options="",
    message:
        "Compare the induction scores of the models."


rule draw_compared_prunable:
    input:
        COMPARED_MODELS,
        "results/comparison/prunable/seed{seed}.parquet",
        models=MATRIX_MODELS,
    output:
        pdf="results/comparison/figures/prunable-seed{seed}.pdf",
        png=report(
            "results/comparison/figures/prunable-seed{seed}.png",
            caption="../report/compare_prunable.rst",
            category="comparison",
            labels={"result": "Comparison: what can be pruned", "seed": "{seed}"},
        ),
    log:
        "logs/comparison/draw_prunable-seed{seed}.log",
    conda:
        "../../envs/analysis.yaml"
    params:
        code=code_digest("report.figures.compare_prunable"),
        what="prunable",
        models=COMPARED,
        options=f"{MATRIX_OPTIONS} --seed {{seed}}",
        stem=COMPARED_FIGURES["prunable"],
    message:
        "Draw what can be pruned of the models."
    shell:
        "python -m lm_headroom compare-figure {params.what:q} --results results "
        "--models {params.models:q} {params.options} "
        "--out results/comparison/figures/{params.stem:q} 2>&1 | tee {log:q}"


use rule draw_compared_prunable as draw_compared_rankings with:
    input:
        COMPARED_MODELS,
        "results/comparison/rankings/seed{seed}.parquet",
        models=MATRIX_MODELS,
    output:
        pdf="results/comparison/figures/rankings-seed{seed}.pdf",
        png=report(
            "results/comparison/figures/rankings-seed{seed}.png",
            caption="../report/compare_rankings.rst",
            category="comparison",
            labels={"result": "Comparison: rankings of heads", "seed": "{seed}"},
        ),
    log:
        "logs/comparison/draw_rankings-seed{seed}.log",
    params:
        code=code_digest("report.figures.compare_rankings"),
        what="rankings",
        models=COMPARED,
        options=f"{MATRIX_OPTIONS} --seed {{seed}} {options('correlation')}",
        stem=COMPARED_FIGURES["rankings"],
    message:
        "Draw the correlation of the models' rankings."


use rule draw_compared_prunable as draw_compared_profiles with:
    input:
        COMPARED_MODELS,
        "results/comparison/profiles/seed{seed}.parquet",
        models=MATRIX_MODELS,
    output:
        pdf="results/comparison/figures/profiles-seed{seed}.pdf",
        png=report(
            "results/comparison/figures/profiles-seed{seed}.png",
            caption="../report/compare_profiles.rst",
            category="comparison",
            labels={"result": "Comparison: importance by depth", "seed": "{seed}"},
        ),
    log:
        "logs/comparison/draw_profiles-seed{seed}.log",
    params:
        code=code_digest("report.figures.compare_profiles"),
        what="profiles",
        models=COMPARED,
        options=f"{MATRIX_OPTIONS} --seed {{seed}}",
        stem=COMPARED_FIGURES["profiles"],
    message:
        "Draw importance by depth of the models."


use rule draw_compared_prunable as draw_compared_induction with:
    input:
        COMPARED_MODELS,
        "results/comparison/induction.parquet",
        models=MATRIX_MODELS,
    output:
        pdf="results/comparison/figures/induction.pdf",
        png=report(
            "results/comparison/figures/induction.png",
            caption="../report/compare_induction.rst",
            category="comparison",
            labels={"result": "Comparison: induction scores"},
        ),
    log:
        "logs/comparison/draw_induction.log",
    params:
        code=code_digest("report.figures.compare_induction"),
        what="induction",
        models=COMPARED,
        options="",
        stem=COMPARED_FIGURES["induction"],
    message:
        "Draw the induction scores of the models."


# One target per comparison, each with no more than it needs of the models.
for name, paths in COMPARISONS_OF.items():

    rule:
        name:
            f"comparison_{name}"
        input:
            paths,
