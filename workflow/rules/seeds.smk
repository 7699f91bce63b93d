# With `seeds` the whole workflow is used once for each seed, as a module whose config differs in seed and name.
for seed in config["seeds"]:
    one_seed = f"seed_{seed}_"

    module:
        name: one_seed
        snakefile:
            str(ROOT / "Snakefile")
        config:
            {**config, "seed": seed, "seeds": [], "name": f"{config['name']}-seed-{seed}"}

    use rule * from one_seed as one_seed*


rule seed_tables:
    """Put the tables of all seeds together: mean and spread."""
    input:
        components=every_seed("tables/components.csv"),
        verdicts=every_seed("tables/verdicts.csv"),
        figures=every_seed("figures/{figure}.pdf", figure=FIGURES),
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
