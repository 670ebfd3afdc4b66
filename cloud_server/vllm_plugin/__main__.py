"""`python -m cloud_server.vllm_plugin --bundle DIR --model CHECKPOINT [options of vllm serve]`

One engine replica for a front tier (`cloud-server serve --engine replicas`): vLLM's server with the
settings for a bundle. It has no access control, so only front tiers may be able to reach it.
"""

from __future__ import annotations

import argparse
import json
import os
import runpy
import sys
from pathlib import Path

from cloud_server.vllm_plugin import CONNECTOR, overrides


def command(bundle: Path, model: str, options: list[str]) -> list[str]:
    """The arguments of `vllm serve` for a bundle. `options` come last, so they take precedence."""
    return [
        *("--model", model, "--hf-overrides", json.dumps(overrides(bundle))),
        *(
            "--middleware",
            "cloud_server.vllm_plugin.endpoint_filter.EndpointFilter",
            "--enable-scale-out",
        ),
        # Without the checkpoint's sampling defaults: the front tier sends all settings.
        *("--host", "127.0.0.1", "--generation-config", "vllm", *options),
    ]


def main() -> None:
    """Run vLLM's server until it is terminated."""
    # Abbreviations could capture options that are meant for vLLM.
    parser = argparse.ArgumentParser(description=__doc__, allow_abbrev=False)
    parser.add_argument("--bundle", type=Path, required=True)
    parser.add_argument("--model", required=True)
    arguments, options = parser.parse_known_args()
    os.environ["VLLM_MEDIA_CONNECTOR"] = CONNECTOR
    os.environ.setdefault("VLLM_NO_USAGE_STATS", "1")
    server = "vllm.entrypoints.openai.api_server"
    sys.argv = [server, *command(arguments.bundle, arguments.model, options)]
    # As the main module, which starts the server; an import would not.
    runpy.run_module(server, run_name="__main__")


if __name__ == "__main__":
    main()
