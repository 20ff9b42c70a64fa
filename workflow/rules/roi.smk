rule select_voxels:
    input:
        runs("train"),
    output:
        voxels="results/{dataset}/roi/{owner}/sub-{sub}/voxels.tsv",
        maps="results/{dataset}/roi/{owner}/sub-{sub}/reproducibility.dscalar.nii",
        summary="results/{dataset}/roi/{owner}/sub-{sub}/summary.json",
    log:
        "logs/{dataset}/roi/{owner}/sub-{sub}_select.log",
    benchmark:
        "logs/{dataset}/roi/{owner}/sub-{sub}_select.tsv"
    conda:
        "../../envs/mindreel.yaml"
    threads: 2
    resources:
        mem_mb=8000,
        runtime="30m",
    params:
        cfg=section("roi"),
        code=fingerprint("roi"),
    message:
        "Selecting the reproducible voxels of sub-{wildcards.sub}"
    shell:
        "python -m mindreel roi select"
        " --bold {input:q}"
        " --voxels {output.voxels:q}"
        " --maps {output.maps:q}"
        " --summary {output.summary:q}"
        " --dataset {wildcards.dataset:q}"
        " --subject {wildcards.sub:q}"
        " --cfg {params.cfg:q}"
        " > {log:q} 2>&1"


rule gather_training_voxels:
    input:
        voxels="results/{dataset}/roi/{owner}/sub-{sub}/voxels.tsv",
        bold=runs("train"),
    output:
        bold="results/{dataset}/roi/{owner}/sub-{sub}/train.npy",
        statistics="results/{dataset}/roi/{owner}/sub-{sub}/statistics.npy",
        pairs="results/{dataset}/roi/{owner}/sub-{sub}/train.tsv",
    log:
        "logs/{dataset}/roi/{owner}/sub-{sub}_train.log",
    benchmark:
        "logs/{dataset}/roi/{owner}/sub-{sub}_train.tsv"
    conda:
        "../../envs/mindreel.yaml"
    resources:
        mem_mb=8000,
        runtime="30m",
    params:
        cfg=section("roi"),
        tr_s=CONFIG.data.tr_s,
        frames=CONFIG.frames,
        code=fingerprint("roi"),
    message:
        "Gathering the training data of sub-{wildcards.sub}"
    shell:
        "python -m mindreel roi train"
        " --voxels {input.voxels:q}"
        " --bold {input.bold:q}"
        " --out {output.bold:q}"
        " --statistics {output.statistics:q}"
        " --pairs {output.pairs:q}"
        " --tr-s {params.tr_s:q}"
        " --frames {params.frames:q}"
        " --cfg {params.cfg:q}"
        " > {log:q} 2>&1"


rule gather_test_voxels:
    input:
        voxels="results/{dataset}/roi/{owner}/sub-{sub}/voxels.tsv",
        statistics="results/{dataset}/roi/{owner}/sub-{sub}/statistics.npy",
        bold=runs("test"),
    output:
        bold="results/{dataset}/roi/{owner}/sub-{sub}/test.npy",
        pairs="results/{dataset}/roi/{owner}/sub-{sub}/test.tsv",
    log:
        "logs/{dataset}/roi/{owner}/sub-{sub}_test.log",
    benchmark:
        "logs/{dataset}/roi/{owner}/sub-{sub}_test.tsv"
    conda:
        "../../envs/mindreel.yaml"
    resources:
        mem_mb=8000,
        runtime="30m",
    params:
        tr_s=CONFIG.data.tr_s,
        frames=CONFIG.frames,
        code=fingerprint("roi"),
    message:
        "Gathering the test data of sub-{wildcards.sub}"
    shell:
        "python -m mindreel roi test"
        " --voxels {input.voxels:q}"
        " --statistics {input.statistics:q}"
        " --bold {input.bold:q}"
        " --out {output.bold:q}"
        " --pairs {output.pairs:q}"
        " --tr-s {params.tr_s:q}"
        " --frames {params.frames:q}"
        " > {log:q} 2>&1"


rule sweep_lag:
    input:
        bold="results/{dataset}/roi/{owner}/sub-{sub}/train.npy",
        targets=paired,
    output:
        table="results/{dataset}/roi/{owner}/sub-{sub}/lag.tsv",
        figure="results/{dataset}/roi/{owner}/sub-{sub}/lag.png",
    log:
        "logs/{dataset}/roi/{owner}/sub-{sub}_lag.log",
    benchmark:
        "logs/{dataset}/roi/{owner}/sub-{sub}_lag.tsv"
    conda:
        "../../envs/mindreel.yaml"
    threads: 4
    resources:
        mem_mb=16000,
        runtime="2h",
    params:
        tr_s=CONFIG.data.tr_s,
        code=fingerprint("roi_lag"),
    message:
        "Sweeping the haemodynamic delay of sub-{wildcards.sub}"
    shell:
        "python -m mindreel roi lag"
        " --bold {input.bold:q}"
        " --targets {input.targets:q}"
        " --out {output.table:q}"
        " --figure {output.figure:q}"
        " --tr-s {params.tr_s:q}"
        " > {log:q} 2>&1"
