rule datastore_chunk:
    """Run the LM over one share of the training text: keys, values and positions in random order."""
    input:
        model=behind_manifest("<lm>/model.pt"),
        of_model="<lm>/manifest.json",
        dictionary="<corpus>/dictionary.txt",
        corpus="<corpus>/tokens/manifest.json",
        tokens=behind_manifest("<corpus>/tokens/train.npy"),
        checked="results/<run>/corpus/large_enough_for_datastore",
        code=sources("datastore_chunk"),
    output:
        manifest="<datastore>/chunk-{chunk}/manifest.json",
        att="<datastore>/chunk-{chunk}/att.npy",
        ffn="<datastore>/chunk-{chunk}/ffn.npy",
        targets="<datastore>/chunk-{chunk}/values.npy",
        positions="<datastore>/chunk-{chunk}/positions.npy",
    log:
        "<logs>/datastore_chunk/{chunk}.log",
    cache: SHARED
    priority: first("datastore_chunk")
    conda:
        "../../envs/cpu.yaml"
    threads: asked("datastore_chunk", "threads")
    resources:
        **asks("datastore_chunk", *DEVICE),
    params:
        settings=settings("seed", "windows.train", "datastore.chunks"),
    shell:
        "logged {log} python -m knnlm.steps datastore_chunk --settings {params.settings:q}"
        " --gpus {resources.gpu} --gres={resources.gres:q} --model {input.model} --dictionary {input.dictionary}"
        ' --tokens {input.tokens} --chunk "$(dirname {output.manifest})"'


rule train_index:
    """Train a FAISS index on a uniform sample of the store."""
    input:
        chunks=collect("<datastore>/chunk-{chunk}/manifest.json", chunk=CHUNKS),
        contexts=behind_manifest(collect("<datastore>/chunk-{chunk}/{{h}}.npy", chunk=CHUNKS)),
        checked="results/<run>/corpus/large_enough_for_index",
        code=sources("train_index"),
    output:
        trained="<index>/{h}-{metric}/trained.faiss",
        manifest="<index>/{h}-{metric}/trained.json",
    log:
        "<logs>/train_index/{h}-{metric}.log",
    cache: SHARED
    priority: first("train_index")
    conda:
        "../../envs/cpu.yaml"
    threads: asked("train_index", "threads")
    resources:
        **asks("train_index", *DEVICE),
    params:
        settings=settings("seed", "index.factory", "index.training_rows"),
    shell:
        "logged {log} python -m knnlm.steps train_index --settings {params.settings:q}"
        " --gpus {resources.gpu} --gres={resources.gres:q} --chunks {input.chunks} --trained {output.trained}"


rule fill_index:
    """Add one chunk of the datastore to a copy of the trained index."""
    input:
        trained=behind_manifest(rules.train_index.output.trained),
        trained_manifest=rules.train_index.output.manifest,
        chunk="<datastore>/chunk-{chunk}/manifest.json",
        contexts=behind_manifest("<datastore>/chunk-{chunk}/{h}.npy"),
        code=sources("fill_index"),
    output:
        filled="<index>/{h}-{metric}/chunk-{chunk}.faiss",
        manifest="<index>/{h}-{metric}/chunk-{chunk}.json",
    log:
        "<logs>/fill_index/{h}-{metric}-{chunk}.log",
    cache: SHARED
    priority: first("fill_index")
    conda:
        "../../envs/cpu.yaml"
    threads: asked("fill_index", "threads")
    resources:
        **asks("fill_index", *DEVICE),
    params:
        settings=settings("index.factory"),
    shell:
        "logged {log} python -m knnlm.steps fill_index --settings {params.settings:q}"
        " --gpus {resources.gpu} --gres={resources.gres:q} --trained {input.trained} --chunk {input.chunk}"
        " --filled {output.filled}"
