"""`cloud-server serve` runs the cloud process; `certs` and `token` make credentials."""

from __future__ import annotations

import asyncio
import sys
from pathlib import Path

from jsonargparse import ArgumentParser, Namespace

from aligned_vq.errors import AlignedVQError
from aligned_vq.telemetry.logs import FORMATS
from cloud_server.app import serve
from cloud_server.certificates import issuing
from cloud_server.certificates.revocation import revoke
from cloud_server.config import CloudConfig
from cloud_server.operations import logs
from protos.access import tokens
from protos.address import address
from protos.descriptors import raise_limit


def main(argv: list[str] | None = None) -> int:
    """Entry point; returns the exit status. An expected error prints one line, no traceback."""
    parsed = _parser().parse_args(argv)
    options: Namespace = parsed[parsed.subcommand]
    try:
        {"serve": _serve, "certs": _certs, "token": _token}[parsed.subcommand](options)
    except AlignedVQError as error:
        print(f"cloud-server: {error}", file=sys.stderr)
        return 1
    return 0


def _serve(options: Namespace) -> None:
    # First, as the default limit on connections follows from it.
    raise_limit()
    logs.configure(options.log_level, options.log_format)
    config = _config(options)

    def announce(port: int, http_port: int | None) -> None:
        # Flushed: whoever started the process waits for this line, perhaps on a pipe.
        print(f"serving on {address(config.host, port)}", flush=True)
        if http_port is not None:
            print(f"operators on http://{address(config.http_host, http_port)}", flush=True)

    asyncio.run(serve(config, announce))


def _config(options: Namespace) -> CloudConfig:
    """The service's settings: all options but those of the command line itself."""
    command_options = ("log_level", "log_format", "config")
    settings = {
        key: value for key, value in options.as_dict().items() if key not in command_options
    }
    return CloudConfig(**settings)


def _certs(options: Namespace) -> None:
    if revoked := _names(options.revoke):
        print(revoke(options.out, revoked, options.days))
        # A revocation alone issues nothing.
        if options.hosts is None and options.clients is None:
            return
    written = issuing.make(
        options.out, _names(options.hosts), _names(options.clients) or (), options.days
    )
    for path in written:
        print(path)


def _token(options: Namespace) -> None:
    print(tokens.make(options.name, options.out))


def _names(text: str | None) -> tuple[str, ...] | None:
    """The names in a comma-separated list; None if the option is not set."""
    if text is None:
        return None
    return tuple(name.strip() for name in text.split(",") if name.strip())


def _parser() -> ArgumentParser:
    serve_parser = ArgumentParser()
    serve_parser.add_class_arguments(CloudConfig, nested_key=None)
    serve_parser.add_argument("--config", action="config", help="YAML file with settings")
    levels = ("debug", "info", "warning", "error")
    serve_parser.add_argument(
        "--log_level", default="info", choices=levels, help="lowest level written to stderr"
    )
    serve_parser.add_argument(
        "--log_format", default="text", choices=FORMATS, help="json writes one object per line"
    )
    parser = ArgumentParser(prog="cloud-server", description=__doc__)
    certs_parser = ArgumentParser()
    certs_parser.add_argument("--out", required=True, type=Path, help="directory to write to")
    certs_parser.add_argument(
        "--hosts",
        type=str | None,
        default=None,
        help="names and addresses of the service, separated by commas; default "
        f"{','.join(issuing.DEFAULT_HOSTS)} if there is no server certificate yet",
    )
    certs_parser.add_argument(
        "--clients", type=str | None, default=None, help="client identities, separated by commas"
    )
    certs_parser.add_argument(
        "--revoke",
        type=str | None,
        default=None,
        help="client identities, separated by commas, whose certificates to revoke: adds them to "
        "refused.pem, for serve --tls_refused",
    )
    certs_parser.add_argument("--days", type=int, default=365, help="validity in days")
    token_parser = ArgumentParser()
    token_parser.add_argument("--name", required=True, type=str, help="the client's identity")
    token_parser.add_argument(
        "--out", required=True, type=Path, help="the client's token_file, written here"
    )
    commands = parser.add_subcommands()
    commands.add_subcommand("serve", serve_parser, help="serve a bundle and its checkpoint")
    commands.add_subcommand(
        "certs", certs_parser, help="make a test authority, a server's and clients' certificates"
    )
    commands.add_subcommand(
        "token", token_parser, help="make a client's token and print its line for serve --tokens"
    )
    return parser


if __name__ == "__main__":
    sys.exit(main())
