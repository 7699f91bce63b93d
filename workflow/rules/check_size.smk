rule check_size:
    """Refuse a stage that the training text is too short for; not part of the corpus, which another k keeps."""
    input:
        manifest="<corpus>/tokens/manifest.json",
        code=sources("check_size"),
    output:
        touch("results/<run>/corpus/large_enough_for_{stage}"),
    log:
        "<logs>/check_size/{stage}.log",
    priority: 100
    localrule: True
    conda:
        "../../envs/cpu.yaml"
    resources:
        given=GIVEN_TOKENS,  # no parameter: other counts repeat the comparison alone, and nothing behind it
    params:
        settings=stage_settings,
    shell:
        "logged {log} python -m knnlm.steps check_size --stage {wildcards.stage} --settings {params.settings:q}"
        " --manifest {input.manifest} --given {resources.given}"
