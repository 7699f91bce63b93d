"""The one exception that is meant for the user's eyes."""


class KnnlmError(Exception):
    """A mistake in the input or a damaged file, told in one sentence.

    The sentence names the file or the config key, says what is wrong and what to do about it. Steps print it without a traceback.
    """
