LMS = trained_lms()  # before each variant takes its own


# Each variant is this workflow again, as a module with a config of its own. What another run makes just so it takes
# from there. Another seed is the simplest variant.
for run, own_config in VARIANTS.items():
    one_variant = rule_prefix(run)

    module:
        name: one_variant
        snakefile:
            str(ROOT / "Snakefile")
        config:
            own_config

    use rule * from one_variant as one_variant*


rule lm_search:
    """Train the base LMs of all variants, and nothing more, and compare their losses on valid."""
    input:
        losses=[f"results/{lm['maker']}/lm/loss.csv" for lm in LMS],
        code=sources("lm_search"),
    output:
        table("lm_search", "base LMs of all variants"),
    log:
        "<logs>/lm_search.log",
    localrule: True
    conda:
        "../../envs/cpu.yaml"
    params:
        settings=json.dumps({"runs": LMS}, sort_keys=True),
    shell:
        "logged {log} python -m knnlm.steps lm_search --settings {params.settings:q} --losses {input.losses}"
        " --table {output}"


rule variant_table:
    """Put the main numbers of all variants into one table."""
    input:
        components=of_runs(VARIANTS, "tables/components.csv"),
        verdicts=of_runs(VARIANTS, "tables/verdicts.csv"),
        convergence=of_runs(VARIANTS, "tables/convergence.csv"),
        code=sources("variant_table"),
    output:
        table("variants"),
    log:
        "<logs>/variant_table.log",
    localrule: True
    conda:
        "../../envs/cpu.yaml"
    params:
        settings=settings("main", varied=variants.varied(config, VARIANTS)),
    shell:
        "logged {log} python -m knnlm.steps variant_table --settings {params.settings:q}"
        " --components {input.components} --verdicts {input.verdicts} --convergence {input.convergence}"
        " --table {output}"


rule plot_variants:
    """Draw what is found against the base LM's perplexity."""
    input:
        table=rules.variant_table.output,
        code=sources("plot"),
    output:
        png=figure("variants"),
        pdf="results/<run>/figures/variants.pdf",
    log:
        "<logs>/plot/variants.log",
    localrule: True
    conda:
        "../../envs/cpu.yaml"
    params:
        settings=settings("figures"),
    shell:
        "logged {log} python -m knnlm.steps plot --figure variants --settings {params.settings:q}"
        " --table {input.table} --pdf {output.pdf} --png {output.png}"


rule seed_tables:
    """Put the tables of all seeds together: mean and spread."""
    input:
        components=of_runs(SEEDS, "tables/components.csv"),
        verdicts=of_runs(SEEDS, "tables/verdicts.csv"),
        code=sources("seed_tables"),
    output:
        components="results/<run>/tables/components_over_seeds.csv",
        verdicts="results/<run>/tables/verdicts_over_seeds.csv",
    log:
        "<logs>/seed_tables.log",
    localrule: True
    conda:
        "../../envs/cpu.yaml"
    shell:
        "logged {log} python -m knnlm.steps seed_tables --components {input.components} --verdicts {input.verdicts}"
        " --components-table {output.components} --verdicts-table {output.verdicts}"
