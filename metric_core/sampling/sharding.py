"""How work is split between ranks: people of a batch, rows of a memory or of a validation split."""


def share(total: int, rank: int, size: int) -> slice:
    """The contiguous share of ``total`` units that belongs to a rank; shares differ by at most one unit."""
    return slice(total * rank // size, total * (rank + 1) // size)
