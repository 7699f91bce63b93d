"""What a config may say. Imports nothing heavy."""
