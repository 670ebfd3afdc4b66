"""`edge-client`: ask, classify, watch, compress and check, and serve the OpenAI API."""

from __future__ import annotations

import asyncio
import json
import os
import sys
from dataclasses import asdict, fields
from pathlib import Path

from jsonargparse import ArgumentParser, Namespace

from aligned_vq.bitstream import to_frame
from aligned_vq.errors import AlignedVQError, ConfigError
from aligned_vq.files.atomic_file import write_file
from aligned_vq.images.modality import CAMERA_MODALITIES
from aligned_vq.telemetry.logs import FORMATS, configure
from aligned_vq.telemetry.output import escape_unencodable
from edge_client.classifier import cli as classifying
from edge_client.client import EdgeClient, SamplingOptions
from edge_client.config import EdgeConfig
from edge_client.gateway.config import GatewayConfig
from edge_client.probe import probe, write_textfile
from edge_client.watch.cli import add_options, watch
from protos.access import tokens

DEFAULT_TARGET = "127.0.0.1:50051"
_ISOLATE = "isolate_images"
"""The one field of `EdgeConfig` without an option: files on a command line are untrusted."""


def main(argv: list[str] | None = None) -> int:
    """Entry point; returns the exit status. Expected errors print one line, not a traceback."""
    escape_unencodable()
    parsed = _parser().parse_args(argv)
    options: Namespace = parsed[parsed.subcommand]
    try:
        if parsed.subcommand == "key":
            # The key itself goes to a file: standard output may end up in a log.
            print(tokens.make(options.name, options.out))
            return 0
        if parsed.subcommand == "classify":
            classifying.classify(options)
            return 0
        values = {f.name: options[f.name] for f in fields(EdgeConfig) if f.name != _ISOLATE}
        # Windows has no fork: there images are decoded in this process.
        config = EdgeConfig(**values, isolate_images=hasattr(os, "fork"))
        if parsed.subcommand == "serve":
            _serve(config, options)
            return 0
        if parsed.subcommand == "check" and _is_probe(options):
            _probe(config, options)
            return 0
        commands = {"ask": _ask, "watch": _watch, "compress": _compress, "check": _check}
        with EdgeClient(options.target, options.bundle, config) as client:
            commands[parsed.subcommand](client, options)
    except (AlignedVQError, OSError) as error:
        print(f"edge-client: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        return 130  # 128 + SIGINT, as shells report it
    return 0


def _watch(client: EdgeClient, options: Namespace) -> None:
    watch(client, options, _sampling(options))


def _sampling(options: Namespace) -> SamplingOptions:
    return SamplingOptions(
        quality=options.quality,
        modality=options.modality,
        max_tokens=options.max_tokens,
        temperature=options.temperature,
        seed=options.seed,
        stop=options.stop or (),
    )


def _ask(client: EdgeClient, options: Namespace) -> None:
    sampling = _sampling(options)
    for question in options.questions:
        with client.stream(options.image, question, **sampling) as stream:
            for piece in stream:
                if not options.json:
                    print(piece, end="", flush=True)
        answer = stream.answer
        assert answer is not None  # a stream ends with an answer or an error
        details = answer.details
        if options.json:
            print(json.dumps({"question": question, "answer": answer, **details.to_dict()}))
            continue
        print(
            f"\n[{details.payload_bytes} B of indices in {details.message_bytes} B of messages; "
            f"first text after {details.first_token_ms:.0f} ms, all of it after "
            f"{details.total_ms:.0f} ms]"
        )


def _compress(client: EdgeClient, options: Namespace) -> None:
    encoded = client.compress(options.image, quality=options.quality, modality=options.modality)
    frame = to_frame(encoded.payload)
    write_file(options.output, frame)
    payload = encoded.payload
    figures = {
        "output": str(options.output),
        "coding": payload.coding,
        "body_bytes": len(payload.body),
        "file_bytes": len(frame),
        "num_tokens": payload.num_tokens,
        "digest": payload.digest().hex(),
        "stages_ms": {stage: ns / 1e6 for stage, ns in encoded.timings.stages_ns.items()},
    }
    print(
        json.dumps(figures)
        if options.json
        else f"{options.output}: {len(payload.body)} B of {payload.coding} indices, "
        f"{len(frame)} B with the file's header"
    )


def _check(client: EdgeClient, options: Namespace) -> None:
    info = client.check()
    manifest = client.encoder.manifest
    figures = {
        "target": options.target,
        "service_version": info.service_version,
        "manifest_digest": info.manifest_digest.hex(),
        "model": manifest.model_id,
        "split": str(manifest.split),
        "link": manifest.link,
        "backend": client.encoder.backend.name,
        "quantizer": asdict(manifest.quantizer),
        "qualities": [point.name for point in manifest.operating_points],
        "modalities": [half.modality for half in manifest.edge_halves],
        "fixed_payload_bytes": manifest.quantizer.payload_bytes(manifest.features.num_tokens),
        "max_question_chars": info.max_question_chars,
        "max_answer_tokens": info.max_answer_tokens,
    }
    if options.json:
        print(json.dumps(figures))
        return
    print(f"{options.target} serves this bundle ({info.manifest_digest.hex()})")
    for name in ("model", "split", "link", "backend", "qualities", "modalities", "service_version"):
        print(f"  {name.replace('_', ' ')}: {figures[name]}")


def _is_probe(options: Namespace) -> bool:
    if not options.ask and (options.text_only or options.prometheus is not None):
        raise ConfigError("expected --ask with --text_only or --prometheus, got none; add --ask")
    return bool(options.ask)


def _probe(config: EdgeConfig, options: Namespace) -> None:
    result = probe(
        options.target,
        options.bundle,
        config,
        with_image=not options.text_only,
        deadline_seconds=options.deadline,
    )
    if options.prometheus is not None:
        write_textfile(result, options.prometheus)
    if options.json:
        print(json.dumps(result.to_dict()))
    # Raised only here: a failure is reported in JSON and metrics as well.
    if result.error is not None:
        raise result.error
    if not options.json:
        about = "a generated image" if result.with_image else "no image"
        print(f"ok: a question about {about} was answered in {1e3 * result.seconds:.0f} ms")


def _serve(config: EdgeConfig, options: Namespace) -> None:
    try:
        # Imported here, as the gateway's libraries are an optional extra.
        from edge_client.gateway.process import serve
    except ModuleNotFoundError as error:
        raise ConfigError(
            f"expected the gateway's libraries, got none named {error.name}; install "
            "aligned-vq[gateway]"
        ) from error
    configure(options.log_level, options.log_format)
    gateway = GatewayConfig(**{f.name: options[f.name] for f in fields(GatewayConfig)})

    def announce(url: str) -> None:
        print(f"serving on {url}", flush=True)

    asyncio.run(serve(options.target, options.bundle, config, gateway, announce))


def _parser() -> ArgumentParser:
    parser = ArgumentParser(prog="edge-client", description=__doc__)
    commands = parser.add_subcommands()
    ask = _command()
    ask.add_argument("image", help="path of an image or of an .avq file")
    ask.add_argument("questions", nargs="+", help="one or more questions, plain text")
    _add_sampling(ask)
    commands.add_subcommand("ask", ask, help="ask a question about an image")
    commands.add_subcommand(
        "classify",
        classifying.parser(),
        help="recognise labels in an image on this machine alone",
    )
    watch_command = _command()
    add_options(watch_command)
    _add_sampling(watch_command)
    commands.add_subcommand(
        "watch", watch_command, help="ask about new images of a camera, video or folder"
    )
    compress = _command()
    compress.add_argument("image", help="path of an image")
    _add_encoding(compress)
    compress.add_argument("-o", "--output", required=True, help=".avq file to write")
    commands.add_subcommand("compress", compress, help="write an image's payload to a file")
    commands.add_subcommand(
        "check", _check_command(), help="connect to the service and compare bundles"
    )
    commands.add_subcommand(
        "serve", _serve_command(), help="run a gateway that serves the OpenAI API on this machine"
    )
    key = ArgumentParser()
    key.add_argument("--name", required=True, type=str, help="name of the caller")
    key.add_argument("--out", required=True, type=Path, help="file for the caller's key")
    commands.add_subcommand(
        "key", key, help="generate a caller's key and print its line for serve --api_keys"
    )
    return parser


def _add_sampling(command: ArgumentParser) -> None:
    command.add_argument(
        "--max_tokens", type=int, default=0, help="limit of the answer; 0: the service's default"
    )
    command.add_argument("--temperature", type=float, default=0.0, help="0: greedy; else 0.01 to 2")
    _add_encoding(command)
    command.add_argument("--seed", type=int | None, default=None, help="makes sampling repeatable")
    command.add_argument(
        "--stop", type=str, action="append", help="text that ends the answer; may be repeated"
    )


def _add_encoding(command: ArgumentParser) -> None:
    quality = "operating point, such as low, medium, high or fixed; default: the bundle's"
    command.add_argument("--quality", type=str | None, default=None, help=quality)
    command.add_argument(
        "--modality", default="rgb", choices=CAMERA_MODALITIES, help="what the camera measures"
    )


def _check_command() -> ArgumentParser:
    command = _command()
    command.add_argument(
        "--ask",
        action="store_true",
        help="ask for one token about a generated image instead; exit status 1 on failure",
    )
    command.add_argument(
        "--text_only", action="store_true", help="with --ask: no image, which costs less"
    )
    command.add_argument(
        "--deadline", type=float, default=10.0, help="with --ask: seconds, retries included"
    )
    command.add_argument(
        "--prometheus",
        type=Path | None,
        default=None,
        help="with --ask: also write the result to this file, for a textfile collector",
    )
    return command


def _serve_command() -> ArgumentParser:
    command = _command(has_json=False)
    command.add_class_arguments(GatewayConfig, nested_key=None)
    levels = ("debug", "info", "warning", "error")
    command.add_argument("--log_level", default="info", choices=levels, help="lowest level logged")
    command.add_argument(
        "--log_format", default="text", choices=FORMATS, help="json: one object per line"
    )
    return command


def _command(has_json: bool = True) -> ArgumentParser:
    command = ArgumentParser()
    command.add_argument(
        "--target",
        default=DEFAULT_TARGET,
        help="host:port of the cloud service, or host:port,host:port",
    )
    command.add_argument("--bundle", required=True, type=Path, help="bundle directory")
    if has_json:
        command.add_argument("--json", action="store_true", help="print results as JSON objects")
    command.add_class_arguments(EdgeConfig, nested_key=None, skip={_ISOLATE})
    return command


if __name__ == "__main__":
    sys.exit(main())
