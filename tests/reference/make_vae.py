"""Writes golden/engine/vae.safetensors and vae.json: what diffusers' autoencoders make of weights and inputs that both sides
compute from names (see `synthetic`), so that only configs and outputs are kept."""
import json
import pathlib

import numpy as np
import torch
from diffusers import AutoencoderKL, AutoencoderTiny
from safetensors.torch import save_file

OUT = pathlib.Path(__file__).parent / "golden" / "engine"
MASK = (1 << 64) - 1


def uniform(name, count):
    """`count` numbers of -1..1: splitmix64 of the name's FNV-1a hash plus the index."""
    seed = 0xCBF29CE484222325
    for byte in name.encode():
        seed = ((seed ^ byte) * 0x100000001B3) & MASK
    with np.errstate(over="ignore"):
        z = np.uint64(seed) + np.arange(1, count + 1, dtype=np.uint64) * np.uint64(0x9E3779B97F4A7C15)
        z = (z ^ (z >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
        z = (z ^ (z >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
        z = z ^ (z >> np.uint64(31))
    return ((z >> np.uint64(40)).astype(np.float32) / np.float32(1 << 23)) - np.float32(1)


def synthetic(name, shape):
    """A weight: matrices keep the size of what they multiply, norms stay near one."""
    values = uniform(name, int(np.prod(shape)))
    if len(shape) > 1:
        values = values * np.float32(np.sqrt(3.0 / np.prod(shape[1:])))
    else:
        values = values * np.float32(0.1) + np.float32(name.endswith("weight"))
    return torch.from_numpy(values.reshape(shape))


def fill(model, dtype=torch.float32):
    state = {name: synthetic(name, tuple(value.shape)).to(dtype).float() for name, value in model.state_dict().items()}
    model.load_state_dict(state)
    return model.eval()


def given(name, *shape):
    return torch.from_numpy(uniform(name, int(np.prod(shape))).reshape(shape))


def kl(channels, layers, **more):
    levels = len(channels)
    return dict(
        block_out_channels=channels,
        layers_per_block=layers,
        down_block_types=["DownEncoderBlock2D"] * levels,
        up_block_types=["UpDecoderBlock2D"] * levels,
        **more,
    )


KL = {
    "kl4": kl([8, 16, 16], 2, norm_num_groups=8, sample_size=32, scaling_factor=0.18215),
    "kl16": kl([8, 16, 16, 16], 1, norm_num_groups=4, latent_channels=16, use_quant_conv=False, use_post_quant_conv=False,
               sample_size=64, scaling_factor=1.5305, shift_factor=0.0609),
    "plain": kl([16, 8], 1, norm_num_groups=8, mid_block_add_attention=False, in_channels=1, out_channels=1, scaling_factor=1.0),
    "groups32": kl([32, 64], 1, norm_num_groups=32, scaling_factor=0.18215, sample_size=512),
}
TINY = dict(encoder_block_out_channels=[8] * 4, decoder_block_out_channels=[8] * 4, num_encoder_blocks=[1, 2, 1, 1],
            num_decoder_blocks=[2, 1, 1, 1])


def decoded(vae, latents):
    config = vae.config
    return vae.decode(latents / config.scaling_factor + (config.shift_factor or 0.0)).sample


def encoded(vae, image, noise=None):
    posterior = vae.encode(image).latent_dist
    latents = posterior.mode() if noise is None else posterior.mean + posterior.std * noise
    return (latents - (vae.config.shift_factor or 0.0)) * vae.config.scaling_factor


def kl_cases(name, config, outputs):
    vae = fill(AutoencoderKL(**config))
    scale = 2 ** (len(config["block_out_channels"]) - 1)
    channels, latent = vae.config.in_channels, vae.config.latent_channels
    image = given("image", 2, channels, 6 * scale, 5 * scale)
    latents = given("latents", 2, latent, 6, 5)
    outputs[f"{name}.decode"] = decoded(vae, latents)
    outputs[f"{name}.encode"] = encoded(vae, image)
    outputs[f"{name}.encode_sample"] = encoded(vae, image, given("noise", 2, latent, 6, 5))
    return vae


def main():
    torch.manual_seed(0)
    outputs = {}
    with torch.no_grad():
        for name, config in KL.items():
            kl_cases(name, config, outputs)
        vae = fill(AutoencoderKL(**KL["kl4"]))
        vae.enable_tiling()
        outputs["kl4.decode_tiled"] = decoded(vae, given("ragged", 1, 4, 11, 17))
        outputs["kl4.encode_tiled"] = encoded(vae, given("ragged image", 1, 3, 44, 68))
        for dtype in ("float16", "bfloat16"):
            vae = fill(AutoencoderKL(**KL["kl4"]), getattr(torch, dtype))
            outputs[f"kl4.decode_{dtype}"] = decoded(vae, given("latents", 2, 4, 6, 5))
        tiny = fill(AutoencoderTiny(**TINY))
        outputs["tiny.decode"] = tiny.decode(given("latents", 2, 4, 6, 5)).sample
        outputs["tiny.encode"] = tiny.encode(given("image", 2, 3, 48, 40)).latents
        tiny.enable_tiling()
        tiny.tile_sample_min_size, tiny.tile_latent_min_size, tiny.tile_overlap_factor = 128, 16, 0.25
        outputs["tiny.decode_tiled"] = tiny.decode(given("ragged", 1, 4, 19, 13)).sample
        outputs["tiny.encode_tiled"] = tiny.encode(given("ragged image", 1, 3, 152, 104)).latents
    OUT.mkdir(parents=True, exist_ok=True)
    save_file({name: value.contiguous() for name, value in outputs.items()}, OUT / "vae.safetensors")
    configs = {name: {"_class_name": "AutoencoderKL", **config} for name, config in KL.items()}
    configs["tiny"] = {"_class_name": "AutoencoderTiny", **TINY}
    shapes = {name: {k: list(v.shape) for k, v in AutoencoderKL(**config).state_dict().items()} for name, config in KL.items()}
    shapes["tiny"] = {k: list(v.shape) for k, v in AutoencoderTiny(**TINY).state_dict().items()}
    lines = [f"{json.dumps(name)}: {json.dumps({'config': configs[name], 'tensors': shapes[name]})}" for name in configs]
    (OUT / "vae.json").write_text("{\n" + ",\n".join(lines) + "\n}\n")


main()
