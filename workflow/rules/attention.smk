rule map_attention:
    input:
        mbm=made("mbm", "sub-{sub}"),
        contrastive=made("contrastive", "sub-{sub}"),
        cotrained=made("cotrain", "sub-{sub}"),
        bold=made("roi", "sub-{sub}/test.npy"),
        voxels=made("roi", "sub-{sub}/voxels.tsv"),
        captions=segments("captions", "test", ".tsv"),
        true_features="results/{dataset}/features/true",
    output:
        directory("results/{dataset}/attention/{owner}/sub-{sub}"),
    log:
        "logs/{dataset}/attention/{owner}/sub-{sub}.log",
    benchmark:
        "logs/{dataset}/attention/{owner}/sub-{sub}.tsv"
    conda:
        "../../envs/mindreel.yaml"
    threads: 2
    resources:
        mem_mb=16000,
        runtime="2h",
        gpu=1,
    params:
        encoder=section("encoder"),
        cfg=section("attention"),
        code=fingerprint("attention"),
    message:
        "Mapping attention and integrated gradients of the encoders of sub-{wildcards.sub}"
    shell:
        "python -m mindreel attention maps"
        " --mbm {input.mbm:q}"
        " --contrastive {input.contrastive:q}"
        " --cotrained {input.cotrained:q}"
        " --bold {input.bold:q}"
        " --voxels {input.voxels:q}"
        " --captions {input.captions:q}"
        " --true-features {input.true_features:q}"
        " --out {output:q}"
        " --encoder {params.encoder:q}"
        " --cfg {params.cfg:q}"
        " > {log:q} 2>&1"
