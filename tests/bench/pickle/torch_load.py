"""Makes checkpoints and times torch.load(weights_only=True): prints its version once torch is imported, then for each line of JSON
on stdin one on stdout. A load answers seconds until torch.load returned and until one byte of every page of every tensor had been
read, which a mapping puts off, both on the clock and of processors."""

import json
import sys
import time

import torch

PAGE = 4096
# the tensor mix of an SDXL UNet in fp16
MIX = [
    (10240, 1280), (1280, 5120), (1280, 1280), (1280, 2048), (1280, 1280, 3, 3), (1280, 2560, 1, 1), (640, 640, 3, 3),
    (5120, 640), (320, 320, 3, 3), (1280,), (10240,), (640,), (320,), (1280,),
]


def make(path, size, legacy):
    random = torch.Generator().manual_seed(2)
    state, total = {}, 0
    while total < size:
        for shape in MIX:
            bits = torch.randint(-32768, 32767, shape, dtype=torch.int16, generator=random)
            state[f"model.diffusion_model.block.{len(state):04}.weight"] = bits.view(torch.float16)
            total += bits.numel() * 2
    torch.save({"state_dict": state}, path, _use_new_zipfile_serialization=not legacy)
    return {"tensors": len(state), "bytes": total}


def load(path, mmap):
    began, busy = time.perf_counter(), time.process_time()
    state = torch.load(path, map_location="cpu", weights_only=True, mmap=mmap)["state_dict"]
    returned, returned_cpu = time.perf_counter() - began, time.process_time() - busy
    touched = 0
    for tensor in state.values():
        touched += int(tensor.reshape(-1).view(torch.uint8)[::PAGE].sum(dtype=torch.int64))
    return {
        "returned": returned, "returned_cpu": returned_cpu,
        "touched": time.perf_counter() - began, "touched_cpu": time.process_time() - busy,
    }


print(json.dumps({"torch": torch.__version__}), flush=True)
for line in sys.stdin:
    order = json.loads(line)
    if "size" in order:
        answer = make(order["path"], order["size"], order["legacy"])
    else:
        answer = load(order["path"], order["mmap"])
    print(json.dumps(answer), flush=True)
