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
        "python -m mindreel features extract"
        " --clips {input.clips:q}"
        " --image-classifier {input.image_classifier:q}"
        " --video-classifier {input.video_classifier:q}"
        " --clip {input.clip:q}"
        " --diffusion {input.diffusion:q}"
        " --out {output:q}"
        " --cfg {params.cfg:q}"
        " > {log:q} 2>&1"


use rule extract_features as extract_true_features with:
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
    message:
        "Looking at the true test clips with classifiers and encoders"
