"""`cloud-server serve`: the cloud process."""

from __future__ import annotations

import asyncio
import logging
import sys
from functools import partial

from jsonargparse import ArgumentParser

from aligned_vq.errors import AlignedVQError
from cloud_server.app import serve
from cloud_server.config import CloudConfig


def main(argv: list[str] | None = None) -> int:
    """Entry point; returns the exit status. Errors the user can mend are one line, no traceback."""
    options = _parser().parse_args(argv)
    logging.basicConfig(
        level=options.serve.log_level.upper(),
        format="%(asctime)s %(levelname)s %(name)s %(message)s",
    )
    logging.getLogger("transformers").setLevel(logging.ERROR)
    settings = options.serve.as_dict()
    for key in ("log_level", "config"):
        settings.pop(key, None)
    try:
        config = CloudConfig(**settings)
        asyncio.run(serve(config, partial(_announce, config.host)))
    except AlignedVQError as error:
        print(f"cloud-server: {error}", file=sys.stderr)
        return 1
    return 0


def _parser() -> ArgumentParser:
    serve_parser = ArgumentParser(default_env=True, env_prefix="AVQ_CLOUD")
    serve_parser.add_class_arguments(CloudConfig, nested_key=None)
    serve_parser.add_argument("--config", action="config", help="YAML file with settings")
    levels = ("debug", "info", "warning", "error")
    serve_parser.add_argument("--log_level", default="info", choices=levels, help="of stderr")
    parser = ArgumentParser(prog="cloud-server", description=__doc__)
    commands = parser.add_subcommands()
    commands.add_subcommand("serve", serve_parser, help="serve a bundle and its checkpoint")
    return parser


def _announce(host: str, port: int, http_port: int | None) -> None:
    print(f"serving on {host}:{port}", flush=True)
    if http_port is not None:
        print(f"operators on http://{host}:{http_port}", flush=True)


if __name__ == "__main__":
    sys.exit(main())
