rule extract_features:
    input:
        clips=conditions,
        image_classifier=model("image_classifier"),
        video_classifier=model("video_classifier"),
        clip=model("clip"),
        diffusion=model("stable_diffusion"),
    output:
        directory("results/{dataset}/features/{owner}/sub-{sub}"),
    log:
        "logs/{dataset}/features/{owner}/sub-{sub}.log",
    benchmark:
        "logs/{dataset}/features/{owner}/sub-{sub}.tsv"
    conda:
        "../../envs/mindreel.yaml"
    threads: 2
    resources:
        mem_mb=16000,
        runtime="4h",
        gpu=1,
    params:
        cfg=section("features"),
        code=fingerprint("features"),
    message:
        "Looking at the clips of sub-{wildcards.sub} with classifiers and encoders"
    shell:
        "python -m mindreel features extract --clips {input.clips} --image-classifier {input.image_classifier} "
        "--video-classifier {input.video_classifier} --clip {input.clip} --diffusion {input.diffusion} --out {output} "
        "--cfg {params.cfg:q} > {log} 2>&1"


rule extract_true_features:
    input:
        clips=segments("stimuli", "test", ".npy"),
        image_classifier=model("image_classifier"),
        video_classifier=model("video_classifier"),
        clip=model("clip"),
        diffusion=model("stable_diffusion"),
    output:
        directory("results/{dataset}/features/true"),
    log:
        "logs/{dataset}/features/true.log",
    benchmark:
        "logs/{dataset}/features/true.tsv"
    conda:
        "../../envs/mindreel.yaml"
    threads: 2
    resources:
        mem_mb=16000,
        runtime="4h",
        gpu=1,
    params:
        cfg=section("features"),
        code=fingerprint("features"),
    message:
        "Looking at the true test clips with classifiers and encoders"
    shell:
        "python -m mindreel features extract --clips {input.clips} --image-classifier {input.image_classifier} "
        "--video-classifier {input.video_classifier} --clip {input.clip} --diffusion {input.diffusion} --out {output} "
        "--cfg {params.cfg:q} > {log} 2>&1"
