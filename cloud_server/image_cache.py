"""Images that follow-up questions may name by digest."""

from __future__ import annotations

from collections import OrderedDict

from torch import Tensor


class ImageCache:
    """Projected image embeddings under a byte budget; the longest unused image leaves first.

    Used from one event loop only. A budget of 0 holds nothing.
    """

    def __init__(self, max_bytes: int) -> None:
        self.max_bytes = max_bytes
        self.used_bytes = 0
        self._images: OrderedDict[bytes, Tensor] = OrderedDict()

    def __len__(self) -> int:
        return len(self._images)

    def __contains__(self, digest: bytes) -> bool:
        return digest in self._images

    def get(self, digest: bytes) -> Tensor | None:
        """The embeddings `[N', H]` of an image still held."""
        found = self._images.get(digest)
        if found is not None:
            self._images.move_to_end(digest)
        return found

    def put(self, digest: bytes, embeds: Tensor) -> None:
        """Hold an image, letting go of others as the budget asks."""
        if digest in self._images or embeds.nbytes > self.max_bytes:
            return
        self._images[digest] = embeds
        self.used_bytes += embeds.nbytes
        while self.used_bytes > self.max_bytes:
            _, oldest = self._images.popitem(last=False)
            self.used_bytes -= oldest.nbytes
