rule measure_performance:
    """Measure every stage on synthetic data against what this machine can do; needs no finished run."""
    input:
        code=sources("performance"),
    output:
        performance=table("performance", category="Performance"),
        scaling=table("scaling", category="Performance"),
        machine=table("machine", category="Performance"),
        rates=table("rates", category="Performance"),
    log:
        "<logs>/measure_performance.log",
    conda:
        "../../envs/cpu.yaml"
    threads: config["resources"]["threads"]
    resources:
        **asks("measure_performance", "gres"),
    params:
        settings=settings(*SHAPING, "performance"),
        folder=placed(f"results/{config['name']}/performance"),
        logs=placed(f"results/{config['name']}/logs"),
    shell:
        "logged {log} python -m knnlm.steps performance --settings {params.settings:q}"
        " --gpus {resources.gpu} --gres={resources.gres:q} --folder {params.folder:q} --logs {params.logs:q}"
        ' --tables "$(dirname {output.performance})"'


for picture in PERFORMANCE_FIGURES:

    rule:
        """Draw one figure of the measurement from its table alone."""
        name:
            f"plot_{picture}"
        input:
            table=f"results/<run>/tables/{picture}.csv",
            code=sources("plot"),
        output:
            png=figure(picture, category="Performance"),
            pdf=f"results/<run>/figures/{picture}.pdf",
        log:
            f"<logs>/plot/{picture}.log",
        localrule: True
        conda:
            "../../envs/cpu.yaml"
        params:
            figure=picture,
            settings=settings("figures"),
        shell:
            "logged {log} python -m knnlm.steps plot --figure {params.figure} --settings {params.settings:q}"
            " --table {input.table} --pdf {output.pdf} --png {output.png}"


rule performance:
    """How near to the machine's limit every stage is: tables and figures."""
    input:
        collect("results/<run>/figures/{figure}.{kind}", figure=PERFORMANCE_FIGURES, kind=["pdf", "png"]),
    localrule: True
