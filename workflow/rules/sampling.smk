rule sample_clips:
    input:
        cotrained=made("cotrain", "sub-{sub}"),
        model=model("stable_diffusion"),
        bold=made("roi", "sub-{sub}/test.npy"),
        train_bold=made("roi", "sub-{sub}/train.npy"),
        empty=segments("targets", "train")[0],
    output:
        temp("results/{dataset}/sampling/{owner}/sub-{sub}/{control}/{shard}.npy"),
    log:
        "logs/{dataset}/sampling/{owner}/sub-{sub}_{control}_{shard}.log",
    benchmark:
        "logs/{dataset}/sampling/{owner}/sub-{sub}_{control}_{shard}.tsv"
    wildcard_constraints:
        control=conditions_of("fmri"),
    conda:
        "../../envs/mindreel.yaml"
    threads: 4
    resources:
        mem_mb=16000,
        runtime="2d",
        gpu=1,
    params:
        segments=numbers,
        encoder=section("encoder"),
        cfg=section("sampling"),
        code=fingerprint("sampling"),
    message:
        "Reconstructing what sub-{wildcards.sub} saw ({wildcards.control}, {wildcards.shard})"
    shell:
        "python -m mindreel sampling sample"
        " --cotrained {input.cotrained:q}"
        " --model {input.model:q}"
        " --bold {input.bold:q}"
        " --train-bold {input.train_bold:q}"
        " --empty {input.empty:q}"
        " --subject {wildcards.sub:q}"
        " --control {wildcards.control:q}"
        " --segments {params.segments:q}"
        " --out {output:q}"
        " --scratch scratch/{wildcards.dataset:q}/sampling/{wildcards.owner:q}/sub-{wildcards.sub:q}/"
        "{wildcards.control:q}"
        " --encoder {params.encoder:q}"
        " --cfg {params.cfg:q}"
        " > {log:q} 2>&1"


rule sample_captions:
    input:
        generator=made("generator", ""),
        model=model("stable_diffusion"),
        targets=segments("targets", "test"),
    output:
        temp("results/{dataset}/sampling/{owner}/{control}/{shard}.npy"),
    log:
        "logs/{dataset}/sampling/{owner}/{control}_{shard}.log",
    benchmark:
        "logs/{dataset}/sampling/{owner}/{control}_{shard}.tsv"
    wildcard_constraints:
        control=conditions_of("captions", per_subject=False),
    conda:
        "../../envs/mindreel.yaml"
    threads: 4
    resources:
        mem_mb=16000,
        runtime="2d",
        gpu=1,
    params:
        segments=numbers,
        cfg=section("sampling"),
        code=fingerprint("sampling"),
    message:
        "Sampling the clips of the test captions ({wildcards.control}, {wildcards.shard})"
    shell:
        "python -m mindreel sampling captions"
        " --generator {input.generator:q}"
        " --model {input.model:q}"
        " --targets {input.targets:q}"
        " --control {wildcards.control:q}"
        " --segments {params.segments:q}"
        " --out {output:q}"
        " --scratch scratch/{wildcards.dataset:q}/sampling/{wildcards.owner:q}/{wildcards.control:q}"
        " --cfg {params.cfg:q}"
        " > {log:q} 2>&1"


rule make_control:
    input:
        unpack(control_inputs),
    output:
        "results/{dataset}/sampling/{owner}/sub-{sub}/{control}.npy",
    log:
        "logs/{dataset}/sampling/{owner}/sub-{sub}_{control}.log",
    benchmark:
        "logs/{dataset}/sampling/{owner}/sub-{sub}_{control}.tsv"
    wildcard_constraints:
        control=conditions_of("clips"),
    conda:
        "../../envs/mindreel.yaml"
    resources:
        mem_mb=8000,
        runtime="4h",
        gpu=control_gpus,
    params:
        inputs=options,
        subject=subject_option,
        seed=seed_of("sampling"),
        encoder=section("encoder"),
        code=fingerprint("sampling_controls"),
    message:
        "Making the control {wildcards.control} of sub-{wildcards.sub}"
    shell:
        "python -m mindreel sampling control"
        " --control {wildcards.control:q}"
        " {params.inputs}"
        " {params.subject}"
        " --seed {params.seed:q}"
        " --out {output:q}"
        " --encoder {params.encoder:q}"
        " > {log:q} 2>&1"


use rule make_control as make_common_control with:
    output:
        "results/{dataset}/sampling/{owner}/{control}.npy",
    log:
        "logs/{dataset}/sampling/{owner}/{control}.log",
    benchmark:
        "logs/{dataset}/sampling/{owner}/{control}.tsv"
    wildcard_constraints:
        control=conditions_of("clips", per_subject=False),
    message:
        "Making the control {wildcards.control}"


rule gather_clips:
    input:
        shards,
    output:
        "results/{dataset}/sampling/{owner}/sub-{sub}/{control}.npy",
    log:
        "logs/{dataset}/sampling/{owner}/sub-{sub}_{control}.log",
    benchmark:
        "logs/{dataset}/sampling/{owner}/sub-{sub}_{control}.tsv"
    wildcard_constraints:
        control=conditions_of("fmri"),
    conda:
        "../../envs/mindreel.yaml"
    resources:
        mem_mb=4000,
        runtime="30m",
    params:
        cfg=section("sampling"),  # the shards do not last, what they were made with is noted here
        code=fingerprint("sampling"),
    message:
        "Gathering the clips of sub-{wildcards.sub} ({wildcards.control})"
    shell:
        "python -m mindreel sampling gather"
        " --shards {input:q}"
        " --out {output:q}"
        " > {log:q} 2>&1"


use rule gather_clips as gather_captioned_clips with:
    output:
        "results/{dataset}/sampling/{owner}/{control}.npy",
    log:
        "logs/{dataset}/sampling/{owner}/{control}.log",
    benchmark:
        "logs/{dataset}/sampling/{owner}/{control}.tsv"
    wildcard_constraints:
        control=conditions_of("captions", per_subject=False),
    message:
        "Gathering the clips of the test captions ({wildcards.control})"


rule film_clips:
    input:
        clips="results/{dataset}/sampling/{owner}/sub-{sub}/fmri.npy",
        frames=segments("stimuli", "test", ".npy"),
    output:
        report(
            "results/{dataset}/sampling/{owner}/sub-{sub}/fmri.mp4",
            caption="../report/film.rst",
            category="Reconstructions",
            labels={"subject": "{sub}", "experiment": "{owner}"},
        ),
    log:
        "logs/{dataset}/sampling/{owner}/sub-{sub}_film.log",
    benchmark:
        "logs/{dataset}/sampling/{owner}/sub-{sub}_film.tsv"
    conda:
        "../../envs/mindreel.yaml"
    resources:
        mem_mb=4000,
        runtime="30m",
    params:
        fps=CONFIG.stimuli.fps,
        code=fingerprint("sampling"),
    message:
        "Filming true and reconstructed clips of sub-{wildcards.sub}"
    shell:
        "python -m mindreel sampling film"
        " --clips {input.clips:q}"
        " --frames {input.frames:q}"
        " --fps {params.fps:q}"
        " --out {output:q}"
        " > {log:q} 2>&1"


rule sample_segment_movie:
    input:
        cotrained=made("cotrain", "sub-{sub}"),
        model=model("stable_diffusion"),
        bold=made("roi", "sub-{sub}/test.npy"),
        train_bold=made("roi", "sub-{sub}/train.npy"),
        empty=segments("targets", "train")[0],
        frames="results/{dataset}/stimuli/{segment}.npy",
    output:
        "results/{dataset}/sampling/{owner}/sub-{sub}/segment_movie/{segment}.mp4",
    log:
        "logs/{dataset}/sampling/{owner}/sub-{sub}_segment_movie_{segment}.log",
    benchmark:
        "logs/{dataset}/sampling/{owner}/sub-{sub}_segment_movie_{segment}.tsv"
    wildcard_constraints:
        segment="|".join(SHEET.segments("test")),
    conda:
        "../../envs/mindreel.yaml"
    threads: 4
    resources:
        mem_mb=24000,
        runtime="2d",
        gpu=1,
    params:
        number=numbers,
        encoder=section("encoder"),
        cfg=section("sampling", whole=True),
        fps=CONFIG.stimuli.fps,
        code=fingerprint("sampling_movie"),
    message:
        "Reconstructing {wildcards.segment} as sub-{wildcards.sub} saw it, as one movie"
    shell:
        "python -m mindreel sampling segment-movie"
        " --cotrained {input.cotrained:q}"
        " --model {input.model:q}"
        " --bold {input.bold:q}"
        " --train-bold {input.train_bold:q}"
        " --empty {input.empty:q}"
        " --frames {input.frames:q}"
        " --subject {wildcards.sub:q}"
        " --segment {params.number:q}"
        " --fps {params.fps:q}"
        " --out {output:q}"
        " --scratch scratch/{wildcards.dataset:q}/sampling/{wildcards.owner:q}/sub-{wildcards.sub:q}/segment_movie"
        " --encoder {params.encoder:q}"
        " --cfg {params.cfg:q}"
        " > {log:q} 2>&1"
