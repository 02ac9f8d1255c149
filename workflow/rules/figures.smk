# The paper's figures, the findings in words and the reference table, from artifacts alone: seconds each, no model.
# One rule per kind of figure: figures that differ in the number of shots, in what is pruned or in which score share it.
# Report labels name a result in one label: where two labels vary in a category, Snakemake 9.27's report turns them
# into switches and breaks on combinations that do not exist. Figure numbers have two digits there: it sorts by text.


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
            labels={
                "result": "Figure 03: aggregate head importance",
                "seed": "{seed}",
            },
        ),
    log:
        "logs/{model}/draw_fig03/seed{seed}.log",
    conda:
        "../../envs/analysis.yaml"
    params:
        code=code_digest("report.figures.fig03"),
        tasks=TASKS,
        shots=SHOTS,
        stem=FIGURE_STEMS["fig03"],
    message:
        "Draw Figure 3 of {wildcards.model}."
    shell:
        "python -m lm_headroom figure 03 --results results/{wildcards.model:q} "
        "--tasks {params.tasks:q} --shots {params.shots:q} "
        "--seed {wildcards.seed:q} --out {params.stem:q} 2>&1 | tee {log:q}"


rule draw_fig04:
    input:
        FFN_FILES,
        matrix=MATRIX,
    output:
        pdf=f"{FIGURE_STEMS['fig04']}.pdf",
        png=report(
            f"{FIGURE_STEMS['fig04']}.png",
            caption="../report/fig04.rst",
            category="{model}",
            subcategory="FFN importance",
            labels={"result": "Figure 04: FFN importance", "seed": "{seed}"},
        ),
    log:
        "logs/{model}/draw_fig04/seed{seed}.log",
    conda:
        "../../envs/analysis.yaml"
    params:
        code=code_digest("report.figures.fig04"),
        tasks=TASKS,
        shots=SHOTS,
        stem=FIGURE_STEMS["fig04"],
    message:
        "Draw Figure 4 of {wildcards.model}."
    shell:
        "python -m lm_headroom figure 04 --results results/{wildcards.model:q} "
        "--tasks {params.tasks:q} --shots {params.shots:q} "
        "--seed {wildcards.seed:q} --out {params.stem:q} 2>&1 | tee {log:q}"


rule draw_pruning:
    input:
        get_figure_curves,
        matrix=MATRIX,
    output:
        pdf="results/{model}/figures/fig{number}_{component}_pruned-seed{seed}.pdf",
        png=report(
            "results/{model}/figures/fig{number}_{component}_pruned-seed{seed}.png",
            caption="../report/fig05.rst",
            category="{model}",
            subcategory="pruned evaluation",
            labels={
                "result": "Figure {number}: accuracy with {component} pruned",
                "seed": "{seed}",
            },
        ),
    log:
        "logs/{model}/draw_pruning/fig{number}_{component}-seed{seed}.log",
    conda:
        "../../envs/analysis.yaml"
    params:
        code=code_digest("report.figures.fig05"),
        tasks=TASKS,
        shots=SHOTS,
        controls=get_figure_controls,
        iterative=get_figure_iterative,
        stem="results/{model}/figures/fig{number}_{component}_pruned-seed{seed}",
    message:
        "Draw Figure {wildcards.number} of {wildcards.model}."
    shell:
        "python -m lm_headroom figure {wildcards.number:q} --results results/{wildcards.model:q} "
        "--tasks {params.tasks:q} --shots {params.shots:q} --controls {params.controls:q} "
        "{params.iterative:q} "
        "--seed {wildcards.seed:q} --out {params.stem:q} 2>&1 | tee {log:q}"


rule draw_fig07:
    input:
        JOINT_FILES,
        matrix=MATRIX,
    output:
        pdf=f"{FIGURE_STEMS['fig07']}.pdf",
        png=report(
            f"{FIGURE_STEMS['fig07']}.png",
            caption="../report/fig07.rst",
            category="{model}",
            subcategory="pruned evaluation",
            labels={
                "result": "Figure 07: accuracy with heads and FFNs pruned",
                "seed": "{seed}",
            },
        ),
    log:
        "logs/{model}/draw_fig07/seed{seed}.log",
    conda:
        "../../envs/analysis.yaml"
    params:
        code=code_digest("report.figures.fig07"),
        tasks=TASKS,
        shots=SHOTS,
        stem=FIGURE_STEMS["fig07"],
    message:
        "Draw Figure 7 of {wildcards.model}."
    shell:
        "python -m lm_headroom figure 07 --results results/{wildcards.model:q} "
        "--tasks {params.tasks:q} --shots {params.shots:q} "
        "--seed {wildcards.seed:q} --out {params.stem:q} 2>&1 | tee {log:q}"


rule draw_correlation:
    input:
        get_figure_correlations,
        matrix=MATRIX,
    output:
        pdf="results/{model}/figures/fig{number}_task_correlation-seed{seed}.pdf",
        png=report(
            "results/{model}/figures/fig{number}_task_correlation-seed{seed}.png",
            caption="../report/fig08.rst",
            category="{model}",
            subcategory="correlation",
            labels={
                "result": "Figure {number}: correlation between tasks",
                "seed": "{seed}",
            },
        ),
    log:
        "logs/{model}/draw_correlation/fig{number}-seed{seed}.log",
    conda:
        "../../envs/analysis.yaml"
    params:
        code=code_digest("report.figures.fig08"),
        tasks=TASKS,
        shots=get_figure_shots,
        options=options("correlation"),
        stem="results/{model}/figures/fig{number}_task_correlation-seed{seed}",
    message:
        "Draw Figure {wildcards.number} of {wildcards.model}."
    shell:
        "python -m lm_headroom figure {wildcards.number:q} --results results/{wildcards.model:q} "
        "--tasks {params.tasks:q} --shots {params.shots:q} {params.options} "
        "--seed {wildcards.seed:q} --out {params.stem:q} 2>&1 | tee {log:q}"


rule draw_transfer:
    input:
        get_figure_transfer,
        matrix=[MATRIX[0], MATRIX_UNSEEN],
    output:
        pdf="results/{model}/figures/fig{number}_transfer-seed{seed}.pdf",
        png=report(
            "results/{model}/figures/fig{number}_transfer-seed{seed}.png",
            caption="../report/fig09.rst",
            category="{model}",
            subcategory="pruned evaluation",
            labels={
                "result": "Figure {number}: other tasks' rankings",
                "seed": "{seed}",
            },
        ),
    log:
        "logs/{model}/draw_transfer/fig{number}-seed{seed}.log",
    conda:
        "../../envs/analysis.yaml"
    params:
        code=code_digest("report.figures.fig09"),
        tasks=TASKS,
        shots=get_figure_shots,
        transfer=TRANSFER,
        unseen=UNSEEN,
        options=options("correlation"),
        stem="results/{model}/figures/fig{number}_transfer-seed{seed}",
    message:
        "Draw Figure {wildcards.number} of {wildcards.model}."
    shell:
        "python -m lm_headroom figure {wildcards.number:q} --results results/{wildcards.model:q} "
        "--tasks {params.tasks:q} --shots {params.shots:q} --transfer {params.transfer:q} --unseen {params.unseen:q} "
        "{params.options} "
        "--seed {wildcards.seed:q} --out {params.stem:q} 2>&1 | tee {log:q}"


rule draw_fig10:
    input:
        INDUCTION_FILES,
    output:
        pdf=f"{FIGURE_STEMS['fig10']}.pdf",
        png=report(
            f"{FIGURE_STEMS['fig10']}.png",
            caption="../report/fig10.rst",
            category="{model}",
            subcategory="induction",
            labels={"result": "Figure 10: induction heads"},
        ),
    log:
        "logs/{model}/draw_fig10.log",
    conda:
        "../../envs/analysis.yaml"
    params:
        code=code_digest("report.figures.fig10"),
        stem=FIGURE_STEMS["fig10"],
    message:
        "Draw Figure 10 of {wildcards.model}."
    shell:
        "python -m lm_headroom figure 10 --results results/{wildcards.model:q} --out {params.stem:q} 2>&1 | tee {log:q}"


rule draw_fig11:
    input:
        CAPACITY_FILES,
        matrix=MATRIX,
    output:
        pdf=f"{FIGURE_STEMS['fig11']}.pdf",
        png=report(
            f"{FIGURE_STEMS['fig11']}.png",
            caption="../report/fig11.rst",
            category="{model}",
            subcategory="induction capacity",
            labels={
                "result": "Figure 11: induction capacity retained",
                "seed": "{seed}",
            },
        ),
    log:
        "logs/{model}/draw_fig11/seed{seed}.log",
    conda:
        "../../envs/analysis.yaml"
    params:
        code=code_digest("report.figures.fig11"),
        tasks=TASKS,
        shots=SHOTS,
        stem=FIGURE_STEMS["fig11"],
    message:
        "Draw Figure 11 of {wildcards.model}."
    shell:
        "python -m lm_headroom figure 11 --results results/{wildcards.model:q} "
        "--tasks {params.tasks:q} --shots {params.shots:q} "
        "--seed {wildcards.seed:q} --out {params.stem:q} 2>&1 | tee {log:q}"


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
        code=code_digest("report.figures.fig12"),
        tasks=TASKS,
        shots=get_figure_shots,
        stem="results/{model}/figures/fig{number}_task_importance-seed{seed}",
    message:
        "Draw Figure {wildcards.number} of {wildcards.model}."
    shell:
        "python -m lm_headroom figure {wildcards.number:q} --results results/{wildcards.model:q} "
        "--tasks {params.tasks:q} --shots {params.shots:q} "
        "--seed {wildcards.seed:q} --out {params.stem:q} 2>&1 | tee {log:q}"


rule draw_task_capacity:
    input:
        CAPACITY_FILES,
        matrix=MATRIX,
    output:
        pdf="results/{model}/figures/fig{number}_{score}_capacity-seed{seed}.pdf",
        png=report(
            "results/{model}/figures/fig{number}_{score}_capacity-seed{seed}.png",
            caption="../report/fig18.rst",
            category="{model}",
            subcategory="induction capacity",
            labels={
                "result": "Figure {number}: {score} capacity by task",
                "seed": "{seed}",
            },
        ),
    log:
        "logs/{model}/draw_task_capacity/fig{number}_{score}-seed{seed}.log",
    conda:
        "../../envs/analysis.yaml"
    params:
        code=code_digest("report.figures.fig18"),
        tasks=TASKS,
        shots=SHOTS,
        stem="results/{model}/figures/fig{number}_{score}_capacity-seed{seed}",
    message:
        "Draw Figure {wildcards.number} of {wildcards.model}."
    shell:
        "python -m lm_headroom figure {wildcards.number:q} --results results/{wildcards.model:q} "
        "--tasks {params.tasks:q} --shots {params.shots:q} "
        "--seed {wildcards.seed:q} --out {params.stem:q} 2>&1 | tee {log:q}"


rule write_findings:
    input:
        PROMPT_FILES,
        CURVE_FILES,
        AGGREGATE_CURVE_FILES,
        ITERATIVE_CURVE_FILES,
        FFN_CURVE_FILES,
        FFN_CONTROL_FILES,
        JOINT_FILES,
        expand(TRANSFER_FILES, shot=SHOTS, allow_missing=True),
        FFN_FILES,
        CORRELATION_FILES,
        ORACLE_AGREEMENT,
        SHOT_CORRELATION_FILES,
        INDUCTION_FILES,
        CAPACITY_FILES,
        ABLATION_FILES,
        SELECTION_FILES,
        matrix=[*MATRIX, MATRIX_UNSEEN],
    output:
        md=f"{FINDINGS_STEM}.md",
        html=report(
            f"{FINDINGS_STEM}.html",
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
        code=code_digest("report.findings"),
        tasks=TASKS,
        shots=SHOTS,
        controls=CONTROLS,
        transfer=TRANSFER,
        unseen=UNSEEN,
        options=options("margin"),
        joint="--joint" if JOINT else "",
        iterative="--iterative" if IS_ITERATIVE else "",
        ablated=ABLATED,
        selection_bias="--selection-bias" if SELECTION_BIAS else "",
        induction=WITHOUT_INDUCTION,
        stem=FINDINGS_STEM,
    message:
        "Write the findings of {wildcards.model}."
    shell:
        "python -m lm_headroom findings --results results/{wildcards.model:q} "
        "--tasks {params.tasks:q} --shots {params.shots:q} --controls {params.controls:q} "
        "--transfer {params.transfer:q} --unseen {params.unseen:q} {params.options} {params.joint:q} "
        "{params.iterative:q} --ablated {params.ablated:q} {params.selection_bias:q} {params.induction:q} --seed {wildcards.seed:q} "
        "--out {params.stem:q} 2>&1 | tee {log:q}"


rule write_headroom:
    input:
        expand(
            [
                *TASK_PROMPT_FILES,
                *expand(
                    HEAD_CURVE,
                    task=TASKS,
                    shot=SHOTS,
                    ranking="own",
                    allow_missing=True,
                ),
                *AGGREGATE_CURVE_FILES,
                *FFN_CURVE_FILES,
                # Which documents ranked.
                *FFN_FILES,
                *JOINT_FILES,
            ],
            seed=SEEDS,
            allow_missing=True,
        ),
        matrix=[*MATRIX, MATRIX_SEEDS],
    output:
        csv=f"{HEADROOM_STEM}.csv",
        md=f"{HEADROOM_STEM}.md",
        html=report(
            f"{HEADROOM_STEM}.html",
            caption="../report/headroom.rst",
            category="{model}",
            subcategory="what can go",
            labels={"result": "How much can go"},
        ),
    log:
        "logs/{model}/write_headroom.log",
    conda:
        "../../envs/analysis.yaml"
    params:
        code=code_digest("report.tables.headroom"),
        tasks=TASKS,
        shots=SHOTS,
        options=options("seeds", "margin"),
        joint="--joint" if JOINT else "",
        stem=HEADROOM_STEM,
    message:
        "Certify how much of {wildcards.model} can go."
    shell:
        "python -m lm_headroom certify --results results/{wildcards.model:q} "
        "--tasks {params.tasks:q} --shots {params.shots:q} {params.options} {params.joint:q} "
        "--out {params.stem:q} 2>&1 | tee {log:q}"


rule write_losses:
    input:
        CURVE_FILES,
        ITERATIVE_CURVE_FILES,
        AGGREGATE_CURVE_FILES,
        FFN_CURVE_FILES,
        FFN_CONTROL_FILES,
        JOINT_FILES,
        expand(TRANSFER_FILES, shot=SHOTS, allow_missing=True),
        matrix=[*MATRIX, MATRIX_UNSEEN],
    output:
        csv=f"{LOSSES_STEM}.csv",
        md=f"{LOSSES_STEM}.md",
        html=report(
            f"{LOSSES_STEM}.html",
            caption="../report/losses.rst",
            category="{model}",
            subcategory="pruned evaluation",
            labels={"result": "Accuracies and losses", "seed": "{seed}"},
        ),
    log:
        "logs/{model}/write_losses/seed{seed}.log",
    conda:
        "../../envs/analysis.yaml"
    params:
        code=code_digest("report.tables.losses"),
        tasks=TASKS,
        shots=SHOTS,
        controls=CONTROLS,
        transfer=TRANSFER,
        unseen=UNSEEN,
        joint="--joint" if JOINT else "",
        iterative="--iterative" if IS_ITERATIVE else "",
        stem=LOSSES_STEM,
    message:
        "Write the accuracies and losses of {wildcards.model}."
    shell:
        "python -m lm_headroom losses --results results/{wildcards.model:q} "
        "--tasks {params.tasks:q} --shots {params.shots:q} --controls {params.controls:q} "
        "--transfer {params.transfer:q} --unseen {params.unseen:q} {params.joint:q} {params.iterative:q} "
        "--seed {wildcards.seed:q} --out {params.stem:q} 2>&1 | tee {log:q}"


rule write_reference:
    input:
        TASK_PROMPT_FILES,
        expand(HEAD_CURVE, task=TASKS, shot=SHOTS, ranking="own", allow_missing=True),
        FFN_CURVE_FILES,
        JOINT_FILES,
        FFN_FILES,
        CORRELATION_FILES,
        SHOT_CORRELATION_FILES,
        INDUCTION_FILES,
        matrix=MATRIX,
    output:
        csv=f"{REFERENCE_STEM}.csv",
        md=f"{REFERENCE_STEM}.md",
        html=report(
            f"{REFERENCE_STEM}.html",
            caption="../report/reference.rst",
            category="{model}",
            subcategory="findings",
            labels={"result": "The paper's numbers beside these", "seed": "{seed}"},
        ),
    log:
        "logs/{model}/write_reference/seed{seed}.log",
    conda:
        "../../envs/analysis.yaml"
    params:
        code=code_digest("report.tables.reference"),
        tasks=TASKS,
        shots=SHOTS,
        options=options("margin"),
        joint="--joint" if JOINT else "",
        induction=WITHOUT_INDUCTION,
        stem=REFERENCE_STEM,
    message:
        "Write the reference table of {wildcards.model}."
    shell:
        "python -m lm_headroom reference --results results/{wildcards.model:q} "
        "--tasks {params.tasks:q} --shots {params.shots:q} {params.options} {params.joint:q} {params.induction:q} "
        "--seed {wildcards.seed:q} --out {params.stem:q} 2>&1 | tee {log:q}"


# One target per figure, over all models and seeds.
for name, paths in FIGURES_OF.items():

    rule:
        name:
            name
        input:
            paths,
