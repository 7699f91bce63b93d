from snakemake.utils import min_version, validate

min_version("9.20")


configfile: "config/config.yaml"


include: "workflow/rules/common.smk"


check(config)
validate(config, "workflow/schemas/config.schema.yaml")
check_combinations(config)


report: "workflow/report/workflow.rst"


pathvars:
    run=config["name"],
    logs="results/<run>/logs",


wildcard_constraints:
    chunk=r"\d+",
    h="att|ffn",
    metric="l2|ip",
    search="approximate|exact",


include: "workflow/rules/corpus.smk"
include: "workflow/rules/language_model.smk"
include: "workflow/rules/datastore.smk"
include: "workflow/rules/retrieval.smk"
include: "workflow/rules/analysis.smk"


rule all:
    """Everything: tables and figures of the main result."""
    default_target: True
    input:
        rules.figures.input,
    localrule: True
