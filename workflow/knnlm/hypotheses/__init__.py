"""The questions: one module for each, their registry, and what a question may read."""
