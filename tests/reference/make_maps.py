#!/usr/bin/env python3
"""Writes golden/maps/*.tsv: what diffusers makes of the original layout, tensor by tensor.

    modelyard dev make-models --arch sd15,sd21,sdxl,sdxl-refiner,vae16 --layout single --list > tiny.tsv
    modelyard dev make-models --arch sd15,sd21,sdxl,sdxl-refiner,vae16 --layout single --scale real --list > real.tsv
    make_maps.py tiny.tsv real.tsv

A map has lines `<`, name and shape, for the file's tensors and lines `>`, name, shape and digest, for the tensors that
diffusers' conversion gives. Element i of a source is the word (fnv1a32(name) + i * 2654435761) & 0x3fffffff, so
that a reader can make the same bytes; the digest is the first 16 digits of SHA-256 over the result's bytes. Maps at full
size have names and shapes only (made on the meta device). SD3 and FLUX are listed here: two blocks of each kind.
"""

import argparse
import collections
import hashlib
import os
import pathlib

os.environ["HF_HUB_OFFLINE"] = "1"

import diffusers
import torch
import transformers
from diffusers.loaders import single_file_utils as convert

UNET = "model.diffusion_model."
FAMILIES = ("sd15", "sd21", "sdxl", "sdxl-refiner")


def fnv1a32(text):
    value = 0x811C9DC5
    for byte in text.encode():
        value = ((value ^ byte) * 0x01000193) & 0xFFFFFFFF
    return value


def made(name, shape):
    """A tensor whose bits follow from its name."""
    count = 1
    for side in shape:
        count *= side
    words = (torch.arange(count, dtype=torch.int64) * 2654435761 + fnv1a32(name)) & 0x3FFFFFFF
    return words.to(torch.int32).view(torch.float32).reshape(shape)


def digest(tensor):
    raw = tensor.contiguous().view(-1).view(torch.int32).numpy().tobytes() if tensor.numel() else b""
    return hashlib.sha256(raw).hexdigest()[:16]


def lists(path):
    files = collections.defaultdict(dict)
    for line in pathlib.Path(path).read_text().splitlines():
        file, name, _, shape = line.split("\t")
        files[file.rsplit("-", 1)[0]][name] = [int(side) for side in shape.split("x")] if shape else []
    return files


def below(shapes, prefix):
    return {name: shape for name, shape in shapes.items() if name.startswith(prefix)}


def unet(family, checkpoint):
    levels = [0] * (3 if family == "sdxl" else 4)
    config = {"layers_per_block": 2, "block_out_channels": levels, "down_block_types": levels, "up_block_types": levels}
    config |= {"class_embed_type": None, "addition_embed_type": "text_time" if "xl" in family else None}
    return convert.convert_ldm_unet_checkpoint(checkpoint, config)


def vae(checkpoint):
    return convert.convert_ldm_vae_checkpoint(checkpoint, {"down_block_types": [0] * 4, "up_block_types": [0] * 4})


def clip(checkpoint):
    found = convert.convert_ldm_clip_checkpoint(checkpoint)
    return {with_model(name): tensor for name, tensor in found.items() if not name.endswith("position_ids")}


def with_model(name):
    return name if name.startswith(("text_model.", "text_projection.")) else f"text_model.{name}"


def open_clip(prefix, is_sd2):
    def run(checkpoint):
        width = checkpoint[f"{prefix}positional_embedding"].shape[1]
        vocabulary = checkpoint[f"{prefix}token_embedding.weight"].shape[0]
        number = lambda name: int(name.split(".resblocks.")[1].split(".")[0]) if ".resblocks." in name else -1
        layers = max(map(number, checkpoint)) + 1 - is_sd2
        # diffusers drops SD2's last layer by its number at full size
        checkpoint = {name: tensor for name, tensor in checkpoint.items() if number(name) < layers}
        cls = transformers.CLIPTextModel if is_sd2 else transformers.CLIPTextModelWithProjection
        config = transformers.CLIPTextConfig(
            vocab_size=vocabulary, hidden_size=width, intermediate_size=4 * width, num_hidden_layers=layers,
            num_attention_heads=4, projection_dim=width,
        )
        with torch.device("meta"):
            model = cls(config)
        found = convert.convert_open_clip_checkpoint(model, checkpoint, prefix=prefix)
        found = {with_model(name): tensor for name, tensor in found.items() if not name.endswith("position_ids")}
        return {name: tensor for name, tensor in found.items() if not (is_sd2 and name == "text_projection.weight")}

    return run


def checkpoints(shapes):
    """(map, kind, base, source shapes, conversion) of every component."""
    for family in FAMILIES:
        part = shapes[family]
        yield f"unet-{family}", "unet", family, below(part, UNET), lambda c, f=family: unet(f, c)
    yield "vae", "vae", "sd15", below(shapes["sd15"], "first_stage_model."), vae
    yield "vae16", "vae", "sd3", shapes["vae16"], vae
    yield "clip-l", "text_encoder", "sd15", below(shapes["sd15"], "cond_stage_model."), clip
    for name, kind, family, prefix in (
        ("clip-h", "text_encoder", "sd21", "cond_stage_model.model."),
        ("clip-g", "text_encoder_2", "sdxl", "conditioner.embedders.1.model."),
        ("clip-g-refiner", "text_encoder_2", "sdxl-refiner", "conditioner.embedders.0.model."),
    ):
        yield name, kind, family, below(shapes[family], prefix), open_clip(prefix, family == "sd21")


def layers(shapes, *named):
    for name, outputs, inputs in named:
        shapes[f"{name}.weight"] = [outputs, inputs]
        shapes[f"{name}.bias"] = [outputs]


def sd3(dual):
    """Three blocks 64 wide, one of them with the second attention of SD3.5 medium if `dual`."""
    width, shapes = 64, {f"{UNET}pos_embed": [1, 36, 64]}
    shapes |= {f"{UNET}x_embedder.proj.weight": [width, 16, 2, 2], f"{UNET}x_embedder.proj.bias": [width]}
    for name, inputs in (("t_embedder", 256), ("y_embedder", 48)):
        layers(shapes, (f"{UNET}{name}.mlp.0", width, inputs), (f"{UNET}{name}.mlp.2", width, width))
    layers(shapes, (f"{UNET}context_embedder", width, 40), (f"{UNET}final_layer.linear", 64, width))
    layers(shapes, (f"{UNET}final_layer.adaLN_modulation.1", 2 * width, width))
    for number in range(3):
        for half in ("x_block", "context_block"):
            path, is_last = f"{UNET}joint_blocks.{number}.{half}", number == 2 and half == "context_block"
            chunks = 2 if is_last else 9 if dual and number == 0 and half == "x_block" else 6
            layers(shapes, (f"{path}.adaLN_modulation.1", chunks * width, width))
            for attention in ("attn", "attn2") if chunks == 9 else ("attn",):
                layers(shapes, (f"{path}.{attention}.qkv", 3 * width, width))
                if dual:
                    shapes[f"{path}.{attention}.ln_q.weight"] = shapes[f"{path}.{attention}.ln_k.weight"] = [32]
                if not is_last:
                    layers(shapes, (f"{path}.{attention}.proj", width, width))
            if not is_last:
                layers(shapes, (f"{path}.mlp.fc1", 4 * width, width), (f"{path}.mlp.fc2", width, 4 * width))
    return shapes


def flux():
    """As wide as the release, which diffusers' conversion takes for granted, with inputs two wide."""
    width, narrow, shapes = 3072, 2, {}
    layers(shapes, ("img_in", width, narrow), ("txt_in", width, narrow), ("final_layer.linear", 64, narrow))
    layers(shapes, ("final_layer.adaLN_modulation.1", 2 * width, narrow))
    for name in ("time_in", "vector_in", "guidance_in"):
        layers(shapes, (f"{name}.in_layer", width, narrow), (f"{name}.out_layer", width, narrow))
    for number in range(2):
        for half in ("img", "txt"):
            path = f"double_blocks.{number}.{half}"
            layers(shapes, (f"{path}_mod.lin", 6 * width, narrow), (f"{path}_attn.qkv", 3 * width, narrow))
            layers(shapes, (f"{path}_attn.proj", width, narrow), (f"{path}_mlp.0", 4 * width, narrow))
            layers(shapes, (f"{path}_mlp.2", width, narrow))
            shapes[f"{path}_attn.norm.query_norm.scale"] = shapes[f"{path}_attn.norm.key_norm.scale"] = [128]
        path = f"single_blocks.{number}"
        layers(shapes, (f"{path}.modulation.lin", 3 * width, narrow), (f"{path}.linear1", 7 * width, narrow))
        layers(shapes, (f"{path}.linear2", width, narrow))
        shapes[f"{path}.norm.query_norm.scale"] = shapes[f"{path}.norm.key_norm.scale"] = [128]
    return shapes


def transformers_of_three():
    yield "mmdit-sd3", "transformer", "sd3", sd3(False), convert.convert_sd3_transformer_checkpoint_to_diffusers
    yield "mmdit-sd35", "transformer", "sd3", sd3(True), convert.convert_sd3_transformer_checkpoint_to_diffusers
    yield "flux", "transformer", "flux", flux(), convert.convert_flux_transformer_checkpoint_to_diffusers


def text_of(shape):
    return "x".join(str(side) for side in shape)


def write(out, name, kind, base, shapes, conversion, is_real):
    source = {key: torch.empty(shape, device="meta") if is_real else made(key, shape) for key, shape in shapes.items()}
    result = conversion(dict(source))
    lines = [f"# {kind}\t{base}\tdiffusers {diffusers.__version__}\n"]
    lines += sorted(f"<\t{key}\t{text_of(shape)}\n" for key, shape in shapes.items())
    for key, tensor in sorted(result.items()):
        end = "" if is_real else f"\t{digest(tensor)}"
        lines.append(f">\t{key}\t{text_of(tensor.shape)}{end}\n")
    (out / f"{name}.tsv").write_text("".join(lines))
    print(f"{name}: {len(shapes)} tensors of the file, {len(result)} of diffusers")


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("tiny", type=pathlib.Path)
    parser.add_argument("real", type=pathlib.Path)
    parser.add_argument("--out", type=pathlib.Path, default=pathlib.Path(__file__).parent / "golden" / "maps")
    args = parser.parse_args()
    args.out.mkdir(parents=True, exist_ok=True)
    torch.set_grad_enabled(False)
    for part in (*checkpoints(lists(args.tiny)), *transformers_of_three()):
        write(args.out, *part, is_real=False)
    for name, *part in checkpoints(lists(args.real)):
        write(args.out, f"{name}-real", *part, is_real=True)


if __name__ == "__main__":
    main()
