"""A valid command line for every job, with the required options only."""

ACCEPTED: dict[str, list[str]] = {
    "catalogue": ["--source", "pictures", "--out", "faces"],
    "train": ["--faces", "faces", "--out", "model"],
    "embed": ["--faces", "faces", "--model", "model", "--out", "embeddings"],
    "index": ["--embeddings", "embeddings", "--out", "index"],
    "index check": ["--index", "index"],
    "index export": ["--index", "index", "--out", "index.faiss"],
    "search": ["--index", "index", "--embeddings", "embeddings"],
    "verify": ["a.jpg", "b.jpg", "--model", "model"],
    "evaluate": ["--embeddings", "embeddings", "--retrieval"],
    "embeddings check": ["--embeddings", "embeddings"],
    "embeddings stats": ["--embeddings", "embeddings"],
    "embeddings export": ["--embeddings", "embeddings", "--out", "vectors.npy"],
    "embeddings compare": ["--old", "embeddings", "--new", "others"],
    "demo": [],
}
