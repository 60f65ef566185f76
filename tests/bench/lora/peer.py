"""The peers of the LoRA bench in a process of their own: a merge on torch as the tools write it or in the fewest calls, or diffusers with peft.

Prints one line of JSON: passes by work. Arguments: plain|addmm|diffusers FOLDER THREADS ROUNDS real|small [PART OF A WORK'S NAME]."""

import json
import mmap
import os
import resource
import sys
import time

import torch

answers = os.fdopen(os.dup(1), "w")
os.dup2(2, 1)

side, folder = sys.argv[1:3]
threads, rounds, small = int(sys.argv[3]), int(sys.argv[4]), sys.argv[5] == "small"
only = sys.argv[6] if len(sys.argv) > 6 else ""
SWAP = "swap one over all for another"
WORKS = {
    "attention": ("apply: attention", "change: attention", "remove: attention"),
    "all": ("apply: all", "change: all", SWAP, "remove: all"),
}
# works of one kind build upon each other: all of them where one is wanted
KINDS = [kind for kind, works in WORKS.items() if any(only in work for work in works)]
torch.set_num_threads(threads)
torch.set_grad_enabled(False)
RANK = 32


def config():
    channels, heads, context = ([32, 64, 128], [1, 2, 4], 204) if small else ([320, 640, 1280], [5, 10, 20], 2048)
    return {
        "block_out_channels": channels, "attention_head_dim": heads, "cross_attention_dim": context,
        "transformer_layers_per_block": [1, 2, 10], "use_linear_projection": True, "norm_num_groups": 32,
        "down_block_types": ["DownBlock2D", "CrossAttnDownBlock2D", "CrossAttnDownBlock2D"],
        "up_block_types": ["CrossAttnUpBlock2D", "CrossAttnUpBlock2D", "UpBlock2D"],
        "addition_embed_type": "text_time", "addition_time_embed_dim": 256, "projection_class_embeddings_input_dim": 2816,
        "sample_size": 128,
    }


def values(shape, seed):
    """16-bit floats of a few hundredths; cheap to make."""
    some = torch.empty(1 << 20).uniform_(-0.05, 0.05, generator=torch.Generator().manual_seed(seed)).half()
    count = 1
    for length in shape:
        count *= length
    return some.repeat(-(-count // some.numel()))[:count].reshape(shape).clone()


def unet():
    from diffusers import UNet2DConditionModel

    with torch.device("meta"):
        made = UNet2DConditionModel.from_config(config())
    made = made.half().to_empty(device="cpu").eval()
    for number, weight in enumerate(made.parameters()):
        weight.copy_(values(weight.shape, number))
    return made


def size(model):
    return sum(weight.nbytes for weight in model.parameters())


def has(path, modules):
    attention = ".attn1." in path or ".attn2." in path
    last = path.rsplit(".", 1)[-1]
    if modules == "attention":
        return attention
    return attention or ".ff.net." in path or ("attentions." in path and last.startswith("proj_"))


def matrices(model, modules):
    linear = ((path, module.weight) for path, module in model.named_modules() if isinstance(module, torch.nn.Linear))
    return [(path, weight) for path, weight in linear if has(path, modules)]


def lora(model, modules, seed):
    made = {}
    for number, (path, weight) in enumerate(matrices(model, modules)):
        rows, columns = weight.shape
        made[f"unet.{path}.lora_A.weight"] = values((RANK, columns), seed + number)
        made[f"unet.{path}.lora_B.weight"] = values((rows, RANK), seed + number + 1)
    return made


passes = {}
room = 0


def backed():
    """Has the memory of a pass backed, and free again (see `backed.rs`)."""
    memory = mmap.mmap(-1, max(room, mmap.PAGESIZE), flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
    memory.madvise(mmap.MADV_HUGEPAGE)
    torch.frombuffer(memory, dtype=torch.uint8)[:: mmap.PAGESIZE].fill_(1)
    memory.close()


def timed(work, what):
    backed()
    before, began = resource.getrusage(resource.RUSAGE_SELF), time.perf_counter()
    done = what()
    seconds, after = time.perf_counter() - began, resource.getrusage(resource.RUSAGE_SELF)
    used = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
    if work:
        passes.setdefault(work, []).append({"seconds": seconds, "processor_seconds": used})
    return done


def as_the_tools(weight, up, down):
    """One operation after the other, as ComfyUI's `calculate_weight` has them and, but for the place of the factor, kohya's merge script."""
    merged = weight.to(torch.float32, copy=True)
    difference = torch.mm(up.float().flatten(start_dim=1), down.float().flatten(start_dim=1)).reshape(merged.shape)
    merged += (0.8 * difference).type(merged.dtype)
    return merged.to(weight.dtype)


def in_one_call(weight, up, down):
    """The least that torch can do."""
    return torch.addmm(weight.float(), up.float(), down.float(), alpha=0.8).half()


def on_torch(merge):
    global room
    model = unet()
    room = size(model)
    for modules in (kind for kind in KINDS if only in f"apply: {kind}"):
        factors = lora(model, modules, 10_000)

        def merged():
            # the base stays: every changed matrix is a new one, summed in 32 bits and rounded once
            out = {}
            for path, weight in matrices(model, modules):
                up, down = factors[f"unet.{path}.lora_B.weight"], factors[f"unet.{path}.lora_A.weight"]
                out[path] = merge(weight, up, down)
            return out

        for _ in range(rounds):
            timed(f"apply: {modules}", merged)


def through_diffusers():
    from diffusers import EulerDiscreteScheduler, StableDiffusionXLPipeline
    from safetensors.torch import save_file

    global room
    model = unet()
    room = size(model)
    for modules in KINDS:
        save_file(lora(model, modules, 10_000), os.path.join(folder, f"{modules}.safetensors"))
    pipe = StableDiffusionXLPipeline(
        vae=None, text_encoder=None, text_encoder_2=None, tokenizer=None, tokenizer_2=None, unet=model,
        scheduler=EulerDiscreteScheduler(), add_watermarker=False,
    )
    if "all" in KINDS:
        save_file(lora(model, "all", 20_000), os.path.join(folder, "other.safetensors"))
    for modules in KINDS:

        def applied():
            pipe.load_lora_weights(folder, weight_name=f"{modules}.safetensors", adapter_name="one")
            pipe.set_adapters(["one"], [0.8])
            pipe.fuse_lora(adapter_names=["one"])

        def weighted(name, weight):
            # a fused LoRA takes no other weight: it is taken out first
            pipe.unfuse_lora()
            pipe.set_adapters([name], [weight])
            pipe.fuse_lora(adapter_names=[name])

        def removed():
            pipe.unfuse_lora()
            pipe.unload_lora_weights()

        # a pass takes a minute or more
        for _ in range(1 if not small else rounds):
            timed(f"apply: {modules}", applied)
            timed(f"change: {modules}", lambda: weighted("one", 0.6))
            if modules == "all":
                # the other one is there, as both of ours are on the device; a fused one is taken out by that, and is fused again
                pipe.unfuse_lora()
                pipe.load_lora_weights(folder, weight_name="other.safetensors", adapter_name="two")
                pipe.set_adapters(["one"], [0.8])
                pipe.fuse_lora(adapter_names=["one"])
                timed(SWAP, lambda: weighted("two", 0.8))
            timed(f"remove: {modules}", removed)


SIDES = {"plain": lambda: on_torch(as_the_tools), "addmm": lambda: on_torch(in_one_call), "diffusers": through_diffusers}
SIDES[side]()
print(json.dumps(passes), file=answers, flush=True)
