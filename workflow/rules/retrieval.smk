rule check_size:
    """Refuse a k that the training text is too short for: early, and apart from the corpus, which another k leaves as it is."""
    input:
        manifest=rules.binarise.output.manifest,
        code=sources("check_size"),
    output:
        touch("results/<run>/corpus/large_enough"),
    log:
        "<logs>/check_size.log",
    priority: 100
    localrule: True
    conda:
        "../../envs/cpu.yaml"
    params:
        settings=settings("retrieval.k", "fractions"),
    shell:
        "python -m knnlm.steps.check_size --settings {params.settings:q} --manifest {input.manifest} 2>&1 | tee {log}"


rule retrieve_exact:
    """Find every evaluation token's true k nearest rows of the store."""
    input:
        states="results/<run>/states/manifest.json",
        queries=collect("results/<run>/states/{split}.{{h}}.npy", split=EVALUATION_SPLITS),
        chunks=collect("results/<run>/datastore/chunk-{chunk}/manifest.json", chunk=CHUNKS),
        contexts=collect("results/<run>/datastore/chunk-{chunk}/{{h}}.npy", chunk=CHUNKS),
        checked=rules.check_size.output,
        code=sources("retrieve"),
    output:
        manifest="results/<run>/neighbours/{h}-{metric}-exact/manifest.json",
        valid_ids="results/<run>/neighbours/{h}-{metric}-exact/valid.ids.npy",
        valid_similarities="results/<run>/neighbours/{h}-{metric}-exact/valid.similarities.npy",
        test_ids="results/<run>/neighbours/{h}-{metric}-exact/test.ids.npy",
        test_similarities="results/<run>/neighbours/{h}-{metric}-exact/test.similarities.npy",
    log:
        "<logs>/retrieve/{h}-{metric}-exact.log",
    cache: True
    conda:
        "../../envs/cpu.yaml"
    threads: 8
    resources:
        gpu=config["resources"]["gpus"],
        mem_mb=48000,
        runtime="1d",
    params:
        settings=exact_settings,
    shell:
        "python -m knnlm.steps.retrieve --settings {params.settings:q} --gpus {resources.gpu}"
        ' --states "$(dirname {input.states})" --chunks {input.chunks} --neighbours "$(dirname {output.manifest})" 2>&1 | tee {log}'


rule retrieve_approximate:
    """Find every evaluation token's k nearest rows with FAISS, and score them again with the stored keys."""
    input:
        states="results/<run>/states/manifest.json",
        queries=collect("results/<run>/states/{split}.{{h}}.npy", split=EVALUATION_SPLITS),
        chunks=collect("results/<run>/datastore/chunk-{chunk}/manifest.json", chunk=CHUNKS),
        contexts=collect("results/<run>/datastore/chunk-{chunk}/{{h}}.npy", chunk=CHUNKS),
        trained=rules.train_index.output.trained,
        filled=collect("results/<run>/index/{{h}}-{{metric}}/chunk-{chunk}.faiss", chunk=CHUNKS),
        manifests=collect("results/<run>/index/{{h}}-{{metric}}/chunk-{chunk}.json", chunk=CHUNKS),
        checked=rules.check_size.output,
        code=sources("retrieve"),
    output:
        manifest="results/<run>/neighbours/{h}-{metric}-approximate/manifest.json",
        valid_ids="results/<run>/neighbours/{h}-{metric}-approximate/valid.ids.npy",
        valid_similarities="results/<run>/neighbours/{h}-{metric}-approximate/valid.similarities.npy",
        valid_real="results/<run>/neighbours/{h}-{metric}-approximate/valid.real.npy",
        test_ids="results/<run>/neighbours/{h}-{metric}-approximate/test.ids.npy",
        test_similarities="results/<run>/neighbours/{h}-{metric}-approximate/test.similarities.npy",
        test_real="results/<run>/neighbours/{h}-{metric}-approximate/test.real.npy",
    log:
        "<logs>/retrieve/{h}-{metric}-approximate.log",
    cache: True
    conda:
        "../../envs/cpu.yaml"
    threads: 8
    resources:
        gpu=config["resources"]["gpus"],
        mem_mb=48000,
        runtime="1d",
    params:
        settings=approximate_settings,
    shell:
        "python -m knnlm.steps.retrieve --settings {params.settings:q} --gpus {resources.gpu}"
        ' --states "$(dirname {input.states})" --chunks {input.chunks} --trained {input.trained} --filled {input.filled}'
        ' --neighbours "$(dirname {output.manifest})" 2>&1 | tee {log}'


rule knn_components:
    """Tune the temperature on valid and turn stored neighbours into log-probabilities of the gold tokens."""
    input:
        neighbours="results/<run>/neighbours/{h}-{metric}-{search}/manifest.json",
        ids=collect("results/<run>/neighbours/{{h}}-{{metric}}-{{search}}/{split}.ids.npy", split=EVALUATION_SPLITS),
        chunks=collect("results/<run>/datastore/chunk-{chunk}/manifest.json", chunk=CHUNKS),
        targets=collect("results/<run>/datastore/chunk-{chunk}/values.npy", chunk=CHUNKS),
        tokens=collect("results/<run>/corpus/tokens/{split}.npy", split=EVALUATION_SPLITS),
        continuation=rules.binarise.output.continuation,
        base=rules.evaluation_states.output.base,
        code=sources("knn_components"),
    output:
        descriptions="results/<run>/components/knn-{h}-{metric}-{search}.json",
        valid="results/<run>/components/knn-{h}-{metric}-{search}.valid.npy",
        test="results/<run>/components/knn-{h}-{metric}-{search}.test.npy",
        curves="results/<run>/components/knn-{h}-{metric}-{search}.temperature.csv",
    log:
        "<logs>/knn_components/{h}-{metric}-{search}.log",
    conda:
        "../../envs/cpu.yaml"
    threads: 8
    resources:
        mem_mb=16000,
        runtime="4h",
    params:
        settings=component_settings,
    shell:
        'python -m knnlm.steps.knn_components --settings {params.settings:q} --neighbours "$(dirname {input.neighbours})"'
        " --chunks {input.chunks} --tokens {input.tokens} --continuation {input.continuation} --base {input.base}"
        " --descriptions {output.descriptions} --curves {output.curves} 2>&1 | tee {log}"
