"""Token ids in; hidden states and log-probabilities out. fairseq is known here alone: `transformer` is its one door."""
