"""From a network's name and options to the network: the only place where these names are matched."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Literal, get_args

from torch import nn

from stylescore.errors import ConfigError, did_you_mean, quote
from stylescore.generators.mobile import MobileGenerator
from stylescore.generators.resnet import ResnetGenerator

NetworkName = Literal["mobile", "resnet9", "lora"]
NETWORKS: tuple[NetworkName, ...] = get_args(NetworkName)

DEFAULTS: Mapping[str, Mapping[str, int]] = {
    "mobile": {"width": 32, "blocks": 8},
    "resnet9": {"width": 64, "blocks": 9},
    "lora": {"rank": 16, "timestep": 399},
}
LARGEST: Mapping[str, Mapping[str, int]] = {
    "mobile": {"width": 128, "blocks": 32},
    "resnet9": {"width": 128, "blocks": 24},
    "lora": {"rank": 512, "timestep": 999},
}
"""At these numbers a network has about 50 and 110 million parameters: no file's options can make one without end."""
MOST_NOISE_CHANNELS = 128


def make_generator(network: str, options: Mapping[str, object] | None = None, noise_channels: int = 0) -> nn.Module:
    """Return a new generator that needs no other model.

    Args:
        network: one of `NETWORKS` but `lora`, whose weights are an adapter of a diffusion model.
        options: `width` and `blocks`; those left out have the network's defaults.
        noise_channels: of its noise field, 0 for none.

    Raises:
        ConfigError: an unknown network or option, a number out of range, or `lora`.
    """
    numbers = check_network(network, options or {}, noise_channels)
    match network:
        case "resnet9":
            return ResnetGenerator(**numbers, noise_channels=noise_channels)
        case "lora":
            raise ConfigError("the network lora is a diffusion model with a LoRA, not a network of its own")
        case _:
            return MobileGenerator(**numbers, noise_channels=noise_channels)


def check_network(network: str, options: Mapping[str, object], noise_channels: object) -> dict[str, int]:
    """Return all options of a network, its defaults among them.

    Raises:
        ConfigError: an unknown network or option, or a number out of range.
    """
    if network not in NETWORKS:
        raise ConfigError(
            f"network must be one of {', '.join(NETWORKS)}, not {quote(network)}", hint=did_you_mean(network, NETWORKS)
        )
    _check_number("noise_channels", noise_channels, 0, MOST_NOISE_CHANNELS)
    return resolve_options(network, options)


def resolve_options(network: str, given: Mapping[str, object]) -> dict[str, int]:
    """Return all options of a network, the defaults among them.

    Raises:
        ConfigError: an unknown option, or a number out of range.
    """
    defaults = DEFAULTS[network]
    for name in given:
        if name not in defaults:
            raise ConfigError(
                f"the network {network} has no option {quote(name)}", hint=f"it has {', '.join(sorted(defaults))}"
            )
    numbers = {**defaults, **given}
    return {name: _check_number(name, value, 1, LARGEST[network][name]) for name, value in numbers.items()}


def _check_number(name: str, value: object, smallest: int, largest: int) -> int:
    if type(value) is not int or not smallest <= value <= largest:
        raise ConfigError(
            f"{name} must be a whole number between {smallest} and {largest}, not {quote(value)}",
            hint=f"leave it out for the network's own {name}",
        )
    return value
