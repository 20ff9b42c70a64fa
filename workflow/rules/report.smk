rule resolve_config:
    output:
        "results/{dataset}/config.json",
    params:
        config=lambda wildcards: CONFIG.model_dump_json(),
    message:
        "Writing the resolved configuration"
    shell:
        "printf '%s' {params.config:q} > {output}"


rule note_provenance:
    input:
        "results/{dataset}/config.json",
    output:
        "results/{dataset}/provenance.json",
    log:
        "logs/{dataset}/report/provenance.log",
    conda:
        "../../envs/mindreel.yaml"
    threads: 1
    resources:
        mem_mb=1000,
        runtime="5m",
    params:
        code=fingerprint("report"),
    message:
        "Noting configuration, code, packages and machine"
    shell:
        "python -m mindreel report provenance --config {input} --out {output} > {log} 2>&1"


rule write_tables:
    input:
        metrics=everywhere("metrics"),
        voxels=everywhere("roi", "/voxels.tsv"),
        attention=everywhere("attention"),
        comparison="results/{dataset}/metrics/comparison.tsv",
        audit="results/{dataset}/audit",
        provenance="results/{dataset}/provenance.json",
        published="resources/published.tsv",
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
    threads: 1
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
        "python -m mindreel report tables --experiments {params.experiments} --subjects {params.subjects} "
        "--metrics {input.metrics} --selections {params.selections} --attention {input.attention} "
        "--comparison {input.comparison} --audit {input.audit} --published {input.published} "
        "--provenance {input.provenance} --logs logs/{wildcards.dataset} --benchmarks {params.benchmarks:q} "
        "--out {output} > {log} 2>&1"


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
    threads: 1
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
        "python -m mindreel report draw --experiments {params.experiments} --subjects {params.subjects} "
        "--metrics {input.metrics} --histories {params.histories} --out {output} > {log} 2>&1"


rule write_report:
    input:
        metrics=everywhere("metrics"),
        clips=compared_clips(),
        films=everywhere("sampling", "/fmri.mp4"),
        frames=segments("stimuli", "test", ".npy"),
        captions=segments("captions", "test", ".tsv"),
        generators=generators(),
        pictures=pictures(),
        provenance="results/{dataset}/provenance.json",
        drawn="results/{dataset}/report/figures",
        tables="results/{dataset}/report/tables",
        template=multiext(
            "src/mindreel/reporting/page/", "index.html.j2", "style.css", "script.js"
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
    threads: 1
    resources:
        mem_mb=6000,
        runtime="1h",
    params:
        cfg=section("report"),
        results=RESULTS,
        experiments=CONFIG.run,
        subjects=SHEET.subjects,
        code=fingerprint("report"),
    message:
        "Writing the report"
    shell:
        "python -m mindreel report page --results {params.results} --experiments {params.experiments} "
        "--subjects {params.subjects} --metrics {input.metrics} --clips {input.clips} --frames {input.frames} "
        "--captions {input.captions} --generators {input.generators} --pictures {input.pictures} "
        "--provenance {input.provenance} --drawn {input.drawn} --tables {input.tables} --out {output} "
        "--cfg {params.cfg:q} > {log} 2>&1"
