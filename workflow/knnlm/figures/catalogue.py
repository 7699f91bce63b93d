"""The figures of every run, beside one for each hypothesis."""

FIGURES = {  # each, and the table it is drawn from
    "components": "components", "datastore_size": "datastore_size", "temperature": "temperature", "lambda": "lambda",
    "loss": "loss", "verdicts": "verdicts", "explanations": "shares", "remaining": "remaining",
    "parameters": "shares", "helped_tokens": "helped_tokens", "indexes": "indexes",
}  # fmt: skip
