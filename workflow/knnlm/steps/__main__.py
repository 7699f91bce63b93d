"""`python -m knnlm.steps NAME --option ...` runs the step of that name; `--help` lists its options."""

import sys
from importlib import import_module
from pathlib import Path

from knnlm.running.step import run

if __name__ == "__main__":
    names = sorted(path.stem for path in Path(__file__).parent.glob("[a-z]*.py"))
    if (name := "".join(sys.argv[1:2])) not in names:
        problem = f"{name} is not a step" if name else "no step is named"
        sys.exit(f"Error: {problem}; choose one of {', '.join(names)}.")
    run(import_module(f"knnlm.steps.{name}").main, sys.argv[2:])
