# Accuracy with heads, FFNs or both pruned, level by level. Own and aggregate rankings are two jobs: a new task changes
# every aggregate, and no own curve.


rule evaluate_own:
    input:
        model=RECORD,
        prompts=place("prompts"),
        ranking=place("ranking"),
        scores=CONTROL_SCORES,
        oracle=CONTROL_ORACLES,
    output:
        curves("heads", *STUDY.own_rankings),
    log:
        f"logs/{{model}}/evaluate_own/{{task}}/{CELL}.log",
    conda:
        "../../envs/model.yaml"
    threads: config["threads"]
    resources:
        **model_job("evaluate_own"),
    params:
        cache=CACHE,
        code=code_digest("steps.evaluate_pruned"),
        rankings=STUDY.own_rankings,
        scores=[
            *(f"--scores={path}" for path in CONTROL_SCORES),
            *(f"--oracle={path}" for path in CONTROL_ORACLES),
        ],
        options=options("evaluate_pruned"),
        folder=HEAD_CURVES,
    message:
        "Prune the heads of {wildcards.model} on {wildcards.task}, {wildcards.shot}-shot."
    shell:
        model_step(
            "evaluate-pruned --prompts {input.prompts:q} --ranking-file {input.ranking:q} --rankings {params.rankings:q} "
            "{params.scores:q} --out {params.folder:q}"
        )


use rule evaluate_own as evaluate_aggregate with:
    input:
        model=RECORD,
        prompts=place("prompts"),
        ranking=place("ranking", task=AGGREGATE),
    output:
        curves("heads", AGGREGATE),
    log:
        f"logs/{{model}}/evaluate_aggregate/{{task}}/{CELL}.log",
    # Where there is a joint grid, its job writes this curve too: the grid's edge is the same evaluations.
    wildcard_constraints:
        task=alternatives(STUDY.aggregate_tasks),
    resources:
        **model_job("evaluate_aggregate"),
    params:
        cache=CACHE,
        code=code_digest("steps.evaluate_pruned"),
        rankings=[AGGREGATE],
        scores=[],
        options=options("evaluate_pruned"),
        folder=HEAD_CURVES,
    message:
        "Prune {wildcards.model} on {wildcards.task} by the aggregate ranking, {wildcards.shot}-shot."


use rule evaluate_own as evaluate_iterative with:
    input:
        model=RECORD,
        prompts=place("prompts"),
        ranking=place("iterative_ranking"),
    output:
        curves("heads", ITERATIVE),
    log:
        f"logs/{{model}}/evaluate_iterative/{{task}}/{CELL}.log",
    resources:
        **model_job("evaluate_iterative"),
    params:
        cache=CACHE,
        code=code_digest("steps.evaluate_pruned"),
        rankings=[ITERATIVE],
        scores=[],
        options=options("evaluate_pruned"),
        folder=HEAD_CURVES,
    message:
        "Prune {wildcards.model} on {wildcards.task} by iterative re-scoring, {wildcards.shot}-shot."


rule rank_heads_iteratively:
    input:
        model=RECORD,
        prompts=place("prompts"),
    output:
        place("iterative_ranking"),
    log:
        f"logs/{{model}}/rank_heads_iteratively/{{task}}/{CELL}.log",
    conda:
        "../../envs/model.yaml"
    threads: config["threads"]
    resources:
        **model_job("rank_heads_iteratively"),
    params:
        cache=CACHE,
        code=code_digest("steps.rank_heads_iteratively"),
        options=options("rank_heads_iteratively"),
    message:
        "Score the heads of {wildcards.model} again and again on {wildcards.task}, {wildcards.shot}-shot."
    shell:
        model_step(
            "rank-heads-iteratively --prompts {input.prompts:q} --out {output:q}"
        )


rule rank_custom:
    input:
        model=RECORD,
        prompts=place("prompts"),
        source=lambda wildcards: STUDY.rankings[wildcards.ranking].file(**wildcards),
    output:
        place("custom_ranking"),
    log:
        f"logs/{{model}}/rank_custom/{{component}}/{{ranking}}/{{task}}/{CELL}.log",
    conda:
        "../../envs/model.yaml"
    threads: config["threads"]
    resources:
        **model_job("rank_custom"),
    params:
        cache=CACHE,
        code=code_digest("steps.rank_custom"),
        source=lambda wildcards: STUDY.rankings[wildcards.ranking].located(**wildcards),
        # A file that is moved to this name keeps its time, which may be older than the results. By wildcards alone:
        # Snakemake compares no params that ask for the input.
        content=lambda wildcards: f"content {DIGESTS.digest_file(Path(STUDY.rankings[wildcards.ranking].file(**wildcards)))}",
        options=options("rank_custom"),
    message:
        "Rank the {wildcards.component} of {wildcards.model} by {wildcards.ranking} for {wildcards.task}, "
        "{wildcards.shot}-shot."
    shell:
        model_step(
            "rank-custom --prompts {input.prompts:q} --name {wildcards.ranking:q} --source {params.source:q} "
            "--component {wildcards.component:q} --out {output:q}"
        )


rule evaluate_custom:
    input:
        model=RECORD,
        prompts=place("prompts"),
        ranking=place("custom_ranking"),
    output:
        place("pruned_eval"),
    log:
        f"logs/{{model}}/evaluate_custom/{{component}}/{{ranking}}/{{task}}/{CELL}.log",
    conda:
        "../../envs/model.yaml"
    threads: config["threads"]
    resources:
        **model_job("evaluate_custom"),
    params:
        cache=CACHE,
        code=code_digest("steps.evaluate_custom"),
        options=options("evaluate_custom"),
    message:
        "Prune the {wildcards.component} of {wildcards.model} on {wildcards.task} by {wildcards.ranking}, "
        "{wildcards.shot}-shot."
    shell:
        model_step(
            "evaluate-custom --prompts {input.prompts:q} --ranking {input.ranking:q} --out {output:q}"
        )


rule learn_mask:
    input:
        model=RECORD,
        prompts=place("prompts"),
    output:
        place("learned_ranking"),
    log:
        f"logs/{{model}}/learn_mask/{{component}}/{{task}}/{CELL}.log",
    conda:
        "../../envs/model.yaml"
    threads: config["threads"]
    resources:
        **model_job("learn_mask"),
    params:
        cache=CACHE,
        code=code_digest("steps.learn_mask"),
        options=options("learn_mask"),
    message:
        "Learn a mask of the {wildcards.component} of {wildcards.model} for {wildcards.task}, {wildcards.shot}-shot."
    shell:
        model_step(
            "learn-mask --prompts {input.prompts:q} --component {wildcards.component:q} --out {output:q}"
        )


use rule evaluate_custom as evaluate_learned with:
    input:
        model=RECORD,
        prompts=place("prompts"),
        ranking=place("learned_ranking"),
    output:
        place("pruned_eval", ranking=LEARNED),
    log:
        f"logs/{{model}}/evaluate_learned/{{component}}/{{task}}/{CELL}.log",
    resources:
        **model_job("evaluate_learned"),
    message:
        "Prune the {wildcards.component} of {wildcards.model} on {wildcards.task} by a learned mask, "
        "{wildcards.shot}-shot."


rule evaluate_joint:
    input:
        model=RECORD,
        prompts=place("prompts"),
        aggregate=place("ranking", task=AGGREGATE),
        heads=place("ranking", **JOINT_RANKING),
        ffns=place("ffn_ranking", **JOINT_RANKING),
    output:
        joint=place("joint_eval"),
        curve=curves("heads", AGGREGATE),
    log:
        f"logs/{{model}}/evaluate_joint/{{task}}/{CELL}.log",
    wildcard_constraints:
        task=alternatives(STUDY.joint_tasks),
    conda:
        "../../envs/model.yaml"
    threads: config["threads"]
    resources:
        **model_job("evaluate_joint"),
    params:
        cache=CACHE,
        code=code_digest("steps.evaluate_joint"),
        options=options("evaluate_joint"),
    message:
        "Prune heads and FFNs of {wildcards.model} on {wildcards.task}, {wildcards.shot}-shot."
    shell:
        model_step(
            "evaluate-joint --prompts {input.prompts:q} "
            "--curve-ranking {input.aggregate:q} --heads-ranking {input.heads:q} --ffns-ranking {input.ffns:q} "
            "--curve {output.curve:q} --out {output.joint:q}"
        )


rule evaluate_transfer:
    input:
        gather("ranking", task=TASKS, shot="{shot}"),
        model=RECORD,
        prompts=place("prompts"),
        correlations=place("cross_task"),
    output:
        highest=curves("heads", HIGHEST),
        lowest=curves("heads", LOWEST),
    log:
        f"logs/{{model}}/evaluate_transfer/{{task}}/{CELL}.log",
    conda:
        "../../envs/model.yaml"
    threads: config["threads"]
    resources:
        **model_job("evaluate_transfer"),
    params:
        cache=CACHE,
        code=code_digest("steps.evaluate_transfer"),
        options=options("evaluate_transfer"),
        rankings=lambda wildcards: RANKINGS.format(model=wildcards.model),
        folder=HEAD_CURVES,
    message:
        "Prune {wildcards.model} on {wildcards.task} by other tasks' rankings, {wildcards.shot}-shot."
    shell:
        model_step(
            "evaluate-transfer --prompts {input.prompts:q} "
            "--correlations {input.correlations:q} --ranking-folder {params.rankings:q} "
            "--task {wildcards.task:q} --out {params.folder:q}"
        )
