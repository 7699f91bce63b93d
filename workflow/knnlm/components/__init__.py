"""How a column of log-probabilities of the gold tokens is made."""
