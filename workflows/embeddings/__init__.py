"""``likeness embeddings ...``: looking into finished embeddings, and taking them elsewhere; one job a file."""
