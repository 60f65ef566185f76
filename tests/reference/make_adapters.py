#!/usr/bin/env python3
"""Writes what diffusers makes of adapters and tiny autoencoders in their original layouts.

    golden/maps/controlnet-*.tsv, golden/maps/taesd-*.tsv   maps as make_maps.py writes them
    golden/ip-adapter-*.txt                                 names and shapes of the original files

The original names are made here from the rules of their own programs. Each is then held against diffusers: ControlNets go
through its conversion and must give exactly the state of its model; IP-Adapters are loaded by its loader, which refuses
missing and unexpected tensors; the layers of the tiny autoencoder, put together as its own program puts them, must make the
same numbers as `AutoencoderTiny` does with the same weights.
"""

import argparse
import os
import pathlib

os.environ["HF_HUB_OFFLINE"] = "1"

import diffusers
import torch
from diffusers.loaders import single_file_utils as convert
from make_key_lists import CONTROL, SD15, SDXL
from make_maps import made, text_of, write

CONTROL_XL = {key: value for key, value in SDXL.items() if key not in ("sample_size", "up_block_types")}
# narrow, with every kind of level
TINY = dict(
    block_out_channels=(32, 64, 64, 64),
    cross_attention_dim=24,
    attention_head_dim=8,
    down_block_types=("CrossAttnDownBlock2D",) * 3 + ("DownBlock2D",),
    conditioning_embedding_out_channels=(4, 8, 12, 16),
)
TINY_XL = CONTROL_XL | dict(
    block_out_channels=(32, 64, 64),
    cross_attention_dim=24,
    attention_head_dim=8,
    projection_class_embeddings_input_dim=48,
    addition_time_embed_dim=8,
    transformer_layers_per_block=(1, 1, 2),
    conditioning_embedding_out_channels=(4, 8, 12, 16),
)
RESNET = {
    "norm1": "in_layers.0",
    "conv1": "in_layers.2",
    "time_emb_proj": "emb_layers.1",
    "norm2": "out_layers.0",
    "conv2": "out_layers.3",
    "conv_shortcut": "skip_connection",
}
OUTSIDE = {
    "conv_in": "input_blocks.0.0",
    "time_embedding.linear_1": "time_embed.0",
    "time_embedding.linear_2": "time_embed.2",
    "add_embedding.linear_1": "label_emb.0.0",
    "add_embedding.linear_2": "label_emb.0.2",
    "controlnet_mid_block": "middle_block_out.0",
    "controlnet_cond_embedding.conv_in": "input_hint_block.0",
    "controlnet_cond_embedding.conv_out": "input_hint_block.14",
}


def original_control(name):
    """The name that a tensor of ControlNetModel has in ControlNet's own files."""
    module, leaf = name.rsplit(".", 1)
    if module in OUTSIDE:
        return f"control_model.{OUTSIDE[module]}.{leaf}"
    parts = module.split(".")
    if parts[0] == "controlnet_down_blocks":
        return f"control_model.zero_convs.{parts[1]}.0.{leaf}"
    if parts[0] == "controlnet_cond_embedding":
        return f"control_model.input_hint_block.{2 * (int(parts[2]) + 1)}.{leaf}"
    if parts[0] == "mid_block":
        block = f"middle_block.{1 if parts[1] == 'attentions' else 2 * int(parts[2])}"
        rest = parts[3:]
    else:
        level, kind, layer = int(parts[1]), parts[2], int(parts[3])
        if kind == "downsamplers":
            return f"control_model.input_blocks.{3 * (level + 1)}.0.op.{leaf}"
        block = f"input_blocks.{1 + 3 * level + layer}.{int(kind == 'attentions')}"
        rest = parts[4:]
    inside = ".".join(rest)
    return f"control_model.{block}.{RESNET.get(inside, inside)}.{leaf}"


def control(config):
    with torch.device("meta"):
        model = diffusers.ControlNetModel(**config)
    wanted = {key: list(tensor.shape) for key, tensor in model.state_dict().items()}
    shapes = {original_control(key): shape for key, shape in wanted.items()}
    assert len(shapes) == len(wanted)

    def conversion(checkpoint):
        result = convert.convert_controlnet_checkpoint(checkpoint, dict(model.config))
        # this conversion forgets the sizes of SDXL, which the UNet's maps as here
        result |= {key: checkpoint[original_control(key)] for key in wanted if key.startswith("add_embedding.")}
        found = {key: list(tensor.shape) for key, tensor in result.items()}
        assert found == wanted, set(found) ^ set(wanted)
        return result

    return shapes, conversion


def block():
    def conv():
        return torch.nn.Conv2d(64, 64, 3, padding=1)

    class Block(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.conv = torch.nn.Sequential(conv(), torch.nn.ReLU(), conv(), torch.nn.ReLU(), conv())

        def forward(self, x):
            return torch.relu(self.conv(x) + x)

    return Block()


class Clamp(torch.nn.Module):
    def forward(self, x):
        return torch.tanh(x / 3) * 3


def tiny_encoder():
    layers = [torch.nn.Conv2d(3, 64, 3, padding=1), block()]
    for _ in range(3):
        layers += [torch.nn.Conv2d(64, 64, 3, padding=1, stride=2, bias=False), block(), block(), block()]
    return torch.nn.Sequential(*layers, torch.nn.Conv2d(64, 4, 3, padding=1))


def tiny_decoder():
    layers = [Clamp(), torch.nn.Conv2d(4, 64, 3, padding=1), torch.nn.ReLU()]
    for _ in range(3):
        layers += [block(), block(), block(), torch.nn.Upsample(scale_factor=2)]
        layers += [torch.nn.Conv2d(64, 64, 3, padding=1, bias=False)]
    return torch.nn.Sequential(*layers, block(), torch.nn.Conv2d(64, 3, 3, padding=1))


def to_diffusers(half, number):
    """The decoder's first layer is the clamp, which diffusers has no number for."""
    return f"{half}.layers.{int(number) - (half == 'decoder')}"


def tiny(half):
    own = tiny_encoder() if half == "encoder" else tiny_decoder()
    names = {key: f"{to_diffusers(half, key.split('.')[0])}.{key.split('.', 1)[1]}" for key in own.state_dict()}
    theirs = diffusers.AutoencoderTiny()
    kept = {key: tensor for key, tensor in theirs.state_dict().items() if not key.startswith(half)}
    theirs.load_state_dict(kept | {names[key]: tensor for key, tensor in own.state_dict().items()}, strict=True)
    # diffusers' module takes pictures from -1 to 1 and its decoder makes them
    if half == "encoder":
        picture = torch.rand(1, 3, 64, 64, generator=torch.Generator().manual_seed(1))
        ours, found = own(picture), theirs.encoder(picture * 2 - 1)
    else:
        latent = torch.randn(1, 4, 8, 8, generator=torch.Generator().manual_seed(2))
        ours, found = own(latent) * 2 - 1, theirs.decoder(latent)
    torch.testing.assert_close(ours, found, rtol=1e-5, atol=1e-5)
    shapes = {key: list(tensor.shape) for key, tensor in own.state_dict().items()}
    return shapes, lambda checkpoint: {names[key]: tensor for key, tensor in checkpoint.items()}


def tiny_bundle():
    halves = {half: tiny(half) for half in ("encoder", "decoder")}
    shapes = {f"taesd_{half}.{key}": shape for half, (part, _) in halves.items() for key, shape in part.items()}

    def conversion(checkpoint):
        result = {}
        for half, (_, convert_half) in halves.items():
            prefix = f"taesd_{half}."
            part = {key[len(prefix):]: tensor for key, tensor in checkpoint.items() if key.startswith(prefix)}
            result |= convert_half(part)
        return result

    return shapes, conversion


def linear(shapes, name, outputs, inputs, bias=True):
    shapes[f"{name}.weight"] = [outputs, inputs]
    if bias:
        shapes[f"{name}.bias"] = [outputs]


def norm(shapes, name, width):
    shapes[f"{name}.weight"] = shapes[f"{name}.bias"] = [width]


def image_projection(kind, embedding, context, width):
    shapes = {}
    if kind == "plain":
        linear(shapes, "proj", 4 * context, embedding)
        norm(shapes, "norm", context)
    elif kind == "full":
        linear(shapes, "proj.0", embedding, embedding)
        linear(shapes, "proj.2", context, embedding)
        norm(shapes, "proj.3", context)
    else:
        shapes["latents"] = [1, 16, width]
        linear(shapes, "proj_in", width, embedding)
        linear(shapes, "proj_out", context, width)
        norm(shapes, "norm_out", context)
        for layer in range(4):
            norm(shapes, f"layers.{layer}.0.norm1", width)
            norm(shapes, f"layers.{layer}.0.norm2", width)
            for part, outputs in (("to_q", width), ("to_kv", 2 * width), ("to_out", width)):
                linear(shapes, f"layers.{layer}.0.{part}", outputs, width, bias=False)
            norm(shapes, f"layers.{layer}.1.0", width)
            linear(shapes, f"layers.{layer}.1.1", 4 * width, width, bias=False)
            linear(shapes, f"layers.{layer}.1.3", width, 4 * width, bias=False)
    return shapes


def attention_keys(unet, context):
    """Cross attentions in the order of the UNet's processors, which counts self attentions too."""
    shapes, number = {}, 1
    modules = dict(unet.named_modules())
    for name in unet.attn_processors:
        attention = modules[name.removesuffix(".processor")]
        if not name.endswith("attn1.processor"):
            channels = attention.to_k.weight.shape[0]
            shapes[f"{number}.to_k_ip.weight"] = shapes[f"{number}.to_v_ip.weight"] = [channels, context]
            number += 2
    return shapes


def ip_adapter(config, kind, embedding, width):
    with torch.device("meta"):
        unet = diffusers.UNet2DConditionModel(**config)
        context = config["cross_attention_dim"]
        image, keys = image_projection(kind, embedding, context, width), attention_keys(unet, context)
        state = {
            "image_proj": {key: torch.empty(shape) for key, shape in image.items()},
            "ip_adapter": {key: torch.empty(shape) for key, shape in keys.items()},
        }
        # the loader checks every name and shape, of the projection and of each attention
        unet._load_ip_adapter_weights([state], low_cpu_mem_usage=True)
    return {f"image_proj.{key}": shape for key, shape in image.items()} | {
        f"ip_adapter.{key}": shape for key, shape in keys.items()
    }


IP_ADAPTERS = {
    "ip-adapter-sd15": (SD15, "plain", 1024, 768),
    "ip-adapter-sd15-plus": (SD15, "plus", 1280, 768),
    "ip-adapter-sd15-full-face": (SD15, "full", 1024, 768),
    "ip-adapter-sdxl": (SDXL, "plain", 1280, 2048),
    "ip-adapter-sdxl-plus": (SDXL, "plus", 1280, 1280),
}


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=pathlib.Path, default=pathlib.Path(__file__).parent / "golden")
    out = parser.parse_args().out
    torch.set_grad_enabled(False)
    maps = out / "maps"
    for name, base, config in (("controlnet-sd15", "sd15", TINY), ("controlnet-sdxl", "sdxl", TINY_XL)):
        write(maps, name, "controlnet", base, *control(config), is_real=False)
    for name, base, config in (("controlnet-sd15-real", "sd15", CONTROL), ("controlnet-sdxl-real", "sdxl", CONTROL_XL)):
        write(maps, name, "controlnet", base, *control(config), is_real=True)
    for half in ("encoder", "decoder"):
        write(maps, f"taesd-{half}", "vae", "sd15", *tiny(half), is_real=False)
    write(maps, "taesd-bundle", "vae", "sd15", *tiny_bundle(), is_real=False)
    for name, recipe in IP_ADAPTERS.items():
        lines = sorted(f"{key}\t{text_of(shape)}\n" for key, shape in ip_adapter(*recipe).items())
        (out / f"{name}.txt").write_text(f"# diffusers {diffusers.__version__}\n{''.join(lines)}")
        print(name, len(lines), "tensors")


if __name__ == "__main__":
    main()
