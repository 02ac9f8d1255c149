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
        options=options(
            "importance.reduction", "importance.last_layer_tokens", "dtype", "add_bos"
        ),
    message:
        "Score the heads of {wildcards.model} on {wildcards.task}, {wildcards.shot}-shot."
    shell:
        model_step(
            "head-importance --prompts {input.prompts:q} "
            "--out {output.scores:q} --ranking {output.ranking:q} --ffn-gradient {output.ffn_gradient:q}"
        )


rule score_ffns:
    input:
        model=RECORD,
        prompts=place("prompts"),
    output:
        scores=place("ffn_importance"),
        ranking=place("ffn_ranking"),
        curve=curves("ffns", OWN),
        controls=curves("ffns", *STUDY.pruning.ffn_controls),
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
        options=options("ffn.selection", "pruning.levels", "dtype", "add_bos"),
        controls=STUDY.pruning.ffn_controls,
    message:
        "Score and prune the FFNs of {wildcards.model} on {wildcards.task}, {wildcards.shot}-shot."
    shell:
        model_step(
            "ffn-importance --prompts {input.prompts:q} "
            "--controls {params.controls:q} "
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
        options=options("ffn.selection", "pruning.levels", "dtype", "add_bos"),
    message:
        "Score the FFNs of {wildcards.model} on other documents of {wildcards.task}, {wildcards.shot}-shot."
    shell:
        model_step(
            "ffn-selection --prompts {input.prompts:q} "
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
        options=lambda wildcards: f"--heads {STUDY.oracle_heads(wildcards.task)} {options('dtype', 'add_bos')}",
    message:
        "Remove heads of {wildcards.model} one at a time on {wildcards.task}, {wildcards.shot}-shot."
    shell:
        model_step("head-oracle --prompts {input.prompts:q} " "--out {output:q}")


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
        tasks=TASKS,
        options=options("aggregate"),
    message:
        "Aggregate head importance over tasks, {wildcards.model}, {wildcards.shot}-shot."
    shell:
        step(
            "rank --results results/{wildcards.model:q} --tasks {params.tasks:q} --shots {wildcards.shot:q} "
            "--seed {wildcards.seed:q} {params.options} --scores-out {output.scores:q} --out {output.ranking:q}"
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
        tasks=TASKS,
        options=f"{options('aggregate')} --component ffns",
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
        tasks=TASKS,
        shots=SHOTS,
        options=options("seeds"),
    message:
        "Average the head scores of {wildcards.model} over few-shot seeds."
    shell:
        step(
            "average-seeds --results results/{wildcards.model:q} --tasks {params.tasks:q} --shots {params.shots:q} "
            "{params.options} --out {output:q}"
        )
