"""An S3 server of moto on this machine, with the bucket ``data``."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

KEY, SECRET = "AKIATESTTESTTEST", "a-secret-that-is-never-shown"
Server = tuple[Any, str]


@contextmanager
def started() -> Iterator[Server]:
    """Yield a client, and host and port of the server."""
    import boto3
    from moto.server import ThreadedMotoServer

    logging.getLogger("werkzeug").setLevel(logging.ERROR)
    server = ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
    server.start()
    host, port = server.get_host_and_port()
    client = boto3.client(
        "s3",
        endpoint_url=f"http://{host}:{port}",
        aws_access_key_id=KEY,
        aws_secret_access_key=SECRET,
        region_name="us-east-1",
    )
    client.create_bucket(Bucket="data")
    yield client, f"{host}:{port}"
    server.stop()


def address(server: Server, path: str) -> str:
    host = server[1].replace(":", "%3A")
    return f"s3://{KEY}:{SECRET}@{path}?endpoint_override={host}&scheme=http&region=us-east-1"


def names(server: Server, prefix: str) -> list[str]:
    """Return names of the objects behind a prefix, without the marks of folders."""
    found = server[0].list_objects_v2(Bucket="data", Prefix=prefix)
    keys = [each["Key"] for each in found.get("Contents", [])]
    return sorted(key[len(prefix) :] for key in keys if not key.endswith("/"))
