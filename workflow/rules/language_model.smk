rule train_lm:
    """Train the base LM with fairseq; started again after a crash, it goes on from its last checkpoint."""
    input:
        binary=behind_manifest(BINARY),
        corpus="<corpus>/tokens/manifest.json",
        checked="results/<run>/corpus/large_enough_for_training",
        code=sources("train_lm"),
    output:
        model="<lm>/model.pt",
        loss="<lm>/loss.csv",
        manifest="<lm>/manifest.json",
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
        dictionary="<corpus>/dictionary.txt",
        tokens=collect("<corpus>/tokens/{split}.npy", split=EVALUATED),
        lines=collect("<corpus>/tokens/{split}.lines.npy", split=EVALUATED),
        code=sources("evaluation_states"),
    output:
        manifest="<states>/manifest.json",
        valid_att="<states>/valid.att.npy",
        valid_ffn="<states>/valid.ffn.npy",
        test_att="<states>/test.att.npy",
        test_ffn="<states>/test.ffn.npy",
        base="<base>.json",
        base_valid="<base>.valid.npy",
        base_test="<base>.test.npy",
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
