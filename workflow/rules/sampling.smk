rule sample_clips:
    input:
        cotrained=made("cotrain", "sub-{sub}"),
        model=model("stable_diffusion"),
        bold=made("roi", "sub-{sub}/test.npy"),
        train_bold=made("roi", "sub-{sub}/train.npy"),
        empty=segments("targets", "train")[0],
    output:
        "results/{dataset}/sampling/{owner}/sub-{sub}/{control}.npy",
    log:
        "logs/{dataset}/sampling/{owner}/sub-{sub}_{control}.log",
    benchmark:
        "logs/{dataset}/sampling/{owner}/sub-{sub}_{control}.tsv"
    conda:
        "../../envs/mindreel.yaml"
    threads: 4
    resources:
        mem_mb=16000,
        runtime="2d",
        gpu=1,
    params:
        encoder=section("encoder"),
        cfg=section("sampling"),
        code=fingerprint("sampling"),
    message:
        "Reconstructing what sub-{wildcards.sub} saw ({wildcards.control})"
    shell:
        "python -m mindreel sampling sample --cotrained {input.cotrained} --model {input.model} --bold {input.bold} "
        "--train-bold {input.train_bold} --empty {input.empty} --control {wildcards.control} --out {output} "
        "--scratch scratch/{wildcards.dataset}/sampling/{wildcards.owner}/sub-{wildcards.sub}/{wildcards.control} "
        "--encoder {params.encoder:q} --cfg {params.cfg:q} "
        "> {log} 2>&1"


rule film_clips:
    input:
        clips="results/{dataset}/sampling/{owner}/sub-{sub}/fmri.npy",
        frames=segments("stimuli", "test", ".npy"),
    output:
        "results/{dataset}/sampling/{owner}/sub-{sub}/fmri.mp4",
    log:
        "logs/{dataset}/sampling/{owner}/sub-{sub}_film.log",
    benchmark:
        "logs/{dataset}/sampling/{owner}/sub-{sub}_film.tsv"
    conda:
        "../../envs/mindreel.yaml"
    threads: 1
    resources:
        mem_mb=4000,
        runtime="30m",
    params:
        fps=CONFIG.stimuli.fps,
        code=fingerprint("sampling"),
    message:
        "Filming true and reconstructed clips of sub-{wildcards.sub}"
    shell:
        "python -m mindreel sampling film --clips {input.clips} --frames {input.frames} --fps {params.fps} --out {output} "
        "> {log} 2>&1"
