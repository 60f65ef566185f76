"""A program that attaches, says what it sees as one line of JSON, and waits for a line on its input."""

import ctypes
import hashlib
import json
import sys

import modelyard

socket, model, component, framework, tier, device = sys.argv[1:7]
try:
    held = modelyard.attach(model, component or None, tier, device=device or None, socket=socket)
except modelyard.AttachError as error:
    print(json.dumps({"error": error.code, "message": str(error)}), flush=True)
    sys.exit(3)
seen = {"digest": held.digest, "was_resident": held.was_resident, "device": held.device, "tensors": {}}
if framework == "torch":
    for name, tensor in held.torch().items():
        data = tensor.contiguous().numpy().tobytes()
        seen["tensors"][name] = [str(tensor.dtype), list(tensor.shape), hashlib.sha256(data).hexdigest()]
elif framework == "pointer":
    # the scripted driver's device memory is host memory
    for name, info in held.tensors.items():
        data = ctypes.string_at(held.pointer(name), info.nbytes)
        seen["tensors"][name] = [info.dtype, list(info.shape), hashlib.sha256(data).hexdigest()]
else:
    for name, tensor in held.items():
        assert not tensor.flags.writeable, name
        data = tensor.tobytes()
        seen["tensors"][name] = [str(tensor.dtype), list(tensor.shape), hashlib.sha256(data).hexdigest()]
print(json.dumps(seen), flush=True)
sys.stdin.readline()
held.close()
print(json.dumps({"closed": True}), flush=True)
sys.stdin.readline()
