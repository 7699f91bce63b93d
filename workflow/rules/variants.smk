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
