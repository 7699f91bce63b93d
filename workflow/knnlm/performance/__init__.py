"""How fast every stage is, on random data, against what the machine can do."""
