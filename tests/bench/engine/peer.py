"""One case in a process of its own: diffusers or transformers on torch, on the CPU, in 32-bit floats.

Prints one line of JSON: seconds of the first run and of the others on the clock, processor seconds of the others, the most
resident memory of the process. Arguments: FOLDER KIND OPERATION BATCH WIDTH HEIGHT RUNS THREADS."""

import json
import os
import resource
import sys
import time

import torch

answers = os.fdopen(os.dup(1), "w")
os.dup2(2, 1)

folder, kind, operation = sys.argv[1:4]
batch, width, height, runs, threads = (int(word) for word in sys.argv[4:9])
torch.set_num_threads(threads)
torch.manual_seed(0)


def model(of):
    return of.from_pretrained(folder, torch_dtype=torch.float32).eval()


def vae_decode():
    from diffusers import AutoencoderKL

    vae = model(AutoencoderKL)
    latents = torch.randn(batch, vae.config.latent_channels, height // 8, width // 8)
    return lambda: vae.decode(latents).sample


def unet_step():
    from diffusers import UNet2DConditionModel

    unet = model(UNet2DConditionModel)
    sample = torch.randn(batch, unet.config.in_channels, height // 8, width // 8)
    states = torch.randn(batch, 77, unet.config.cross_attention_dim)
    added = None
    if unet.config.addition_embed_type == "text_time":
        text = unet.config.projection_class_embeddings_input_dim - 6 * unet.config.addition_time_embed_dim
        sizes = torch.tensor([[512.0, 512.0, 0.0, 0.0, 512.0, 512.0]] * batch)
        added = {"text_embeds": torch.randn(batch, text), "time_ids": sizes}
    return lambda: unet(sample, torch.tensor(500.0), states, added_cond_kwargs=added).sample


def encode_text():
    from transformers import CLIPTextModel, CLIPTextModelWithProjection

    encoder = model(CLIPTextModelWithProjection if kind == "text_encoder_2" else CLIPTextModel)
    last = encoder.config.vocab_size - 1
    ids = torch.randint(1, last, (batch, 77))
    ids[:, -1] = last
    return lambda: encoder(ids, output_hidden_states=True)


WORK = {"vae_decode": vae_decode, "unet_step": unet_step, "encode_text": encode_text}


def processor():
    used = resource.getrusage(resource.RUSAGE_SELF)
    return used.ru_utime + used.ru_stime


with torch.inference_mode():
    run = WORK[operation]()
    began = time.perf_counter()
    run()
    first = time.perf_counter() - began
    seconds, before = [], processor()
    for _ in range(runs):
        began = time.perf_counter()
        run()
        seconds.append(time.perf_counter() - began)
    used = (processor() - before) / runs
peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
result = {"first": first, "seconds": seconds, "processor_seconds": used, "peak_bytes": peak, "version": torch.__version__}
print(json.dumps(result), file=answers, flush=True)
