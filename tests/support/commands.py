"""A valid command line for every job, with the required options only."""

ACCEPTED: dict[str, list[str]] = {
    "catalogue": ["--source", "pictures", "--out", "faces"],
    "train": ["--faces", "faces", "--out", "model"],
    "embed": ["--faces", "faces", "--model", "model", "--out", "embeddings"],
    "index": ["--embeddings", "embeddings", "--out", "index"],
    "index add": ["--index", "index", "--embeddings", "delta"],
    "index check": ["--index", "index"],
    "index versions": ["--index", "index"],
    "index publish": ["--index", "index", "--version", "0123456789abcdef"],
    "index rollback": ["--index", "index"],
    "index diff": ["--index", "index", "--b", "0123456789abcdef"],
    "index prune": ["--index", "index", "--keep", "3"],
    "index export": ["--index", "index", "--out", "index.faiss"],
    "search": ["--index", "index", "--embeddings", "embeddings"],
    "verify": ["a.jpg", "b.jpg", "--model", "model"],
    "evaluate": ["--embeddings", "embeddings", "--retrieval"],
    "embeddings check": ["--embeddings", "embeddings"],
    "embeddings stats": ["--embeddings", "embeddings"],
    "embeddings export": ["--embeddings", "embeddings", "--out", "vectors.npy"],
    "embeddings compare": ["--old", "embeddings", "--new", "others"],
    "erase": ["--faces", "faces", "--identity", "Ann"],
    "pipeline": ["--source", "pictures", "--model", "model", "--work", "work"],
    "demo": [],
    "submit": [
        "--address",
        "http://head:8265",
        "--",
        "verify",
        "s3://b/1.jpg",
        "s3://b/2.jpg",
        "--model",
        "s3://b/model",
    ],
    "jobs list": ["--address", "http://head:8265"],
    "jobs status": ["--address", "http://head:8265", "--name", "faces"],
    "jobs logs": ["--address", "http://head:8265", "--name", "faces"],
    "jobs stop": ["--address", "http://head:8265", "--name", "faces"],
}


def extended(line: list[str], *more: str) -> list[str]:
    """A command line with more options of its own: before ``--``, if there is one, since what follows is another's."""
    own = line.index("--") if "--" in line else len(line)
    return [*line[:own], *more, *line[own:]]
