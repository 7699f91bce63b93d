from snakemake.utils import min_version, validate

min_version("9.20")


configfile: "config/config.yaml"
configfile: "config/hypotheses.yaml"


include: "workflow/rules/checks.smk"


check(config)
validate(config, "workflow/schemas/config.schema.yaml")
check_combinations(config)


include: "workflow/rules/common.smk"


report: "workflow/report/workflow.rst"


pathvars:
    run=config["name"],
    logs="results/<run>/logs",


wildcard_constraints:
    chunk=r"\d+",
    h="att|ffn",
    metric="l2|ip",
    search="approximate|exact",
    hypothesis="[a-z0-9-]+",


include: "workflow/rules/corpus.smk"
include: "workflow/rules/language_model.smk"
include: "workflow/rules/datastore.smk"
include: "workflow/rules/retrieval.smk"
include: "workflow/rules/hypotheses.smk"
include: "workflow/rules/analysis.smk"
include: "workflow/rules/seeds.smk"


onstart:
    lock_runs()


rule all:
    """Tables and figures of the main result, and of every hypothesis that needs no other training of the LM; with `seeds`, once for each."""
    default_target: True
    input:
        rules.seed_tables.output if config["seeds"] else rules.figures.input,
    localrule: True
