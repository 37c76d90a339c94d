"""StyleID: inversion with an exact score, statistics by hand, and whole runs on the tiny model."""

from __future__ import annotations

from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from stylescore import Stylizer, read_photo
from stylescore.baselines.sdedit import ddim_step, sampling_timesteps
from stylescore.baselines.styleid import invert, match_statistics
from stylescore.diffusion.batching import PromptedScore
from stylescore.diffusion.injection import InjectedScore
from stylescore.errors import ConfigError
from stylescore.method.fit import fit
from stylescore.method.schedule import NoiseSchedule

PARITY = Path(__file__).parent.parent / "data" / "parity"
PHOTO = PARITY / "input_128x128.png"
QUICK: dict[str, Any] = {"model": str(PARITY / "tiny_base"), "method": "styleid", "iterations": 3, "size": 64}
ONE = {"styleid": {"temperature": 1.0}}


@dataclass(frozen=True)
class GaussianScore:
    """E[eps | z_t] for z ~ N(2, 0.5^2) in every cell."""

    schedule: NoiseSchedule

    def __call__(self, z_t: Tensor, t: Tensor) -> Tensor:
        alpha, sigma = self.schedule.alpha(t), self.schedule.sigma(t)
        return sigma * (z_t - alpha * 2.0) / ((alpha * 0.5).square() + sigma.square())


def source() -> Tensor:
    return 2 + 0.5 * torch.randn(2, 4, 6, 9, generator=torch.Generator().manual_seed(5))


def denoise(schedule: NoiseSchedule, z: Tensor, times: list[int]) -> Tensor:
    for before, after in pairwise(times):
        t, t_next = (torch.full((len(z),), each) for each in (before, after))
        z = ddim_step(z, GaussianScore(schedule)(z, t), t, t_next, schedule)
    return z


def test_what_is_inverted_comes_back_the_better_the_finer_the_steps(schedule: NoiseSchedule) -> None:
    def error(steps: int) -> float:
        times = sampling_timesteps(1000, 0.8, steps)
        found = invert(GaussianScore(schedule), schedule, source(), times)
        assert sorted(found) == sorted(times[:-1])
        return float((denoise(schedule, found[times[0]], times) - source()).abs().max())

    assert error(400) < 0.03
    assert 5 * error(400) < error(40)


def test_inversion_follows_the_gaussians_probability_flow(schedule: NoiseSchedule) -> None:
    times = sampling_timesteps(1000, 0.6, 600)
    found, at = invert(GaussianScore(schedule), schedule, source(), times)[times[0]], torch.full((2,), times[0])
    alpha, sigma = schedule.alpha(at), schedule.sigma(at)
    truth = alpha * 2 + ((alpha * 0.5).square() + sigma.square()).sqrt() * (source() - 2) / 0.5
    assert torch.allclose(found, truth, atol=0.05)


def test_statistics_are_the_styles_and_the_pattern_the_contents() -> None:
    rng = torch.Generator().manual_seed(1)
    content, style = torch.randn(2, 3, 5, 7, generator=rng), 4 + 3 * torch.randn(2, 3, 5, 7, generator=rng)
    found = match_statistics(content, style)
    assert torch.allclose(found.mean((-2, -1)), style.mean((-2, -1)), atol=1e-5)
    assert torch.allclose(found.std((-2, -1)), style.std((-2, -1)), atol=1e-5)
    flat = torch.stack([found[0, 0].flatten(), content[0, 0].flatten()])
    assert float(torch.corrcoef(flat)[0, 1]) == pytest.approx(1, abs=1e-5)
    assert torch.allclose(match_statistics(content, content), content, atol=1e-5)
    assert bool(match_statistics(torch.ones(1, 1, 5, 7), style[:1, :1]).isfinite().all())


def latents(style_image: Path, copies: int = 1, networks_in: torch.dtype = torch.float32, **options: Any) -> Tensor:
    with Stylizer.load([], style_image=str(style_image), **{**QUICK, **options}) as stylizer:
        stylizer.networks.base.network.to(networks_in)
        stylizer.networks.codec.vae.to(networks_in)
        fitting = stylizer.start([read_photo(PHOTO)] * copies)
        steps = list(fit(fitting))
        assert len(steps) == fitting.iterations
        return fitting.subject.render()


def test_without_strength_it_gives_back_the_photo(style_picture: Path) -> None:
    with Stylizer.load([], style_image=str(style_picture), **QUICK, strength=0.0) as stylizer:
        fitting = stylizer.start([read_photo(PHOTO)])
        assert list(fit(fitting)) == []
        assert torch.equal(fitting.subject.render(), fitting.subject.draw(fitting.rng)[1])


def test_a_photo_in_its_own_style_takes_the_plain_networks_step(style_picture: Path) -> None:
    """The three streams are the same in the first step, whatever gamma is."""
    with Stylizer.load([], **{**QUICK, "iterations": 1}, style_image=str(PHOTO), settings=ONE) as stylizer:
        fitting = stylizer.start([read_photo(PHOTO)])
        score = fitting.scores["style"]
        assert isinstance(score, InjectedScore)
        plain, (start,) = PromptedScore(score.backbone, score.empty, score.empty), score.content
        t, end = torch.tensor([start]), torch.tensor([-1])
        with torch.no_grad():
            wanted = ddim_step(score.content[start], plain(score.content[start], t), t, end, score.backbone.schedule)
        assert len(list(fit(fitting))) == 1
        assert torch.allclose(fitting.subject.render(), wanted, rtol=1e-3, atol=1e-3)


def test_the_style_picture_and_gamma_matter_and_nothing_is_random(style_picture: Path) -> None:
    first = latents(style_picture)
    assert torch.equal(first, latents(style_picture, seed=7))
    assert not torch.allclose(first, latents(PHOTO), atol=1e-2)
    assert not torch.allclose(first, latents(style_picture, content=1.0), atol=1e-3)


def test_a_batch_equals_its_pictures_one_by_one(style_picture: Path) -> None:
    """In double precision, where the size of a batch is not seen in the networks' rounding: latents reach 50 here."""
    both, alone = (latents(style_picture, copies=count, networks_in=torch.float64) for count in (2, 1))
    assert torch.allclose(both[:1], alone, atol=2e-5)
    assert torch.allclose(both[1:], alone, atol=2e-5)


@pytest.mark.parametrize(
    ("style", "options", "message"),
    [
        ([], {}, "styleid needs a picture in the style, style_image"),
        ("a-lora", {"style_image": str(PHOTO)}, "styleid takes its style from a picture alone"),
        (
            "a-lora",
            {"style_image": str(PHOTO), "method": "dds"},
            "style_image is of the methods styleid, instantstyle, gatys, adain, ghiasi, not of dds",
        ),
    ],
)
def test_the_style_comes_from_one_place(style: Any, options: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError) as caught:
        Stylizer.load(style, **{**QUICK, **options})
    assert str(caught.value).startswith(message)
