"""The Likeness library: faces to vectors, vectors to matches. It knows nothing of Ray or MLflow."""
