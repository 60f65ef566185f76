"""Times the readers of the Python world: prints the versions of what it imported, then for each line `WAY PATH` on stdin one line of
JSON: seconds until the reader returned, and until one byte of every page of every tensor had been read. Tensors on the CPU may be
views of a mapping, so that a reader returns before anything was read."""

import importlib.metadata
import json
import os
import sys
import time

import torch
from safetensors.torch import load_file

# words for people on stdout would be taken for answers
answers = os.fdopen(os.dup(1), "w")
os.dup2(2, 1)

try:
    from runai_model_streamer import SafetensorsStreamer
except ImportError:
    SafetensorsStreamer = None
try:
    from fastsafetensors import SafeTensorsFileLoader, SingleGroup
except ImportError:
    SafeTensorsFileLoader = None

PAGE = 4096


def touch(tensor):
    return int(tensor.reshape(-1).view(torch.uint8)[::PAGE].sum(dtype=torch.int64))


def by_load_file(path, clock):
    tensors = load_file(path)
    returned = clock()
    for tensor in tensors.values():
        touch(tensor)
    return returned


def by_runai(path, clock):
    # tensors come as they are read, each a view of the streamer's own buffer
    with SafetensorsStreamer() as streamer:
        streamer.stream_file(path)
        for _, tensor in streamer.get_tensors():
            touch(tensor)
        return clock()


def by_fastsafetensors(path, clock):
    loader = SafeTensorsFileLoader(SingleGroup(), torch.device("cpu"), nogds=True)
    loader.add_filenames({0: [path]})
    buffers = loader.copy_files_to_device()
    returned = clock()
    for name in list(buffers.key_to_rank_lidx):
        touch(buffers.get_tensor(name))
    buffers.close()
    loader.close()
    return returned


WAYS = {"load_file": by_load_file}
if SafetensorsStreamer is not None:
    WAYS["runai-model-streamer"] = by_runai
if SafeTensorsFileLoader is not None:
    WAYS["fastsafetensors"] = by_fastsafetensors

packages = {"load_file": "safetensors"}
versions = {way: importlib.metadata.version(packages.get(way, way)) for way in WAYS}
print(json.dumps({"torch": torch.__version__, "ways": versions}), file=answers, flush=True)
for line in sys.stdin:
    way, path = line.rstrip("\n").split(" ", 1)
    began = time.perf_counter()
    clock = lambda: time.perf_counter() - began  # noqa: E731
    returned = WAYS[way](path, clock)
    print(json.dumps({"returned": returned, "touched": clock()}), file=answers, flush=True)
