"""Times safetensors.torch.load_file: prints "ready" once torch is imported, then for each line with a path on stdin one line of
JSON: seconds until load_file returned, and until one byte of every page of every tensor had been read. Tensors on the CPU may be
views of a mapping, so that load_file returns before anything was read."""

import json
import sys
import time

import safetensors
import torch
from safetensors.torch import load_file

PAGE = 4096
print(json.dumps({"torch": torch.__version__, "safetensors": safetensors.__version__}), flush=True)
for line in sys.stdin:
    began = time.perf_counter()
    tensors = load_file(line.strip())
    returned = time.perf_counter() - began
    touched = 0
    for tensor in tensors.values():
        touched += int(tensor.reshape(-1).view(torch.uint8)[::PAGE].sum(dtype=torch.int64))
    print(json.dumps({"returned": returned, "touched": time.perf_counter() - began}), flush=True)
    del tensors, tensor
