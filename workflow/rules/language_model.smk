rule train_lm:
    """Train the base LM with fairseq; started again after a crash, it goes on from its last checkpoint."""
    input:
        binary=rules.binarise.output.binary,
        corpus=rules.binarise.output.manifest,
        code=sources("train_lm"),
    output:
        model="results/<run>/lm/model.pt",
        loss="results/<run>/lm/loss.csv",
    log:
        "<logs>/train_lm.log",
    cache: True
    conda:
        "../../envs/cpu.yaml"
    threads: 8
    resources:
        gpu=config["resources"]["training_gpus"],
        mem_mb=16000,
        runtime="7d",
    params:
        settings=settings("seed", "lm"),
    shell:
        "python -m knnlm.steps.train_lm --settings {params.settings:q} --gpus {resources.gpu} --corpus {input.corpus}"
        ' --binary "$(dirname {input.binary[0]})"'
        ' --checkpoints "$(dirname {output.model})/checkpoints" --model {output.model} --loss {output.loss} 2>&1 | tee {log}'


rule evaluation_states:
    """Run the LM once over valid and test: hidden states, and the base LM's log-probabilities."""
    input:
        model=rules.train_lm.output.model,
        dictionary=rules.bpe.output.dictionary,
        tokens=collect("results/<run>/corpus/tokens/{split}.npy", split=EVALUATION_SPLITS),
        lines=collect("results/<run>/corpus/tokens/{split}.lines.npy", split=EVALUATION_SPLITS),
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
    cache: True
    conda:
        "../../envs/cpu.yaml"
    threads: 8
    resources:
        gpu=config["resources"]["gpus"],
        mem_mb=16000,
        runtime="4h",
    params:
        settings=settings("windows.evaluation"),
    shell:
        "python -m knnlm.steps.evaluation_states --settings {params.settings:q} --gpus {resources.gpu} --model {input.model}"
        " --dictionary {input.dictionary} --tokens {input.tokens} --lines {input.lines}"
        ' --states "$(dirname {output.manifest})" --base {output.base} 2>&1 | tee {log}'
