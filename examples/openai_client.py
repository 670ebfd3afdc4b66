"""OpenAI's client against the gateway: the image is encoded there, and only indices leave it.

python examples/openai_client.py [--url http://127.0.0.1:8080/v1] [--key KEY]
"""

from __future__ import annotations

import argparse
import base64
from pathlib import Path

from openai import OpenAI

IMAGE = Path("examples/scene.png")


def main() -> None:
    """Print the answer as it arrives."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--url", default="http://127.0.0.1:8080/v1", help="address of the gateway")
    parser.add_argument("--key", default="none", help="where the gateway wants one")
    options = parser.parse_args()

    data = base64.b64encode(IMAGE.read_bytes()).decode()
    with OpenAI(base_url=options.url, api_key=options.key) as client:
        stream = client.chat.completions.create(
            model=client.models.list().data[0].id,
            messages=[
                {
                    "role": "user",
                    "content": [
                        {
                            "type": "image_url",
                            "image_url": {"url": f"data:image/png;base64,{data}"},
                        },
                        {"type": "text", "text": "Describe the picture."},
                    ],
                }
            ],
            stream=True,
        )
        for chunk in stream:
            if chunk.choices:
                print(chunk.choices[0].delta.content or "", end="", flush=True)
    print()


if __name__ == "__main__":
    main()
