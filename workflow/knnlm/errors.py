"""The one exception that is meant for the user's eyes, and how libraries say that memory is used up."""

import re

# PyTorch, CUDA and FAISS have no common type for it, and a step that needs none of them shall not import them.
OUT_OF_MEMORY = re.compile(
    "can(not|'t) allocate memory|out of memory|MemoryError|bad_alloc|ALLOC_FAILED", re.IGNORECASE
)


class KnnlmError(Exception):
    """A mistake in the input or a damaged file, told in one sentence.

    The sentence names the file or the config key, says what is wrong and what to do. Steps print it without a
    traceback.
    """
