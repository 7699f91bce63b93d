"""What a config may say, and the sizes that it leaves to the text. It is read first, so nothing heavy is imported."""
