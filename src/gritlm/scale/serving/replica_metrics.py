"""Metrics of several replicas as one exposition for Prometheus."""

from __future__ import annotations

from collections.abc import Mapping


def merged(expositions: Mapping[str, bytes]) -> bytes:
    """Return the samples of all replicas, each with the label ``replica``, grouped by metric.

    Args:
        expositions: metrics in Prometheus's text format, by the names of the replicas.
    """
    heads: dict[str, list[str]] = {}
    samples: dict[str, list[str]] = {}
    for replica, text in expositions.items():
        family = ""
        for line in text.decode().splitlines():
            if line.startswith("# "):
                family = line.split(" ", 3)[2]
                head = heads.setdefault(family, [])
                if line not in head:
                    head.append(line)
            elif line:
                samples.setdefault(family, []).append(_labelled(line, replica))
    lines = [line for name in heads for line in (*heads[name], *samples.get(name, []))]
    return "".join(f"{line}\n" for line in lines).encode()


def _labelled(sample: str, replica: str) -> str:
    """Return a sample with the name of its replica as first label."""
    label = f'replica="{replica}"'
    name, brace, rest = sample.partition("{")
    if brace:
        return f"{name}{{{label},{rest}"
    name, _, value = sample.partition(" ")
    return f"{name}{{{label}}} {value}"
