#!/usr/bin/env python3
"""Writes golden/detection/files/: whole small files and folders that headers of safetensors cannot stand for, and what each is.

ONNX graphs by ONNX's own library with the inputs, outputs and layout of diffusers' exporter, tokenizers by transformers, folders of weights as
diffusers saves them (a variant, shards, pickles), GGUF by its own library. Weights are a few numbers. `files.json` says what each is, from how it was made.
"""

import json
import os
import pathlib
import shutil

os.environ["HF_HUB_OFFLINE"] = "1"

import diffusers
import gguf
import numpy as np
import onnx
import tokenizers
import torch
import transformers
from onnx import TensorProto, helper, numpy_helper

OUT = pathlib.Path(__file__).parent / "golden" / "detection" / "files"


def graph(path, inputs, outputs, external=None):
    """A graph that adds one weight to its first input; ports as (name, type, dims)."""
    value = lambda port: helper.make_tensor_value_info(port[0], port[1], port[2])
    weight = numpy_helper.from_array(np.array([0.5], np.float32), "conv_in.weight")
    node = helper.make_node("Add", [inputs[0][0], "conv_in.weight"], [outputs[0][0]])
    built = helper.make_graph([node], "main_graph", [value(port) for port in inputs], [value(port) for port in outputs], [weight])
    model = helper.make_model(built, opset_imports=[helper.make_opsetid("", 14)], ir_version=7, producer_name="pytorch")
    path.parent.mkdir(parents=True, exist_ok=True)
    options = dict(save_as_external_data=True, location=external, size_threshold=0) if external else {}
    onnx.save(model, path, **options)


def unet(path, width, external=None):
    sample = ["batch", 4, "height", "width"]
    graph(
        path,
        [("sample", TensorProto.FLOAT, sample), ("timestep", TensorProto.FLOAT, ["batch"]),
         ("encoder_hidden_states", TensorProto.FLOAT, ["batch", "sequence", width])],
        [("out_sample", TensorProto.FLOAT, sample)],
        external,
    )


def decoder(path):
    graph(
        path, [("latent_sample", TensorProto.FLOAT, ["batch", 4, "height", "width"])],
        [("sample", TensorProto.FLOAT, ["batch", 3, "height", "width"])],
    )


def clip_tokenizer(folder):
    words = ["l", "o", "w", "lo", "low</w>", "w</w>", "<|startoftext|>", "<|endoftext|>"]
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "vocab.json").write_text(json.dumps({word: at for at, word in enumerate(words)}))
    (folder / "merges.txt").write_text("#version: 0.2\nl o\nlo w</w>\n")
    config = {"tokenizer_class": "CLIPTokenizer", "model_max_length": 77, "pad_token": "<|endoftext|>"}
    (folder / "tokenizer_config.json").write_text(json.dumps(config))
    marks = {"bos_token": "<|startoftext|>", "eos_token": "<|endoftext|>"}
    (folder / "special_tokens_map.json").write_text(json.dumps(marks))


def t5_tokenizer(folder):
    pieces = [("<pad>", 0.0), ("</s>", 0.0), ("<unk>", 0.0), ("\u2581a", -1.0), ("\u2581cat", -2.0)]
    fast = transformers.PreTrainedTokenizerFast(
        tokenizer_object=tokenizers.Tokenizer(tokenizers.models.Unigram(pieces, unk_id=2)),
        pad_token="<pad>", eos_token="</s>", unk_token="<unk>", model_max_length=512,
    )
    fast.save_pretrained(folder)


def pipeline(folder, width, class_name):
    unet(folder / "unet" / "model.onnx", width, "weights.pb")
    decoder(folder / "vae_decoder" / "model.onnx")
    graph(
        folder / "text_encoder" / "model.onnx", [("input_ids", TensorProto.INT32, ["batch", "sequence"])],
        [("last_hidden_state", TensorProto.FLOAT, ["batch", "sequence", width])],
    )
    clip_tokenizer(folder / "tokenizer")
    (folder / "scheduler").mkdir()
    config = {"_class_name": "PNDMScheduler", "prediction_type": "epsilon", "num_train_timesteps": 1000}
    (folder / "scheduler" / "scheduler_config.json").write_text(json.dumps(config))
    part = ["diffusers", "OnnxRuntimeModel"]
    index = {
        "_class_name": class_name, "_diffusers_version": "0.30.0", "unet": part, "vae_decoder": part, "text_encoder": part,
        "tokenizer": ["transformers", "CLIPTokenizer"], "scheduler": ["diffusers", "PNDMScheduler"],
    }
    (folder / "model_index.json").write_text(json.dumps(index))


def autoencoder():
    torch.manual_seed(0)
    return diffusers.AutoencoderKL(block_out_channels=(8,), norm_num_groups=4, layers_per_block=1, sample_size=8)


def denoiser():
    torch.manual_seed(1)
    return diffusers.UNet2DConditionModel(
        block_out_channels=(8, 16), layers_per_block=1, attention_head_dim=2, norm_num_groups=4, cross_attention_dim=768, sample_size=8,
        down_block_types=("CrossAttnDownBlock2D", "DownBlock2D"), up_block_types=("UpBlock2D", "CrossAttnUpBlock2D"),
    )


def quantised(path, model):
    """Matrices whose rows are whole blocks in 8 bits, the rest in 16; GGUF writes a shape's fastest dimension first."""
    writer = gguf.GGUFWriter(path, "vae")
    writer.add_name("made")
    kinds = {}
    for name, weight in model.state_dict().items():
        values = weight.float().numpy()
        whole = values.ndim == 2 and values.shape[1] % 32 == 0
        kind = gguf.GGMLQuantizationType.Q8_0 if whole else gguf.GGMLQuantizationType.F16
        kinds[kind.name] = kinds.get(kind.name, 0) + 1
        data = gguf.quantize(values, kind) if whole else values.astype(np.float16)
        writer.add_tensor(name, data, raw_dtype=kind if whole else None)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return kinds


def main():
    shutil.rmtree(OUT, ignore_errors=True)
    OUT.mkdir(parents=True)
    pipeline(OUT / "onnx-sd15", 768, "OnnxStableDiffusionPipeline")
    pipeline(OUT / "onnx-sd21", 1024, "OnnxStableDiffusionPipeline")
    decoder(OUT / "vae_decoder.onnx")
    unet(OUT / "unet.onnx", 768)
    clip_tokenizer(OUT / "tokenizer-clip")
    t5_tokenizer(OUT / "tokenizer-t5")
    vae, unet_model = autoencoder(), denoiser()
    vae.half().save_pretrained(OUT / "vae-variant", variant="fp16")
    vae.save_pretrained(OUT / "vae-pickled", safe_serialization=False)
    unet_model.half().save_pretrained(OUT / "unet-shards", max_shard_size="100KB")
    kinds = quantised(OUT / "unet.gguf", unet_model)
    count = lambda model: len(model.state_dict())
    said = lambda model_type, base, fmt, **more: {"type": model_type, "base": base, "format": fmt} | more
    cases = {
        "onnx-sd15": said("checkpoint", "sd15", "diffusers", prediction="epsilon"),
        "onnx-sd21": said("checkpoint", "sd21", "diffusers", prediction="epsilon"),
        "vae_decoder.onnx": said("onnx", "unknown", "onnx", part="vae_decoder"),
        "unet.onnx": said("onnx", "unknown", "onnx", part="unet"),
        "tokenizer-clip": said("tokenizer", "unknown", "tokenizer", kind="bpe", vocab_size=8),
        "vae-variant": said("vae", "unknown", "component", variant="fp16", tensors=count(vae)),
        "vae-pickled": said("vae", "unknown", "component", variant="fp16", tensors=count(vae)),
        "unet-shards": said("unet", "sd15", "component", variant="fp16", tensors=count(unet_model)),
        "unet.gguf": said("unet", "sd15", "gguf", tensors=count(unet_model), tensor_types=kinds),
        "tokenizer-t5": said("tokenizer", "unknown", "tokenizer", kind="unigram", vocab_size=5),
    }
    (OUT / "files.json").write_text(json.dumps(cases, indent=1) + "\n")


if __name__ == "__main__":
    main()
