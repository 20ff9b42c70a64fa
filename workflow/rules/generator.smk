rule train_generator:
    input:
        model=model("stable_diffusion"),
        targets=segments("targets", "train"),
    output:
        report(
            directory("results/{dataset}/generator/{owner}"),
            patterns=["{picture}.png"],
            caption="../report/generator.rst",
            category="Generator",
            labels={"experiment": "{owner}", "picture": "{picture}"},
        ),
    log:
        "logs/{dataset}/generator/{owner}.log",
    benchmark:
        "logs/{dataset}/generator/{owner}.tsv"
    priority: 1  # all subjects wait for it
    conda:
        "../../envs/mindreel.yaml"
    threads: 4
    resources:
        mem_mb=32000,
        runtime="1d",
        gpu=1,
    params:
        cfg=section("generator"),
        code=fingerprint("generator"),
    message:
        "Tuning the video generator with captions"
    shell:
        "python $([ {resources.gpu} -gt 1 ] && echo {TORCHRUN} {resources.gpu}) -m mindreel generator train "
        "--model {input.model} --targets {input.targets} --out {output} "
        "--scratch scratch/{wildcards.dataset}/generator/{wildcards.owner} --cfg {params.cfg:q} "
        "> {log} 2>&1"
