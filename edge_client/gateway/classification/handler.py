"""The request handler of classification; the cloud takes no part in it."""

from __future__ import annotations

import asyncio
from typing import Any

from starlette.requests import Request
from starlette.responses import Response

from aligned_vq.errors import InvalidInput
from edge_client.classifier.classifier import EdgeClassifier
from edge_client.gateway.admission import AdmittedRequest
from edge_client.gateway.chat import Chat
from edge_client.gateway.classification.request import (
    ClassifyRequest,
    description,
    response_fields,
)
from edge_client.gateway.delivery import until_disconnect
from edge_client.gateway.openai.body import parse
from edge_client.gateway.openai.refusal import Refusal


class ClassifyHandler:
    """Handles requests with a classifier; refuses them without one.

    Args:
        chat: reads requests and decodes their images, within the limits that all routes share.
        classifier: None: the gateway has none.
    """

    def __init__(self, chat: Chat, classifier: EdgeClassifier | None) -> None:
        self._chat = chat
        self._classifier = classifier

    def description(self) -> dict[str, Any] | None:
        """Name, label sets and modalities of the classifier, if there is one."""
        return None if self._classifier is None else description(self._classifier)

    async def classify(self, request: Request) -> Response:
        """The response with the labels of an image. Raises errors that `Refusal.of` converts."""
        if self._classifier is None:
            raise Refusal(
                404,
                "expected a gateway with a classifier, got one without; start edge-client serve "
                "with --classifier",
                code="no_classifier",
            )
        return await self._chat.respond_locally("classify", request, self._classify)

    async def _classify(self, request: Request, admitted: AdmittedRequest) -> dict[str, Any]:
        classifier = self._classifier
        assert classifier is not None  # `classify` checked it
        body = await self._chat.body(request, admitted)
        wanted = parse(ClassifyRequest, body.json)
        try:
            preparation = classifier.preparation(wanted.modality)
        except InvalidInput as error:
            raise Refusal.of(error, "modality") from error
        try:
            wanted.check_count()
            # Before the image is decoded; in a thread, as the text encoder may have to run.
            checking = asyncio.to_thread(classifier.check_labels, wanted.labels)
            await until_disconnect(request.receive, checking)
        except InvalidInput as error:
            raise Refusal.of(error, "labels") from error
        image = await self._chat.image(
            request, admitted, body, (wanted.image, "image"), preparation
        )
        work = asyncio.to_thread(classifier.classify, image.view, wanted.labels)
        result = await until_disconnect(request.receive, work)
        self._chat.admission.metrics.record_classification(wanted.modality, result.model_ms)
        return response_fields(result, classifier, wanted.modality)
