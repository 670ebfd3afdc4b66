"""How images reach vLLM's API server: as indices in a data URL, and in no other way."""

from __future__ import annotations

from typing import Any, NoReturn

from vllm.multimodal.media import MediaConnector

from cloud_server.decode.index_arrays import NamedIndices, indices_from_url


class IndexConnector(MediaConnector):
    """Reads indices; fetches nothing and decodes no picture, sound or film."""

    def load_from_url(self, url: str, *_: Any, **__: Any) -> NamedIndices:
        """The indices in a data URL.

        Raises:
            ValueError: it holds something else.
        """
        return indices_from_url(url)

    async def load_from_url_async(self, url: str, *_: Any, **__: Any) -> NamedIndices:
        """As `load_from_url`."""
        return indices_from_url(url)

    def fetch_image_embedding(self, data: str) -> NoReturn:
        """Always refused: a tensor of the sender's own could be of any shape.

        Raises:
            ValueError: every time.
        """
        raise ValueError(
            "expected codebook indices as a data URL, got embeddings; send a payload to the service"
        )

    async def fetch_image_embedding_async(self, data: str) -> NoReturn:
        """As `fetch_image_embedding`."""
        self.fetch_image_embedding(data)
