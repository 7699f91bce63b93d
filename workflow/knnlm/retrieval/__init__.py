"""Who is near: exact and approximate search."""
