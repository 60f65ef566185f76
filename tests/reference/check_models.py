#!/usr/bin/env python3
"""Loads made models in diffusers and transformers: nothing missing, nothing unexpected, finite outputs.

    modelyard dev make-models --arch sd15,sd21,sdxl,sdxl-refiner,vae,vae-sdxl,vae16,taesd,clip-l,clip-g,\\
lora-sd15,lora-sdxl,controlnet-sd15,embedding,embedding-sdxl --layout both --out DIR
    check_models.py DIR --lists FILE

FILE holds the output of the same command with `--scale real --layout both --list`: the names and shapes of
the original layout at full size go through diffusers' own conversion on the meta device and must give
exactly the names and shapes of the diffusers layout. No network is used.
"""

import argparse
import collections
import os
import pathlib
import sys

os.environ["HF_HUB_OFFLINE"] = "1"

import diffusers
import torch
import transformers
from diffusers.loaders import single_file_utils as convert
from safetensors.torch import load_file

PIPELINES = {
    "sd15": diffusers.StableDiffusionPipeline,
    "sd21": diffusers.StableDiffusionPipeline,
    "sdxl": diffusers.StableDiffusionXLPipeline,
    "sdxl-refiner": diffusers.StableDiffusionXLImg2ImgPipeline,
}
UNET = "model.diffusion_model."
failures = []


def check(what, ok, detail=""):
    print(("ok    " if ok else "FAILED"), what, detail)
    if not ok:
        failures.append(what)


def guarded(what, function, *arguments):
    try:
        function(*arguments)
    except Exception as error:  # one failing family must not hide the others
        check(what, False, f"{type(error).__name__}: {error}")


def strict(what, cls, folder):
    model, info = cls.from_pretrained(folder, output_loading_info=True, torch_dtype=torch.float32)
    wrong = {key: value for key, value in info.items() if value}
    check(f"{what}: {cls.__name__}.from_pretrained", not wrong, wrong or "")
    return model


def same(what, ours, theirs):
    a, b = ours.state_dict(), theirs.state_dict()
    differing = [key for key in b if key not in a or not torch.equal(a[key], b[key])]
    check(what, a.keys() == b.keys() and not differing, differing[:3] or "")


def pipeline(name, cls, made):
    folder, single = made / f"{name}-tiny-diffusers", made / f"{name}-tiny.safetensors"
    pipe = cls.from_pretrained(folder, torch_dtype=torch.float32)
    check(f"{name}: {cls.__name__}.from_pretrained", True)
    unet = strict(name, diffusers.UNet2DConditionModel, folder / "unet")
    vae = strict(name, diffusers.AutoencoderKL, folder / "vae")
    for part, model in (("unet", unet), ("vae", vae)):
        one = type(model).from_single_file(single, config=str(folder), subfolder=part, torch_dtype=torch.float32)
        same(f"{name}: {part} of the single file equals the folder's", one, model)
    encoders(name, folder, single)
    pipe.set_progress_bar_config(disable=True)
    arguments = dict(num_inference_steps=2, output_type="np", generator=torch.manual_seed(0))
    if name == "sdxl-refiner":
        arguments |= dict(image=torch.zeros(1, 3, 64, 64), strength=0.9)
    else:
        arguments |= dict(height=64, width=64)
    image = pipe("a photo of a cat by the river", **arguments).images[0]
    check(f"{name}: two steps end in a finite picture", bool((image == image).all()), image.shape)


def encoders(name, folder, single):
    weights = load_file(single)
    for part, prefix in (
        ("text_encoder", "cond_stage_model.transformer."),
        ("text_encoder", "conditioner.embedders.0.transformer."),
    ):
        found = {key.removeprefix(prefix): value for key, value in weights.items() if key.startswith(prefix)}
        if found:
            compare_encoder(f"{name}: {part}", transformers.CLIPTextModel, folder / part, found)
    for part, prefix in (
        ("text_encoder", "cond_stage_model.model."),
        ("text_encoder_2", "conditioner.embedders.1.model."),
        ("text_encoder_2", "conditioner.embedders.0.model."),
    ):
        if prefix + "positional_embedding" in weights:
            cls = transformers.CLIPTextModelWithProjection if part.endswith("_2") else transformers.CLIPTextModel
            model = strict(f"{name}: {part}", cls, folder / part)
            # diffusers drops SD2's last layer by its number at full size
            layer = lambda key: int(key.split(".resblocks.")[1].split(".")[0]) if ".resblocks." in key else -1
            found = {key: value for key, value in weights.items() if key.startswith(prefix)}
            found = {key: value for key, value in found.items() if layer(key) < model.config.num_hidden_layers}
            theirs = convert.convert_open_clip_checkpoint(model, dict(found), prefix=prefix)
            compare(f"{name}: {part} through diffusers' OpenCLIP conversion", theirs, model)


def compare_encoder(what, cls, folder, found):
    model = strict(what, cls, folder)
    compare(f"{what} of the single file equals the folder's", found, model)


def compare(what, found, model):
    """Names with and without `text_model.`; position numbers are no weights."""
    bare = lambda key: key.removeprefix("text_model.")
    theirs = {bare(key): value for key, value in found.items() if "position_ids" not in key}
    ours = {bare(key): value for key, value in model.state_dict().items() if "position_ids" not in key}
    wrong = [key for key in ours.keys() ^ theirs.keys()]
    wrong += [key for key in ours.keys() & theirs.keys() if not torch.equal(ours[key], theirs[key].float())]
    check(what, not wrong, sorted(wrong)[:4] or "")


def autoencoders(made):
    for name in ("vae", "vae-sdxl", "vae16"):
        folder = made / f"{name}-tiny-diffusers"
        model = strict(name, diffusers.AutoencoderKL, folder)
        single = made / f"{name}-tiny.safetensors"
        one = diffusers.AutoencoderKL.from_single_file(single, config=str(folder), torch_dtype=torch.float32)
        same(f"{name}: the single file equals the folder", one, model)
        picture = model.decode(torch.zeros(1, model.config.latent_channels, 4, 4)).sample
        check(f"{name}: decodes", bool(picture.isfinite().all()), tuple(picture.shape))
    tiny = strict("taesd", diffusers.AutoencoderTiny, made / "taesd-tiny-diffusers")
    bundle = load_file(made / "taesd-tiny.safetensors")
    renamed = {}
    for key, value in bundle.items():
        half, _, rest = key.partition(".")
        if rest:
            number, _, tail = rest.partition(".")
            number = int(number) - (half == "taesd_decoder")
            renamed[f"{half.removeprefix('taesd_')}.layers.{number}.{tail}"] = value.float()
    ours = tiny.state_dict()
    check("taesd: the bundle equals the folder", renamed.keys() == ours.keys() and all(torch.equal(renamed[k], ours[k]) for k in ours))
    check("taesd: decodes", bool(tiny.decode(torch.zeros(1, 4, 4, 4)).sample.isfinite().all()))


def adapters(made):
    control = strict("controlnet-sd15", diffusers.ControlNetModel, made / "controlnet-sd15-tiny-diffusers")
    one = diffusers.ControlNetModel.from_single_file(
        made / "controlnet-sd15-tiny.safetensors", config=str(made / "controlnet-sd15-tiny-diffusers"), torch_dtype=torch.float32
    )
    same("controlnet-sd15: the single file equals the folder", one, control)
    for family, cls in (("sd15", diffusers.StableDiffusionPipeline), ("sdxl", diffusers.StableDiffusionXLPipeline)):
        lora(family, cls, made)


def lora(family, cls, made):
    base = made / f"{family}-tiny-diffusers"
    for layout in (f"lora-{family}-tiny.safetensors", f"lora-{family}-tiny-diffusers"):
        pipe = cls.from_pretrained(base, torch_dtype=torch.float32)
        path = made / layout
        if path.is_dir():
            pipe.load_lora_weights(path, weight_name="pytorch_lora_weights.safetensors", adapter_name="made")
            weights = load_file(path / "pytorch_lora_weights.safetensors")
        else:
            pipe.load_lora_weights(made, weight_name=layout, adapter_name="made")
            weights = load_file(path)
        parts = [part for part in (pipe.unet, pipe.text_encoder, getattr(pipe, "text_encoder_2", None)) if part]
        applied = sum(1 for part in parts for key in part.state_dict() if ".lora_A." in key)
        wanted = sum(1 for key in weights if key.endswith(("lora_down.weight", "lora_A.weight")))
        check(f"{layout}: every module is applied", applied == wanted, f"{applied} of {wanted}")


def embeddings(made):
    pipe = diffusers.StableDiffusionPipeline.from_pretrained(made / "sd15-tiny-diffusers", torch_dtype=torch.float32)
    for path, token in (
        (made / "embedding-tiny.safetensors", "<one>"),
        (made / "embedding-tiny-diffusers" / "learned_embeds.safetensors", "<two>"),
    ):
        pipe.load_textual_inversion(str(path.parent), weight_name=path.name, token=token)
        check(f"{path.name}: is a textual inversion", token in pipe.tokenizer.get_vocab())
    shapes = {key: tuple(value.shape) for key, value in load_file(made / "embedding-sdxl-tiny.safetensors").items()}
    check("embedding-sdxl: one table per encoder", shapes == {"clip_l": (4, 32), "clip_g": (4, 64)}, shapes)


def tokenizers(made):
    for name, pad in (("tokenizer", 799), ("tokenizer_2", 0)):
        tokenizer = transformers.CLIPTokenizer.from_pretrained(made / "sdxl-tiny-diffusers" / name)
        ids = tokenizer("A photo of a CAT 7!", padding="max_length", max_length=77, truncation=True).input_ids
        text = tokenizer.decode(ids, skip_special_tokens=True).rstrip("! ")
        ok = ids[0] == 798 and 799 in ids and ids[-1] == pad and text.replace(" ", "") == "aphotoofacat7"
        check(f"{name}: marks, padding, round trip", ok, repr(text))


def real_lists(path):
    """Original names at full size through diffusers' conversions, compared with the diffusers layout."""
    files = collections.defaultdict(dict)
    for line in pathlib.Path(path).read_text().splitlines():
        file, name, _, shape = line.split("\t")
        sides = [int(side) for side in shape.split("x")] if shape else []
        files[file][name] = torch.empty(sides, device="meta")
    for name in PIPELINES:
        original = files[f"{name}-real.safetensors"]
        real_unet(name, original, files[f"{name}-real-diffusers/unet/diffusion_pytorch_model.safetensors"])
        real_vae(name, original, files[f"{name}-real-diffusers/vae/diffusion_pytorch_model.safetensors"])


def real_unet(name, original, ours):
    levels = 3 if name == "sdxl" else 4
    config = {"layers_per_block": 2, "block_out_channels": [0] * levels, "down_block_types": [0] * levels, "up_block_types": [0] * levels}
    config |= {"class_embed_type": None, "addition_embed_type": "text_time" if "xl" in name else None}
    part = {key: value for key, value in original.items() if key.startswith(UNET)}
    theirs = convert.convert_ldm_unet_checkpoint(dict(part), config)
    shapes(f"{name}: real UNet through diffusers' conversion", theirs, ours)


def real_vae(name, original, ours):
    part = {key: value for key, value in original.items() if key.startswith("first_stage_model.")}
    theirs = convert.convert_ldm_vae_checkpoint(dict(part), {"down_block_types": [0] * 4, "up_block_types": [0] * 4})
    shapes(f"{name}: real VAE through diffusers' conversion", theirs, ours)


def shapes(what, theirs, ours):
    a = {key: tuple(value.shape) for key, value in theirs.items()}
    b = {key: tuple(value.shape) for key, value in ours.items()}
    wrong = sorted(key for key in a.keys() | b.keys() if a.get(key) != b.get(key))
    check(what, not wrong, f"{len(b)} tensors" if not wrong else wrong[:4])


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("made", type=pathlib.Path)
    parser.add_argument("--lists", type=pathlib.Path)
    args = parser.parse_args()
    torch.set_grad_enabled(False)
    for name, cls in PIPELINES.items():
        guarded(name, pipeline, name, cls, args.made)
    guarded("autoencoders", autoencoders, args.made)
    guarded("text encoders alone", alone, args.made)
    guarded("adapters", adapters, args.made)
    guarded("embeddings", embeddings, args.made)
    guarded("tokenizers", tokenizers, args.made)
    if args.lists:
        guarded("real lists", real_lists, args.lists)
    print(f"diffusers {diffusers.__version__}, transformers {transformers.__version__}, torch {torch.__version__}")
    print(f"{len(failures)} failed")
    sys.exit(bool(failures))


def alone(made):
    for name, cls in (("clip-l", transformers.CLIPTextModel), ("clip-g", transformers.CLIPTextModelWithProjection)):
        found = load_file(made / f"{name}-tiny.safetensors")
        compare_encoder(name, cls, made / f"{name}-tiny-diffusers", found)


if __name__ == "__main__":
    main()
