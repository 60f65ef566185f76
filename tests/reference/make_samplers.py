#!/usr/bin/env python3
"""Writes the golden schedules, denoising steps and noise: what diffusers' schedulers and torch's CPU generator give.

    python3 tests/reference/make_samplers.py

Needs torch and diffusers. The model is a formula, so that a whole trajectory can be compared without weights:
`0.4 * input + 0.6 * pattern * cos(timestep / 300)` in fp32.
"""

import json
from pathlib import Path

import torch
from diffusers import DDIMScheduler, DPMSolverMultistepScheduler, EulerAncestralDiscreteScheduler, EulerDiscreteScheduler

FOLDER = Path(__file__).resolve().parent / "golden" / "samplers"
LATENT = {"beta_start": 0.00085, "beta_end": 0.012, "beta_schedule": "scaled_linear", "clip_sample": False, "set_alpha_to_one": False}
CONFIGS = {
    "sd15": {**LATENT, "steps_offset": 1},
    "sdxl": {**LATENT, "steps_offset": 1, "timestep_spacing": "leading"},
    "sd21-v": {**LATENT, "steps_offset": 1, "prediction_type": "v_prediction"},
    "zero-snr": {**LATENT, "prediction_type": "v_prediction", "timestep_spacing": "trailing", "rescale_betas_zero_snr": True},
    "linear": {"beta_schedule": "linear", "steps_offset": 0, "timestep_spacing": "trailing"},
    "sample": {**LATENT, "prediction_type": "sample", "timestep_spacing": "linspace"},
}
KINDS = {
    "euler": EulerDiscreteScheduler, "euler_ancestral": EulerAncestralDiscreteScheduler, "ddim": DDIMScheduler, "dpmpp_2m": DPMSolverMultistepScheduler,
}
SIZE = 16


def numbers(tensor):
    return [float(value) for value in tensor.flatten()]


def schedule_of(kind, config, steps, karras):
    scheduler = KINDS[kind].from_config(config)
    if karras and kind == "euler_ancestral":
        # diffusers has no such option; the sigmas are Euler's, the step is its own
        euler = EulerDiscreteScheduler.from_config({**config, "use_karras_sigmas": True})
        euler.set_timesteps(steps)
        scheduler.set_timesteps(steps)
        scheduler.sigmas, scheduler.timesteps = euler.sigmas, euler.timesteps
        return scheduler
    if karras:
        scheduler = KINDS[kind].from_config({**config, "use_karras_sigmas": True})
    scheduler.set_timesteps(steps)
    return scheduler


def schedule_case(kind, name, steps, karras):
    scheduler = schedule_of(kind, CONFIGS[name], steps, karras)
    case = {
        "sampler": kind, "config": CONFIGS[name], "name": name, "steps": steps, "karras": karras,
        "timesteps": numbers(scheduler.timesteps), "init_noise_sigma": float(scheduler.init_noise_sigma),
    }
    if kind != "ddim":
        case["sigmas"] = numbers(scheduler.sigmas)
    return scheduler, case


def trajectory_case(kind, name, steps, karras, eta=0.0):
    scheduler, case = schedule_case(kind, name, steps, karras)
    generator = torch.Generator().manual_seed(11)
    pattern, sample = torch.randn(SIZE, generator=generator), torch.randn(SIZE, generator=generator)
    sample = sample * scheduler.init_noise_sigma
    case.update(pattern=numbers(pattern), start=numbers(sample), eta=eta, noise=[], samples=[])
    for timestep in scheduler.timesteps:
        model_input = scheduler.scale_model_input(sample, timestep)
        output = 0.4 * model_input + 0.6 * pattern * torch.cos(timestep.float() / 300)
        options = {}
        state = generator.get_state()
        if kind == "euler_ancestral":
            options = {"generator": generator}
        elif eta > 0:
            options = {"eta": eta, "generator": generator}
        sample = scheduler.step(output, timestep, sample, **options).prev_sample
        if options:
            generator.set_state(state)
            case["noise"].append(numbers(torch.randn(SIZE, generator=generator)))
        case["samples"].append(numbers(sample))
    return case


def samplers():
    schedules, trajectories = [], []
    for name in CONFIGS:
        for kind in KINDS:
            for karras in (False, True):
                if (karras and kind == "ddim") or (kind == "euler_ancestral" and name == "sample"):
                    continue
                trajectories.append(trajectory_case(kind, name, 10, karras))
                for steps in (1, 7, 30):
                    if steps > 1 or not karras:
                        schedules.append(schedule_case(kind, name, steps, karras)[1])
    trajectories.append(trajectory_case("ddim", "sd15", 10, False, eta=0.5))
    trajectories.append(trajectory_case("dpmpp_2m", "sd15", 20, True))
    return {"schedules": schedules, "trajectories": trajectories}


def noise():
    cases = []
    for seed in (0, 1, 42, 2**32 + 5, 2**63 + 1):
        for sizes in ([1, 2, 3, 5], [15, 1, 16, 1], [17, 16, 3, 31], [100, 40]):
            generator = torch.Generator().manual_seed(seed)
            cases.append({"seed": seed, "draws": [numbers(torch.randn(size, generator=generator)) for size in sizes]})
    latents = torch.randn(1, 4, 64, 64, generator=torch.Generator().manual_seed(1234)).flatten()
    large = {"seed": 1234, "size": latents.numel(), "first": numbers(latents[:8]), "last": numbers(latents[-8:]), "every_1000th": numbers(latents[::1000])}
    return {"cases": cases, "large": large}


def write(name, value):
    FOLDER.mkdir(parents=True, exist_ok=True)
    parts = []
    for key, entry in value.items():
        if isinstance(entry, list):
            parts.append(f'"{key}": [\n' + ",\n".join(json.dumps(case) for case in entry) + "\n]")
        else:
            parts.append(f'"{key}": {json.dumps(entry)}')
    (FOLDER / name).write_text("{\n" + ",\n".join(parts) + "\n}\n")


write("samplers.json", samplers())
write("noise.json", noise())
