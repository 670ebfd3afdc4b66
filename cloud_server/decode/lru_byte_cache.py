"""A least-recently-used cache with a byte budget."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable
from typing import Generic, TypeVar

Value = TypeVar("Value")


class LruByteCache(Generic[Value]):
    """Evicts the least recently used values first. Used from one thread only.

    Args:
        max_bytes: budget for all values together; 0 caches nothing.
        size: returns the bytes of a value.
    """

    def __init__(self, max_bytes: int, size: Callable[[Value], int]) -> None:
        self.max_bytes = max_bytes
        self.used_bytes = 0
        self._size = size
        self._values: OrderedDict[bytes, Value] = OrderedDict()

    def __len__(self) -> int:
        return len(self._values)

    def __contains__(self, key: bytes) -> bool:
        return key in self._values

    def get(self, key: bytes) -> Value | None:
        """The value, now the most recently used; None if it is not cached."""
        value = self._values.get(key)
        if value is not None:
            self._values.move_to_end(key)
        return value

    def put(self, key: bytes, value: Value) -> None:
        """Add a value and evict others to stay within the budget. A key that is present, or a
        value larger than the budget, changes nothing."""
        # A value beyond the budget would evict everything else and still not fit.
        if key in self._values or self._size(value) > self.max_bytes:
            return
        self._values[key] = value
        self.used_bytes += self._size(value)
        while self.used_bytes > self.max_bytes:
            _, oldest = self._values.popitem(last=False)
            self.used_bytes -= self._size(oldest)
