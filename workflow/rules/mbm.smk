def pretrained(wildcards):
    init = CONFIG.experiments[wildcards.owner].of_subject(wildcards.sub).mbm.init
    if init == "hcp":
        return made("pretrain", "hcp")(wildcards)
    if init in ("scratch", "none"):
        return []
    if not Path(init, "config.json").exists():
        raise WorkflowError(
            f"mbm.init: {init} holds no model; convert a released checkpoint with `mindreel mbm import`, "
            "or name hcp, scratch, none or the folder of a masked autoencoder"
        )
    return init


rule pretrain_encoder:
    input:
        segments="results/{dataset}/hcp/runs.tsv",
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
        cfg=section("pretrain"),
        code=fingerprint("mbm"),
    message:
        "Pretraining the encoder on HCP"
    shell:
        "python $([ {resources.gpu} -gt 1 ] && echo {TORCHRUN} {resources.gpu}) -m mindreel mbm pretrain "
        "--segments results/{wildcards.dataset}/hcp --out {output} "
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
        sizes=section("pretrain"),
        cfg=section("mbm"),
        pretrained=lambda wildcards, input: (
            f"--pretrained {input.pretrained}" if input.pretrained else ""
        ),
        code=fingerprint("mbm"),
    message:
        "Tuning the encoder on sub-{wildcards.sub}"
    shell:
        "python $([ {resources.gpu} -gt 1 ] && echo {TORCHRUN} {resources.gpu}) -m mindreel mbm tune "
        "--bold {input.bold} {params.pretrained} --out {output} "
        "--scratch scratch/{wildcards.dataset}/mbm/{wildcards.owner}/sub-{wildcards.sub} "
        "--sizes {params.sizes:q} --cfg {params.cfg:q} "
        "> {log} 2>&1"
