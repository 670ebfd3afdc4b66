"""`pack` and `unpack`: encoded images to payloads and back.

All array shapes follow from the config and the number of tokens, never from the received bytes. A
hostile payload therefore cannot enlarge an array or leave one uninitialised: it either decodes to
indices of the expected shapes or raises `CorruptPayload`.
"""

from __future__ import annotations

import zlib
from collections.abc import Callable
from typing import Literal, NamedTuple, TypeVar

import numpy as np

from aligned_vq.bitstream.context.coding import decode_context, encode_context
from aligned_vq.bitstream.context.tables import ContextTables
from aligned_vq.bitstream.entropy import decode_range, encode_range
from aligned_vq.bitstream.fixed import decode_fixed, encode_fixed
from aligned_vq.bitstream.layout import RESEND, Layout, max_body_bytes, statistics_fault
from aligned_vq.bitstream.raw import decode_raw, encode_raw
from aligned_vq.bitstream.tables import EntropyTables
from aligned_vq.errors import ConfigError, CorruptPayload, InvalidInput
from aligned_vq.types import MAX_TOKENS, Coding, Encoded, Payload, QuantizerConfig, QuantizerKind

_Tables = TypeVar("_Tables", EntropyTables, ContextTables)


class Codec(NamedTuple):
    """Encoder and decoder of one coding.

    `encode(encoded, config, tables)` returns the body. `decode(body, layout, tables)` returns the
    `Encoded` or raises CorruptPayload. Neither may be called unless `missing(tables)` is None.
    """

    quantizer: QuantizerKind
    """The quantizer that this coding is for."""
    missing: Callable[[EntropyTables | None], str | None]
    """Which required tables are missing; None if none are."""
    encode: Callable[[Encoded, QuantizerConfig, EntropyTables | None], bytes]
    decode: Callable[[bytes, Layout, EntropyTables | None], Encoded]


def _needs_no_tables(_: EntropyTables | None) -> str | None:
    return None


def _needs_counts(tables: EntropyTables | None) -> str | None:
    return "entropy tables" if tables is None else None


def _needs_contexts(tables: EntropyTables | None) -> str | None:
    return "context tables" if tables is None or tables.contexts is None else None


# In order of complexity: "auto" selects the first of equally small bodies.
CODECS: dict[Coding, Codec] = {
    "fixed": Codec(
        "aligned",
        _needs_no_tables,
        lambda encoded, config, _: encode_fixed(encoded, config),
        lambda body, layout, _: decode_fixed(body, layout),
    ),
    "range": Codec(
        "aligned",
        _needs_counts,
        lambda encoded, _, tables: encode_range(encoded, _require(tables)),
        lambda body, layout, tables: decode_range(body, layout, _require(tables)),
    ),
    "context": Codec(
        "aligned",
        _needs_contexts,
        lambda encoded, _, tables: encode_context(encoded, _require(_require(tables).contexts)),
        lambda body, layout, tables: decode_context(
            body, layout, _require(_require(tables).contexts)
        ),
    ),
    "raw": Codec(
        "identity",
        _needs_no_tables,
        lambda encoded, _config, _tables: encode_raw(encoded),
        lambda body, layout, _: decode_raw(body, layout),
    ),
}


def pack(
    encoded: Encoded,
    config: QuantizerConfig,
    tables: EntropyTables | None,
    manifest_digest: bytes,
    coding: Literal["auto"] | Coding = "auto",
) -> Payload:
    """The payload of an encoded image.

    Args:
        encoded: indices or raw features, and statistics if the link needs them.
        config: geometry of the codebooks.
        tables: for range and context coding; None: fixed coding only.
        manifest_digest: identifies the bundle.
        coding: "auto" selects raw for the identity quantizer, otherwise the smallest of the codings
            for which there are tables, the simpler one of equal sizes.

    Raises:
        ConfigError: the coding is not for this quantizer, or its tables are missing.
        InvalidInput: a feature or statistic of this image is not finite, a standard deviation is
            not above 0, or the given coding exceeds `max_body_bytes`.
        ValueError: the arrays do not have the shapes, dtypes or ranges of the config.
    """
    _check_encoded(encoded, config)
    if tables is not None:
        tables.check(config)
    coding, body = _choose(encoded, config, tables, coding)
    layout = Layout.of(encoded, config)
    limit = max_body_bytes(config, encoded.num_tokens, layout.statistics)
    # Only with a given coding: its tables may expand an unusual image beyond fixed coding.
    if len(body) > limit:
        raise InvalidInput(
            f"expected at most {limit} bytes, got {len(body)} from {coding} coding; "
            "use coding 'auto', which falls back to fixed"
        )
    return Payload(
        manifest_digest=manifest_digest,
        num_tokens=encoded.num_tokens,
        num_stages=layout.num_stages,
        masked_stages=layout.masked_stages,
        coding=coding,
        body=body,
        crc32=_crc32(encoded, config, coding, body),
    )


def unpack(
    payload: Payload,
    config: QuantizerConfig,
    num_tokens: int,
    statistics: bool,
    tables: EntropyTables | None = None,
) -> Encoded:
    """The encoded image: indices int32 `[n, G]` and masks bool `[N]`, in writable arrays.

    `config`, `num_tokens` and `statistics` come from the receiver's manifest. The caller must have
    compared `payload.manifest_digest` with that manifest's digest; this function does not.

    Raises:
        CorruptPayload: the payload is not the output of `pack` for any image. Received bytes cause
            no other exception.
        ConfigError: `tables` are not for this config.
    """
    if tables is not None:
        tables.check(config)
    codec = CODECS[payload.coding]
    # Before decoding, because the header's numbers determine the shapes of all arrays.
    layout = _layout(payload, config, num_tokens, statistics)
    if missing := codec.missing(tables):
        # Both sides have the same bundle, so no correct sender chooses this coding.
        raise CorruptPayload(
            f"expected a coding that needs no {missing}, got {payload.coding!r}; "
            "send it with coding 'fixed'"
        )
    encoded = codec.decode(payload.body, layout, tables)
    # Damaged words can be the canonical coding of other indices; only the CRC detects that.
    computed = _crc32(encoded, config, payload.coding, payload.body)
    if computed != payload.crc32:
        raise CorruptPayload(
            f"expected crc32 {payload.crc32:08x}, got {computed:08x} from the body; {RESEND}"
        )
    return encoded


def _layout(payload: Payload, config: QuantizerConfig, num_tokens: int, statistics: bool) -> Layout:
    """The layout that a payload's header describes; CorruptPayload if it is impossible."""
    if payload.num_tokens != num_tokens:
        raise CorruptPayload(
            f"expected {num_tokens} tokens, got {payload.num_tokens}; {RESEND} for this model"
        )
    if CODECS[payload.coding].quantizer != config.kind:
        allowed = [name for name, codec in CODECS.items() if codec.quantizer == config.kind]
        raise CorruptPayload(
            f"expected coding {' or '.join(allowed)} for the {config.kind} quantizer, "
            f"got {payload.coding!r}; {RESEND} in one of these"
        )
    min_stages = min(1, config.num_quantizers)  # 0 for the identity quantizer
    if not min_stages <= payload.num_stages <= config.num_quantizers:
        raise CorruptPayload(
            f"expected {min_stages} to {config.num_quantizers} stages, got {payload.num_stages}; "
            f"{RESEND} with the stages this model has"
        )
    limit = max_body_bytes(config, num_tokens, statistics)
    if len(payload.body) > limit:
        raise CorruptPayload(f"expected at most {limit} bytes, got {len(payload.body)}; {RESEND}")
    return Layout(config, num_tokens, payload.num_stages, payload.masked_stages, statistics)


def _choose(
    encoded: Encoded,
    config: QuantizerConfig,
    tables: EntropyTables | None,
    coding: Literal["auto"] | Coding,
) -> tuple[Coding, bytes]:
    if coding != "auto":
        codec = CODECS.get(coding)
        if codec is None or codec.quantizer != config.kind:
            raise ConfigError(
                f"expected a coding for the quantizer, got {coding!r}, which is "
                f"not for the {config.kind} quantizer; use 'auto'"
            )
        if missing := codec.missing(tables):
            raise ConfigError(f"coding {coding!r} needs {missing}, got none; use 'fixed'")
        return coding, codec.encode(encoded, config, tables)
    # The sizes are known only after encoding, so all codings are tried.
    bodies = [
        (name, codec.encode(encoded, config, tables))
        for name, codec in CODECS.items()
        if codec.quantizer == config.kind and not codec.missing(tables)
    ]
    return min(bodies, key=lambda pair: len(pair[1]))


def _crc32(encoded: Encoded, config: QuantizerConfig, coding: Coding, body: bytes) -> int:
    """CRC of the canonical form: the fixed coding of indices, or the body of raw features."""
    return zlib.crc32(encode_fixed(encoded, config) if coding in ("range", "context") else body)


def _check_encoded(encoded: Encoded, config: QuantizerConfig) -> None:
    tokens = encoded.num_tokens
    if not 1 <= tokens <= MAX_TOKENS:
        raise ValueError(f"expected 1 to {MAX_TOKENS} tokens, got {tokens}")
    if not min(1, config.num_quantizers) <= len(encoded.stages) <= config.num_quantizers:
        raise ValueError(
            f"expected at most {config.num_quantizers} stages, got {len(encoded.stages)}"
        )
    for number, stage in enumerate(encoded.stages):
        covered = tokens if stage.mask is None else len(stage.indices)
        if stage.indices.shape != (covered, config.num_groups):
            raise ValueError(
                f"expected indices [{covered}, {config.num_groups}] in stage {number}, "
                f"got {stage.indices.shape}"
            )
        if stage.mask is not None and (stage.mask.shape != (tokens,) or stage.mask.dtype != bool):
            raise ValueError(
                f"expected a bool mask [{tokens}] in stage {number}, "
                f"got {stage.mask.dtype} {stage.mask.shape}"
            )
        size = config.codebook_sizes[number]
        if stage.indices.size and not 0 <= stage.indices.min() <= stage.indices.max() < size:
            raise ValueError(f"expected indices of stage {number} from 0 to {size - 1}")
    identity = config.kind == "identity"
    if identity != (encoded.features is not None):
        raise ValueError("expected features for the identity quantizer and only for it")
    # float16 with codebooks, where payloads are small; raw features are float32 anyway.
    float_dtype = np.float32 if identity else np.float16
    for name, array, width, dtype in (
        ("features", encoded.features, config.dim, np.float32),
        ("statistics", encoded.statistics, 2, float_dtype),
    ):
        if array is not None and (array.shape != (tokens, width) or array.dtype != dtype):
            raise ValueError(
                f"expected {name} {np.dtype(dtype)} [{tokens}, {width}], "
                f"got {array.dtype} {array.shape}"
            )
    if encoded.features is not None and not np.isfinite(encoded.features).all():
        raise InvalidInput("expected finite features, got an infinity or NaN; send another image")
    if encoded.statistics is not None and (fault := statistics_fault(encoded.statistics)):
        raise InvalidInput(f"{fault}; send another image")


def _require(tables: _Tables | None) -> _Tables:
    # Callers check `missing` first; this narrows the type.
    if tables is None:
        raise ConfigError("this coding needs learned tables, got none; use coding 'fixed'")
    return tables
