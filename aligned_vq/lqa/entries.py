"""Embeddings kept as bytes, a bounded number of them, the most certain of each class."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from aligned_vq.errors import InvalidInput

_STEPS = 127
_FIRST_ROWS = 16

Tensors = Mapping[str, NDArray[Any]]


class Entries:
    """Up to `shots` embeddings of each class and `limit` of all, those of least entropy.

    An embedding is D signed bytes and a float16 scale.

    Args:
        dim: D.
        shots: of each class.
        limit: of all classes together.
        mask_bits: bits that are kept beside each embedding.
    """

    def __init__(self, dim: int, shots: int, limit: int, mask_bits: int = 0) -> None:
        self._shots, self._limit, self._mask_bits = shots, limit, mask_bits
        self._count = 0
        # More rows than are used, so that few are moved when more are needed.
        self._columns: dict[str, NDArray[Any]] = {
            "rows": np.zeros((0, dim), np.int8),
            "scales": np.zeros(0, np.float16),
            "entropies": np.zeros(0, np.float16),
            "classes": np.zeros(0, np.int32),
            "masks": np.zeros((0, -(-mask_bits // 8)), np.uint8),
        }

    def __len__(self) -> int:
        """M, the number of entries."""
        return self._count

    @property
    def classes(self) -> NDArray[np.int32]:
        """The class of each entry, int32 `[M]`."""
        return self._column("classes")

    def add(
        self,
        embedding: NDArray[np.float32],
        number: int,
        entropy: float,
        mask: NDArray[np.bool_] | None = None,
    ) -> None:
        """Keep an embedding `[D]` of class `number` if there is room or a less certain one."""
        of_class = np.flatnonzero(self.classes == number)
        rivals = of_class if len(of_class) >= self._shots else None
        if rivals is None and self._count >= self._limit:
            rivals = np.arange(self._count)
        if rivals is None:
            place = self._count
            self._grow()
        else:
            entropies = self._column("entropies")[rivals]
            place = int(rivals[np.argmax(entropies)])
            if entropy >= entropies.max():
                return
        scale = np.float16(max(float(np.abs(embedding).max()), 1e-4) / _STEPS)
        steps = np.rint(embedding / np.float32(scale)).clip(-_STEPS, _STEPS)
        values = {"rows": steps, "scales": scale, "entropies": entropy, "classes": number}
        for name, value in values.items():
            self._columns[name][place] = value
        if mask is not None:
            self._columns["masks"][place] = np.packbits(mask)

    def similarities(self, embedding: NDArray[np.float32]) -> NDArray[np.float32]:
        """Cosines `[M]` of a unit vector `[D]` with the entries."""
        products: NDArray[np.float32] = self._column("rows").astype(np.float32) @ embedding
        return products * self._column("scales").astype(np.float32)

    def masks(self) -> NDArray[np.bool_]:
        """The bits beside each entry, `[M, bits]`."""
        packed = self._column("masks")
        return np.unpackbits(packed, axis=1, count=self._mask_bits).astype(np.bool_)

    def tensors(self) -> dict[str, NDArray[Any]]:
        """What `restore` takes."""
        return {name: self._column(name).copy() for name in self._columns}

    def restore(self, tensors: Tensors) -> None:
        """Put a saved state back.

        Raises:
            InvalidInput: it is of other sizes.
        """
        count = len(tensors["classes"])
        for name, column in self._columns.items():
            expected = (count, *column.shape[1:])
            if tensors[name].shape != expected or tensors[name].dtype != column.dtype:
                raise InvalidInput(
                    f"expected {name} as {column.dtype} {list(expected)}, got "
                    f"{tensors[name].dtype} {list(tensors[name].shape)}: the saved state is of "
                    "another bundle or of other labels; reset it"
                )
        if count > self._limit:
            raise InvalidInput(f"expected at most {self._limit} entries, got {count}; reset it")
        self._columns = {name: tensors[name].copy() for name in self._columns}
        self._count = count

    @property
    def state_bytes(self) -> int:
        """Memory of the entries, rows that are not used yet included."""
        return sum(column.nbytes for column in self._columns.values())

    def _column(self, name: str) -> NDArray[Any]:
        return self._columns[name][: self._count]

    def _grow(self) -> None:
        """Count one more entry."""
        self._count += 1
        here = len(self._columns["classes"])
        if self._count <= here:
            return
        more = min(max(_FIRST_ROWS, 2 * here), self._limit) - here
        self._columns = {
            name: np.pad(column, ((0, more), *[(0, 0)] * (column.ndim - 1)))
            for name, column in self._columns.items()
        }
