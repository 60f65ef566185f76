#!/usr/bin/env python3
"""Writes golden/onnx/sd15: the small SD 1.5 pipeline of `make_pipelines.py` as an ONNX folder, and what torch makes of its parts.

    python3 tests/reference/make_onnx_pipeline.py

Needs torch, diffusers, transformers, onnx. UNet, text encoder and VAE decoder are exported as diffusers' script exports them, the VAE
encoder as optimum does (mean and variance). Large weights are beside the graphs, in `weights.pb`, which is not stored: `weights.tsv`
says, by place, of which tensor of the pipeline each is, as it is or transposed, and tensors follow from their names. Whole
generations by the same models are in golden/engine/pipeline-sd15.safetensors.
"""

import json
import shutil
import warnings

import numpy
import onnx
import torch
from make_denoisers import OUT, made
from make_pipelines import LATENT, encoder, unet, vae
from onnx import external_data_helper, numpy_helper
from safetensors.torch import save_file

FOLDER = OUT.parent / "onnx" / "sd15"
SMALL = 1024


class Answer(torch.nn.Module):
    """A model with a function of its own as forward, so that names of weights stay."""

    def __init__(self, model, answer):
        super().__init__()
        self.model, self.answer = model, answer

    def forward(self, *given):
        return self.answer(self.model, *given)


def known(model, prefix):
    bare = ("embeddings.", "encoder.", "final_layer_norm.")
    name = lambda key: f"text_model.{key}" if prefix and key.startswith(bare) else key
    return {name(key): value.numpy() for key, value in model.state_dict().items() if value.is_floating_point()}


def place(array, tensors):
    """The tensor that an initializer is, and whether it is transposed."""
    for name, value in tensors.items():
        if value.shape == array.shape and numpy.array_equal(value, array):
            return name, "as-it-is"
        if value.ndim == 2 and value.T.shape == array.shape and numpy.array_equal(value.T, array):
            return name, "transposed"
    return None


def detach(model, tensors):
    """Moves large weights out of the graph; gives the lines that say what they are."""
    lines, offset = [], 0
    for weight in model.graph.initializer:
        array = numpy_helper.to_array(weight)
        found = place(array, tensors) if array.dtype == numpy.float32 and array.nbytes > SMALL else None
        if found is None:
            continue
        weight.raw_data = array.tobytes()
        external_data_helper.set_external_data(weight, "weights.pb", offset, array.nbytes)
        weight.ClearField("raw_data")
        shape = ",".join(str(side) for side in tensors[found[0]].shape)
        lines.append(f"{offset}\t{found[0]}\t{shape}\t{found[1]}")
        offset += (array.nbytes + 63) // 64 * 64
    return lines


def export(part, model, answer, given, inputs, outputs, prefix=""):
    folder = FOLDER / part
    folder.mkdir(parents=True)
    axes = {name: dict(enumerate(sides)) for name, sides in inputs.items()}
    path = folder / "model.onnx"
    torch.onnx.export(
        Answer(model, answer).eval(), given, path, input_names=list(inputs), output_names=outputs, dynamic_axes=axes,
        do_constant_folding=True, opset_version=17, dynamo=False,
    )
    graph = onnx.load(path)
    # names of nodes and of what lies between them are two thirds of the bytes, and say nothing to who runs it
    kept = {port.name for port in [*graph.graph.input, *graph.graph.output, *graph.graph.initializer]}
    short = {}
    for node in graph.graph.node:
        node.ClearField("doc_string")
        node.ClearField("name")
        for names in (node.input, node.output):
            names[:] = [name if name in kept or not name else short.setdefault(name, f"v{len(short)}") for name in names]
    del graph.graph.value_info[:]
    lines = detach(graph, known(model, prefix))
    path.write_bytes(graph.SerializeToString())
    (folder / "weights.tsv").write_text("\n".join(lines) + "\n")


def index():
    part = ["diffusers", "OnnxRuntimeModel"]
    parts = {name: part for name in ("text_encoder", "unet", "vae_decoder", "vae_encoder")}
    scheduler = {"_class_name": "DDIMScheduler", "num_train_timesteps": 1000} | LATENT
    (FOLDER / "scheduler").mkdir(parents=True)
    (FOLDER / "scheduler" / "scheduler_config.json").write_text(json.dumps(scheduler, indent=2) + "\n")
    index = {"_class_name": "OnnxStableDiffusionPipeline", "scheduler": ["diffusers", "DDIMScheduler"]} | parts
    (FOLDER / "model_index.json").write_text(json.dumps(index, indent=2) + "\n")


def main():
    torch.set_grad_enabled(False)
    warnings.filterwarnings("ignore")
    shutil.rmtree(FOLDER, ignore_errors=True)
    FOLDER.mkdir(parents=True)
    index()
    text, denoiser, autoencoder = encoder(False, 49407, 32, "quick_gelu"), unet(cross_attention_dim=32, attention_head_dim=4), vae()
    ids = torch.full((2, 77), 49407)
    ids[:, 0] = 49406
    export(
        "text_encoder", text, lambda model, ids: tuple(model(input_ids=ids, return_dict=True)[key] for key in ("last_hidden_state", "pooler_output")),
        (ids.to(torch.int32),), {"input_ids": ["batch", "sequence"]}, ["last_hidden_state", "pooler_output"], "text_model.",
    )
    sample, states = made("sample", (2, 4, 8, 8)), made("encoder_hidden_states", (2, 77, 32))
    export(
        "unet", denoiser, lambda model, *given: model(*given, return_dict=False)[0], (sample, torch.tensor([981.0, 981.0]), states),
        {"sample": ["batch", "channels", "height", "width"], "timestep": ["batch"], "encoder_hidden_states": ["batch", "sequence"]}, ["out_sample"],
    )
    export(
        "vae_decoder", autoencoder, lambda model, latents: model.decode(latents, return_dict=False)[0], (made("latents", (1, 4, 8, 8)),),
        {"latent_sample": ["batch", "channels", "height", "width"]}, ["sample"],
    )
    image = made("image", (1, 3, 64, 64)).clamp(-1, 1)
    export(
        "vae_encoder", autoencoder, lambda model, image: model.encode(image).latent_dist.parameters, (image,),
        {"sample": ["batch", "channels", "height", "width"]}, ["latent_parameters"],
    )
    latents = made("latents", (1, 4, 6, 10))
    save_file({
        "prediction": denoiser(sample, 981, states).sample.contiguous(),
        "decoded": autoencoder.decode(latents / 0.18215).sample.contiguous(),
        "encoded": (autoencoder.encode(image).latent_dist.mean * 0.18215).contiguous(),
    }, FOLDER / "answers.safetensors")


if __name__ == "__main__":
    main()
