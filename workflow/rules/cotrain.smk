rule cotrain:
    input:
        encoder=made("contrastive", "sub-{sub}"),
        generator=made("generator", ""),
        model=model("stable_diffusion"),
        bold=made("roi", "sub-{sub}/train.npy"),
        targets=paired,
    output:
        directory("results/{dataset}/cotrain/{owner}/sub-{sub}"),
    log:
        "logs/{dataset}/cotrain/{owner}/sub-{sub}.log",
    benchmark:
        "logs/{dataset}/cotrain/{owner}/sub-{sub}.tsv"
    conda:
        "../../envs/mindreel.yaml"
    threads: 4
    resources:
        mem_mb=32000,
        runtime="3d",
        gpu=1,
    params:
        encoder=section("encoder"),
        cfg=section("cotrain"),
        code=fingerprint("cotrain"),
    message:
        "Tuning encoder and generator of sub-{wildcards.sub} together"
    shell:
        "python $([ {resources.gpu} -gt 1 ] && echo {TORCHRUN} {resources.gpu}) -m mindreel cotrain train "
        "--encoder {input.encoder} --generator {input.generator} --model {input.model} "
        "--bold {input.bold} --targets {input.targets} --out {output} "
        "--scratch scratch/{wildcards.dataset}/cotrain/{wildcards.owner}/sub-{wildcards.sub} "
        "--encoder-settings {params.encoder:q} --cfg {params.cfg:q} "
        "> {log} 2>&1"
