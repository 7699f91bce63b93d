"""How a step runs: its frame, devices, processes, progress."""
