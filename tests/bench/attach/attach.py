"""Attaching to resident weights: from the call to the first byte of every tensor seen, beside reading the same component from its
file through the page cache. Arguments: socket, model, component, file, passes. Prints JSON."""

import json
import sys
import time

import modelyard


def quantile(sorted_values: list[float], share: float) -> float:
    return sorted_values[min(len(sorted_values) - 1, int(share * len(sorted_values)))]


def attached(socket: str, model: str, component: str) -> float:
    began = time.perf_counter()
    with modelyard.attach(model, component, socket=socket) as held:
        seen = 0
        for name in held:
            seen += int(held.bits(name)[0])
        took = time.perf_counter() - began
    assert seen >= 0
    return took * 1000


def main() -> None:
    socket, model, component, path, passes = sys.argv[1:6]
    with modelyard.attach(model, component, socket=socket) as held:
        size, tensors = held.nbytes, len(held)
    times = sorted(attached(socket, model, component) for _ in range(int(passes)))
    reads = []
    for _ in range(5):
        began = time.perf_counter()
        with open(path, "rb", buffering=0) as file:
            while file.read(8 << 20):
                pass
        reads.append((time.perf_counter() - began) * 1000)
    result = {
        "component_bytes": size,
        "tensors": tensors,
        "attaches": len(times),
        "attach_ms": {"p50": quantile(times, 0.5), "p99": quantile(times, 0.99), "slowest": times[-1]},
        "cached_read_ms": min(reads),
    }
    print(json.dumps(result))


main()
