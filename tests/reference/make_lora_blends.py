#!/usr/bin/env python3
"""Writes golden/lora-blends.safetensors: sums of LoRAs and their leading directions in float64, by numpy.

    python3 tests/reference/make_lora_blends.py

Needs numpy and safetensors; reads golden/loras.safetensors. A case is a stack of its files with weights: `<case>|delta` the
exact sum, `<case>|values` its singular values, `<case>|rank3` what no other matrix of rank 3 is nearer to; metadata: the
cases and the dimensions of the weights. Every change is held against what LyCORIS and PEFT merged.
"""

import json
import math
import pathlib

import numpy
from safetensors import safe_open
from safetensors.numpy import save_file

GOLDEN = pathlib.Path(__file__).parent / "golden"
CASES = {
    "linear": {"lora": 0.75, "lora-alpha-is-rank": -0.4, "peft-pattern": 1.3, "peft-rs": -0.2},
    "factored": {"lora": 0.5, "loha": -1.5, "lokr": 0.8},
    "whole": {"lora": 0.5, "lokr-whole": 0.7},
    "conv": {"conv3": 0.8, "conv3-cp": -0.6, "peft-conv3": 0.3},
    "conv-factored": {"conv3": 0.2, "loha-conv3": -0.7, "loha-conv3-cp": 1.1},
    "lokr-conv": {"lokr-conv3": 0.9, "lokr-conv3-cp": -1.2},
}


def read():
    with safe_open(GOLDEN / "loras.safetensors", "numpy") as file:
        settings = {case: json.loads(text) for case, text in (file.metadata() or {}).items()}
        return {name: file.get_tensor(name) for name in file.keys()}, settings


def through(core, factor):
    """[r, r, k, k] applied to [r, in]: [r, in * k * k]."""
    return numpy.einsum("abyx,bi->aiyx", core, factor).reshape(core.shape[0], -1)


def delta(case, tensors, settings):
    """The change of a file's one module."""
    begin = f"{case}|file|"
    parts = {}
    for name, value in tensors.items():
        if name.startswith(begin):
            part = name[len(begin):].removeprefix("lora_unet_x.").removeprefix("base_model.model.x.")
            parts[part.removesuffix(".weight")] = value.astype(numpy.float64)
    shape = tensors[f"{case}|base"].shape
    flat = lambda value: value.reshape(value.shape[0], -1)
    if "lora_A" in parts:
        told, rank = settings[case], parts["lora_A"].shape[0]
        alpha = told["alpha_pattern"].get("x", told["lora_alpha"])
        scale = alpha / math.sqrt(rank) if told["use_rslora"] else alpha / rank
        return scale * (flat(parts["lora_B"]) @ flat(parts["lora_A"])).reshape(shape[0], -1)
    if "lora_down" in parts:
        down, up = flat(parts["lora_down"]), flat(parts["lora_up"])
        scale = float(parts["alpha"]) / down.shape[0]
        return scale * up @ (through(parts["lora_mid"], down) if "lora_mid" in parts else down)
    if "hada_w1_a" in parts:
        halves = []
        for number in (1, 2):
            a, b = parts[f"hada_w{number}_a"], flat(parts[f"hada_w{number}_b"])
            halves.append(a.T @ through(parts[f"hada_t{number}"], b) if f"hada_t{number}" in parts else a @ b)
        return float(parts["alpha"]) / parts["hada_w1_b"].shape[0] * halves[0] * halves[1]
    one = parts["lokr_w1"] if "lokr_w1" in parts else parts["lokr_w1_a"] @ parts["lokr_w1_b"]
    if "lokr_w2" in parts:
        return numpy.kron(one, flat(parts["lokr_w2"]))
    a, b, rank = parts["lokr_w2_a"], flat(parts["lokr_w2_b"]), parts["lokr_w2_b"].shape[0]
    two = a.T @ through(parts["lokr_t2"], b) if "lokr_t2" in parts else a @ b
    return float(parts["alpha"]) / rank * numpy.kron(one, two)


def main():
    tensors, settings = read()
    out, shapes = {}, {}
    for name, stack in CASES.items():
        total = 0.0
        for case, weight in stack.items():
            change, base = delta(case, tensors, settings), tensors[f"{case}|base"].astype(numpy.float64)
            merged = tensors[f"{case}|merged"] - base
            off = numpy.abs(merged.reshape(change.shape) - change).max() / numpy.abs(change).max()
            assert off < 2e-6, (case, off)
            total = total + weight * change
            shapes[name] = list(base.shape)
        left, values, right = numpy.linalg.svd(total, full_matrices=False)
        out |= {f"{name}|delta": total, f"{name}|values": values, f"{name}|rank3": (left[:, :3] * values[:3]) @ right[:3]}
        print(name, total.shape, numpy.round(values[:6], 3))
    metadata = {"cases": json.dumps(CASES), "shapes": json.dumps(shapes), "versions": f"numpy {numpy.__version__}"}
    path = GOLDEN / "lora-blends.safetensors"
    save_file({key: numpy.ascontiguousarray(value) for key, value in out.items()}, path, metadata)
    print(path.stat().st_size, "bytes")


if __name__ == "__main__":
    main()
