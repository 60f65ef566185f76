#!/usr/bin/env python3
"""Writes golden/engine/{clip,unet}-*.safetensors: what transformers and diffusers make of small text encoders and UNets.

No weights are stored: every element of every weight and input follows from its name (`made` below, and
`gpu-worker/engine/tests/models/made.rs` in Rust), so that models of any size cost nothing. A file has the outputs of
its cases, fp32, and in its metadata the config as `config.json` would have it and the inputs' shapes and numbers.
"""

import json
import os
import pathlib

os.environ["HF_HUB_OFFLINE"] = "1"

import diffusers
import numpy
import torch
import transformers
from safetensors.torch import save_file

OUT = pathlib.Path(__file__).parent / "golden" / "engine"


def fnv1a32(text):
    value = 0x811C9DC5
    for byte in text.encode():
        value = ((value ^ byte) * 0x01000193) & 0xFFFFFFFF
    return value


def uniform(name, count):
    """Numbers in [-1, 1): a Weyl sequence that begins at the name's hash, mixed as murmur3 ends."""
    word = (numpy.arange(count, dtype=numpy.uint64) * 2654435761 + fnv1a32(name)) & 0xFFFFFFFF
    word ^= word >> 16
    word = (word * 0x85EBCA6B) & 0xFFFFFFFF
    word ^= word >> 13
    word = (word * 0xC2B2AE35) & 0xFFFFFFFF
    word ^= word >> 16
    return word.astype(numpy.float64) / 2147483648.0 - 1.0


def made(name, shape):
    """Matrices of variance 1 / inputs, scales around 1, small biases; inputs (no dot in the name) of variance 1."""
    count = int(numpy.prod(shape))
    values = uniform(name, count)
    if "." not in name:
        values = values * numpy.sqrt(3.0)
    elif len(shape) == 1 and name.endswith("weight"):
        values = 1.0 + 0.2 * values
    elif len(shape) == 1:
        values = 0.2 * values
    else:
        values = values * numpy.sqrt(3.0 / (count // shape[0]))
    return torch.from_numpy(values.astype(numpy.float32)).reshape(shape)


def fill(model, prefix=""):
    state = model.state_dict()
    for name, tensor in state.items():
        if tensor.is_floating_point():
            bare = name.startswith(("embeddings.", "encoder.", "final_layer_norm."))
            tensor.copy_(made(f"text_model.{name}" if prefix and bare else name, tuple(tensor.shape)))
    return model.eval()


def write(name, config, cases, outputs):
    versions = f"diffusers {diffusers.__version__}, transformers {transformers.__version__}, torch {torch.__version__}"
    metadata = {"config": json.dumps(config), "cases": json.dumps(cases), "versions": versions}
    save_file({key: value.contiguous() for key, value in outputs.items()}, OUT / f"{name}.safetensors", metadata)


BEGIN, END, VOCABULARY = 598, 599, 610


def prompt(words, pad, end=END):
    ids = [BEGIN, *words, end]
    return ids + [pad] * (77 - len(ids))


def clip(name, projected, pad, **config):
    base = dict(vocab_size=VOCABULARY, max_position_embeddings=77, bos_token_id=BEGIN, eos_token_id=END,
                pad_token_id=pad)
    base.update(config)
    cls = transformers.CLIPTextModelWithProjection if projected else transformers.CLIPTextModel
    model = fill(cls(transformers.CLIPTextConfig(**base)), "text_model.")
    # a row that ends early, a full one with tokens behind the vocabulary's end mark
    rows = [prompt([7, 300, 12], pad), prompt([(31 * i) % 597 for i in range(73)] + [605, 609], pad)]
    rows = [row[:77] for row in rows]
    out = model(input_ids=torch.tensor(rows), output_hidden_states=True)
    text = model.text_model if hasattr(model, "text_model") else model
    outputs = {"last": out.last_hidden_state}
    for skip in (0, 1, 2):
        outputs[f"hidden.{skip}"] = out.hidden_states[-(skip + 1)]
        outputs[f"normed.{skip}"] = text.final_layer_norm(out.hidden_states[-(skip + 1)])
    if projected:
        outputs["projected"] = out.text_embeds
        outputs["pooled"] = text(input_ids=torch.tensor(rows)).pooler_output
    else:
        outputs["pooled"] = out.pooler_output
    # the last states of six positions say as much as those of 77
    keep = [0, 1, 4, 5, 40, 76]
    outputs = {key: value[:, keep] if value.dim() == 3 else value for key, value in outputs.items()}
    written = dict(base, architectures=[cls.__name__], model_type="clip_text_model")
    write(f"clip-{name}", written, {"ids": rows, "positions": keep}, outputs)


def unet(name, height=16, width=16, tokens=11, numbers=6, **config):
    model = diffusers.UNet2DConditionModel(**config)
    fill(model)
    written = json.loads(model.to_json_string())
    context = config["cross_attention_dim"]
    sample = made("sample", (2, model.config.in_channels, height, width))
    states = made("encoder_hidden_states", (2, tokens, context))
    added, shapes = {}, {"sample": list(sample.shape), "encoder_hidden_states": list(states.shape)}
    if model.config.addition_embed_type == "text_time":
        pooled = model.config.projection_class_embeddings_input_dim - numbers * model.config.addition_time_embed_dim
        added = {"text_embeds": made("text_embeds", (2, pooled)),
                 "time_ids": torch.tensor([[1024.0, 768.0, 0.0, 64.0, 1024.0, 768.0][:numbers],
                                           [512.0, 512.0, 16.0, 0.0, 6.0, 2.5][:numbers]])}
        shapes |= {"text_embeds": [2, pooled], "time_ids": added["time_ids"].tolist()}
    outputs = {}
    for step in (1, 981):
        call = {"added_cond_kwargs": added} if added else {}
        outputs[f"prediction.{step}"] = model(sample, step, states, **call).sample
    write(f"unet-{name}", written, shapes, outputs)


CROSS, PLAIN = "CrossAttnDownBlock2D", "DownBlock2D"


def levels(attention):
    """Block types of levels with (1) and without (0) attention."""
    down = tuple(CROSS if has else PLAIN for has in attention)
    return {"down_block_types": down, "up_block_types": tuple(kind.replace("Down", "Up") for kind in reversed(down))}


def main():
    torch.manual_seed(0)
    torch.set_grad_enabled(False)
    OUT.mkdir(parents=True, exist_ok=True)
    small = dict(hidden_size=48, intermediate_size=96, num_hidden_layers=3, num_attention_heads=4)
    clip("l", False, END, hidden_act="quick_gelu", **small)
    # configs from before transformers told the end mark by its id
    clip("l-old", False, END, hidden_act="quick_gelu", **small | {"eos_token_id": 2})
    clip("h", False, 0, hidden_act="gelu", **small | {"num_hidden_layers": 4, "layer_norm_eps": 1e-6})
    clip("g", True, 0, hidden_act="gelu", **small | {"hidden_size": 64, "projection_dim": 40})

    sdxl = dict(addition_embed_type="text_time", addition_time_embed_dim=8, use_linear_projection=True)
    unet("sd15", block_out_channels=(32, 64, 64, 96), cross_attention_dim=48, attention_head_dim=8, **levels([1, 1, 1, 0]))
    unet("sd21", 11, 13, block_out_channels=(32, 64, 96), cross_attention_dim=40, attention_head_dim=(2, 4, 6),
         use_linear_projection=True, **levels([1, 1, 0]))
    unet("sdxl", block_out_channels=(32, 64, 96), cross_attention_dim=80, attention_head_dim=(2, 4, 6),
         transformer_layers_per_block=(1, 2, 3), projection_class_embeddings_input_dim=40 + 6 * 8, **sdxl, **levels([0, 1, 1]))
    unet("refiner", 16, 8, numbers=5, block_out_channels=(32, 64, 64, 96), cross_attention_dim=40,
         attention_head_dim=(2, 4, 4, 6), transformer_layers_per_block=2, projection_class_embeddings_input_dim=40 + 5 * 8,
         **sdxl, **levels([0, 1, 1, 0]))
    # distilled: fewer transformers on the way up than down, a middle of one resnet
    unet("distilled", block_out_channels=(32, 64, 96), cross_attention_dim=80, attention_head_dim=(2, 4, 6),
         transformer_layers_per_block=(1, 2, 3), reverse_transformer_layers_per_block=((2, 2, 3), (2, 1, 1), 1),
         mid_block_type="UNetMidBlock2D", projection_class_embeddings_input_dim=40 + 6 * 8, **sdxl, **levels([0, 1, 1]))
    # inpainting: nine channels; layers differ per level, no middle, other kernels, epsilon, groups and embedding of time
    unet("uneven", 9, 12, in_channels=9, out_channels=5, layers_per_block=(1, 3, 2), block_out_channels=(16, 32, 48),
         cross_attention_dim=24, attention_head_dim=4, norm_num_groups=8, norm_eps=1e-4, mid_block_type=None,
         conv_in_kernel=5, conv_out_kernel=1, flip_sin_to_cos=False, freq_shift=1, time_embedding_dim=56,
         **levels([1, 0, 1]))


if __name__ == "__main__":
    main()
