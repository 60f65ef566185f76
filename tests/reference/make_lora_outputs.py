#!/usr/bin/env python3
"""Writes golden/engine/loras-{sd15,sdxl}.safetensors: what small UNets and text encoders answer with LoRAs on them.

    python3 tests/reference/make_lora_outputs.py

Needs torch, diffusers, transformers, peft. The models are those of `make_pipelines.py`; LoRA files are loaded with
`load_lora_weights`, weighted with `set_adapters`, also fused with `fuse_lora` and taken off again. Factors follow from their
names as all weights do (`make_denoisers.py`), so no file of a LoRA is stored: the metadata says of every file which of its
tensors has the values of which name. A file has the outputs of its cases; metadata: components (config, names and shapes),
files, cases, inputs.

Held together here, with the bounds below: diffusers' answer, the same after fusing, a model whose weights were merged by
the formula in float64, and, taken off again, the answer of before. Files in a trainer's names that diffusers does not read
have the factors of one that it reads, and must give what that gives.
"""

import json
import os

os.environ["HF_HUB_OFFLINE"] = "1"

import copy
import tempfile
import warnings

import diffusers
import peft
import torch
import transformers
from make_denoisers import OUT, made
from make_pipelines import LATENT, component, encoder, tokenizer, unet, vae
from safetensors.torch import save_file

warnings.filterwarnings("ignore")
IDS = [49406, 320, 1125, 539, 320, 2368, 49407] + [49407] * 70
POSITIONS = [0, 1, 5, 6, 76]
# of the range of the outputs; sums in another order, in 32 bits
SAME = 2e-6


class File:
    """A LoRA: modules of components with rank and alpha; factors by name."""

    def __init__(self, name, rank, alpha, modules):
        self.name, self.rank, self.alpha, self.modules = name, rank, alpha, modules

    def factor(self, module, part):
        (kind, path), shape = module, self.modules[module]
        down, up = (self.rank, *shape[1:]), (shape[0], self.rank) + (1,) * (len(shape) - 2)
        return f"{self.name}.{kind}.{path}.{part}", down if part == "down" else up

    def values(self, module, part):
        return made(*self.factor(module, part))


def modules(pipe, kinds, wanted):
    """Shapes of the modules that end as wanted."""
    found = {}
    for kind in kinds:
        for name, module in getattr(pipe, kind).named_modules():
            if isinstance(module, (torch.nn.Linear, torch.nn.Conv2d)) and name.endswith(wanted):
                found[kind, name] = tuple(module.weight.shape)
    return found


ATTENTION = ("attn1.to_q", "attn1.to_out.0", "attn2.to_k", "attn2.to_v", "ff.net.0.proj", "ff.net.2", "proj_in")
ENCODER = ("q_proj", "v_proj", "out_proj", "fc1")
CONVS = ("conv1", "time_emb_proj", "conv_shortcut", "downsamplers.0.conv")


def plain_encoder():
    """The first encoder as transformers makes it: the loader of LoRAs knows where its layers are."""
    model = encoder(False, 49407, 32, "quick_gelu")
    del model.__dict__["text_model"]
    return model


def text_path(path):
    return path if path.startswith("text_model.") else f"text_model.{path}"


def sgm(path):
    """The original name of a module of these two-level UNets."""
    parts = path.split(".")
    layers, head = {"down_blocks": 1, "up_blocks": 2}, parts[0]
    resnet = {"conv1": "in_layers.2", "time_emb_proj": "emb_layers.1", "conv_shortcut": "skip_connection"}
    if head == "mid_block":
        row, rest = {"resnets.0": 0, "attentions.0": 1, "resnets.1": 2}[".".join(parts[1:3])], parts[3:]
        block, is_resnet = f"middle_block.{row}", parts[1] == "resnets"
    else:
        level, sort, layer = int(parts[1]), parts[2], int(parts[3])
        if sort == "downsamplers":
            return f"input_blocks.{(layers[head] + 1) * (level + 1)}.0.op"
        row = 1 + (layers[head] + 1) * level + layer if head == "down_blocks" else layers[head] * level + layer
        block = f"{'input' if head == 'down_blocks' else 'output'}_blocks.{row}.{int(sort == 'attentions')}"
        is_resnet, rest = sort == "resnets", parts[4:]
    rest = resnet[".".join(rest)] if is_resnet else ".".join(rest)
    return f"{block}.{rest}"


TEXT_PREFIX = {"text_encoder": "te1", "text_encoder_2": "te2"}


def stem(spelling, base, kind, path):
    """A module's name as a trainer writes it."""
    flat = path.replace(".", "_")
    text = kind.startswith("text")
    prefix = "te" if base == "sd15" else TEXT_PREFIX.get(kind)
    if spelling in ("kohya", "onetrainer"):
        if text:
            return f"lora_{prefix}_{text_path(path).replace('.', '_')}"
        # trainers of SDXL keep the original names, OneTrainer those of diffusers
        return "lora_unet_" + (sgm(path).replace(".", "_") if base == "sdxl" and spelling == "kohya" else flat)
    if spelling in ("diffusers", "dotted"):
        return f"{kind}.{text_path(path) if text else path}"
    if spelling == "processors":
        front, leaf = path.rsplit(".", 1) if not path.endswith(".0") else path.rsplit(".", 2)[:2]
        return f"{kind}.{text_path(front)}.{TEXT_LEAF[leaf]}" if text else f"{kind}.{front}.processor.{leaf}"
    if spelling == "peft":
        return f"base_model.model.{path}"
    if spelling == "comfy":
        return f"diffusion_model.{sgm(path)}"
    return f"lycoris_{flat}"


TEXT_LEAF = {"q_proj": "to_q", "k_proj": "to_k", "v_proj": "to_v", "out_proj": "to_out"}
ENDINGS = {
    "kohya": (".lora_down.weight", ".lora_up.weight"), "onetrainer": (".lora_down.weight", ".lora_up.weight"),
    "diffusers": (".lora_A.weight", ".lora_B.weight"), "peft": (".lora_A.weight", ".lora_B.weight"),
    "dotted": (".lora.down.weight", ".lora.up.weight"), "processors": ("_lora.down.weight", "_lora.up.weight"),
    "comfy": (".lora_down.weight", ".lora_up.weight"), "lycoris": (".lora_down.weight", ".lora_up.weight"),
}
# of these only what such files could hold
ONLY = {
    "processors": lambda kind, path: path.endswith(("to_q", "to_k", "to_v", "to_out.0", "_proj")) and "time_emb" not in path,
    "peft": lambda kind, path: kind == "unet", "comfy": lambda kind, path: kind == "unet",
    "lycoris": lambda kind, path: kind == "unet",
}


def spelled(file, spelling, base):
    """What a trainer's file holds: (name, name of the values, shape) of factors, alphas, settings."""
    tensors, alphas, kinds = [], {}, {kind for kind, _ in file.modules}
    for kind, path in file.modules:
        if not ONLY.get(spelling, lambda *_: True)(kind, path):
            continue
        name = stem(spelling, base, kind, path)
        down, up = ENDINGS[spelling]
        if spelling == "dotted" and kind.startswith("text"):
            down, up = ".lora_linear_layer.down.weight", ".lora_linear_layer.up.weight"
        tensors += [(name + end, *file.factor((kind, path), part)) for end, part in ((down, "down"), (up, "up"))]
        if spelling in ("kohya", "onetrainer", "comfy", "lycoris"):
            alphas[f"{name}.alpha"] = file.alpha
    settings = {}
    if spelling == "diffusers":
        for kind in sorted(kinds):
            targets = sorted(path for of, path in file.modules if of == kind)
            settings |= {f"{kind}.r": file.rank, f"{kind}.lora_alpha": file.alpha, f"{kind}.target_modules": targets}
    if spelling == "peft":
        settings = {"r": file.rank, "lora_alpha": file.alpha}
    if spelling == "onetrainer":
        tensors.append(("bundle_emb.x.string_to_param.*", "bundle.x", (2, 8)))
    return {"tensors": tensors, "alphas": alphas, "settings": settings}


def state_of(written):
    return {name: made(value, shape) for name, value, shape in written["tensors"] if not name.startswith("bundle_emb")} | {
        name: torch.tensor(float(alpha)) for name, alpha in written["alphas"].items()
    }


def answers(pipe, base):
    out, context = {}, pipe.unet.config.cross_attention_dim
    added = {}
    if base == "sdxl":
        times = torch.tensor([[512.0, 512.0, 16.0, 0.0, 512.0, 384.0]])
        added = {"added_cond_kwargs": {"text_embeds": made("text_embeds", (1, 24)), "time_ids": times}}
    sample, states = made("sample", (1, 4, 8, 8)), made("encoder_hidden_states", (1, 11, context))
    out["unet"] = pipe.unet(sample, 981, states, **added).sample
    for kind in ("text_encoder", "text_encoder_2"):
        if getattr(pipe, kind, None) is not None:
            states = getattr(pipe, kind)(input_ids=torch.tensor([IDS]), output_hidden_states=True)
            out[kind] = states.hidden_states[-1][:, POSITIONS]
    return out


def merged(pipe, case, files):
    """The components with the formula's weights."""
    state = {kind: {} for kind in ("unet", "text_encoder", "text_encoder_2") if getattr(pipe, kind, None) is not None}
    for use in case:
        file, written = files[use["file"]]["made"], files[use["file"]]
        there = {value.rsplit(".", 1)[0] for _, value, _ in written["tensors"]}
        scale = 1.0 if written["spelling"] in ("dotted", "processors") else file.alpha / file.rank
        for (kind, path), shape in file.modules.items():
            if f"{file.name}.{kind}.{path}" not in there:
                continue
            up, down = (file.values((kind, path), part).double().flatten(1) for part in ("up", "down"))
            weight = use["weight"] if kind == "unet" else use.get("text_encoder_weight", use["weight"])
            if kind == "unet":
                blocks = [(len(block), value) for block, value in use.get("blocks", {}).items() if path.startswith(block + ".")]
                weight *= max(blocks)[1] if blocks else 1.0
            base = state[kind].setdefault(path, getattr(pipe, kind).get_submodule(path).weight.double())
            state[kind][path] = base + weight * scale * (up @ down).reshape(shape)
    other = copy.copy(pipe)
    for kind, weights in state.items():
        model = copy.deepcopy(getattr(pipe, kind))
        for path, weight in weights.items():
            model.get_submodule(path).weight.data = weight.float()
        setattr(other, kind, model)
    return other


def near(left, right, what, bound=SAME):
    for kind, value in left.items():
        off = ((value - right[kind]).abs().max() / right[kind].abs().max()).item()
        print(f"  {what} {kind}: {off:.1e}")
        assert off < bound, (what, kind, off)


def loaded(pipe, case, files):
    """The pipeline as diffusers sets it up."""
    names, weights = [], []
    for number, use in enumerate(case):
        written, name = files[use["file"]], f"a{number}"
        with tempfile.TemporaryDirectory() as folder:
            # what diffusers' own files have in their header
            header = {"lora_adapter_metadata": json.dumps(written["settings"])} if written["settings"] else {}
            save_file(state_of(written), f"{folder}/lora.safetensors", {"format": "pt", **header})
            pipe.load_lora_weights(folder, weight_name="lora.safetensors", adapter_name=name)
        names.append(name)
        text = use.get("text_encoder_weight", use["weight"])
        weights.append({"unet": use.get("diffusers", use["weight"]), "text_encoder": text, "text_encoder_2": text})
    kinds = [kind for kind in ("unet", "text_encoder", "text_encoder_2") if getattr(pipe, kind, None) is not None]
    weights = [{kind: value for kind, value in weight.items() if kind in kinds and name in pipe.get_list_adapters().get(kind, [])} for name, weight in zip(names, weights)]
    pipe.set_adapters(names, weights)


def write(base, pipe, files, cases):
    before = answers(pipe, base)
    outputs = {f"before|{kind}": value for kind, value in before.items()}
    for name, case in cases.items():
        print(base, name)
        formula = answers(merged(pipe, case, files), base)
        if any(files[use["file"]]["spelling"] in ("peft", "comfy", "onetrainer", "lycoris") for use in case):
            expected = formula
        else:
            loaded(pipe, case, files)
            expected = answers(pipe, base)
            near(expected, formula, "formula")
            pipe.fuse_lora(components=[kind for kind in before])
            near(answers(pipe, base), expected, "fused")
            pipe.unfuse_lora(components=[kind for kind in before])
            pipe.unload_lora_weights()
            near(answers(pipe, base), before, "taken off", 1e-6)
        outputs |= {f"{name}|{kind}": value for kind, value in expected.items()}
        assert any((value - before[kind]).abs().max() > 0.05 * before[kind].abs().max() for kind, value in expected.items())
    parts = {kind: component(getattr(pipe, kind)) for kind in before}
    told = {name: {key: value for key, value in file.items() if key != "made"} for name, file in files.items()}
    cases = {name: [{key: value for key, value in use.items() if key != "diffusers"} for use in case] for name, case in cases.items()}
    versions = f"diffusers {diffusers.__version__}, transformers {transformers.__version__}, peft {peft.__version__}, torch {torch.__version__}"
    metadata = {"components": parts, "files": told, "cases": cases, "ids": IDS, "positions": POSITIONS, "versions": versions}
    path = OUT / f"loras-{base}.safetensors"
    save_file({key: value.contiguous() for key, value in outputs.items()}, path, {key: json.dumps(value, separators=(",", ":")) for key, value in metadata.items()})
    print(path.stat().st_size, "bytes")


def main():
    torch.set_grad_enabled(False)
    quiet = {"safety_checker": None, "feature_extractor": None, "requires_safety_checker": False}
    pipe = diffusers.StableDiffusionPipeline(
        vae=vae(), text_encoder=plain_encoder(), tokenizer=tokenizer("<|endoftext|>"),
        unet=unet(cross_attention_dim=32, attention_head_dim=4), scheduler=diffusers.DDIMScheduler(**LATENT), **quiet,
    )
    style = File("style", 4, 2, modules(pipe, ("unet", "text_encoder"), ATTENTION + ENCODER))
    person = File("person", 8, 8, modules(pipe, ("unet",), ATTENTION[:3] + CONVS))
    light = File("light", 2, 1, modules(pipe, ("unet", "text_encoder"), ATTENTION[3:] + ENCODER[1:3]))
    written = [(style, spelling) for spelling in ENDINGS] + [(person, "kohya"), (light, "diffusers")]
    files = {f"{file.name}-{spelling}": {"made": file, "spelling": spelling, **spelled(file, spelling, "sd15")} for file, spelling in written}
    stack = [
        {"file": "style-kohya", "weight": 0.8}, {"file": "person-kohya", "weight": -0.35},
        {"file": "light-diffusers", "weight": 1.25, "text_encoder_weight": -0.4},
    ]
    blocks = [{
        "file": "style-kohya", "weight": 1.0, "text_encoder_weight": 0.3,
        "blocks": {"down_blocks.0": 0.5, "down_blocks.1": -0.7, "mid_block": 0.0, "up_blocks.0.attentions.0": 1.5, "up_blocks.0.attentions.1": 0.25},
        "diffusers": {"down": {"block_0": 0.5, "block_1": -0.7}, "mid": 0.0, "up": {"block_0": [1.5, 0.25]}},
    }]
    cases = {f"style-{spelling}": [{"file": f"style-{spelling}", "weight": 0.75}] for spelling in ENDINGS}
    write("sd15", pipe, files, cases | {"stack": stack, "blocks": blocks, "twice": [stack[0], stack[0] | {"weight": -0.3}]})

    scheduler = LATENT | {"timestep_spacing": "leading"}
    pipe = diffusers.StableDiffusionXLPipeline(
        vae=vae(), text_encoder=plain_encoder(), text_encoder_2=encoder(True, 0, 48, "gelu"),
        tokenizer=tokenizer("<|endoftext|>"), tokenizer_2=tokenizer("!"), scheduler=diffusers.EulerDiscreteScheduler.from_config(scheduler),
        unet=unet(
            cross_attention_dim=80, attention_head_dim=(2, 4), transformer_layers_per_block=(1, 2), use_linear_projection=True,
            addition_embed_type="text_time", addition_time_embed_dim=8, projection_class_embeddings_input_dim=24 + 6 * 8,
        ),
        add_watermarker=False,
    )
    both = ("unet", "text_encoder", "text_encoder_2")
    style = File("style", 4, 2, modules(pipe, both, ATTENTION + ENCODER))
    person = File("person", 8, 8, modules(pipe, ("unet",), ATTENTION[:3] + CONVS))
    light = File("light", 2, 1, modules(pipe, both, ATTENTION[3:] + ENCODER[1:3]))
    written = [(style, "kohya"), (style, "diffusers"), (style, "onetrainer"), (style, "comfy"), (person, "diffusers"), (light, "kohya")]
    files = {f"{file.name}-{spelling}": {"made": file, "spelling": spelling, **spelled(file, spelling, "sdxl")} for file, spelling in written}
    stack = [
        {"file": "style-diffusers", "weight": 0.8}, {"file": "person-diffusers", "weight": -0.35},
        {"file": "light-kohya", "weight": 1.25, "text_encoder_weight": -0.4},
    ]
    cases = {f"style-{spelling}": [{"file": f"style-{spelling}", "weight": 0.75}] for spelling in ("kohya", "diffusers", "onetrainer", "comfy")}
    write("sdxl", pipe, files, cases | {"stack": stack})


if __name__ == "__main__":
    main()
