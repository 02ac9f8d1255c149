# Importance of heads (eq. 8, 9) and FFNs (eq. 7) on each task, and of their aggregates (eq. 10), with rankings; heads
# removed one at a time, where the study asks for it; and FFNs ranked by other documents.


rule score_heads:
    input:
        model=RECORD,
        prompts=place("prompts"),
    output:
        scores=place("head_importance"),
        ranking=place("ranking"),
        ffn_gradient=place("ffn_gradient"),
    log:
        f"logs/{{model}}/score_heads/{{task}}/{CELL}.log",
    conda:
        "../../envs/model.yaml"
    threads: config["threads"]
    resources:
        **model_job("score_heads"),
    params:
        cache=CACHE,
        code=code_digest("steps.score_heads"),
        options=options("score_heads"),
    message:
        "Score the heads of {wildcards.model} on {wildcards.task}, {wildcards.shot}-shot."
    shell:
        model_step(
            "score-heads --prompts {input.prompts:q} "
            "--out {output.scores:q} --ranking {output.ranking:q} --ffn-gradient {output.ffn_gradient:q}"
        )


rule score_ffns:
    input:
        model=RECORD,
        prompts=place("prompts"),
        gradients=FFN_CONTROL_SCORES,
    output:
        scores=place("ffn_importance"),
        ranking=place("ffn_ranking"),
        curve=curves("ffns", OWN),
        controls=curves("ffns", *STUDY.pruning.of_ffns),
    log:
        f"logs/{{model}}/score_ffns/{{task}}/{CELL}.log",
    conda:
        "../../envs/model.yaml"
    threads: config["threads"]
    resources:
        **model_job("score_ffns"),
    params:
        cache=CACHE,
        code=code_digest("steps.score_ffns"),
        options=options("score_ffns"),
        controls=STUDY.pruning.of_ffns,
        gradients=[f"--gradients={path}" for path in FFN_CONTROL_SCORES],
    message:
        "Score and prune the FFNs of {wildcards.model} on {wildcards.task}, {wildcards.shot}-shot."
    shell:
        model_step(
            "score-ffns --prompts {input.prompts:q} "
            "--controls {params.controls:q} {params.gradients:q} "
            "--out {output.scores:q} --ranking {output.ranking:q} --curve {output.curve:q}"
        )


rule select_ffns:
    input:
        model=RECORD,
        prompts=place("prompts"),
    output:
        scores=place("ffn_selection"),
        curve=curves("ffns", OTHER_DOCUMENTS),
    log:
        f"logs/{{model}}/select_ffns/{{task}}/{CELL}.log",
    wildcard_constraints:
        task=alternatives(STUDY.selection_tasks),
    conda:
        "../../envs/model.yaml"
    threads: config["threads"]
    resources:
        **model_job("select_ffns"),
    params:
        cache=CACHE,
        code=code_digest("steps.select_ffns"),
        options=options("select_ffns"),
    message:
        "Score the FFNs of {wildcards.model} on other documents of {wildcards.task}, {wildcards.shot}-shot."
    shell:
        model_step(
            "select-ffns --prompts {input.prompts:q} "
            "--curve {output.curve:q} --out {output.scores:q}"
        )


rule score_head_knockouts:
    input:
        model=RECORD,
        prompts=place("prompts"),
    output:
        place("head_oracle"),
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
        options=lambda wildcards: options("score_head_knockouts", wildcards.task),
    message:
        "Remove heads of {wildcards.model} one at a time on {wildcards.task}, {wildcards.shot}-shot."
    shell:
        model_step("score-head-knockouts --prompts {input.prompts:q} --out {output:q}")


rule aggregate_heads:
    input:
        gather("head_importance", task=TASKS, shot="{shot}"),
        tasks=LISTS["tasks"],
    output:
        scores=place("head_importance", task=AGGREGATE),
        ranking=place("ranking", task=AGGREGATE),
    log:
        f"logs/{{model}}/aggregate_heads/{CELL}.log",
    conda:
        "../../envs/analysis.yaml"
    resources:
        mem_mb=get_cpu_memory,
        runtime=CPU_MINUTES,
    params:
        code=code_digest("steps.aggregate_heads"),
        command="aggregate-heads",
        options=options("aggregate_heads"),
    message:
        "Aggregate head importance over tasks, {wildcards.model}, {wildcards.shot}-shot."
    shell:
        step(
            "{params.command:q} --results results/{wildcards.model:q} --shots {wildcards.shot:q} "
            "--seed {wildcards.seed:q} {params.options} --out {output.scores:q} --ranking {output.ranking:q}"
        )


use rule aggregate_heads as aggregate_ffns with:
    input:
        gather("ffn_importance", task=TASKS, shot="{shot}"),
        tasks=LISTS["tasks"],
    output:
        scores=place("ffn_importance", task=AGGREGATE),
        ranking=place("ffn_ranking", task=AGGREGATE),
    log:
        f"logs/{{model}}/aggregate_ffns/{CELL}.log",
    params:
        code=code_digest("steps.aggregate_ffns"),
        command="aggregate-ffns",
        options=options("aggregate_ffns"),
    message:
        "Aggregate FFN importance over tasks, {wildcards.model}, {wildcards.shot}-shot."


rule average_seeds:
    input:
        gather("head_importance", task=[*TASKS, AGGREGATE], seed=SEEDS),
        matrix=[*MATRIX, LISTS["seeds"]],
    output:
        place("seed_scores"),
    log:
        "logs/{model}/average_seeds.log",
    conda:
        "../../envs/analysis.yaml"
    resources:
        mem_mb=get_cpu_memory,
        runtime=CPU_MINUTES,
    params:
        code=code_digest("steps.average_seeds"),
        options=options("average_seeds"),
    message:
        "Average the head scores of {wildcards.model} over few-shot seeds."
    shell:
        step(
            "average-seeds --results results/{wildcards.model:q} {params.options} --out {output:q}"
        )
