rule measure_performance:
    """Measure every stage on synthetic data against what this machine can do; needs no finished run."""
    input:
        code=sources("performance"),
    output:
        performance=report(
            "results/<run>/tables/performance.csv",
            caption="../report/performance_table.rst",
            category="Performance",
            labels={"table": "performance"},
        ),
        scaling=report(
            "results/<run>/tables/scaling.csv",
            caption="../report/scaling_table.rst",
            category="Performance",
            labels={"table": "scaling"},
        ),
        machine=report(
            "results/<run>/tables/machine.csv",
            caption="../report/machine_table.rst",
            category="Performance",
            labels={"table": "machine"},
        ),
        rates=report(
            "results/<run>/tables/rates.csv",
            caption="../report/rates_table.rst",
            category="Performance",
            labels={"table": "rates"},
        ),
    log:
        "<logs>/measure_performance.log",
    conda:
        "../../envs/cpu.yaml"
    threads: config["resources"]["threads"]
    resources:
        gpu=asks("measure_performance", "gpu"),
        gres=asks("measure_performance", "gres"),
        mem_mb=asks("measure_performance", "mem_mb"),
        disk_mb=asks("measure_performance", "disk_mb"),
        runtime=asks("measure_performance", "runtime"),
    params:
        settings=performance_settings,
        folder=placed(f"results/{config['name']}/performance"),
        logs=placed(f"results/{config['name']}/logs"),
    shell:
        "logged {log} python -m knnlm.steps performance --settings {params.settings:q} --gpus {resources.gpu} --gres={resources.gres:q}"
        ' --folder {params.folder:q} --logs {params.logs:q} --tables "$(dirname {output.performance})"'


for figure in PERFORMANCE_FIGURES:

    rule:
        """Draw one figure of the measurement from its table alone."""
        name:
            f"plot_{figure}"
        input:
            table=f"results/<run>/tables/{figure}.csv",
            code=sources("plot"),
        output:
            png=report(
                f"results/<run>/figures/{figure}.png",
                caption=f"../report/{figure}.rst",
                category="Performance",
                labels={"figure": figure},
            ),
            pdf=f"results/<run>/figures/{figure}.pdf",
        log:
            f"<logs>/plot/{figure}.log",
        localrule: True
        conda:
            "../../envs/cpu.yaml"
        params:
            figure=figure,
            settings=settings("figures"),
        shell:
            "logged {log} python -m knnlm.steps plot --figure {params.figure} --settings {params.settings:q} --table {input.table}"
            " --pdf {output.pdf} --png {output.png}"


rule performance:
    """How near to the machine's limit every stage is: tables and figures."""
    input:
        collect("results/<run>/figures/{figure}.{kind}", figure=PERFORMANCE_FIGURES, kind=["pdf", "png"]),
    localrule: True
