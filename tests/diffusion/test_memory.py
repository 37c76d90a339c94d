"""Less memory gives the same picture."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from PIL import Image
from torch import Tensor, nn

from stylescore.assembly.stylizer import Stylizer
from stylescore.catalog.registry import list_styles
from stylescore.config.presets import preset_for
from stylescore.config.run import RunConfig, StyleChoice, with_options
from stylescore.config.toml import overlay
from stylescore.diffusion.adapters import Adapters, trained_route
from stylescore.diffusion.execution.memory import enable_gradient_checkpointing, moved_to_device
from stylescore.images import as_photo
from stylescore.method.fit import fit

Rngs = Callable[..., list[torch.Generator]]
CPU, META = torch.device("cpu"), torch.device("meta")


class Traveller(nn.Linear):
    """A layer that notes where it is sent instead of going there."""

    def __init__(self) -> None:
        super().__init__(1, 1)
        self.sent: list[torch.device] = []

    def to(self, device: Any) -> Any:  # type: ignore[override]
        self.sent.append(device)
        return self


def test_parts_visit_and_go_home_even_after_a_failure() -> None:
    first, second = Traveller(), Traveller()
    with pytest.raises(ZeroDivisionError), moved_to_device([first, second], META):
        _ = 1 / len([each for each in (first, second) if each.sent != [META]])
    assert first.sent == second.sent == [META, CPU]


def test_nothing_moves_where_there_is_nowhere_to_go() -> None:
    part = Traveller()
    with moved_to_device([part], None):
        pass
    assert part.sent == []


def saved_bytes(work: Callable[[], Tensor]) -> tuple[int, Tensor]:
    """Return the size of what a call keeps for its way back, each piece of memory once, and its result."""
    kept: dict[int, int] = {}

    def note(tensor: Tensor) -> Tensor:
        storage = tensor.untyped_storage()
        kept[storage.data_ptr()] = storage.nbytes()
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(note, lambda tensor: tensor):
        result = work()
    return sum(kept.values()), result


def test_gradient_checkpointing_takes_less_memory_and_learns_the_same(
    tiny_unet: Callable[[], Any], units: dict[str, Tensor], rngs: Rngs
) -> None:
    unet = tiny_unet().requires_grad_(False)
    adapters = Adapters.of(unet)
    fake = adapters.new_fake(("to_q", "conv1"), 2, 4.0, rngs(1, 2))
    parameters = fake.parameters
    for parameter in parameters:
        parameter.data.add_(0.1)

    def loss() -> Tensor:
        with adapters.switch.set(trained_route(fake, 2, 2, CPU)):
            output: Tensor = unet(units["unet/x"], units["unet/t"], encoder_hidden_states=units["unet/text"]).sample
        return output.square().sum()

    usual, result = saved_bytes(loss)
    expected = torch.autograd.grad(result, parameters)
    enable_gradient_checkpointing(adapters)
    less, result = saved_bytes(loss)
    found = torch.autograd.grad(result, parameters)
    assert less < 0.8 * usual
    for one, other in zip(found, expected, strict=True):
        assert one.abs().max() > 0
        assert torch.allclose(one, other, rtol=1e-4, atol=1e-6)


def test_the_same_picture_in_less_memory() -> None:
    photo = as_photo(Image.linear_gradient("L").convert("RGB").resize((64, 64)))
    method = overlay(preset_for("mini", None, None), {"iterations": 2, "guidance_scale": 2.0})
    style = StyleChoice(name=next(entry.name for entry in list_styles() if entry.bundled))
    ends = []
    for memory in ("normal", "low"):
        run = RunConfig(styles=(style,), method=method, size=64)
        fitting = Stylizer(with_options(run, {"device": "cpu", "memory": memory})).start([photo])
        assert fitting.scores.batched == (memory == "normal")
        for _ in fit(fitting):
            pass
        ends.append(fitting.subject.render())
    assert torch.allclose(*ends, atol=1e-3)  # latents reach 10; rounding differs by processor


@pytest.mark.parametrize(
    ("saving", "sides"),
    [({}, {576, 768}), ({"memory": "low"}, {512}), ({"memory": "low", "tile": 0}, {576, 768})],
)
def test_large_pictures_pass_the_autoencoder_in_tiles(tiny_family: Any, saving: Any, sides: set[int]) -> None:
    """Of 512 pixels where memory is saved, though the native resolution is larger and scores take the picture whole."""
    tiny = tiny_family("sdxl")
    styles = (StyleChoice(name=str(tiny.lora)),)
    run = RunConfig(styles=styles, model=str(tiny.folder), size=576)
    stylizer = Stylizer(with_options(run, {"device": "cpu", **saving}))
    models = stylizer.networks_for(72, 96)
    assert models.base.tile is None
    seen: set[int] = set()
    vae = models.codec.vae
    for part in (vae.encoder, vae.decoder):
        factor = 1 if part is vae.encoder else 8
        part.register_forward_pre_hook(
            lambda part, given, factor=factor: seen.update(n * factor for n in given[0].shape[2:])
        )
    fitting = stylizer.start([as_photo(Image.linear_gradient("L").convert("RGB").resize((768, 576)))])
    assert seen == sides
    seen.clear()
    assert stylizer.picture(fitting, 0).size == (768, 576)
    assert seen == sides
