rule retrieve_exact:
    """Find every evaluation token's true k nearest rows of the store."""
    input:
        states="results/<run>/states/manifest.json",
        queries=behind_manifest(collect("results/<run>/states/{split}.{{h}}.npy", split=EVALUATION_SPLITS)),
        chunks=collect("results/<run>/datastore/chunk-{chunk}/manifest.json", chunk=CHUNKS),
        contexts=behind_manifest(collect("results/<run>/datastore/chunk-{chunk}/{{h}}.npy", chunk=CHUNKS)),
        checked="results/<run>/corpus/large_enough_for_retrieval",
        code=sources("retrieve"),
    output:
        manifest=of_block("results/<run>/neighbours/{h}-{metric}-exact/<query_block>manifest.json"),
        valid_ids=of_block("results/<run>/neighbours/{h}-{metric}-exact/<query_block>valid.ids.npy"),
        valid_similarities=of_block("results/<run>/neighbours/{h}-{metric}-exact/<query_block>valid.similarities.npy"),
        test_ids=of_block("results/<run>/neighbours/{h}-{metric}-exact/<query_block>test.ids.npy"),
        test_similarities=of_block("results/<run>/neighbours/{h}-{metric}-exact/<query_block>test.similarities.npy"),
    log:
        "<logs>/retrieve/<query_block>{h}-{metric}-exact.log",
    cache: SHARED
    conda:
        "../../envs/cpu.yaml"
    threads: asks("retrieve_exact", "threads")
    resources:
        gpu=asks("retrieve_exact", "gpu"),
        gres=asks("retrieve_exact", "gres"),
        nodes=asks("retrieve_exact", "nodes"),
        mem_mb=asks("retrieve_exact", "mem_mb"),
        disk_mb=asks("retrieve_exact", "disk_mb"),
        runtime=asks("retrieve_exact", "runtime"),
    params:
        settings=exact_settings,
    shell:
        "logged {log} python -m knnlm.steps retrieve --settings {params.settings:q} --gpus {resources.gpu} --gres={resources.gres:q}"
        ' --states "$(dirname {input.states})" --chunks {input.chunks} --neighbours "$(dirname {output.manifest})"'


rule retrieve_approximate:
    """Find every evaluation token's k nearest rows with FAISS, and score them again with the stored keys."""
    input:
        states="results/<run>/states/manifest.json",
        queries=behind_manifest(collect("results/<run>/states/{split}.{{h}}.npy", split=EVALUATION_SPLITS)),
        chunks=collect("results/<run>/datastore/chunk-{chunk}/manifest.json", chunk=CHUNKS),
        contexts=behind_manifest(collect("results/<run>/datastore/chunk-{chunk}/{{h}}.npy", chunk=CHUNKS)),
        trained=behind_manifest("results/<run>/index/{h}-{metric}/trained.faiss"),
        trained_manifest=rules.train_index.output.manifest,
        filled=behind_manifest(collect("results/<run>/index/{{h}}-{{metric}}/chunk-{chunk}.faiss", chunk=CHUNKS)),
        manifests=collect("results/<run>/index/{{h}}-{{metric}}/chunk-{chunk}.json", chunk=CHUNKS),
        checked="results/<run>/corpus/large_enough_for_retrieval",
        code=sources("retrieve"),
    output:
        manifest=of_block("results/<run>/neighbours/{h}-{metric}-approximate/<query_block>manifest.json"),
        valid_ids=of_block("results/<run>/neighbours/{h}-{metric}-approximate/<query_block>valid.ids.npy"),
        valid_similarities=of_block(
            "results/<run>/neighbours/{h}-{metric}-approximate/<query_block>valid.similarities.npy"
        ),
        valid_real=of_block("results/<run>/neighbours/{h}-{metric}-approximate/<query_block>valid.real.npy"),
        test_ids=of_block("results/<run>/neighbours/{h}-{metric}-approximate/<query_block>test.ids.npy"),
        test_similarities=of_block(
            "results/<run>/neighbours/{h}-{metric}-approximate/<query_block>test.similarities.npy"
        ),
        test_real=of_block("results/<run>/neighbours/{h}-{metric}-approximate/<query_block>test.real.npy"),
    log:
        "<logs>/retrieve/<query_block>{h}-{metric}-approximate.log",
    cache: SHARED
    conda:
        "../../envs/cpu.yaml"
    threads: asks("retrieve_approximate", "threads")
    resources:
        gpu=asks("retrieve_approximate", "gpu"),
        gres=asks("retrieve_approximate", "gres"),
        nodes=asks("retrieve_approximate", "nodes"),
        mem_mb=asks("retrieve_approximate", "mem_mb"),
        disk_mb=asks("retrieve_approximate", "disk_mb"),
        runtime=asks("retrieve_approximate", "runtime"),
    params:
        settings=approximate_settings,
    shell:
        "logged {log} python -m knnlm.steps retrieve --settings {params.settings:q} --gpus {resources.gpu} --gres={resources.gres:q}"
        ' --states "$(dirname {input.states})" --chunks {input.chunks} --trained {input.trained} --filled {input.filled}'
        ' --neighbours "$(dirname {output.manifest})"'


for search, arrays in JOINED.items():

    rule:
        """Put the neighbours of all blocks of queries together; the files are those that one search of all queries writes."""
        name:
            f"join_{search}"
        input:
            blocks=collect(
                f"results/<run>/neighbours/{{{{h}}}}-{{{{metric}}}}-{search}/block-{{block}}/manifest.json",
                block=QUERY_BLOCKS,
            ),
            arrays=collect(
                f"results/<run>/neighbours/{{{{h}}}}-{{{{metric}}}}-{search}/block-{{block}}/{{split}}.{{array}}.npy",
                block=QUERY_BLOCKS,
                split=EVALUATION_SPLITS,
                array=arrays,
            ),
            code=sources("join_neighbours"),
        output:
            manifest=f"results/<run>/neighbours/{{h}}-{{metric}}-{search}/manifest.json",
            arrays=collect(
                f"results/<run>/neighbours/{{{{h}}}}-{{{{metric}}}}-{search}/{{split}}.{{array}}.npy",
                split=EVALUATION_SPLITS,
                array=arrays,
            ),
        log:
            f"<logs>/join_neighbours/{{h}}-{{metric}}-{search}.log",
        conda:
            "../../envs/cpu.yaml"
        threads: asks("join_neighbours", "threads")
        resources:
            gpu=asks("join_neighbours", "gpu"),
            mem_mb=asks("join_neighbours", "mem_mb"),
            disk_mb=asks("join_neighbours", "disk_mb"),
            runtime=asks("join_neighbours", "runtime"),
        shell:
            "logged {log} python -m knnlm.steps join_neighbours --blocks {input.blocks}"
            ' --neighbours "$(dirname {output.manifest})"'


rule knn_components:
    """Tune the temperature on valid and turn stored neighbours into log-probabilities of the gold tokens."""
    input:
        neighbours="results/<run>/neighbours/{h}-{metric}-{search}/manifest.json",
        ids=behind_manifest(
            collect("results/<run>/neighbours/{{h}}-{{metric}}-{{search}}/{split}.ids.npy", split=EVALUATION_SPLITS)
        ),
        chunks=collect("results/<run>/datastore/chunk-{chunk}/manifest.json", chunk=CHUNKS),
        targets=behind_manifest(collect("results/<run>/datastore/chunk-{chunk}/values.npy", chunk=CHUNKS)),
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
    group:
        "components"
    conda:
        "../../envs/cpu.yaml"
    threads: asks("knn_components", "threads")
    resources:
        gpu=asks("knn_components", "gpu"),
        mem_mb=asks("knn_components", "mem_mb"),
        disk_mb=asks("knn_components", "disk_mb"),
        runtime=asks("knn_components", "runtime"),
    params:
        settings=component_settings,
    shell:
        'logged {log} python -m knnlm.steps knn_components --settings {params.settings:q} --neighbours "$(dirname {input.neighbours})"'
        " --chunks {input.chunks} --tokens {input.tokens} --continuation {input.continuation} --base {input.base}"
        " --descriptions {output.descriptions} --curves {output.curves}"
