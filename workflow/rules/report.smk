rule resolve_config:
    output:
        "results/{dataset}/config.json",
    log:
        "logs/{dataset}/report/config.log",
    conda:
        "../../envs/mindreel.yaml"
    params:
        config=lambda wildcards: CONFIG.model_dump_json(),
    message:
        "Writing the resolved configuration"
    shell:
        "printf '%s' {params.config:q} > {output:q} 2> {log:q}"


rule note_provenance:
    input:
        "results/{dataset}/config.json",
    output:
        "results/{dataset}/provenance.json",
    log:
        "logs/{dataset}/report/provenance.log",
    conda:
        "../../envs/mindreel.yaml"
    resources:
        mem_mb=1000,
        runtime="5m",
    params:
        code=fingerprint("report"),
    message:
        "Noting configuration, code, packages and machine"
    shell:
        "python -m mindreel report provenance"
        " --config {input:q}"
        " --out {output:q}"
        " > {log:q} 2>&1"


rule write_tables:
    input:
        metrics=everywhere("metrics"),
        voxels=everywhere("roi", "voxels.tsv"),
        attention=everywhere("attention"),
        comparison="results/{dataset}/metrics/comparison.tsv",
        audit="results/{dataset}/audit",
        provenance="results/{dataset}/provenance.json",
        published=ours("resources/published.tsv"),
        measured=trainings() + pictures(),  # their cost is in the tables
    output:
        report(
            directory("results/{dataset}/report/tables"),
            patterns=["{table}.tsv"],
            caption="../report/tables.rst",
            category="Tables",
            labels={"table": "{table}"},
        ),
    log:
        "logs/{dataset}/report/tables.log",
    benchmark:
        "logs/{dataset}/report/tables.tsv"
    conda:
        "../../envs/mindreel.yaml"
    resources:
        mem_mb=2000,
        runtime="30m",
    params:
        experiments=CONFIG.run,
        subjects=SHEET.subjects,
        selections=everywhere("roi"),
        benchmarks=benchmarks,
        code=fingerprint("report"),
    message:
        "Writing the report's tables"
    shell:
        "python -m mindreel report tables"
        " --experiments {params.experiments:q}"
        " --subjects {params.subjects:q}"
        " --metrics {input.metrics:q}"
        " --selections {params.selections:q}"
        " --attention {input.attention:q}"
        " --comparison {input.comparison:q}"
        " --audit {input.audit:q}"
        " --published {input.published:q}"
        " --provenance {input.provenance:q}"
        " --logs logs/{wildcards.dataset:q}"
        " --benchmarks {params.benchmarks:q}"
        " --out {output:q}"
        " > {log:q} 2>&1"


rule draw_scores:
    input:
        metrics=everywhere("metrics"),
        trainings=trainings(),
    output:
        report(
            directory("results/{dataset}/report/figures"),
            patterns=["{figure}.svg"],
            caption="../report/figures.rst",
            category="Scores and trainings",
            labels={"figure": "{figure}"},
        ),
    log:
        "logs/{dataset}/report/figures.log",
    benchmark:
        "logs/{dataset}/report/figures.tsv"
    conda:
        "../../envs/mindreel.yaml"
    resources:
        mem_mb=2000,
        runtime="30m",
    params:
        experiments=CONFIG.run,
        subjects=SHEET.subjects,
        histories=[f"{folder}/history.tsv" for folder in trainings()],
        code=fingerprint("report"),
    message:
        "Drawing scores and training curves"
    shell:
        "python -m mindreel report draw"
        " --experiments {params.experiments:q}"
        " --subjects {params.subjects:q}"
        " --metrics {input.metrics:q}"
        " --histories {params.histories:q}"
        " --out {output:q}"
        " > {log:q} 2>&1"


rule write_report:
    input:
        metrics=everywhere("metrics"),
        clips=compared_clips(),
        films=everywhere("sampling", "fmri.mp4"),
        frames=segments("stimuli", "test", ".npy"),
        captions=segments("captions", "test", ".tsv"),
        generators=generators(),
        pictures=pictures(),
        provenance="results/{dataset}/provenance.json",
        drawn="results/{dataset}/report/figures",
        tables="results/{dataset}/report/tables",
        template=multiext(
            f"{ROOT}/src/mindreel/reporting/page/",
            "index.html.j2",
            "style.css",
            "script.js",
        ),
    output:
        report(
            "results/{dataset}/report/index.html",
            caption="../report/page.rst",
            category="The whole page",
        ),
    log:
        "logs/{dataset}/report/page.log",
    benchmark:
        "logs/{dataset}/report/page.tsv"
    conda:
        "../../envs/mindreel.yaml"
    resources:
        mem_mb=6000,
        runtime="1h",
    params:
        cfg=section("report"),
        experiments=CONFIG.run,
        subjects=SHEET.subjects,
        code=fingerprint("report"),
    message:
        "Writing the report"
    shell:
        "python -m mindreel report page"
        " --results results/{wildcards.dataset:q}"
        " --experiments {params.experiments:q}"
        " --subjects {params.subjects:q}"
        " --metrics {input.metrics:q}"
        " --clips {input.clips:q}"
        " --frames {input.frames:q}"
        " --captions {input.captions:q}"
        " --generators {input.generators:q}"
        " --pictures {input.pictures:q}"
        " --provenance {input.provenance:q}"
        " --drawn {input.drawn:q}"
        " --tables {input.tables:q}"
        " --out {output:q}"
        " --cfg {params.cfg:q}"
        " > {log:q} 2>&1"
