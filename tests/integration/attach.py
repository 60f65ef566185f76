"""A program that attaches, says what it sees as one line of JSON, and waits for a line on its input before each further step."""

import ctypes
import hashlib
import json
import sys

import modelyard


def say(**what):
    print(json.dumps(what), flush=True)


def seen(held, framework):
    """Type, shape and hash of each tensor; no array is held when this returns."""
    found = {}
    if framework == "torch":
        for name, tensor in held.torch().items():
            data = tensor.contiguous().numpy().tobytes()
            found[name] = [str(tensor.dtype), list(tensor.shape), hashlib.sha256(data).hexdigest()]
    elif framework == "pointer":
        # the scripted driver's device memory is host memory
        for name, info in held.tensors.items():
            data = ctypes.string_at(held.pointer(name), info.nbytes)
            found[name] = [info.dtype, list(info.shape), hashlib.sha256(data).hexdigest()]
    else:
        for name, tensor in held.items():
            assert not tensor.flags.writeable, name
            found[name] = [str(tensor.dtype), list(tensor.shape), hashlib.sha256(tensor.tobytes()).hexdigest()]
    return found


def one_array(held, framework):
    """A view of a part of one tensor: it holds the tensor's array, and nothing else does."""
    name = next(iter(held))
    return (held.torch() if "torch" in framework else held)[name].reshape(-1)[1:]


socket, model, component, framework, tier, device = sys.argv[1:7]
try:
    held = modelyard.attach(model, component or None, tier, device=device or None, socket=socket)
except modelyard.AttachError as error:
    say(error=error.code, message=str(error))
    sys.exit(3)
keeps = framework.startswith(("kept", "forgotten"))
tensors = {} if keeps else seen(held, framework)
array = one_array(held, framework) if keeps else None
say(digest=held.digest, was_resident=held.was_resident, device=held.device, tensors=tensors)
sys.stdin.readline()
if framework.startswith("forgotten"):
    del held
else:
    held.close()
say(closed=True)
sys.stdin.readline()
if keeps:
    total = float(array.sum())
    del array
    say(let_go=total == total)
    sys.stdin.readline()
