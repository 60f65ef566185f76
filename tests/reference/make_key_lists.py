#!/usr/bin/env python3
"""Writes golden/*.txt: every tensor's name and shape of the releases, from diffusers and transformers, and
golden/configs.json, their configs as the libraries write them.

The models are built from configs written here, on the meta device: no weights, no network. Run it again
only to add a family or after checking a new version of the libraries; the lists are committed.
"""

import argparse
import json
import pathlib

import diffusers
import torch
import transformers

SD15 = dict(
    sample_size=64,
    cross_attention_dim=768,
    attention_head_dim=8,
    block_out_channels=(320, 640, 1280, 1280),
    down_block_types=("CrossAttnDownBlock2D",) * 3 + ("DownBlock2D",),
    up_block_types=("UpBlock2D",) + ("CrossAttnUpBlock2D",) * 3,
)
SD21 = SD15 | dict(
    sample_size=96, cross_attention_dim=1024, attention_head_dim=(5, 10, 20, 20), use_linear_projection=True
)
SDXL = dict(
    sample_size=128,
    cross_attention_dim=2048,
    attention_head_dim=(5, 10, 20),
    block_out_channels=(320, 640, 1280),
    down_block_types=("DownBlock2D", "CrossAttnDownBlock2D", "CrossAttnDownBlock2D"),
    up_block_types=("CrossAttnUpBlock2D", "CrossAttnUpBlock2D", "UpBlock2D"),
    transformer_layers_per_block=(1, 2, 10),
    use_linear_projection=True,
    addition_embed_type="text_time",
    addition_time_embed_dim=256,
    projection_class_embeddings_input_dim=2816,
)
REFINER = SDXL | dict(
    cross_attention_dim=1280,
    attention_head_dim=(6, 12, 24, 24),
    block_out_channels=(384, 768, 1536, 1536),
    down_block_types=("DownBlock2D", "CrossAttnDownBlock2D", "CrossAttnDownBlock2D", "DownBlock2D"),
    up_block_types=("UpBlock2D", "CrossAttnUpBlock2D", "CrossAttnUpBlock2D", "UpBlock2D"),
    transformer_layers_per_block=4,
    projection_class_embeddings_input_dim=2560,
)
VAE = dict(
    block_out_channels=(128, 256, 512, 512),
    down_block_types=("DownEncoderBlock2D",) * 4,
    up_block_types=("UpDecoderBlock2D",) * 4,
    layers_per_block=2,
)
# a distilled SDXL: depth by layer on the way up, one resnet in the middle
DISTILLED = SDXL | dict(
    transformer_layers_per_block=[1, 2, 4],
    reverse_transformer_layers_per_block=[[4, 4, 10], [2, 1, 1], 1],
    mid_block_type="UNetMidBlock2D",
)
# uneven levels
UNEVEN = SD15 | dict(
    block_out_channels=(32, 64, 64, 96), layers_per_block=(1, 2, 3, 1), cross_attention_dim=(16, 24, 32, 40), in_channels=9
)
UNCLIP = SD21 | dict(class_embed_type="projection", projection_class_embeddings_input_dim=2048)
MMDIT = dict(num_layers=24, num_attention_heads=24, caption_projection_dim=1536, pos_embed_max_size=192)
MMDIT_LARGE = MMDIT | dict(num_layers=38, num_attention_heads=38, caption_projection_dim=2432, qk_norm="rms_norm")
MMDIT_DUAL = MMDIT | dict(dual_attention_layers=tuple(range(13)), qk_norm="rms_norm", pos_embed_max_size=384)
T5_XXL = dict(
    vocab_size=32128, d_model=4096, d_kv=64, d_ff=10240, num_layers=24, num_heads=64, feed_forward_proj="gated-gelu",
    tie_word_embeddings=False,
)
CONTROL = {key: value for key, value in SD15.items() if key not in ("sample_size", "up_block_types")}


def clip(cls, width, layers, heads, act):
    config = transformers.CLIPTextConfig(
        vocab_size=49408,
        hidden_size=width,
        intermediate_size=width * 4,
        num_hidden_layers=layers,
        num_attention_heads=heads,
        projection_dim=width,
        hidden_act=act,
    )
    return cls(config)


def families():
    unet = diffusers.UNet2DConditionModel
    plain, projected = transformers.CLIPTextModel, transformers.CLIPTextModelWithProjection
    return {
        "unet-sd15": lambda: unet(**SD15),
        "unet-sd21": lambda: unet(**SD21),
        "unet-sdxl": lambda: unet(**SDXL),
        "unet-sdxl-refiner": lambda: unet(**REFINER),
        "unet-distilled": lambda: unet(**DISTILLED),
        "unet-uneven": lambda: unet(**UNEVEN),
        "unet-unclip": lambda: unet(**UNCLIP),
        "mmdit-sd3-medium": lambda: diffusers.SD3Transformer2DModel(**MMDIT),
        "mmdit-sd35-medium": lambda: diffusers.SD3Transformer2DModel(**MMDIT_DUAL),
        "mmdit-sd35-large": lambda: diffusers.SD3Transformer2DModel(**MMDIT_LARGE),
        "flux-dev": lambda: diffusers.FluxTransformer2DModel(guidance_embeds=True),
        "flux-schnell": lambda: diffusers.FluxTransformer2DModel(),
        "vae": lambda: diffusers.AutoencoderKL(**VAE),
        "vae16": lambda: diffusers.AutoencoderKL(
            **VAE, latent_channels=16, use_quant_conv=False, use_post_quant_conv=False
        ),
        "taesd": lambda: diffusers.AutoencoderTiny(),
        "controlnet-sd15": lambda: diffusers.ControlNetModel(**CONTROL),
        "controlnet-sdxl": lambda: diffusers.ControlNetModel(
            **{key: value for key, value in SDXL.items() if key not in ("sample_size", "up_block_types")}
        ),
        "t2i-sd15": lambda: diffusers.T2IAdapter(adapter_type="full_adapter"),
        "t2i-sdxl": lambda: diffusers.T2IAdapter(adapter_type="full_adapter_xl", downscale_factor=16, in_channels=1),
        "t5-xxl": lambda: transformers.T5EncoderModel(transformers.T5Config(**T5_XXL)),
        "clip-l": lambda: clip(plain, 768, 12, 12, "quick_gelu"),
        "clip-g": lambda: clip(projected, 1280, 32, 20, "gelu"),
        "clip-h": lambda: clip(plain, 1024, 23, 16, "gelu"),
    }


def lines(name, model):
    for key, tensor in sorted(model.state_dict().items()):
        # buffers of old versions are no weights, T5's embedding has two names and one matrix; newer versions drop the
        # prefix that the releases have
        if key.endswith("position_ids") or key == "encoder.embed_tokens.weight":
            continue
        if name.startswith("clip") and not key.startswith(("text_model.", "text_projection.")):
            key = f"text_model.{key}"
        yield f"{key}\t{'x'.join(str(side) for side in tensor.shape)}\n"


def config(model):
    """As it would be written, without what says nothing about tensors."""
    if isinstance(model, transformers.PreTrainedModel):
        return model.config.to_dict() | {"architectures": [type(model).__name__]}
    return json.loads(model.to_json_string())


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", type=pathlib.Path, default=pathlib.Path(__file__).parent / "golden")
    out = parser.parse_args().out
    out.mkdir(parents=True, exist_ok=True)
    configs = {}
    for name, build in families().items():
        with torch.device("meta"):
            model = build()
        text = "".join(sorted(lines(name, model)))
        (out / f"{name}.txt").write_text(f"# diffusers {diffusers.__version__}, transformers {transformers.__version__}\n{text}")
        configs[name] = config(model)
        print(name, text.count("\n"), "tensors", sum(p.numel() for p in model.parameters()), "weights")
    (out / "configs.json").write_text(json.dumps(configs, indent=0, sort_keys=True) + "\n")


if __name__ == "__main__":
    main()
