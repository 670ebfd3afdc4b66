"""`aligned-vq`: train, evaluate, build and inspect codecs and the bundled reference model."""

from __future__ import annotations

import logging
import sys
from collections.abc import Callable

from jsonargparse import ArgumentParser, Namespace

from aligned_vq.commands import bundles, edgevl, figures, training, vqav2
from aligned_vq.errors import AlignedVQError
from aligned_vq.telemetry.logs import NOISY
from aligned_vq.telemetry.output import escape_unencodable

Command = tuple[Callable[[], ArgumentParser], Callable[[Namespace], int | None]]
COMMANDS: dict[str, Command] = {
    "train": (training.train_parser, training.train),
    "eval": (figures.eval_parser, figures.evaluate),
    "sweep": (figures.sweep_parser, figures.sweep),
    "locations": (figures.locations_parser, figures.locations),
    "export": (bundles.export_parser, bundles.export),
    "export-onnx": (bundles.export_onnx_parser, bundles.export_onnx),
    "inspect": (bundles.inspect_parser, bundles.inspect),
    "reference-vqav2": (vqav2.reference_vqav2_parser, vqav2.reference_vqav2),
    "reference-train": (training.reference_parser, training.reference_train),
    "edgevl-train": (edgevl.train_student_parser, edgevl.train_student),
    "reference-rooms": (edgevl.rooms_parser, edgevl.write_reference_rooms),
    "reference-dual-encoder": (edgevl.dual_encoder_parser, edgevl.train_reference_dual_encoder),
}


def main(argv: list[str] | None = None) -> int:
    """Entry point; returns the exit status. Errors the user can mend are one line, no traceback."""
    escape_unencodable()
    parsed = build_parser().parse_args(argv)
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    # Their warnings would hide the output of a command.
    for library in ("transformers", "httpx", *NOISY):
        logging.getLogger(library).setLevel(logging.ERROR)
    try:
        # jsonargparse puts the options of a subcommand under its name.
        status = COMMANDS[parsed.subcommand][1](parsed[parsed.subcommand])
    except (AlignedVQError, OSError) as error:
        print(f"aligned-vq: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print("aligned-vq: interrupted; run the same command again to resume", file=sys.stderr)
        return 130  # 128 + SIGINT, as shells report it
    return status or 0


def build_parser() -> ArgumentParser:
    """The command line: a subcommand for each of `COMMANDS`."""
    parser = ArgumentParser(prog="aligned-vq", description=__doc__)
    choices = parser.add_subcommands()
    for name, (build, _) in COMMANDS.items():
        command = build()
        choices.add_subcommand(name, command, help=command.description)
    return parser


if __name__ == "__main__":
    sys.exit(main())
