"""Build one chunk of the datastore: run the LM over a share of the training text and store its rows in random order."""

from pathlib import Path

from knnlm.corpus.windows import fixed_windows, share_of_windows
from knnlm.datastore.shuffle import shuffled_order
from knnlm.datastore.store import save_chunk
from knnlm.errors import KnnlmError
from knnlm.language_model.states import extract_states
from knnlm.language_model.transformer import LanguageModel
from knnlm.running.devices import Job
from knnlm.storage.arrays import load_array
from knnlm.storage.manifests import verified, write_manifest


def main(settings: dict, job: Job, model: Path, dictionary: Path, tokens: Path, chunk: Path) -> None:
    """Extract, shuffle and store; the rows are exactly the tokens of the windows of this chunk, a folder."""
    windows, number, chunks = settings["windows"]["train"], settings["chunk"], settings["datastore"]["chunks"]
    lm, text = LanguageModel(model, dictionary, job.device), load_array(tokens, dtype="int32")
    cut = fixed_windows(len(text), windows["context"], windows["new"])
    if len(cut) < chunks:
        raise KnnlmError(
            f"config key datastore.chunks: {chunks} is more than the {len(cut)} windows of the training text; lower it."
        )
    share = share_of_windows(cut, number, chunks)
    first, end = int(share[0, 1]), int(share[-1, 2])
    att, ffn, _ = extract_states(lm, text, share)
    files = save_chunk(chunk, att, ffn, text, first, shuffled_order(end - first, settings["seed"], number))
    write_manifest(
        chunk / "manifest.json",
        files=files,
        kind="datastore chunk",
        rows=end - first,
        width=lm.width,
        first_position=first,
        corpus_tokens=len(text),
        chunk=number,
        chunks=chunks,
        checkpoint=verified(model),
        settings=settings,
    )
