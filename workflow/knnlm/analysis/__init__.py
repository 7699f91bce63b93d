"""Components to tables: perplexities, intervals, verdicts."""
