# The paper's figures and the findings in words, from artifacts alone: seconds each, no model.
# Report labels name a result in one label: where two labels vary in a category, Snakemake 9.27's report turns them
# into switches and breaks on combinations that do not exist.


rule draw_fig03:
    input:
        cells("head_importance", ["aggregate"], shot=SHOTS),
        matrix=MATRIX,
    output:
        pdf=f"{FIGURE_STEMS['fig03']}.pdf",
        png=report(
            f"{FIGURE_STEMS['fig03']}.png",
            caption="../report/fig03.rst",
            category="{model}",
            subcategory="head importance",
            labels={"result": "Figure 3: aggregate head importance", "seed": "{seed}"},
        ),
    log:
        "logs/{model}/draw_fig03/seed{seed}.log",
    conda:
        "../../envs/analysis.yaml"
    params:
        code=code_digest("figures.fig03"),
        tasks=TASKS,
        shots=SHOTS,
        stem=FIGURE_STEMS["fig03"],
    message:
        "Draw Figure 3 of {wildcards.model}."
    shell:
        "python -m headroom figure 03 --results results/{wildcards.model} --tasks {params.tasks} "
        "--shots {params.shots} --seed {wildcards.seed} --out {params.stem} 2>&1 | tee {log}"


rule draw_fig05:
    input:
        CURVE_FILES,
        matrix=MATRIX,
    output:
        pdf=f"{FIGURE_STEMS['fig05']}.pdf",
        png=report(
            f"{FIGURE_STEMS['fig05']}.png",
            caption="../report/fig05.rst",
            category="{model}",
            subcategory="pruned evaluation",
            labels={
                "result": "Figure 5: accuracy against heads pruned",
                "seed": "{seed}",
            },
        ),
    log:
        "logs/{model}/draw_fig05/seed{seed}.log",
    conda:
        "../../envs/analysis.yaml"
    params:
        code=code_digest("figures.fig05"),
        tasks=TASKS,
        shots=SHOTS,
        options=options("pruning.rankings"),
        stem=FIGURE_STEMS["fig05"],
    message:
        "Draw Figure 5 of {wildcards.model}."
    shell:
        "python -m headroom figure 05 --results results/{wildcards.model} --tasks {params.tasks} "
        "--shots {params.shots} {params.options} --seed {wildcards.seed} --out {params.stem} 2>&1 | tee {log}"


rule draw_fig08:
    input:
        CORRELATION_FILES,
        matrix=MATRIX,
    output:
        pdf=f"{FIGURE_STEMS['fig08']}.pdf",
        png=report(
            f"{FIGURE_STEMS['fig08']}.png",
            caption="../report/fig08.rst",
            category="{model}",
            subcategory="correlation",
            labels={"result": "Figure 8: correlation between tasks", "seed": "{seed}"},
        ),
    log:
        "logs/{model}/draw_fig08/seed{seed}.log",
    conda:
        "../../envs/analysis.yaml"
    params:
        code=code_digest("figures.fig08"),
        tasks=TASKS,
        shots=SHOTS,
        options=options("correlation"),
        stem=FIGURE_STEMS["fig08"],
    message:
        "Draw Figure 8 of {wildcards.model}."
    shell:
        "python -m headroom figure 08 --results results/{wildcards.model} --tasks {params.tasks} "
        "--shots {params.shots} --seed {wildcards.seed} "
        "{params.options} --out {params.stem} 2>&1 | tee {log}"


rule draw_fig10a:
    input:
        "results/{model}/induction/prefix_matching.parquet",
    output:
        pdf=f"{FIGURE_STEMS['fig10a']}.pdf",
        png=report(
            f"{FIGURE_STEMS['fig10a']}.png",
            caption="../report/fig10a.rst",
            category="{model}",
            subcategory="induction",
            labels={"result": "Figure 10a: prefix matching"},
        ),
    log:
        "logs/{model}/draw_fig10a.log",
    conda:
        "../../envs/analysis.yaml"
    params:
        code=code_digest("figures.fig10a"),
        stem=FIGURE_STEMS["fig10a"],
    message:
        "Draw Figure 10a of {wildcards.model}."
    shell:
        "python -m headroom figure 10a --results results/{wildcards.model} --out {params.stem} 2>&1 | tee {log}"


rule draw_task_importance:
    input:
        get_figure_scores,
        tasks=MATRIX[0],
    output:
        pdf="results/{model}/figures/fig{number}_task_importance-seed{seed}.pdf",
        png=report(
            "results/{model}/figures/fig{number}_task_importance-seed{seed}.png",
            caption="../report/fig12.rst",
            category="{model}",
            subcategory="head importance",
            labels={
                "result": "Figure {number}: head importance by task",
                "seed": "{seed}",
            },
        ),
    log:
        "logs/{model}/draw_task_importance/fig{number}-seed{seed}.log",
    conda:
        "../../envs/analysis.yaml"
    params:
        code=code_digest("figures.fig12"),
        tasks=TASKS,
        shots=get_figure_shots,
        stem="results/{model}/figures/fig{number}_task_importance-seed{seed}",
    message:
        "Draw Figure {wildcards.number} of {wildcards.model}."
    shell:
        "python -m headroom figure {wildcards.number} --results results/{wildcards.model} --tasks {params.tasks} "
        "--shots {params.shots} --seed {wildcards.seed} --out {params.stem} 2>&1 | tee {log}"


rule write_findings:
    input:
        PROMPT_FILES,
        CURVE_FILES,
        CORRELATION_FILES,
        SHOT_CORRELATION_FILES,
        cells("ranking/heads", ["aggregate"], shot=SHOTS),
        "results/{model}/induction/prefix_matching.parquet",
        matrix=MATRIX,
    output:
        report(
            "results/{model}/findings/seed{seed}.md",
            caption="../report/findings.rst",
            category="{model}",
            subcategory="findings",
            labels={"result": "Findings in words", "seed": "{seed}"},
        ),
    log:
        "logs/{model}/write_findings/seed{seed}.log",
    conda:
        "../../envs/analysis.yaml"
    params:
        code=code_digest("findings"),
        tasks=TASKS,
        shots=SHOTS,
        options=options("pruning.rankings"),
    message:
        "Write the findings of {wildcards.model}."
    shell:
        "python -m headroom findings --results results/{wildcards.model} --tasks {params.tasks} "
        "--shots {params.shots} {params.options} --seed {wildcards.seed} --out {output} 2>&1 | tee {log}"


# One target per figure, over all models and seeds.
for name in DRAWN:

    rule:
        name:
            name
        input:
            FIGURES_OF[name],
