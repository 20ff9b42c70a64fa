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
        f"{LAUNCH} -m mindreel generator train"
        " --model {input.model:q}"
        " --targets {input.targets:q}"
        " --out {output:q}"
        " --scratch scratch/{wildcards.dataset:q}/generator/{wildcards.owner:q}"
        " --cfg {params.cfg:q}"
        " > {log:q} 2>&1"
