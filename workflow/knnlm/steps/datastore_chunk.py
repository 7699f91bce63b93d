"""Build one chunk of the datastore: run the LM over a share of the training text and store its rows in random order."""

from pathlib import Path

from knnlm.corpus.windows import fixed_windows, share_of_windows
from knnlm.datastore import shuffle, store
from knnlm.errors import KnnlmError
from knnlm.language_model import states, transformer
from knnlm.running.devices import Job
from knnlm.storage.arrays import load_array
from knnlm.storage.manifests import verified, write_manifest


def main(settings: dict, job: Job, model: Path, dictionary: Path, tokens: Path, chunk: Path) -> None:
    """Extract, shuffle and store; the rows are exactly the tokens of the windows of this chunk, a folder."""
    windows, number, chunks = settings["windows"]["train"], settings["chunk"], settings["datastore"]["chunks"]
    lm, text = transformer.LanguageModel(model, dictionary, job.device), load_array(tokens, dtype="int32")
    cut = fixed_windows(len(text), windows["context"], windows["new"])
    if len(cut) < chunks:
        problem = f"{chunks} is more than the {len(cut)} windows of the training text; lower it"
        raise KnnlmError(f"config key datastore.chunks: {problem}.")
    share = share_of_windows(cut, number, chunks)
    first, end = int(share[0, 1]), int(share[-1, 2])
    att, ffn, _ = states.extract_states(lm, text, share)
    order = shuffle.shuffled_order(end - first, settings["seed"], number)
    files = store.save_chunk(chunk, att, ffn, text, first, order)
    facts = {"rows": len(order), "width": lm.width, "first_position": first, "corpus_tokens": len(text)}
    facts |= {"chunk": number, "chunks": chunks, "checkpoint": verified(model), "settings": settings}
    facts |= {"squared_norms": store.mean_squared_norms({"att": att, "ffn": ffn}, order)}
    write_manifest(chunk / "manifest.json", files, kind="datastore chunk", **facts)
