#!/usr/bin/env python3
"""Writes small LoRA files of every flavour with the weights that their own libraries make of them.

    golden/loras.safetensors    `<case>|base`, `<case>|file|<name in the file>`, `<case>|merged` (float64, strength 1);
                                metadata `<case>`: the adapter's settings where a file has them beside its tensors

LyCORIS makes LoCon, LoHa, LoKr and DoRA; PEFT makes LoRA with alpha patterns, rank-stabilised scale and magnitudes, and its own LoHa and
LoKr, whose scale stands in its settings alone; whole changes and transposed products are the formula in float64. At another strength s the weight is base + s * (merged - base) for all of them (DoRA as the user interfaces apply it).
"""

import json
import pathlib

import torch
from lycoris.modules.locon import LoConModule
from lycoris.modules.loha import LohaModule
from lycoris.modules.lokr import LokrModule
from peft import LoHaConfig, LoKrConfig, LoraConfig, get_peft_model
from peft.utils import get_peft_model_state_dict
from safetensors.torch import save_file

OUT = pathlib.Path(__file__).parent / "golden" / "loras.safetensors"
tensors, settings = {}, {}


def linear(i=24, o=40):
    return torch.nn.Linear(i, o)


def conv(i=8, o=12, k=3):
    return torch.nn.Conv2d(i, o, k, padding=k // 2)


def lycoris(case, make, layer, **options):
    torch.manual_seed(len(tensors))
    layer = layer.double()
    module = make("lora_unet_x", layer, **options).double()
    with torch.no_grad():
        for parameter in module.parameters():
            if parameter.shape and parameter is not getattr(module, "dora_scale", None):
                parameter.copy_((torch.randn_like(parameter) * 0.3).float())
    state = {f"lora_unet_x.{k}": v.float() for k, v in module.state_dict().items()}
    # what the file holds is what is merged
    module.load_state_dict({k.removeprefix("lora_unet_x."): v for k, v in state.items()})
    layer.weight.data = layer.weight.data.float().double()
    with torch.no_grad():
        shape = layer.weight.shape
        # the merges of LoHa and LoKr multiply with the scale twice; their forward passes, which were trained, use this
        once = isinstance(module, (LohaModule, LokrModule))
        merged = layer.weight + (module.get_weight(shape) if once else module.get_diff_weight(shape=shape)[0])
        if options.get("weight_decompose"):
            merged = module.apply_weight_decompose(merged)
    keep(case, layer.weight, state, merged)


def keep(case, base, state, merged):
    tensors[f"{case}|base"] = base.detach().float().contiguous()
    tensors[f"{case}|merged"] = merged.detach().double().contiguous()
    for name, tensor in state.items():
        tensors[f"{case}|file|{name}"] = tensor.detach().contiguous().clone()


class Host(torch.nn.Module):
    def __init__(self, layer):
        super().__init__()
        self.x = layer

    def forward(self, x):
        return self.x(x)


FACTORS = ("lora_A", "lora_B", "hada_", "lokr_")
SAID = ("r", "lora_alpha", "alpha_pattern", "use_rslora")
SAID_OF_OTHERS = ("peft_type", "r", "alpha", "rank_pattern", "alpha_pattern")


def peft(case, layer, make=LoraConfig, **options):
    torch.manual_seed(len(tensors))
    base = layer.weight.detach().clone()
    model = get_peft_model(Host(layer), make(target_modules=["x"], **options))
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if any(factor in name for factor in FACTORS):
                parameter.copy_(torch.randn_like(parameter) * 0.3)
    state = get_peft_model_state_dict(model)
    config = model.peft_config["default"]
    said = SAID if make is LoraConfig else SAID_OF_OTHERS
    settings[case] = json.dumps({k: getattr(config, k) for k in said})
    merged = model.merge_and_unload().x.weight
    keep(case, base, state, merged)


def formula(case, layer, state, change, said=None):
    """What no library merges for these layers: the change as the format has it, in float64."""
    base = layer.weight.detach().float()
    if said:
        settings[case] = json.dumps(said)
    keep(case, base, state, base.double() + change)


def random(*shape):
    return (torch.randn(*shape) * 0.3).float()


lycoris("lora", LoConModule, linear(), lora_dim=4, alpha=2)
lycoris("lora-alpha-is-rank", LoConModule, linear(), lora_dim=4, alpha=4)
lycoris("conv1", LoConModule, conv(k=1), lora_dim=4, alpha=1)
lycoris("conv3", LoConModule, conv(), lora_dim=4, alpha=2)
lycoris("conv3-cp", LoConModule, conv(), lora_dim=4, alpha=2, use_tucker=True)
lycoris("loha", LohaModule, linear(), lora_dim=4, alpha=2)
lycoris("loha-conv3", LohaModule, conv(), lora_dim=4, alpha=2)
lycoris("loha-conv3-cp", LohaModule, conv(), lora_dim=4, alpha=2, use_tucker=True)
lycoris("lokr", LokrModule, linear(), lora_dim=2, alpha=1, factor=4)
lycoris("lokr-whole", LokrModule, linear(), lora_dim=1000, alpha=1, factor=4, full_matrix=True)
lycoris("lokr-both", LokrModule, linear(64, 64), lora_dim=1, alpha=2, factor=8, decompose_both=True)
lycoris("lokr-conv3", LokrModule, conv(16, 16), lora_dim=2, alpha=1, factor=4)
lycoris("lokr-conv3-cp", LokrModule, conv(16, 16), lora_dim=1, alpha=1, factor=4, use_tucker=True)
lycoris("dora-rows", LoConModule, linear(), lora_dim=4, alpha=2, weight_decompose=True, wd_on_out=True)
lycoris("dora-columns", LoConModule, linear(), lora_dim=4, alpha=2, weight_decompose=True, wd_on_out=False)
lycoris("dora-conv3", LoConModule, conv(), lora_dim=4, alpha=2, weight_decompose=True, wd_on_out=True)
lycoris("dora-conv3-columns", LoConModule, conv(), lora_dim=4, alpha=2, weight_decompose=True, wd_on_out=False)
lycoris("dora-loha", LohaModule, linear(), lora_dim=4, alpha=2, weight_decompose=True, wd_on_out=True)
peft("peft", linear(), r=4, lora_alpha=8)
peft("peft-pattern", linear(), r=4, lora_alpha=8, alpha_pattern={"x": 3})
peft("peft-rs", linear(), r=4, lora_alpha=8, use_rslora=True)
peft("peft-dora", linear(), r=4, lora_alpha=8, use_dora=True)
peft("peft-conv3", conv(), r=4, lora_alpha=8)
lycoris("dora-lokr", LokrModule, linear(), lora_dim=2, alpha=1, factor=4, weight_decompose=True, wd_on_out=True)
peft("peft-dora-conv3", conv(), r=4, lora_alpha=8, use_dora=True)
peft("peft-dora-conv3-square", conv(8, 8), r=4, lora_alpha=8, use_dora=True)
peft("peft-dora-conv1-square", conv(8, 8, 1), r=4, lora_alpha=8, use_dora=True)
peft("peft-loha", linear(), LoHaConfig, r=4, alpha=16)
peft("peft-loha-pattern", linear(), LoHaConfig, r=4, alpha=16, alpha_pattern={"x": 3})
peft("peft-loha-conv3", conv(), LoHaConfig, r=4, alpha=16, use_effective_conv2d=True)
peft("peft-loha-conv3-flat", conv(), LoHaConfig, r=4, alpha=16)
peft("peft-lokr", linear(), LoKrConfig, r=2, alpha=16)
peft("peft-lokr-conv3", conv(16, 16), LoKrConfig, r=2, alpha=16, use_effective_conv2d=True)
peft("peft-lokr-conv3-cp", conv(16, 16), LoKrConfig, r=1, alpha=4, use_effective_conv2d=True)
peft("peft-lokr-whole", linear(), LoKrConfig, r=64, alpha=16)
peft("peft-lokr-whole-pattern", linear(), LoKrConfig, r=64, alpha=16, rank_pattern={"x": 32}, alpha_pattern={"x": 8})
torch.manual_seed(1)
diff, kernel = random(40, 24), random(12, 8, 3, 3)
formula("diff", linear(), {"lora_unet_x.diff": diff}, diff.double())
formula("diff-conv3", conv(), {"lora_unet_x.diff": kernel}, kernel.double())
down, up = random(4, 40), random(24, 4)
state = {"base_model.model.x.lora_A.weight": down, "base_model.model.x.lora_B.weight": up}
turned = 2 * (up.double() @ down.double()).T
formula("transposed", linear(), state, turned, {"r": 4, "lora_alpha": 8, "fan_in_fan_out": True})
save_file(tensors, OUT, settings)
print(f"{len(tensors)} tensors, {OUT.stat().st_size} bytes")
for name, tensor in tensors.items():
    print(name, list(tensor.shape), tensor.dtype)
