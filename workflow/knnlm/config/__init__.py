"""What a config may say, and the sizes that it leaves to the text. Imports nothing heavy."""
