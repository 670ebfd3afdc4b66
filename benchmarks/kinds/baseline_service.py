"""A service for the baselines: payloads that hold an image file, or features without a codec.

python -m benchmarks.kinds.baseline_service --bundle DIR --model DIR  # and `cloud-server serve`'s

It is the production service (protocol, checks, engine, batching, TLS), except that the body of a
payload is a JPEG or WebP file, or the residual stream at the bundle's cut as float16 or int8, with
a size limit to match. `raw_payload` makes such a payload; any edge client can send it.
"""

from __future__ import annotations

import asyncio
import io
import signal
import sys
import zlib
from collections.abc import Sequence

import grpc
import torch
from jsonargparse import ArgumentParser
from PIL import Image, UnidentifiedImageError
from torch import Tensor
from torch.nn import functional as F

from aligned_vq import __version__
from aligned_vq.errors import AlignedVQError, CorruptPayload
from aligned_vq.evaluation.baselines.features import Int8PerToken, RawFloat16, StreamCoding
from aligned_vq.images.preprocess import preprocess
from aligned_vq.llava.checkpoint import LlavaCheckpoint
from aligned_vq.split.loading import load_prefix
from aligned_vq.split.residual_link import cut_norm_name
from aligned_vq.stopwatch import Stopwatch
from aligned_vq.types import Payload
from cloud_server.certificates.tls import tls_files
from cloud_server.config import CloudConfig
from cloud_server.decode.image_decoder import EngineImage
from cloud_server.decode.served_bundles import ServedBundle
from cloud_server.methods import Methods
from cloud_server.model import CloudModel, load_cloud_model
from cloud_server.operations.metrics import Metrics
from cloud_server.service import ServiceParts, SplitInferenceService
from cloud_server.serving_backends import make_backend
from protos.messages import ServiceInfo

MAX_BODY_BYTES = 32 * 2**20
_UPLOADS = (("grpc.http2.ping_timeout_ms", 2**31 - 1),)
"""gRPC's default windows, which grow with the link, as for any upload of images; but no ping
timeout, because a ping queues behind the upload, on a thin link for minutes."""


def raw_payload(manifest_digest: bytes, body: bytes) -> Payload:
    """A payload whose body is an image file or features, for the bundle with this manifest."""
    # One token and no stage: no codec reads the body, so these only have to be valid.
    return Payload(manifest_digest, 1, 0, 0, "raw", body, zlib.crc32(body))


class RawDecoder:
    """Decodes image files (with the whole tower) and features (with its suffix) to embeddings.

    Args:
        model: a model that serves one bundle.
        checkpoint: the checkpoint of its vision tower.
    """

    def __init__(self, model: CloudModel, checkpoint: LlavaCheckpoint) -> None:
        self._model = model
        (self._cut,) = model.cuts.values()
        split = self._cut.bundle.manifest.split
        self._prefix = load_prefix(checkpoint, split, model.dtype).to(model.device)
        self._dim = checkpoint.tower.vision.hidden_size
        self._eps = checkpoint.tower.vision.layer_norm_eps
        tokens = checkpoint.tower.vision.num_tokens
        # Features have exactly these body sizes; everything else has to be an image file.
        self._codings: dict[int, StreamCoding] = {
            2 * tokens * self._dim: RawFloat16(),  # two bytes of each value
            tokens * (self._dim + 2): Int8PerToken(),  # one byte of each, and a float16 scale
        }
        self._norm: tuple[Tensor, Tensor] | None = None
        if split.norm != "pre":  # at "pre" the features are the residual stream
            names = [f"{cut_norm_name(split)}.{part}" for part in ("weight", "bias")]
            tensors = checkpoint.vision_tensors(names)
            weight, bias = (tensors[name].to(model.device, model.dtype) for name in names)
            self._norm = weight, bias

    @torch.inference_mode()
    def decode_many(self, payloads: Sequence[Payload]) -> list[EngineImage | Exception]:
        """The image embeddings `[N', H]` of each payload, or the error that decoding it raised."""
        return [self._decode(payload.body) for payload in payloads]

    def _decode(self, body: bytes) -> EngineImage | Exception:
        watch = Stopwatch()
        try:
            with self._model.compute_lock:
                watch.lap("turn")
                features, residual = self._at_cut(body)
                watch.lap("rebuild")
                selected = self._cut.suffix(features, residual)
                watch.lap("suffix")
                embeds = self._model.llava.model.multi_modal_projector(selected)[0]
                watch.lap("projector")
        except AlignedVQError as error:
            return error
        return EngineImage(embeds, watch.timings())

    def _at_cut(self, body: bytes) -> tuple[Tensor, Tensor]:
        """Features and residual stream, `[1, N, D]` each."""
        target = (self._model.device, self._model.dtype)
        coding = self._codings.get(len(body))
        if coding is None:
            pixels = preprocess(_open_image(body), self._cut.bundle.manifest.processor)
            at_cut: tuple[Tensor, Tensor] = self._prefix(torch.from_numpy(pixels)[None].to(*target))
            return at_cut
        residual = torch.from_numpy(coding.decode(body, self._dim))[None].to(*target)
        if self._norm is None:
            return residual, residual
        weight, bias = self._norm
        return F.layer_norm(residual, (self._dim,), weight, bias, self._eps), residual


def _open_image(body: bytes) -> Image.Image:
    try:
        return Image.open(io.BytesIO(body), formats=("JPEG", "WEBP")).convert("RGB")
    except (OSError, UnidentifiedImageError) as error:
        raise CorruptPayload(
            f"expected a JPEG or WebP file, or features of the bundle's cut, got {len(body)} bytes "
            "that are neither; send a payload made by `raw_payload`"
        ) from error


async def serve(config: CloudConfig) -> None:
    """Serve until SIGTERM; prints "serving on HOST:PORT" once it accepts questions.

    Raises:
        ConfigError: the bundle, the checkpoint or a certificate cannot be used.
    """
    stopped = asyncio.Event()
    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, stopped.set)
    model, metrics = load_cloud_model(config), Metrics()
    backend = make_backend(model, config, metrics)
    (manifest,) = backend.manifests
    digest = manifest.digest()
    limits = (config.max_question_chars, config.max_answer_tokens)
    info = ServiceInfo(manifest.to_json(), digest, *limits, __version__, (digest,))
    parts = ServiceParts(
        {digest: ServedBundle(info, MAX_BODY_BYTES)},
        RawDecoder(model, LlavaCheckpoint(config.model, config.revision)).decode_many,
        backend.prompts,
        backend.engine,
        metrics,
    )
    service = SplitInferenceService(parts, config)
    server = grpc.aio.server(options=_UPLOADS)
    methods = Methods(service.gate.arrivals, service.gate.connections, config.question_seconds)
    methods.add_split_inference(service)
    server.add_generic_rpc_handlers((methods,))
    tls = tls_files(config)
    address = f"{config.host}:{config.port}"
    if tls:
        port = server.add_secure_port(address, tls.credentials())
    else:
        port = server.add_insecure_port(address)
    await server.start()
    # The address is printed after the warm-up: whoever reads it can measure at once.
    await backend.engine.warm_up()
    print(f"serving on {config.host}:{port}", flush=True)
    await stopped.wait()
    await server.stop(config.drain_seconds)
    await backend.engine.close()
    await service.close()


def main() -> int:
    """Entry point; returns the exit status."""
    parser = ArgumentParser(description=__doc__)
    parser.add_class_arguments(CloudConfig, nested_key=None)
    try:
        asyncio.run(serve(CloudConfig(**parser.parse_args().as_dict())))
    except AlignedVQError as error:
        print(f"baseline_service: {error}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
