"""Times attaching to components that are in RAM, of several sizes, beside mapping the same weights from a warm file.

    attach.py --socket SOCKET [--rounds N] [--json] MODEL COMPONENT FILE [MODEL COMPONENT FILE …]

A round is what a program does: connect, ask, map, make an array of every tensor's header and read one element of the first; the
connection is closed outside of the time. The peer is `safetensors.safe_open` of FILE, which is in the page cache, and its first
tensor; without the safetensors package it is left out.
"""

from __future__ import annotations

import argparse
import json
import pathlib
import sys
import time

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parents[3] / "gpu-worker" / "attach" / "python"))

import modelyard  # noqa: E402  (from the tree)

try:
    from safetensors import safe_open
except ImportError:
    safe_open = None


def attached(socket: str, model: str, component: str) -> tuple[float, int]:
    """Seconds of one attach, and the bytes that it gave."""
    began = time.perf_counter()
    attachment = modelyard.attach(model, component=component, socket=socket)
    name = next(iter(attachment))
    attachment.bits(name)[0]
    seconds = time.perf_counter() - began
    size = sum(attachment.bits(each).nbytes for each in attachment)
    attachment.close()
    return seconds, size


def opened(path: str) -> float:
    """Seconds of opening the file and taking its first tensor."""
    began = time.perf_counter()
    with safe_open(path, framework="np") as file:
        file.get_tensor(next(iter(file.keys())))
    return time.perf_counter() - began


def milliseconds(times: list[float]) -> dict[str, float]:
    times = sorted(times)
    at = lambda share: round(times[min(len(times) - 1, int(len(times) * share))] * 1000, 3)  # noqa: E731
    return {"p50_ms": at(0.5), "p99_ms": at(0.99), "max_ms": at(1.0)}


def measure(socket: str, rounds: int, model: str, component: str, path: str) -> dict[str, object]:
    for _ in range(3):
        _, size = attached(socket, model, component)
    row: dict[str, object] = {"model": model, "component": component, "bytes": size}
    row["attach"] = milliseconds([attached(socket, model, component)[0] for _ in range(rounds)])
    if safe_open is not None:
        opened(path)
        row["safe_open"] = milliseconds([opened(path) for _ in range(max(rounds // 10, 20))])
    return row


def main() -> None:
    arguments = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    arguments.add_argument("--socket", required=True)
    arguments.add_argument("--rounds", type=int, default=1000)
    arguments.add_argument("--json", action="store_true")
    arguments.add_argument("what", nargs="+", metavar="MODEL COMPONENT FILE")
    given = arguments.parse_args()
    triples = [given.what[at : at + 3] for at in range(0, len(given.what), 3)]
    rows = [measure(given.socket, given.rounds, *triple) for triple in triples]
    if given.json:
        print(json.dumps({"rounds": given.rounds, "rows": rows}))
        return
    print(f"warm attach, {given.rounds} rounds each (aim: p99 < 5 ms at any size)")
    for row in rows:
        size = f"{int(str(row['bytes'])) / 2**20:.0f} MiB"
        line = f"  {row['model']}/{row['component']:<16} {size:>9}"
        for name in ("attach", "safe_open"):
            if isinstance(times := row.get(name), dict):
                line += f"   {name} p50 {times['p50_ms']:.2f}  p99 {times['p99_ms']:.2f}  max {times['max_ms']:.2f} ms"
        print(line)


if __name__ == "__main__":
    main()
