"""Why do nearest neighbour language models work? The library behind the workflow, in the order of the data.

corpus          text in, token ids out
language_model  token ids in; hidden states att and ffn and log p out; fairseq is known here alone
datastore       keys and values of the training text, and the FAISS index over them
retrieval       the nearest keys of a query: exact, approximate
components      columns of log p of the gold token: kNN, output embeddings, centroids, mixtures
hypotheses      one module for each question, and the registry of them
analysis        perplexities, intervals, verdicts: components to tables
figures         tables to pictures

Beside the way of the data:

config          what a config may say
cost            what a job takes: requests to the scheduler, the plan, hours
steps           one thin command for each rule of the workflow
performance     measurements against what the machine can do
running         how a step runs: its frame, devices, processes, progress
storage         files that are whole and checked, locks, tables

A room imports only rooms above it in the way of the data, and running, storage and `errors`.
"""
