rule fetch_model:
    output:
        directory("resources/models/{name}"),
    log:
        "logs/fetch/{name}.log",
    benchmark:
        "logs/fetch/{name}.tsv"
    conda:
        "../../envs/mindreel.yaml"
    resources:
        mem_mb=2000,
        runtime="2h",
    params:
        hub=lambda wildcards: wildcards.name.replace("--", "/"),
        code=fingerprint("fetch"),
    message:
        "Downloading {params.hub}"
    shell:
        "python -m mindreel fetch model"
        " --name {params.hub:q}"
        " --out {output:q}"
        " > {log:q} 2>&1"


if CONFIG.fetch.dataset_url:

    # Asked for by name. The data set's folder is no output: Snakemake would empty it before it runs the rule.
    rule fetch_dataset:
        output:
            "results/{dataset}/fetch/dataset.txt",
        log:
            "logs/{dataset}/fetch/dataset.log",
        benchmark:
            "logs/{dataset}/fetch/dataset.tsv"
        conda:
            "../../envs/mindreel.yaml"
        resources:
            mem_mb=2000,
            runtime="1d",
        params:
            url=CONFIG.fetch.dataset_url,
            sha256=CONFIG.fetch.dataset_sha256,
            root=data_root,
            code=fingerprint("fetch"),
        message:
            "Downloading the data set"
        shell:
            "python -m mindreel fetch dataset"
            " --url {params.url:q}"
            " --sha256 {params.sha256:q}"
            " --out {params.root:q}"
            " > {log:q} 2>&1"
            " && cp {log:q} {output:q}"
