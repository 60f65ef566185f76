#!/usr/bin/env python3
"""Writes golden/detection/: what real architectures look like in files, and what each file is.

`cases.json` has a case for every type and base. A case names lists of tensors (of diffusers and transformers, as the other
scripts write them, of the maps' original layouts, or of the adapters that are made here with peft and diffusers on the meta
device), with the prefix and the dtype that they have in the file, and says what the file is. What it says comes from how the
tensors were made, never from a reader. The reader's own evidence lies beside it in `evidence.json`, which
`cargo test -p model-formats record_detection_evidence -- --ignored` writes: a change of a rule shows as a change of that file.
"""

import argparse
import json
import os
import pathlib

os.environ["HF_HUB_OFFLINE"] = "1"

import diffusers
import peft
import torch
import transformers
from diffusers.utils import convert_state_dict_to_kohya
from make_key_lists import SD15, SD21, SDXL

UNET, VAE = "model.diffusion_model.", "first_stage_model."
ATTENTION = ["attn2.to_k", "attn2.to_q"]
# all of SD 1.5; of those whose tensors have no width of the text in them a reader can only say that it is SD 1.5 or SD 2.1
BASES = {"oft-peft": "unknown", "oft-lycoris": "unknown", "ia3-peft": "unknown", "ia3-lycoris": "unknown"}


def adapted(model, config):
    peft.get_peft_model(model, config)
    return {key: list(tensor.shape) for key, tensor in peft.get_peft_model_state_dict(model).items()}


def unet(config):
    return diffusers.UNet2DConditionModel(**config)


def lora(model, prefix="unet.", **settings):
    settings = {"r": 4, "target_modules": ATTENTION} | settings
    shapes = adapted(model, peft.LoraConfig(**settings))
    return {f"{prefix}{key.removeprefix('base_model.model.')}": shape for key, shape in shapes.items()}


def other(model, cls, **settings):
    settings = {"target_modules": ATTENTION} | settings
    shapes = adapted(model, cls(**settings))
    return {f"unet.{key.removeprefix('base_model.model.')}": shape for key, shape in shapes.items()}


def kohya(shapes):
    state = {key: torch.empty(shape, device="meta") for key, shape in shapes.items()}
    return {key: list(tensor.shape) for key, tensor in convert_state_dict_to_kohya(state).items()}


def state(model):
    return {key: list(tensor.shape) for key, tensor in model.state_dict().items() if not key.endswith("position_ids")}


def motion(config):
    return state(diffusers.MotionAdapter(**config))


def upscaler():
    """RRDBNet with 23 blocks in the names of Real-ESRGAN."""
    conv = lambda shapes, name, outputs, inputs: shapes.update(
        {f"{name}.weight": [outputs, inputs, 3, 3], f"{name}.bias": [outputs]}
    )
    shapes = {}
    conv(shapes, "conv_first", 64, 3)
    for block in range(23):
        for dense in (1, 2, 3):
            for layer in range(5):
                outputs = 64 if layer == 4 else 32
                conv(shapes, f"body.{block}.rdb{dense}.conv{layer + 1}", outputs, 64 + 32 * layer)
    for name in ("conv_body", "conv_up1", "conv_up2", "conv_hr"):
        conv(shapes, name, 64, 64)
    conv(shapes, "conv_last", 3, 64)
    return shapes


def esrgan():
    """RRDBNet with one block in the names of the first ESRGAN release."""
    shapes = {}
    conv = lambda name, outputs, inputs: shapes.update({f"{name}.weight": [outputs, inputs, 3, 3], f"{name}.bias": [outputs]})
    conv("model.0", 64, 3)
    for dense in (1, 2, 3):
        for layer in range(5):
            conv(f"model.1.sub.0.RDB{dense}.conv{layer + 1}.0", 64 if layer == 4 else 32, 64 + 32 * layer)
    conv("model.1.sub.1", 64, 64)
    for place in (3, 6, 8):
        conv(f"model.{place}", 64, 64)
    conv("model.10", 3, 64)
    return shapes


def swinir():
    """SwinIR for real pictures, four times larger, in the names of its release: two of its six groups, two of their six layers."""
    width, heads, window = 180, 6, 8
    shapes = {"conv_first.weight": [width, 3, 3, 3], "conv_first.bias": [width]}
    both = lambda name, outputs, *inputs: shapes.update({f"{name}.weight": [outputs, *inputs], f"{name}.bias": [outputs]})
    both("patch_embed.norm", width)
    for group in range(2):
        for layer in range(2):
            at = f"layers.{group}.residual_group.blocks.{layer}"
            both(f"{at}.norm1", width)
            shapes[f"{at}.attn.relative_position_bias_table"] = [(2 * window - 1) ** 2, heads]
            shapes[f"{at}.attn.relative_position_index"] = [window**2, window**2]
            both(f"{at}.attn.qkv", 3 * width, width)
            both(f"{at}.attn.proj", width, width)
            both(f"{at}.norm2", width)
            both(f"{at}.mlp.fc1", 2 * width, width)
            both(f"{at}.mlp.fc2", width, 2 * width)
        both(f"layers.{group}.conv", width, width, 3, 3)
    both("norm", width)
    both("conv_after_body", width, width, 3, 3)
    both("conv_before_upsample.0", 64, width, 3, 3)
    for name in ("conv_up1", "conv_up2", "conv_hr"):
        both(name, 64, 64, 3, 3)
    both("conv_last", 3, 64, 3, 3)
    return shapes


def lycoris(kind):
    """A LyCORIS network over the UNet's cross attention, as its own writer names it."""
    from lycoris.modules.diag_oft import DiagOFTModule
    from lycoris.modules.ia3 import IA3Module

    shapes = {}
    for name, module in unet(SD15).named_modules():
        if not name.endswith(tuple(ATTENTION)):
            continue
        stem = f"lora_unet_{name.replace('.', '_')}"
        made = {"oft": lambda: DiagOFTModule(stem, module, lora_dim=4), "ia3": lambda: IA3Module(stem, module)}[kind]()
        shapes |= {f"{stem}.{key}": list(tensor.shape) for key, tensor in made.state_dict().items()}
    return shapes


def lists():
    vision = transformers.CLIPVisionConfig(
        hidden_size=1280, intermediate_size=5120, num_hidden_layers=2, num_attention_heads=16, patch_size=14, projection_dim=1024
    )
    flux = lambda: diffusers.FluxTransformer2DModel(num_layers=2, num_single_layers=2)
    sd3 = lambda: diffusers.SD3Transformer2DModel(
        num_layers=2, num_attention_heads=24, caption_projection_dim=1536, pos_embed_max_size=192
    )
    joint = ["attn.to_k", "attn.to_q", "attn.add_q_proj", "attn.add_k_proj"]
    return {
        "lora-sd15": lambda: lora(unet(SD15)),
        "lora-sd15-kohya": lambda: kohya(lora(unet(SD15))),
        "lora-sd21": lambda: lora(unet(SD21)),
        "lora-sdxl": lambda: lora(unet(SDXL)),
        "lora-sdxl-kohya": lambda: kohya(lora(unet(SDXL))),
        "locon-sd15": lambda: lora(unet(SD15), target_modules=["attn2.to_k", "conv1"]),
        "dora-sd15": lambda: lora(unet(SD15), use_dora=True),
        "loha-sd15": lambda: other(unet(SD15), peft.LoHaConfig, r=4),
        "lokr-sd15": lambda: other(unet(SD15), peft.LoKrConfig, r=4),
        "lora-flux": lambda: lora(flux(), "transformer.", target_modules=joint),
        "lora-sd3": lambda: lora(sd3(), "transformer.", target_modules=joint),
        "motion-sd15": lambda: motion({}),
        "motion-sdxl": lambda: motion(dict(block_out_channels=(320, 640, 1280), use_motion_mid_block=False)),
        "clip-vision": lambda: state(transformers.CLIPVisionModelWithProjection(vision)),
        "upscaler": upscaler,
        "upscaler-esrgan": esrgan,
        "upscaler-swinir": swinir,
        "oft-peft": lambda: other(unet(SD15), peft.OFTConfig, r=4, oft_block_size=0),
        "ia3-peft": lambda: other(unet(SD15), peft.IA3Config, feedforward_modules=[]),
        "oft-lycoris": lambda: lycoris("oft"),
        "ia3-lycoris": lambda: lycoris("ia3"),
    }


def part(source, prefix="", dtype="F16", **shapes):
    return {"list": source, "prefix": prefix, "dtype": dtype, "shapes": shapes}


def case(model_type, base, *parts, prediction=None, variant="fp16", facts=None, metadata=None, tensors=None):
    return {
        "type": model_type, "base": base, "prediction": prediction, "variant": variant, "facts": facts or {},
        "metadata": metadata or {}, "tensors": tensors or {}, "parts": list(parts),
    }


def ldm(name, **shapes):
    """A component as a single file has it, with its prefix in the list."""
    return part(f"maps/{name}-real", **shapes)


def input_of(channels, width=320, prefix=UNET):
    return {f"{prefix}input_blocks.0.0.weight": [width, channels, 3, 3]}


def checkpoints():
    xl = (ldm("unet-sdxl"), ldm("clip-g"), ldm("vae"))
    sd15 = (ldm("clip-l"), ldm("vae"))
    yield "checkpoint-sd15", case("checkpoint", "sd15", ldm("unet-sd15"), *sd15, facts={"task": "text_to_image", "ema": False})
    yield "checkpoint-sd15-inpainting", case(
        "checkpoint", "sd15", ldm("unet-sd15", **input_of(9)), *sd15, facts={"task": "inpainting", "in_channels": 9}
    )
    yield "checkpoint-sd15-pix2pix", case(
        "checkpoint", "sd15", ldm("unet-sd15", **input_of(8)), *sd15, facts={"task": "instruct_pix2pix"}
    )
    ema = {"model_ema.diffusion_modelinput_blocks00weight": [320, 4, 3, 3], "model_ema.decay": []}
    yield "checkpoint-sd15-ema", case("checkpoint", "sd15", ldm("unet-sd15"), *sd15, tensors=ema, facts={"ema": True})
    sd21 = (ldm("unet-sd21"), ldm("clip-h"), ldm("vae"))
    yield "checkpoint-sd21-base", case("checkpoint", "sd21", *sd21)
    told = {"modelspec.architecture": "stable-diffusion-v2-768-v", "modelspec.prediction_type": "v"}
    yield "checkpoint-sd21-v", case("checkpoint", "sd21", *sd21, metadata=told, prediction="v_prediction")
    deep = input_of(5)
    yield "checkpoint-sd21-depth", case(
        "checkpoint", "sd21", ldm("unet-sd21", **deep), ldm("clip-h"), ldm("vae"), facts={"task": "depth"}
    )
    yield "checkpoint-sdxl", case("checkpoint", "sdxl", *xl, prediction="epsilon", facts={"task": "text_to_image"})
    yield "checkpoint-sdxl-v", case(
        "checkpoint", "sdxl", *xl, tensors={"v_pred": [0], "ztsnr": [0]}, prediction="v_prediction",
        facts={"zero_terminal_snr": True},
    )
    yield "checkpoint-sdxl-inpainting", case(
        "checkpoint", "sdxl", ldm("unet-sdxl", **input_of(9)), ldm("clip-g"), ldm("vae"), prediction="epsilon",
        facts={"task": "inpainting"},
    )
    yield "checkpoint-sdxl-refiner", case(
        "checkpoint", "sdxl-refiner", ldm("unet-sdxl-refiner"), ldm("clip-g-refiner"), ldm("vae"), prediction="epsilon"
    )
    encoder = lambda name, place: part(name, f"text_encoders.{place}.transformer.")
    three = (encoder("clip-l", "clip_l"), encoder("clip-g", "clip_g"), encoder("t5-xxl", "t5xxl"))
    autoencoder = part("maps/vae16-real", "first_stage_model.")
    sd3 = (part("maps/mmdit-sd3"), autoencoder)
    yield "checkpoint-sd3-medium", case("checkpoint", "sd3", *sd3, prediction="flow", facts={"release": "sd3"})
    yield "checkpoint-sd3-medium-encoders", case(
        "checkpoint", "sd3", *sd3, *three, prediction="flow", facts={"release": "sd3"}
    )
    yield "checkpoint-sd35", case("checkpoint", "sd3", part("maps/mmdit-sd35"), autoencoder, *three, prediction="flow")
    flux = (part("maps/flux", UNET), part("maps/vae16-real", "vae."), three[0], three[2])
    yield "checkpoint-flux", case("checkpoint", "flux", *flux, prediction="flow")
    full = [dict(one, dtype="F32") for one in (ldm("unet-sd15"), *sd15)]
    yield "checkpoint-sd15-fp32", case("checkpoint", "sd15", *full, variant="fp32")
    mixed = [dict(ldm("unet-sd15"), dtype="BF16"), ldm("clip-l"), ldm("vae")]
    yield "checkpoint-sd15-mixed", case("checkpoint", "sd15", *mixed, variant="mixed")


def denoisers():
    for family, base, prediction in (
        ("sd15", "sd15", None), ("sd21", "sd21", None), ("sdxl", "sdxl", "epsilon"),
        ("sdxl-refiner", "sdxl-refiner", "epsilon"), ("distilled", "sdxl", "epsilon"), ("unclip", "sd21", None),
    ):
        yield f"unet-{family}", case("unet", base, part(f"unet-{family}"), prediction=prediction)
    hf = {"conv_in.weight": [320, 9, 3, 3]}
    yield "unet-sd15-inpainting", case("unet", "sd15", part("unet-sd15", **hf), facts={"task": "inpainting"})
    yield "unet-sdxl-inpainting", case(
        "unet", "sdxl", part("unet-sdxl", **hf), prediction="epsilon", facts={"task": "inpainting"}
    )
    lcm = {"time_embedding.cond_proj.weight": [320, 256]}
    yield "unet-sd15-lcm", case("unet", "sd15", part("unet-sd15"), tensors=lcm, facts={"distilled": "lcm"})
    for name, release in (("sd3-medium", "sd3"), ("sd35-medium", "sd3.5-medium"), ("sd35-large", "sd3.5-large")):
        yield f"transformer-{name}", case(
            "transformer", "sd3", part(f"mmdit-{name}"), prediction="flow", facts={"release": release}
        )
    for release in ("dev", "schnell"):
        yield f"transformer-flux-{release}", case(
            "transformer", "flux", part(f"flux-{release}", dtype="BF16"), prediction="flow", variant="bf16",
            facts={"release": release, "task": "text_to_image"},
        )
    yield "transformer-flux-fill", case(
        "transformer", "flux", part("flux-dev", **{"x_embedder.weight": [3072, 384]}), prediction="flow",
        facts={"task": "fill"},
    )
    yield "transformer-flux-fp8", case(
        "transformer", "flux", part("flux-dev", dtype="F8_E4M3"), prediction="flow", variant="fp8_e4m3"
    )


def parts():
    yield "vae-4", case("vae", "unknown", part("vae"), facts={"latent_channels": 4})
    yield "vae-16", case("vae", "unknown", part("vae16"), facts={"latent_channels": 16})
    yield "vae-ldm-sdxl-told", case(
        "vae", "sdxl", part("maps/vae-real"), metadata={"modelspec.architecture": "stable-diffusion-xl-v1-base/vae"}
    )
    yield "vae-tiny", case("taesd", "unknown", part("taesd"), facts={"latent_channels": 4})
    for half in ("encoder", "decoder", "bundle"):
        yield f"vae-tiny-{half}", case("taesd", "unknown", part(f"maps/taesd-{half}"))
    for name in ("clip-l", "clip-h", "clip-g", "t5-xxl"):
        yield f"text-encoder-{name}", case("text_encoder", "unknown", part(name), facts={"encoder": name})
    yield "image-encoder", case("image_encoder", "unknown", part("detection/clip-vision"))


def adapters():
    for name, base, flavour in (
        ("lora-sd15", "sd15", "lora"), ("lora-sd15-kohya", "sd15", "lora"), ("lora-sd21", "sd21", "lora"),
        ("lora-sdxl", "sdxl", "lora"), ("lora-sdxl-kohya", "sdxl", "lora"), ("locon-sd15", "sd15", "locon"),
        ("dora-sd15", "sd15", "dora"), ("loha-sd15", "sd15", "loha"), ("lokr-sd15", "sd15", "lokr"),
        ("lora-flux", "flux", "lora"), ("lora-sd3", "sd3", "lora"),
    ):
        yield name, case("lora", base, part(f"detection/{name}"), facts={"flavour": flavour})
    for name, base in (
        ("controlnet-sd15", "sd15"), ("controlnet-sdxl", "sdxl"),
        ("maps/controlnet-sd15-real", "sd15"), ("maps/controlnet-sdxl-real", "sdxl"),
    ):
        yield name.replace("maps/", "ldm-"), case("controlnet", base, part(name))
    for name, base in (
        ("ip-adapter-sd15", "sd15"), ("ip-adapter-sd15-plus", "sd15"), ("ip-adapter-sd15-full-face", "sd15"),
        ("ip-adapter-sdxl", "sdxl"), ("ip-adapter-sdxl-plus", "sdxl"),
    ):
        yield name, case("ip_adapter", base, part(name))
    yield "t2i-sd15", case("t2i_adapter", "sd15", part("t2i-sd15"))
    yield "t2i-sdxl", case("t2i_adapter", "sdxl", part("t2i-sdxl"))
    yield "motion-sd15", case("motion_module", "sd15", part("detection/motion-sd15"))
    yield "motion-sdxl", case("motion_module", "sdxl", part("detection/motion-sdxl"))
    yield "upscaler", case("upscaler", "unknown", part("detection/upscaler"), facts={"architecture": "real-esrgan"})
    yield "upscaler-esrgan", case("upscaler", "unknown", part("detection/upscaler-esrgan"), facts={"architecture": "esrgan"})
    yield "upscaler-swinir", case("upscaler", "unknown", part("detection/upscaler-swinir"), facts={"architecture": "swinir"})
    yield "upscaler-swinir-params", case(
        "upscaler", "unknown", part("detection/upscaler-swinir", "params_ema."), facts={"architecture": "swinir"}
    )
    for flavour, writer in (("oft", "peft"), ("oft", "lycoris"), ("ia3", "peft"), ("ia3", "lycoris")):
        name = f"{flavour}-{writer}"
        yield name, case("lora", BASES[name], part(f"detection/{name}"), facts={"flavour": flavour})
    for name, base, shapes in (
        ("embedding-sd15", "sd15", {"emb_params": [4, 768]}), ("embedding-sd21", "sd21", {"emb_params": [2, 1024]}),
        ("embedding-sdxl", "sdxl", {"clip_l": [3, 768], "clip_g": [3, 1280]}),
    ):
        yield name, case("embedding", base, tensors=shapes)
    yield "nothing-known", case("unknown", "unknown", tensors={"a.weight": [3, 4], "b.weight": [4]}, variant=None)


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=pathlib.Path, default=pathlib.Path(__file__).parent / "golden" / "detection")
    out = parser.parse_args().out
    out.mkdir(parents=True, exist_ok=True)
    versions = f"# diffusers {diffusers.__version__}, transformers {transformers.__version__}, peft {peft.__version__}\n"
    for name, build in lists().items():
        with torch.device("meta"):
            shapes = build()
        lines = sorted(f"{key}\t{'x'.join(map(str, shape))}\n" for key, shape in shapes.items())
        (out / f"{name}.txt").write_text(versions + "".join(lines))
        print(name, len(lines), "tensors")
    cases = dict(pair for group in (checkpoints, denoisers, parts, adapters) for pair in group())
    (out / "cases.json").write_text(json.dumps(cases, indent=1) + "\n")
    print(len(cases), "cases")


if __name__ == "__main__":
    main()
