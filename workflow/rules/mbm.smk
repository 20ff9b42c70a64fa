def pretrained(wildcards):
    return (
        made("pretrain", "hcp")(wildcards)
        if CONFIG.experiments[wildcards.owner].mbm.init == "hcp"
        else []
    )


rule pretrain_encoder:
    input:
        segments="results/{dataset}/hcp",
    output:
        directory("results/{dataset}/mbm/{owner}/hcp"),
    log:
        "logs/{dataset}/mbm/{owner}/hcp.log",
    benchmark:
        "logs/{dataset}/mbm/{owner}/hcp.tsv"
    conda:
        "../../envs/mindreel.yaml"
    threads: 8
    resources:
        mem_mb=32000,
        runtime="7d",
        gpu=1,
    params:
        cfg=section("mbm"),
        code=fingerprint("mbm"),
    message:
        "Pretraining the encoder on HCP"
    shell:
        "python -m mindreel mbm pretrain --segments {input.segments} --out {output} "
        "--scratch scratch/{wildcards.dataset}/mbm/{wildcards.owner}/hcp --cfg {params.cfg:q} "
        "> {log} 2>&1"


rule tune_encoder:
    input:
        bold=made("roi", "sub-{sub}/train.npy"),
        pretrained=pretrained,
    output:
        directory("results/{dataset}/mbm/{owner}/sub-{sub}"),
    log:
        "logs/{dataset}/mbm/{owner}/sub-{sub}.log",
    benchmark:
        "logs/{dataset}/mbm/{owner}/sub-{sub}.tsv"
    conda:
        "../../envs/mindreel.yaml"
    threads: 4
    resources:
        mem_mb=16000,
        runtime="12h",
        gpu=1,
    params:
        cfg=section("mbm"),
        pretrained=lambda wildcards, input: (
            f"--pretrained {input.pretrained}" if input.pretrained else ""
        ),
        code=fingerprint("mbm"),
    message:
        "Tuning the encoder on sub-{wildcards.sub}"
    shell:
        "python -m mindreel mbm tune --bold {input.bold} {params.pretrained} --out {output} "
        "--scratch scratch/{wildcards.dataset}/mbm/{wildcards.owner}/sub-{wildcards.sub} --cfg {params.cfg:q} "
        "> {log} 2>&1"
