from copy import deepcopy

from snakemake.utils import min_version, validate

min_version("9.20")


include: "workflow/rules/checks.smk"


CONFIG, HYPOTHESES_CONFIG = own_file("config/config.yaml"), own_file("config/hypotheses.yaml")
check_files(CONFIG, HYPOTHESES_CONFIG)


GIVEN = deepcopy(config)


configfile: CONFIG
configfile: HYPOTHESES_CONFIG


config = over_own_files(config)
check(config)
forget_sizes(config, GIVEN)
validate(config, "workflow/schemas/config.schema.yaml")
CHOSEN = complete(config)
check_combinations(config)
check_cache()


include: "workflow/rules/steps.smk"
include: "workflow/rules/common.smk"
include: "workflow/rules/hypothesis_files.smk"


report: "workflow/report/workflow.rst"


pathvars:
    run=config["name"],
    logs="results/<run>/logs",
    query_block="block-{block}/" if config["resources"]["query_blocks"] > 1 else "",


wildcard_constraints:
    chunk="|".join(map(str, CHUNKS)),
    block="|".join(map(str, QUERY_BLOCKS)),
    stage="|".join(text_limits.CHECKS),
    h="att|ffn",
    metric="l2|ip",
    search="approximate|exact",
    hypothesis="|".join(HYPOTHESES) or "(?!)",


include: "workflow/rules/corpus.smk"
include: "workflow/rules/language_model.smk"
include: "workflow/rules/datastore.smk"
include: "workflow/rules/retrieval.smk"
include: "workflow/rules/hypotheses.smk"
include: "workflow/rules/analysis.smk"
include: "workflow/rules/performance.smk"
include: "workflow/rules/seeds.smk"


onstart:
    check_submission()
    lock_runs()
    look_when_a_job_ends()


onerror:
    repeat_mistakes(log)


rule all:
    """Tables and figures of the main result and of every hypothesis that trains no LM; with `seeds`, once for each."""
    default_target: IS_DEFAULT
    input:
        rules.seed_tables.output if config["seeds"] else rules.figures.input,
        store_files(),
    localrule: True
