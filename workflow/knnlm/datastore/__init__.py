"""Keys and values of the training text, and the FAISS index over them."""
