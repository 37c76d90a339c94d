"""What only a GPU can show: every way of using its memory gives the picture that a CPU gives."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import pytest
import torch
from torch import Tensor

from stylescore.assembly.stylizer import Stylizer
from stylescore.images import Photo
from stylescore.method.fit import fit

Ended = Callable[..., tuple[Stylizer, Tensor]]
DEVICE = "cuda"
pytestmark = [pytest.mark.gpu, pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")]

FAMILIES = ["sd2", "sdxl", "sd3", "flux-dev"]
WAYS: list[dict[str, Any]] = [{}, {"memory": "low"}, {"memory": "offload"}, {"style_weights": "merged"}, {"tile": 64}]


@pytest.fixture(autouse=True)
def full_precision() -> Iterator[None]:
    """Keep convolutions from rounding to TF32, which is their default."""
    before = torch.backends.cudnn.allow_tf32
    torch.backends.cudnn.allow_tf32 = False
    yield
    torch.backends.cudnn.allow_tf32 = before


@pytest.fixture
def ended(run_on: Any, photos: list[Photo]) -> Ended:
    def run(tiny: Any, device: str, **more: Any) -> tuple[Stylizer, Tensor]:
        """Run to the end and return the latents."""
        size = 96 if "tile" in more else 64
        stylizer = Stylizer(run_on(tiny, device=device, size=size, **{"dtype": "float32", **more}))
        fitting = stylizer.start(photos)
        for _ in fit(fitting):
            pass
        return stylizer, fitting.subject.render()

    return run


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("way", WAYS, ids=str)
def test_a_gpu_gives_the_picture_of_a_cpu(tiny_family: Any, ended: Ended, family: str, way: dict[str, Any]) -> None:
    tiny = tiny_family(family)
    usual = {"tile": 64} if "tile" in way else {}
    _, wanted = ended(tiny, "cpu", **usual)
    stylizer, found = ended(tiny, DEVICE, **way)
    assert found.device.type == DEVICE
    assert torch.allclose(found.cpu(), wanted, atol=5e-3)
    assert all(picture.size == (80, 64) or "tile" in way for picture in stylizer.decode(found))


@pytest.mark.parametrize("way", [{}, {"memory": "low"}, {"memory": "offload"}], ids=str)
def test_text_encoders_are_off_the_gpu_once_prompts_are_encoded(
    tiny_family: Any, ended: Ended, way: dict[str, Any]
) -> None:
    stylizer, _ = ended(tiny_family("sd3"), DEVICE, **way)
    readers = stylizer._networks.text.readers
    assert {next(reader.model.parameters()).device.type for reader in readers} == {"cpu"}


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("dtype", ["bfloat16", "float16"])
def test_half_precision_stays_near(tiny_family: Any, ended: Ended, family: str, dtype: str) -> None:
    tiny = tiny_family(family)
    _, wanted = ended(tiny, DEVICE)
    _, found = ended(tiny, DEVICE, dtype=dtype)
    assert (found - wanted).abs().mean() < 0.1 * wanted.abs().mean()


@pytest.mark.parametrize("choice", ["on", "graphs"])
def test_a_compiled_network_gives_the_same_picture(tiny_family: Any, ended: Ended, choice: str) -> None:
    tiny = tiny_family("sd2")
    _, wanted = ended(tiny, DEVICE)
    _, found = ended(tiny, DEVICE, compile=choice)
    assert torch.allclose(found, wanted, atol=5e-3)


def test_offloading_takes_less_gpu_memory(tiny_family: Any, ended: Ended) -> None:
    tiny, most = tiny_family("sdxl"), []
    for way in ({}, {"memory": "offload"}):
        torch.cuda.empty_cache()
        torch.cuda.reset_peak_memory_stats()
        before = torch.cuda.memory_allocated()
        ended(tiny, DEVICE, **way)
        most.append(torch.cuda.max_memory_allocated() - before)
    assert most[1] < most[0]
