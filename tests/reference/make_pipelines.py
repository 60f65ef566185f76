#!/usr/bin/env python3
"""Writes golden/engine/pipeline-*.safetensors: whole generations of small pipelines by diffusers, latents after every step.

    python3 tests/reference/make_pipelines.py

Needs torch, diffusers, transformers. Weights follow from their names as in `make_denoisers.py`; the tokenizer has the vocabulary
that the engine ships. A file has the latents of each case ([steps, batch, 4, h, w]), the images of some as bytes, and in its
metadata the components (config, names and shapes of tensors), the scheduler's config and the cases.
"""

import json
import os

os.environ["HF_HUB_OFFLINE"] = "1"

import diffusers
import torch
import transformers
from make_denoisers import OUT, fill, made
from make_tokens import MERGES, vocabulary
from safetensors.torch import save_file

SAMPLERS = {
    "euler": diffusers.EulerDiscreteScheduler, "euler_ancestral": diffusers.EulerAncestralDiscreteScheduler,
    "ddim": diffusers.DDIMScheduler, "dpmpp_2m": diffusers.DPMSolverMultistepScheduler,
}
LATENT = {"beta_start": 0.00085, "beta_end": 0.012, "beta_schedule": "scaled_linear", "clip_sample": False, "set_alpha_to_one": False, "steps_offset": 1}


def tokenizer(pad):
    merges = [tuple(line.split(" ")) for line in MERGES.read_text().split("\n")[1:] if line]
    return transformers.CLIPTokenizer(vocab=vocabulary(merges), merges=merges, pad_token=pad, model_max_length=77)


def encoder(projected, pad, width, act):
    config = transformers.CLIPTextConfig(
        vocab_size=49408, max_position_embeddings=77, bos_token_id=49406, eos_token_id=49407, pad_token_id=pad, hidden_act=act,
        hidden_size=width, intermediate_size=2 * width, num_hidden_layers=3, num_attention_heads=4, projection_dim=24,
    )
    cls = transformers.CLIPTextModelWithProjection if projected else transformers.CLIPTextModel
    model = fill(cls(config), "text_model.")
    if not projected:
        # diffusers looks for the final norm where transformers had it before its version 5
        object.__setattr__(model, "text_model", model)
    return model


def vae():
    model = diffusers.AutoencoderKL(
        block_out_channels=(32, 32, 64, 64), layers_per_block=1, norm_num_groups=8, sample_size=64,
        down_block_types=("DownEncoderBlock2D",) * 4, up_block_types=("UpDecoderBlock2D",) * 4,
    )
    return fill(model)


def unet(**config):
    model = diffusers.UNet2DConditionModel(
        sample_size=8, block_out_channels=(32, 64), layers_per_block=1, norm_num_groups=8,
        down_block_types=("CrossAttnDownBlock2D", "CrossAttnDownBlock2D"), up_block_types=("CrossAttnUpBlock2D", "CrossAttnUpBlock2D"), **config,
    )
    return fill(model)


def component(model):
    config = json.loads(model.config.to_json_string() if hasattr(model.config, "to_json_string") else model.to_json_string())
    if isinstance(model, transformers.PreTrainedModel):
        config["architectures"] = [type(model).__name__]
    bare = ("embeddings.", "encoder.", "final_layer_norm.")
    is_text = isinstance(model, transformers.PreTrainedModel)
    name = lambda key: f"text_model.{key}" if is_text and key.startswith(bare) else key
    return {"config": config, "tensors": [[name(key), list(value.shape)] for key, value in model.state_dict().items() if value.is_floating_point()]}


def run(pipe, case, scheduler):
    config = {**scheduler, **case.get("scheduler", {})}
    if "karras" in case:
        config["use_karras_sigmas"] = case["karras"]
    pipe.scheduler = SAMPLERS[case["sampler"]].from_config(config)
    batch = case.get("batch", 1)
    generators = [torch.Generator().manual_seed(case["seed"] + number) for number in range(batch)]
    steps = []

    def keep(_pipe, _step, _timestep, values):
        steps.append(values["latents"].clone())
        return values

    options = {"latents": made("noise", (batch, 4, case["height"] // 8, case["width"] // 8))} if case.get("given_noise") else {}
    if "clip_skip" in case:
        options["clip_skip"] = case["clip_skip"]
    images = pipe(
        prompt=[case["prompt"]] * batch, negative_prompt=None if case["negative_prompt"] == "" else [case["negative_prompt"]] * batch,
        width=case["width"], height=case["height"], num_inference_steps=case["steps"], guidance_scale=case["guidance_scale"],
        generator=generators, output_type="pt", callback_on_step_end=keep, **options,
    ).images
    return torch.stack(steps), (images * 255).round().to(torch.uint8).permute(0, 2, 3, 1)


def run_refiner(pipe, case, scheduler):
    """The refiner from pure noise: diffusers' only pipeline with its conditions begins with an image, so its steps are taken here."""
    pipe.scheduler = SAMPLERS[case["sampler"]].from_config(scheduler)
    pipe.scheduler.set_timesteps(case["steps"])
    # the pipeline's encoding needs its scale
    pipe._guidance_scale = case["guidance_scale"]
    skip = {"clip_skip": case["clip_skip"]} if "clip_skip" in case else {}
    positive, negative, pooled, negative_pooled = pipe.encode_prompt(
        prompt=case["prompt"], negative_prompt=case["negative_prompt"], do_classifier_free_guidance=True, **skip)
    size = (case["height"], case["width"])
    ids, negative_ids = pipe._get_add_time_ids(size, (0, 0), size, 6.0, 2.5, size, (0, 0), size, dtype=torch.float32, text_encoder_projection_dim=24)
    latents = torch.randn((1, 4, size[0] // 8, size[1] // 8), generator=torch.Generator().manual_seed(case["seed"])) * pipe.scheduler.init_noise_sigma
    steps = []
    for timestep in pipe.scheduler.timesteps:
        sample = pipe.scheduler.scale_model_input(latents, timestep)
        side = lambda states, text, ids: pipe.unet(sample, timestep, states, added_cond_kwargs={"text_embeds": text, "time_ids": ids}).sample
        without, given = side(negative, negative_pooled, negative_ids), side(positive, pooled, ids)
        latents = pipe.scheduler.step(without + case["guidance_scale"] * (given - without), timestep, latents).prev_sample
        steps.append(latents.clone())
    images = (pipe.vae.decode(latents / pipe.vae.config.scaling_factor).sample / 2 + 0.5).clamp(0, 1)
    return torch.stack(steps), (images * 255).round().to(torch.uint8).permute(0, 2, 3, 1)


def write(name, pipe, scheduler, cases, run=run):
    pipe.set_progress_bar_config(disable=True)
    tensors = {}
    for number, case in enumerate(cases):
        latents, images = run(pipe, case, scheduler)
        tensors[f"latents.{number}"] = latents.contiguous()
        if case.pop("images", False):
            tensors[f"images.{number}"] = images.contiguous()
    parts = {key: component(getattr(pipe, key)) for key in ("text_encoder", "text_encoder_2", "unet", "vae") if getattr(pipe, key, None) is not None}
    versions = f"diffusers {diffusers.__version__}, transformers {transformers.__version__}, torch {torch.__version__}"
    metadata = {"components": json.dumps(parts), "cases": json.dumps(cases), "scheduler": json.dumps(scheduler), "versions": versions}
    save_file(tensors, OUT / f"pipeline-{name}.safetensors", metadata)


def case(sampler, **more):
    base = {
        "sampler": sampler, "prompt": "a photo of a cat, highly detailed", "negative_prompt": "blurry, ugly", "width": 64, "height": 64,
        "steps": 6, "guidance_scale": 7.5, "seed": 42,
    }
    return base | more


def main():
    torch.set_grad_enabled(False)
    OUT.mkdir(parents=True, exist_ok=True)
    quiet = {"safety_checker": None, "feature_extractor": None, "requires_safety_checker": False}
    pipe = diffusers.StableDiffusionPipeline(
        vae=vae(), text_encoder=encoder(False, 49407, 32, "quick_gelu"), tokenizer=tokenizer("<|endoftext|>"),
        unet=unet(cross_attention_dim=32, attention_head_dim=4), scheduler=diffusers.DDIMScheduler(**LATENT), **quiet,
    )
    write("sd15", pipe, LATENT, [
        case("euler", images=True), case("euler_ancestral", batch=2, images=True), case("ddim", width=48, height=80), case("dpmpp_2m", karras=True),
        case("euler", guidance_scale=1.0, clip_skip=1, negative_prompt=""), case("euler_ancestral", given_noise=True, negative_prompt=""),
        case("euler", scheduler={"prediction_type": "v_prediction"}, karras=True, prompt=""),
        case("euler", clip_skip=1, steps=3),
    ])
    scheduler = LATENT | {"timestep_spacing": "leading"}
    pipe = diffusers.StableDiffusionXLPipeline(
        vae=vae(), text_encoder=encoder(False, 49407, 32, "quick_gelu"), text_encoder_2=encoder(True, 0, 48, "gelu"),
        tokenizer=tokenizer("<|endoftext|>"), tokenizer_2=tokenizer("!"), scheduler=diffusers.EulerDiscreteScheduler.from_config(scheduler),
        unet=unet(
            cross_attention_dim=80, attention_head_dim=(2, 4), transformer_layers_per_block=(1, 2), use_linear_projection=True,
            addition_embed_type="text_time", addition_time_embed_dim=8, projection_class_embeddings_input_dim=24 + 6 * 8,
        ),
        add_watermarker=False,
    )
    write("sdxl", pipe, scheduler, [
        case("euler", prompt="a castle! on a hill", images=True), case("dpmpp_2m", negative_prompt="", width=80, height=48),
        case("euler_ancestral", clip_skip=1, batch=2), case("ddim", guidance_scale=5.0),
    ])
    pipe = diffusers.StableDiffusionXLImg2ImgPipeline(
        vae=vae(), text_encoder=None, text_encoder_2=encoder(True, 0, 48, "gelu"), tokenizer=None, tokenizer_2=tokenizer("!"),
        scheduler=diffusers.EulerDiscreteScheduler.from_config(scheduler),
        unet=unet(
            cross_attention_dim=48, attention_head_dim=(2, 4), transformer_layers_per_block=2, use_linear_projection=True,
            addition_embed_type="text_time", addition_time_embed_dim=8, projection_class_embeddings_input_dim=24 + 5 * 8,
        ),
        requires_aesthetics_score=True, force_zeros_for_empty_prompt=False, add_watermarker=False,
    )
    write("sdxl-refiner", pipe, scheduler, [
        case("euler", prompt="a castle! on a hill", images=True), case("dpmpp_2m", negative_prompt="", width=80, height=48),
        case("ddim", clip_skip=1),
    ], run_refiner)


if __name__ == "__main__":
    main()
