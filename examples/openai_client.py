"""Chat and embed through a running server with the client of OpenAI (`pip install openai`).

gritlm serve &
python examples/openai_client.py http://127.0.0.1:8000/v1
"""

from __future__ import annotations

import sys

from openai import OpenAI


def main(base_url: str = "http://127.0.0.1:8000/v1", api_key: str = "none") -> None:
    """Print a streamed answer, and the number of dimensions of an embedding."""
    client = OpenAI(base_url=base_url, api_key=api_key)
    model = client.models.list().data[0].id
    stream = client.chat.completions.create(
        model=model,
        messages=[{"role": "user", "content": "What is a volcano?"}],
        max_tokens=48,
        temperature=0,
        stream=True,
    )
    for chunk in stream:
        print(chunk.choices[0].delta.content or "", end="", flush=True)
    print()
    reply = client.embeddings.create(model=model, input=["Hot rock and gas.", "Tears clean eyes."])
    print(f"{len(reply.data)} vectors of {len(reply.data[0].embedding)} dimensions")


if __name__ == "__main__":
    main(*sys.argv[1:])
