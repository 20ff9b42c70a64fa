RAW = SHEET.names("raw")
NORMALISED = SHEET.names("mni", "cifti")


rule register_anatomy:
    input:
        t1w=lambda wildcards: present(SHEET.path("t1w", subject=wildcards.sub)),
    output:
        directory("results/{dataset}/bold/sub-{sub}/anatomy"),
    log:
        "logs/{dataset}/bold/sub-{sub}/anatomy.log",
    benchmark:
        "logs/{dataset}/bold/sub-{sub}/anatomy.tsv"
    conda:
        "../../envs/mindreel.yaml"
    resources:
        mem_mb=6000,
        runtime="2h",
    params:
        cfg=section("bold"),
        code=fingerprint("bold"),
    message:
        "Registering the anatomy of sub-{wildcards.sub} to MNI"
    shell:
        "python -m mindreel bold anatomy"
        " --t1w {input.t1w:q}"
        " --out {output:q}"
        " --cfg {params.cfg:q}"
        " > {log:q} 2>&1"


rule clean_raw_run:
    input:
        run=lambda wildcards: present(SHEET.file(RAW[wildcards.run])),
        anatomy=lambda wildcards: f"{RESULTS}/bold/{Path(wildcards.run).parent}/anatomy",
        sidecar=lambda wildcards: sidecar(SHEET.file(RAW[wildcards.run])),
    output:
        bold="results/{dataset}/bold/{run}.npy",
        tsnr="results/{dataset}/bold/{run}_tsnr.npy",
        motion="results/{dataset}/bold/{run}_motion.tsv",
    log:
        "logs/{dataset}/bold/{run}.log",
    benchmark:
        "logs/{dataset}/bold/{run}.tsv"
    wildcard_constraints:
        run=pattern(RAW),
    conda:
        "../../envs/mindreel.yaml"
    resources:
        mem_mb=6000,
        runtime="2h",
    params:
        cfg=section("bold"),
        sidecar=flag("sidecar"),
        volumes=lambda wildcards: RAW[wildcards.run].volumes,
        tr_s=CONFIG.data.tr_s,
        header_tr="ignore" if "tr" in CONFIG.check.ignore else "check",
        code=fingerprint("bold"),
    message:
        "Registering and cleaning run {wildcards.run}"
    shell:
        "python -m mindreel bold clean"
        " --run {input.run:q}"
        " --source raw"
        " --volumes {params.volumes:q}"
        " --tr-s {params.tr_s:q}"
        " --header-tr {params.header_tr:q}"
        " --anatomy {input.anatomy:q}"
        " {params.sidecar} {input.sidecar:q}"
        " --motion {output.motion:q}"
        " --tsnr {output.tsnr:q}"
        " --out {output.bold:q}"
        " --cfg {params.cfg:q}"
        " > {log:q} 2>&1"


rule clean_run:
    input:
        run=lambda wildcards: present(SHEET.file(NORMALISED[wildcards.run])),
    output:
        bold="results/{dataset}/bold/{run}.npy",
        tsnr="results/{dataset}/bold/{run}_tsnr.npy",
    log:
        "logs/{dataset}/bold/{run}.log",
    benchmark:
        "logs/{dataset}/bold/{run}.tsv"
    wildcard_constraints:
        run=pattern(NORMALISED),
    conda:
        "../../envs/mindreel.yaml"
    resources:
        mem_mb=4000,
        runtime="20m",
    params:
        cfg=section("bold"),
        source=lambda wildcards: NORMALISED[wildcards.run].source,
        volumes=lambda wildcards: NORMALISED[wildcards.run].volumes,
        tr_s=CONFIG.data.tr_s,
        header_tr="ignore" if "tr" in CONFIG.check.ignore else "check",
        code=fingerprint("bold"),
    message:
        "Cleaning run {wildcards.run}"
    shell:
        "python -m mindreel bold clean"
        " --run {input.run:q}"
        " --source {params.source:q}"
        " --volumes {params.volumes:q}"
        " --tr-s {params.tr_s:q}"
        " --header-tr {params.header_tr:q}"
        " --tsnr {output.tsnr:q}"
        " --out {output.bold:q}"
        " --cfg {params.cfg:q}"
        " > {log:q} 2>&1"
