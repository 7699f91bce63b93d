from copy import deepcopy

from snakemake.utils import min_version, validate

min_version("9.20")


include: "workflow/rules/checks.smk"


CONFIG, HYPOTHESES_CONFIG = own_file("config/config.yaml"), own_file("config/hypotheses.yaml")
CHOSEN, MAKERS = config.pop("variant", (None, None)) if IN_MODULE else (None, None)  # of a variant
VARIANTS = {}

if MAKERS is None:
    check_files(CONFIG, HYPOTHESES_CONFIG)
    GIVEN = deepcopy(config)

    configfile: CONFIG
    configfile: HYPOTHESES_CONFIG

    config = over_own_files(config)
    check(config)
    forget_sizes(config, GIVEN)
    validate(config, SCHEMA)
    OPEN = deepcopy(config)
    CHOSEN, MAKERS = complete(config), variants.makers(config, [])
    check_combinations(config)
    VARIANTS = complete_variants(OPEN, config)
    check_cache()


include: "workflow/rules/steps.smk"
include: "workflow/rules/common.smk"
include: "workflow/rules/hypothesis_files.smk"


report: "workflow/report/workflow.rst"


pathvars:
    run=config["name"],
    logs="results/<run>/logs",
    corpus=f"results/{MAKERS['corpus']}/corpus",
    lm=f"results/{MAKERS['language_model']}/lm",
    states=f"results/{MAKERS['language_model']}/states",
    base=f"results/{MAKERS['language_model']}/components/base",
    datastore=f"results/{MAKERS['datastore']}/datastore",
    index=f"results/{MAKERS['datastore']}/index",
    neighbours=f"results/{MAKERS['retrieval']}/neighbours",
    components=f"results/{MAKERS['retrieval']}/components",
    hypotheses=f"results/{MAKERS['hypotheses']}/hypotheses",
    query_block="block-{block}/" if config["resources"]["query_blocks"] > 1 else "",


wildcard_constraints:
    chunk="|".join(map(str, CHUNKS)),
    block="|".join(map(str, QUERY_BLOCKS)),
    stage="|".join(text_limits.CHECKS),
    h="att|ffn",
    metric="l2|ip",
    search="approximate|exact",
    hypothesis="|".join(HYPOTHESES) or "(?!)",


for stage, maker in MAKERS.items():
    if maker == config["name"]:

        include: f"workflow/rules/{stage}.smk"


include: "workflow/rules/check_size.smk"
include: "workflow/rules/variants.smk"
include: "workflow/rules/analysis.smk"
include: "workflow/rules/performance.smk"


onstart:
    check_submission()
    lock_runs()
    look_when_a_job_ends()


onerror:
    repeat_mistakes(log)


rule all:
    """Tables and figures of the main result and of every hypothesis that trains no LM; or those of every variant."""
    default_target: IS_DEFAULT
    input:
        over_variants() or rules.figures.input,
        store_files(),
    localrule: True
