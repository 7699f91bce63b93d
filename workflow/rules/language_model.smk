rule train_lm:
    """Train the base LM with fairseq; started again after a crash, it goes on from its last checkpoint."""
    input:
        binary=behind_manifest(BINARY),
        corpus=rules.binarise.output.manifest,
        checked="results/<run>/corpus/large_enough_for_training",
        code=sources("train_lm"),
    output:
        model="results/<run>/lm/model.pt",
        loss="results/<run>/lm/loss.csv",
        manifest="results/<run>/lm/manifest.json",
    log:
        "<logs>/train_lm.log",
    cache: SHARED
    conda:
        "../../envs/cpu.yaml"
    threads: asked("train_lm", "threads")
    resources:
        **asks("train_lm", *DEVICE),
    params:
        settings=settings("seed", "lm"),
    shell:
        "logged {log} python -m knnlm.steps train_lm --settings {params.settings:q}"
        " --gpus {resources.gpu} --gres={resources.gres:q} --nodes {resources.nodes} --threads {threads}"
        ' --corpus {input.corpus} --binary "$(dirname {input.binary[0]})"'
        ' --checkpoints "$(dirname {output.model})/checkpoints" --model {output.model} --loss {output.loss}'
        " --manifest {output.manifest}"


rule evaluation_states:
    """Run the LM once over valid and test: hidden states, and the base LM's log-probabilities."""
    input:
        model=behind_manifest(rules.train_lm.output.model),
        of_model=rules.train_lm.output.manifest,
        dictionary=rules.bpe.output.dictionary,
        tokens=collect("results/<run>/corpus/tokens/{split}.npy", split=EVALUATED),
        lines=collect("results/<run>/corpus/tokens/{split}.lines.npy", split=EVALUATED),
        code=sources("evaluation_states"),
    output:
        manifest="results/<run>/states/manifest.json",
        valid_att="results/<run>/states/valid.att.npy",
        valid_ffn="results/<run>/states/valid.ffn.npy",
        test_att="results/<run>/states/test.att.npy",
        test_ffn="results/<run>/states/test.ffn.npy",
        base="results/<run>/components/base.json",
        base_valid="results/<run>/components/base.valid.npy",
        base_test="results/<run>/components/base.test.npy",
    log:
        "<logs>/evaluation_states.log",
    cache: SHARED
    priority: first("evaluation_states")
    conda:
        "../../envs/cpu.yaml"
    threads: asked("evaluation_states", "threads")
    resources:
        **asks("evaluation_states", *DEVICE),
    params:
        settings=settings("windows.evaluation"),
    shell:
        "logged {log} python -m knnlm.steps evaluation_states --settings {params.settings:q}"
        " --gpus {resources.gpu} --gres={resources.gres:q} --model {input.model} --dictionary {input.dictionary}"
        ' --tokens {input.tokens} --lines {input.lines} --states "$(dirname {output.manifest})" --base {output.base}'
