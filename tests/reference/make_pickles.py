#!/usr/bin/env python3
"""Writes the golden checkpoints: tiny PyTorch files of every kind and, beside them, what torch reads in them.

    python3 tests/reference/make_pickles.py

Needs torch. The expectation of each file is the list of its weights: name, dtype, shape and the SHA-256 of the
contiguous bytes. The files are read by the tests of gpu-worker/formats.
"""

import hashlib
import json
from collections import OrderedDict
from pathlib import Path

import torch

FOLDER = Path(__file__).resolve().parent / "golden" / "pickles"
NAMES = {
    torch.float32: "F32", torch.float16: "F16", torch.bfloat16: "BF16", torch.float64: "F64",
    torch.int64: "I64", torch.int32: "I32", torch.uint8: "U8", torch.bool: "BOOL",
    torch.float8_e4m3fn: "F8_E4M3", torch.complex64: "C64",
}


def numbers(*shape, dtype=torch.float32):
    count = 1
    for dim in shape:
        count *= dim
    return (torch.arange(count, dtype=torch.float32).reshape(shape) / 7 - 1).to(dtype)


def plain():
    return {
        "fp32": numbers(2, 3), "fp16": numbers(4, dtype=torch.float16), "bf16": numbers(3, 2, dtype=torch.bfloat16),
        "f64": numbers(2, dtype=torch.float64), "i64": torch.arange(3), "u8": torch.arange(5, dtype=torch.uint8),
        "bool": torch.tensor([True, False, True]), "scalar": torch.tensor(2.5), "empty": torch.zeros(0, 4),
    }


def views():
    base = numbers(6, 4)
    return OrderedDict(
        row=base[2], column=base[:, 1], block=base[1:3, 1:3], transposed=base.t(), steps=base.flatten()[::3],
        expanded=numbers(3, 1).expand(3, 5), permuted=numbers(2, 3, 4).permute(2, 0, 1), whole=base, tied=base,
    )


def lightning():
    model = OrderedDict()
    model["model.diffusion_model.input_blocks.0.0.weight"] = numbers(4, 4, 3, 3, dtype=torch.float16)
    model["model_ema.diffusion_modelinput_blocks00weight"] = numbers(4, 4, 3, 3)
    model["first_stage_model.encoder.conv_in.bias"] = numbers(4)
    model._metadata = OrderedDict([("", {"version": 1})])
    parameter = torch.nn.Parameter(numbers(3))
    optimizer = torch.optim.Adam([parameter])
    parameter.sum().backward()
    optimizer.step()
    return {
        "epoch": 3, "global_step": 470000, "pytorch-lightning_version": "1.4.2", "state_dict": model,
        "callbacks": {"best": 0.25, OrderedDict: None}, "optimizer_states": [optimizer.state_dict()], "big": 1 << 80,
        "lr_schedulers": [], "rng": {1, 2}, "raw": b"\x00\x01",
    }


CASES = {
    "plain": (plain(), []),
    "views": (views(), []),
    "lightning": (lightning(), ["state_dict"]),
    "parameter": (OrderedDict(weight=torch.nn.Parameter(numbers(2, 2)), bias=torch.nn.Parameter(numbers(2).half())), []),
    "module": ({"model": {"module.a.weight": numbers(2, 2), "module.a.bias": numbers(2)}}, ["model"]),
    "ema": ({"params_ema": {"conv.weight": numbers(2, 1)}, "params": {"conv.weight": numbers(2, 1) * 2}}, ["params_ema"]),
    "embedding": ({"string_to_token": {"*": 265}, "string_to_param": {"*": numbers(2, 8)}, "name": "x", "step": 5}, None),
}
ZIP_ONLY = {"float8": ({"w": numbers(2, 4).to(torch.float8_e4m3fn), "c": torch.tensor([1 + 2j, 3 - 1j])}, [])}


def weights(value, keys):
    if keys is None:
        return {f"string_to_param.{name}": tensor for name, tensor in value["string_to_param"].items()}
    for key in keys:
        value = value[key]
    cut = len("module.") if all(name.startswith("module.") for name in value) else 0
    return {name[cut:]: tensor for name, tensor in value.items()}


def expected(tensor):
    flat = tensor.detach().contiguous()
    data = bytes(flat.reshape(-1).view(torch.uint8).tolist()) if flat.numel() else b""
    return {"dtype": NAMES[tensor.dtype], "shape": list(tensor.shape), "sha256": hashlib.sha256(data).hexdigest()}


def main():
    FOLDER.mkdir(parents=True, exist_ok=True)
    report = {}
    for name, (value, keys) in {**CASES, **ZIP_ONLY}.items():
        tensors = {key: expected(tensor) for key, tensor in weights(value, keys).items()}
        for kind in ("zip", "legacy"):
            if kind == "legacy" and name in ZIP_ONLY:
                continue
            file = FOLDER / f"{name}.{kind}.pt"
            torch.save(value, file, _use_new_zipfile_serialization=kind == "zip")
            report[file.name] = {"nested": keys or [], "tensors": tensors}
    (FOLDER / "expected.json").write_text(json.dumps(report, indent=1, sort_keys=True) + "\n")


main()
