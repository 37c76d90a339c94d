"""The plan of the released code, as a yardstick: float32, two networks, three passes of batch two, nothing fused.

Written from the plan alone (METHOD, "One step" and "Constants"), on diffusers and peft, without our objectives.
"""

from __future__ import annotations

from collections.abc import Callable
from copy import deepcopy
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from benchmarks.steps.networks import BETAS, Kind
from stylescore.diffusion.conditioning import concatenate
from stylescore.method.schedule import NoiseSchedule


@dataclass
class Passes:
    """Samples the networks have evaluated without gradient, and with it."""

    forward: int = 0
    trained: int = 0


def adapted(network: Any) -> Any:
    """Return the network with peft's trainable adapter on to_q and to_v, rank 8 and alpha 32."""
    from peft import LoraConfig, inject_adapter_in_model

    network.requires_grad_(False)
    return inject_adapter_in_model(LoraConfig(r=8, lora_alpha=32, target_modules=["to_q", "to_v"]), network)


def switched(network: Any, on: bool) -> None:
    """Switch peft's adapter on or off."""
    from peft.tuners.tuners_utils import BaseTunerLayer

    for module in network.modules():
        if isinstance(module, BaseTunerLayer):
            module.enable_adapters(on)


def low_frequencies(z: Tensor, share: float) -> Tensor:
    """Return the transform of z with all coefficients beyond a share of the diagonal set to zero."""
    sides = [basis(n, z.device) for n in z.shape[-2:]]
    transformed = sides[0] @ z @ sides[1].T
    place = sum(torch.meshgrid(*(torch.arange(n, device=z.device) for n in z.shape[-2:]), indexing="ij"))
    return transformed * (place <= share * (sum(z.shape[-2:]) - 2))


def basis(n: int, device: torch.device) -> Tensor:
    """Return the orthonormal DCT-II as a matrix."""
    k = torch.arange(n, device=device)[:, None]
    rows = torch.cos(torch.pi * k * (2 * torch.arange(n, device=device)[None] + 1) / (2 * n)) * (2 / n) ** 0.5
    rows[0] /= 2**0.5
    return rows


def iteration(kind: Kind, network: Any, z_source: Tensor, passes: Passes) -> Callable[[], None]:
    """Return what takes one iteration for one picture."""
    device, schedule = z_source.device, NoiseSchedule(BETAS)
    style, base = deepcopy(network).requires_grad_(False), adapted(network)
    trained = [p for p in base.parameters() if p.requires_grad]
    prediction, null = kind.prediction(schedule), kind.words(1, device, 0)
    words = [concatenate([kind.words(1, device, seed), null]) for seed in (1, 2)]
    z = torch.nn.Parameter(z_source.clone())
    move = torch.optim.AdamW([z], lr=0.1)
    learn = torch.optim.AdamW(trained, lr=1e-3, weight_decay=0.0)

    def pair(model: Any, z_t: Tensor, t: Tensor, told: Any) -> tuple[Tensor, Tensor]:
        twice, times = torch.cat([z_t, z_t]), torch.cat([t, t])
        if torch.is_grad_enabled():
            passes.trained += 2
        else:
            passes.forward += 2
        latents, time = prediction.network_inputs(twice, times)
        eps = prediction.noise(kind.call(model, latents, time, told).float(), twice, times)
        return eps[:1], eps[1:]

    def guided(model: Any, z_t: Tensor, t: Tensor) -> Tensor:
        eps_c, eps_u = pair(model, z_t, t, words[0])
        return eps_u + 4.5 * (eps_c - eps_u)

    def step() -> None:
        t, eps = torch.randint(21, 499, (1,), device=device), torch.randn_like(z)
        with torch.no_grad():
            z_t, source_t = schedule.add_noise(z, eps, t), schedule.add_noise(z_source, eps, t)
            switched(base, True)
            direction = guided(style, z_t, t) - guided(base, z_t, t)
            switched(base, False)
            eps_c, eps_u = pair(base, source_t, t, words[1])
            relevance = (eps_c - eps_u).mean(dim=1, keepdim=True).abs()
            relevance = (relevance - relevance.min()) / (relevance.max() - relevance.min())
            target = z - schedule.posterior_variance(t) * direction * relevance
        share = int(t) / 500
        held = (low_frequencies(z, share) - low_frequencies(z_source, share)).abs().mean()
        loss = 0.5 * torch.nn.functional.mse_loss(z, target) + 5e-4 * held
        move.zero_grad()
        loss.backward()  # type: ignore[no-untyped-call]
        move.step()
        switched(base, True)
        t, eps = torch.randint(21, 499, (1,), device=device), torch.randn_like(z)
        eps_c, _ = pair(base, schedule.add_noise(z.detach(), eps, t), t, words[0])
        learn.zero_grad()
        torch.nn.functional.mse_loss(schedule.alpha_bar(t) * eps_c, schedule.alpha_bar(t) * eps).backward()
        learn.step()

    return step
