# The peer: every safetensors file below the folder opened, its keys and metadata read. One JSON line.
import json
import os
import sys
import time

import safetensors
import torch
from safetensors import safe_open

began, busy = time.perf_counter(), time.process_time()
files = tensors = 0
for folder, _, names in os.walk(sys.argv[1]):
    for name in names:
        if name.endswith(".safetensors"):
            with safe_open(os.path.join(folder, name), framework="pt") as opened:
                tensors += len(list(opened.keys()))
                opened.metadata()
            files += 1
seconds, cpu = time.perf_counter() - began, time.process_time() - busy
print(json.dumps({"seconds": seconds, "cpu": cpu, "files": files, "tensors": tensors, "safetensors": safetensors.__version__, "torch": torch.__version__}))
