"""The media connector: images reach vLLM's API server only as indices in a data URL."""

from __future__ import annotations

from typing import Any, NoReturn

from vllm.multimodal.media import MediaConnector

from cloud_server.decode.index_arrays import NamedIndices, indices_from_url


class IndexConnector(MediaConnector):
    """Parses indices; fetches nothing and decodes no image, audio or video."""

    def load_from_url(self, url: str, *_: Any, **__: Any) -> NamedIndices:
        """The indices in a data URL.

        Raises:
            ValueError: it is another URL.
        """
        return indices_from_url(url)

    async def load_from_url_async(self, url: str, *_: Any, **__: Any) -> NamedIndices:
        """As `load_from_url`."""
        return indices_from_url(url)

    def fetch_image_embedding(self, data: str) -> NoReturn:
        """Always fails: a serialised tensor from a client could have any shape.

        Raises:
            ValueError: always.
        """
        raise ValueError(
            "expected codebook indices as a data URL, got embeddings; send a payload to the service"
        )

    async def fetch_image_embedding_async(self, data: str) -> NoReturn:
        """As `fetch_image_embedding`."""
        self.fetch_image_embedding(data)
