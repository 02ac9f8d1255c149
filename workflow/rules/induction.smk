# Induction scores of each model's heads.


rule score_induction:
    input:
        model=ancient("results/{model}/model.json"),
    output:
        "results/{model}/induction/prefix_matching.parquet",
    log:
        "logs/{model}/score_induction.log",
    conda:
        "../../envs/model.yaml"
    threads: config["threads"]
    resources:
        gpu=1,
        # Resources, not params: these change speed and memory, and must not rerun anything.
        device=config["device"],
    params:
        code=code_digest("steps.score_induction"),
        model=get_model_identity,
        sequences=config["induction"]["sequences"],
        no_bos="" if config["induction"]["bos"] else "--no-bos",
        dtype=config["dtype"],
    message:
        "Score prefix matching of {wildcards.model}."
    shell:
        "python -m headroom induction --model {input.model} --sequences {params.sequences} {params.no_bos} "
        "--dtype {params.dtype} --device {resources.device} --threads {threads} --out {output} 2>&1 | tee {log}"
