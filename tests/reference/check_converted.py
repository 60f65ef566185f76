#!/usr/bin/env python3
"""Loads converted models in diffusers: the same weights and the same pictures as what they were made from, LoRAs baked in as diffusers
fuses them.

    modelyard dev make-models --arch sd15,sd21,sdxl,sdxl-refiner,lora-sd15,lora-sdxl --layout both --out DIR
    modelyard convert NAME-tiny --to diffusers -o NAME-tiny-folder
    modelyard convert NAME-tiny-diffusers --to single-file -o NAME-tiny-back.safetensors
    modelyard convert NAME-tiny-diffusers --to single-file --dtype fp32 -o NAME-tiny-wide.safetensors
    modelyard convert NAME-tiny-diffusers --to single-file --dtype fp32 --lora lora-NAME-tiny-diffusers:0.8 -o NAME-tiny-baked.safetensors
    check_converted.py DIR

No network is used. The story `converted_models_load_in_diffusers` runs it where MODELYARD_PYTHON names a Python that has diffusers.
"""

import os
import pathlib
import sys

os.environ["HF_HUB_OFFLINE"] = "1"

import diffusers
import torch
import transformers

PIPELINES = {
    "sd15": diffusers.StableDiffusionPipeline,
    "sd21": diffusers.StableDiffusionPipeline,
    "sdxl": diffusers.StableDiffusionXLPipeline,
    "sdxl-refiner": diffusers.StableDiffusionXLImg2ImgPipeline,
}
failures = []


def check(what, ok, detail=""):
    print(("ok    " if ok else "FAILED"), what, detail)
    if not ok:
        failures.append(what)


def strict(cls, folder):
    model, info = cls.from_pretrained(folder, output_loading_info=True, torch_dtype=torch.float32)
    wrong = {key: value for key, value in info.items() if value}
    check(f"{folder.parent.name}/{folder.name}: {cls.__name__}.from_pretrained", not wrong, wrong or "")
    return model


def same(what, ours, theirs):
    a, b = ours.state_dict(), theirs.state_dict()
    differing = [key for key in b if key not in a or not torch.equal(a[key], b[key])]
    check(what, a.keys() == b.keys() and not differing, differing[:3] or "")


def picture(name, pipe):
    """Two steps from a seed; the tokenizers of reduced vocabularies are the source's."""
    pipe.set_progress_bar_config(disable=True)
    arguments = dict(num_inference_steps=2, output_type="np", generator=torch.manual_seed(0))
    if name == "sdxl-refiner":
        arguments |= dict(image=torch.zeros(1, 3, 64, 64), strength=0.9)
    else:
        arguments |= dict(height=64, width=64)
    return pipe("a photo of a cat by the river", **arguments).images[0]


def family(name, cls, made):
    source, folder = made / f"{name}-tiny-diffusers", made / f"{name}-tiny-folder"
    parts = {"unet": diffusers.UNet2DConditionModel, "vae": diffusers.AutoencoderKL}
    for part, kind in (
        ("text_encoder", transformers.CLIPTextModel),
        ("text_encoder_2", transformers.CLIPTextModelWithProjection),
    ):
        if (source / part).is_dir():
            parts[part] = kind
    for part, kind in parts.items():
        same(f"{name}: {part} of the converted folder is the source's", strict(kind, folder / part), strict(kind, source / part))
    theirs = cls.from_pretrained(source, torch_dtype=torch.float32)
    wanted = picture(name, theirs)
    for single in ("back", "wide"):
        path = made / f"{name}-tiny-{single}.safetensors"
        for part in ("unet", "vae"):
            kind = parts[part]
            one = kind.from_single_file(path, config=str(source), subfolder=part, torch_dtype=torch.float32)
            same(f"{name}: {part} from_single_file of {single} is the source's", one, strict(kind, source / part))
        whole = cls.from_single_file(path, config=str(source), torch_dtype=torch.float32)
        for part, kind in parts.items():
            same(f"{name}: {part} of the pipeline of {single} is the source's", getattr(whole, part), getattr(theirs, part))
        whole.scheduler = type(theirs.scheduler).from_config(theirs.scheduler.config)
        differs = abs(picture(name, whole) - wanted).max()
        check(f"{name}: the pipeline of {single} makes the source's picture", differs == 0, differs)
    tokenizers = {key: getattr(theirs, key) for key in ("tokenizer", "tokenizer_2") if getattr(theirs, key, None)}
    ours = cls.from_pretrained(folder, torch_dtype=torch.float32, **tokenizers)
    # samplers are compared elsewhere: releases of one family ship several
    ours.scheduler = type(theirs.scheduler).from_config(theirs.scheduler.config)
    differs = abs(picture(name, ours) - wanted).max()
    check(f"{name}: the converted folder makes the source's picture", differs == 0, differs)
    config = type(theirs.scheduler).load_config(folder / "scheduler")
    check(f"{name}: its scheduler is the source's", config["_class_name"] == type(theirs.scheduler).__name__, config["_class_name"])


def baked(name, cls, made):
    """Of the same LoRA with the same weight, summed and rounded in single precision by both."""
    source, lora = made / f"{name}-tiny-diffusers", made / f"lora-{name}-tiny-diffusers"
    theirs = cls.from_pretrained(source, torch_dtype=torch.float32)
    before = {key: tensor.clone() for key, tensor in theirs.unet.state_dict().items()}
    theirs.load_lora_weights(lora if lora.is_dir() else lora.with_suffix(".safetensors"))
    parts = [part for part in ("unet", "text_encoder", "text_encoder_2") if getattr(theirs, part, None)]
    theirs.fuse_lora(components=parts, lora_scale=0.8)
    theirs.unload_lora_weights()
    ours = cls.from_single_file(
        made / f"{name}-tiny-baked.safetensors", config=str(source), torch_dtype=torch.float32
    )
    for part in parts:
        a, b = getattr(ours, part).state_dict(), getattr(theirs, part).state_dict()
        worst = max((a[key] - b[key]).abs().max().item() for key in b) if a.keys() == b.keys() else float("inf")
        check(f"{name}: {part} with the LoRA baked in is what diffusers fuses", worst < 1e-6, worst)
    fused = theirs.unet.state_dict()
    changed = sum(not torch.equal(before[key], fused[key]) for key in before)
    check(f"{name}: the LoRA changes the UNet", changed > 10, changed)


def main():
    made = pathlib.Path(sys.argv[1])
    for name, cls in PIPELINES.items():
        try:
            family(name, cls, made)
            if name in ("sd15", "sdxl"):
                baked(name, cls, made)
        except Exception as error:  # one failing family must not hide the others
            check(name, False, f"{type(error).__name__}: {error}")
    print(f"{len(failures)} failed")
    sys.exit(bool(failures))


if __name__ == "__main__":
    main()
