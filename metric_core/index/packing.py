"""Packs and unpacks the blocks in which fast-scan codes are stored, many blocks at a time.

FAISS's own packers take one row at a time. A block has as many rows as ``n_per_block``, 32. Of each row, the bytes of
4-bit codes are interleaved with those of the others (FAISS, ``pq4_pack_codes``), and what follows, the factors of
RaBitQ, is stored behind them, row by row.
"""

# B: blocks, P: rows of a block, C: bytes of a code, I: those that are interleaved, H: half the rows of a block.

from dataclasses import dataclass
from typing import Any

import numpy as np

_ORDER = np.array([0, 8, 1, 9, 2, 10, 3, 11, 4, 12, 5, 13, 6, 14, 7, 15])
"""Rows of the first half of a block, in the order of their bytes; those of the second half share bytes with them."""


@dataclass(frozen=True)
class Packing:
    """How the codes of an index are packed."""

    rows: int
    """of a block"""
    block_bytes: int
    code_bytes: int
    """of a row"""
    interleaved: int
    """bytes of a row that are"""

    @classmethod
    def of(cls, lists: Any) -> "Packing":
        """That of some ``BlockInvertedLists``, whose packer is asked where it puts each byte of a row."""
        packer, rows, size = lists.packer, int(lists.n_per_block), int(lists.block_size)
        count = 0
        for byte in range(packer.code_size):
            code_C, block = np.zeros(packer.code_size, np.uint8), np.zeros((1, size), np.uint8)
            code_C[byte] = 0xFF
            packer.pack_1(code_C, 0, block)
            count += int(block.max()) < 0xFF  # two halves, in two bytes
        return cls(rows, size, int(packer.code_size), count)

    def pack(self, code_BPC: np.ndarray) -> np.ndarray:
        """uint8 (B, bytes): the blocks of some rows."""
        low_BIH, high_BIH = (
            np.take(code_BPC, rows, axis=1)[:, :, : self.interleaved].transpose(0, 2, 1)
            for rows in (_ORDER, _ORDER + len(_ORDER))
        )
        block_B = np.empty((len(code_BPC), self.block_bytes), np.uint8)
        packed, behind = self._parts(block_B)
        packed[:, :, : len(_ORDER)] = (low_BIH & 15) | (high_BIH << 4)
        packed[:, :, len(_ORDER) :] = (low_BIH >> 4) | (high_BIH & 0xF0)
        behind[:] = code_BPC[:, :, self.interleaved :]
        return block_B

    def unpack(self, block_B: np.ndarray) -> np.ndarray:
        """uint8 (B, P, C): the rows of some blocks, uint8 (B, bytes)."""
        packed, behind = self._parts(block_B)
        low_BIH, high_BIH = packed[:, :, : len(_ORDER)], packed[:, :, len(_ORDER) :]
        code_BPC = np.empty((len(block_B), self.rows, self.code_bytes), np.uint8)
        code_BPC[:, _ORDER, : self.interleaved] = ((low_BIH & 15) | (high_BIH << 4)).transpose(0, 2, 1)
        code_BPC[:, _ORDER + len(_ORDER), : self.interleaved] = ((low_BIH >> 4) | (high_BIH & 0xF0)).transpose(0, 2, 1)
        code_BPC[:, :, self.interleaved :] = behind
        return code_BPC

    def _parts(self, block_B: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Views of the interleaved bytes, (B, I, P), and of those behind them, (B, P, C - I)."""
        edge, count = self.interleaved * self.rows, len(block_B)
        packed = block_B[:, :edge].reshape(count, self.interleaved, self.rows)
        return packed, block_B[:, edge:].reshape(count, self.rows, self.code_bytes - self.interleaved)
