"""How people of a batch, rows of a memory and rows of a validation split are divided between ranks."""


def share(total: int, rank: int, size: int) -> slice:
    """The contiguous share of ``total`` units that belongs to a rank; sizes of shares differ by at most one."""
    return slice(total * rank // size, total * (rank + 1) // size)
