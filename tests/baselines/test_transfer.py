"""The classical rivals: losses in closed form, networks beside a second writing of their formulas, runs, refusals."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor
from torch.nn import functional

from stylescore import Stylizer, read_photo
from stylescore.assembly.transfer import load_texture
from stylescore.baselines import ghiasi
from stylescore.baselines.adain import AdainNetwork, make_decoder, make_encoder
from stylescore.baselines.gatys import GramMatching, TextureFeatures, content_layer, style_layers
from stylescore.baselines.ghiasi import PredictedNormalisation
from stylescore.baselines.pixels import PixelCodec, pixel_objective
from stylescore.catalog.places import Found
from stylescore.errors import ConfigError, ModelError
from stylescore.method.fit import fit
from stylescore.method.state import capture
from stylescore.metrics.states import read_state
from stylescore.metrics.trunks import VGG16, VGG19, make_vgg


def noise(*shape: int, seed: int = 0) -> Tensor:
    return torch.rand(shape, generator=torch.Generator().manual_seed(seed)) * 2 - 1


@pytest.fixture(scope="module")
def features(weights: dict[str, str]) -> TextureFeatures:
    return load_texture("vgg16", Found(Path(weights["vgg16"]), "vgg16"), torch.device("cpu"))


def matching(features: TextureFeatures, photos: Tensor, style: Tensor, alpha: float, beta: float) -> GramMatching:
    return GramMatching.between(features, photos, style, content_weight=alpha, style_weight=beta)


def test_the_levels_are_those_of_the_paper() -> None:
    """torchvision numbers VGG19's layers: relu1_1 1, relu2_1 6, relu3_1 11, relu4_1 20, relu4_2 22, relu5_1 29."""
    assert style_layers(make_vgg(VGG19)) == (1, 6, 11, 20, 29)
    assert content_layer(make_vgg(VGG19)) == 22
    assert style_layers(make_vgg(VGG16)) == (1, 6, 11, 18, 25)
    assert content_layer(make_vgg(VGG16)) == 20


def test_the_loss_is_that_of_the_authors_code_on_scaled_activations(features: TextureFeatures) -> None:
    photo, style, picture = (noise(1, 3, 32, 48, seed=seed) for seed in range(3))
    found = float(matching(features, photo, style, 0.7, 30.0).loss(picture))
    trunk, wanted = features.trunk.features, 0.0
    x = [features.prepare(each) for each in (photo, style, picture)]
    for number, layer in enumerate(trunk):
        x = [layer(each) for each in x]
        flat = [each[0].flatten(1).double() / x[0].mean().double() for each in x]  # [c, positions]
        if number in style_layers(features.trunk):
            style_gram, gram = (each @ each.T / each.shape[1] for each in flat[1:])
            wanted += 30.0 / len(gram) ** 2 * float(functional.mse_loss(gram, style_gram))
        if number == content_layer(features.trunk):
            wanted += 0.7 * float(functional.mse_loss(flat[2], flat[0]))
    assert found == pytest.approx(wanted, rel=1e-4)


def test_the_photo_has_no_content_loss_and_the_style_picture_no_style_loss(features: TextureFeatures) -> None:
    photo, style = noise(2, 3, 32, 32), noise(1, 3, 32, 32, seed=5)
    assert torch.allclose(matching(features, photo, style, 1.0, 0.0).loss(photo), torch.zeros(2), atol=1e-10)
    both = style.expand(2, -1, -1, -1)
    assert torch.allclose(matching(features, photo, style, 0.0, 1.0).loss(both), torch.zeros(2), atol=1e-8)


def test_the_direction_is_the_gradient_times_the_entries(features: TextureFeatures) -> None:
    photo, style, z = (noise(1, 3, 16, 16, seed=seed).double() for seed in range(3))
    trunk = make_vgg(VGG16).load(features.trunk.state_dict()).double()
    made = matching(TextureFeatures(trunk, features.prepare), photo, style, 1.0, 10.0)
    objective = pixel_objective(made)
    direction = made(objective.draw(z, photo, progress=0.0, rng=[torch.Generator()]), {})
    step = 1e-5 * noise(1, 3, 16, 16, seed=9).double()
    change = float(made.loss(z + step) - made.loss(z - step)) / 2
    assert float((direction * step).sum()) / z.numel() == pytest.approx(change, rel=1e-4)


def test_the_scale_of_the_weights_does_not_matter(features: TextureFeatures) -> None:
    """The last layer before each level could be written in other units: what is compared is relative to the photo."""
    photo, style, picture = (noise(1, 3, 32, 32, seed=seed) for seed in range(3))
    state = {name: tensor.clone() for name, tensor in features.trunk.state_dict().items()}
    for name in ("features.0.weight", "features.0.bias"):
        state[name] *= 7.0
    state["features.2.weight"] /= 7.0
    other = TextureFeatures(make_vgg(VGG16).load(state), features.prepare)
    losses = [float(matching(each, photo, style, 1.0, 10.0).loss(picture)) for each in (features, other)]
    assert losses[0] == pytest.approx(losses[1], rel=1e-4)


@pytest.fixture(scope="module")
def adain(weights: dict[str, str]) -> AdainNetwork:
    return AdainNetwork.from_states(
        read_state(Path(weights["adain-encoder"])), read_state(Path(weights["adain-decoder"]))
    )


def test_adains_layers_have_the_published_numbers() -> None:
    convolutions = {name for name in make_encoder().state_dict() if name.endswith("weight")}
    assert convolutions == {f"{n}.weight" for n in (0, 2, 5, 9, 12, 16, 19, 22, 25, 29)}
    convolutions = {name for name in make_decoder().state_dict() if name.endswith("weight")}
    assert convolutions == {f"{n}.weight" for n in (1, 5, 8, 11, 14, 18, 21, 25, 28)}


def test_adain_gives_features_the_styles_statistics(adain: AdainNetwork) -> None:
    photo, style = noise(2, 3, 40, 64), noise(1, 3, 48, 32, seed=4)
    content, target = (adain.encoder((each + 1) / 2) for each in (photo, style))
    mean, std = content.mean(dim=(2, 3), keepdim=True), content.var(dim=(2, 3), keepdim=True).add(1e-5).sqrt()
    other, spread = target.mean(dim=(2, 3), keepdim=True), target.var(dim=(2, 3), keepdim=True).add(1e-5).sqrt()
    mixed = 0.3 * content + 0.7 * ((content - mean) / std * spread + other)
    wanted = (2 * adain.decoder(mixed) - 1).clamp(-1, 1)
    found = adain(photo, style, 0.7)
    assert found.shape == photo.shape
    assert torch.allclose(found, wanted, atol=1e-4)
    plain = (2 * adain.decoder(content) - 1).clamp(-1, 1)
    assert torch.allclose(adain(photo, style, 0.0), plain, atol=1e-5)
    assert not torch.allclose(found, plain, atol=0.1)


class Fake:
    """A session whose network is a function; ONNX Runtime is not needed to try what stands around it."""

    def __init__(self, shapes: dict[str, list[int]], run: Callable[..., Any]) -> None:
        self.inputs = [SimpleNamespace(name=name, shape=shape) for name, shape in shapes.items()]
        self.function = run

    def get_inputs(self) -> list[Any]:
        return self.inputs

    def run(self, names: None, given: dict[str, Any]) -> list[Any]:
        assert [given[entry.name].shape for entry in self.inputs] == [tuple(entry.shape) for entry in self.inputs]
        return [self.function(*(given[entry.name] for entry in self.inputs)).astype(np.float32)]


def tinted() -> PredictedNormalisation:
    """Return networks whose numbers are a picture's mean colour, and which add them to a photo."""
    predict = Fake({"style": [1, 16, 16, 3]}, lambda x: x.mean(axis=(1, 2), keepdims=True))
    transfer = Fake({"content": [1, 48, 48, 3], "numbers": [1, 1, 1, 3]}, lambda x, y: (x + y) / 2)
    return PredictedNormalisation(predict, transfer)


@pytest.mark.parametrize("size", [(48, 48), (40, 16), (16, 96)])
def test_photos_go_through_a_square_network_and_come_back_whole(size: tuple[int, int]) -> None:
    photo, style = torch.full((2, 3, *size), -0.5), torch.full((1, 3, 20, 20), 0.5)
    found = [tinted()(photo, style, strength) for strength in (0.0, 0.5, 1.0)]
    assert all(each.shape == photo.shape for each in found)
    assert [round(float(each.mean()), 4) for each in found] == [-0.5, -0.25, 0.0]
    assert max(float(each.std()) for each in found) < 1e-5


def test_the_shape_of_a_photo_survives() -> None:
    photo = functional.interpolate(noise(1, 3, 4, 6), (32, 48), mode="bicubic").clamp(-1, 1)
    photo = functional.interpolate(photo, (64, 96), mode="bilinear")
    same = tinted()(photo, photo, 1.0)
    tint = (photo.mean() + photo) / 2
    assert float((same - same.mean() - tint + tint.mean()).abs().mean()) < 0.05


def test_another_network_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    sessions = {"a": Fake({"x": [1, 3, 16, 16]}, abs), "b": tinted().transfer}
    monkeypatch.setattr(ghiasi, "open_session", lambda path, threads: sessions[path.name])
    with pytest.raises(ModelError, match=r"'a' is another network: its inputs are \[\[1, 3, 16, 16\]\]"):
        PredictedNormalisation.open(Path("a"), Path("b"), 1)
    with pytest.raises(ModelError, match="'b' is another network"):
        PredictedNormalisation.open(Path("b"), Path("b"), 1)


@pytest.fixture
def load(weights: dict[str, str], pictures: Path) -> Callable[..., Stylizer]:
    def make(method: str, **options: Any) -> Stylizer:
        names = {"gatys": ("vgg19",), "adain": ("adain-encoder", "adain-decoder")}[method]
        given = {"weights": {name: weights[name] for name in names}, "style_image": pictures / "style.png", "size": 64}
        return Stylizer.load([], method=method, device="cpu", **{**given, **options})  # type: ignore[arg-type]

    return make


VGG = {"gatys": {"trunk": "vgg19"}}


def pixels(stylizer: Stylizer, *photos: Path) -> Tensor:
    fitting = stylizer.start([read_photo(photo) for photo in photos])
    assert len(list(fit(fitting))) == fitting.iterations
    return fitting.subject.render()


def test_gatys_begins_at_the_photo_and_lowers_its_loss(load: Callable[..., Stylizer], pictures: Path) -> None:
    stylizer = load("gatys", iterations=8, settings=VGG)
    fitting = stylizer.start([read_photo(pictures / "photo.png")])
    direction = fitting.objective.direction
    assert isinstance(direction, GramMatching)
    before = fitting.subject.render().clone()
    assert torch.equal(before, fitting.subject.draw(fitting.rng)[1])
    assert len(list(fit(fitting))) == 8
    assert float(direction.loss(fitting.subject.render())) < 0.9 * float(direction.loss(before))
    assert isinstance(stylizer.preview_codec, PixelCodec)
    assert stylizer.counter.snapshot() == (0, 0)


def test_with_the_knob_at_content_gatys_leaves_the_photo(load: Callable[..., Stylizer], pictures: Path) -> None:
    stylizer = load("gatys", iterations=3, settings=VGG, content=1.0)
    fitting = stylizer.start([read_photo(pictures / "photo.png")])
    list(fit(fitting))
    assert torch.allclose(fitting.subject.render(), fitting.subject.draw(fitting.rng)[1], atol=1e-6)


def test_a_batch_equals_its_pictures_one_by_one(load: Callable[..., Stylizer], pictures: Path) -> None:
    stylizer, photos = load("adain"), [pictures / "photo.png", pictures / "other.png"]
    both = pixels(stylizer, *photos)
    assert torch.allclose(both, torch.cat([pixels(stylizer, photo) for photo in photos]), atol=1e-3)
    assert not torch.allclose(both[0], both[1], atol=0.05)


def test_the_gradient_of_a_batch_is_that_of_its_pictures(features: TextureFeatures) -> None:
    photos, style, z = (noise(n, 3, 32, 32, seed=n) for n in (2, 1, 2))
    made = matching(features, photos, style, 1.0, 10.0)
    both = made.loss(z)
    alone = [matching(features, photos[n : n + 1], style, 1.0, 10.0).loss(z[n : n + 1]) for n in range(2)]
    assert torch.allclose(both, torch.cat(alone), rtol=1e-4)


def test_gatys_is_resumed_to_the_same_bits(load: Callable[..., Stylizer], pictures: Path) -> None:
    stylizer, photo = load("gatys", iterations=6, settings=VGG), read_photo(pictures / "photo.png")
    whole = stylizer.start([photo])
    steps = fit(whole)
    for _ in range(3):
        next(steps)
    saved = capture(whole, 0)
    list(steps)
    resumed = stylizer.start([photo], [saved])
    list(fit(resumed))
    assert torch.equal(whole.subject.render(), resumed.subject.render())


def test_adain_takes_one_step_to_what_its_network_makes(
    load: Callable[..., Stylizer], pictures: Path, adain: AdainNetwork
) -> None:
    stylizer = load("adain", strength=0.6, iterations=5)
    fitting = stylizer.start([read_photo(pictures / "photo.png")])
    photo, style = fitting.subject.draw(fitting.rng)[1], stylizer._style_picture((96, 64))
    assert style is not None
    assert len(list(fit(fitting))) == 1
    assert torch.allclose(fitting.subject.render(), adain(photo, style, 0.6), atol=1e-5)


def test_a_mask_keeps_what_it_covers(load: Callable[..., Stylizer], pictures: Path) -> None:
    photo, mask = pictures / "photo.png", np.zeros((64, 96), np.uint8)
    mask[:, 48:] = 255
    result = load("adain").stylize(photo, mask=mask, progress=False)
    changed = np.abs(np.asarray(result.picture, int) - np.asarray(read_photo(photo).picture, int)).max(axis=2)
    assert changed[:, :40].max() == 0
    assert changed[:, 56:].mean() > 5


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"vae": "somewhere"}, "adain loads no diffusion model: vae has no effect"),
        ({"memory": "low"}, "adain loads no diffusion model: memory has no effect"),
        ({"dtype": "bfloat16"}, "adain loads no diffusion model: dtype has no effect"),
        ({"tile": 256}, "adain loads no diffusion model: tile has no effect"),
        ({"negative_prompt": "blur"}, "negative_prompt has no effect"),
        ({"style_image": None}, "adain needs a picture in the style, style_image"),
        ({"weights": {"vgg19": "x"}}, "adain has no network 'vgg19'"),
        ({"weights": 3}, "weights must map names of networks to files, not int"),
    ],
)
def test_what_has_no_effect_is_refused(load: Callable[..., Stylizer], options: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError) as caught:
        load("adain", **options)
    assert str(caught.value).startswith(message)


def test_missing_or_wrong_weights_are_refused(
    load: Callable[..., Stylizer], weights: dict[str, str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    monkeypatch.setattr("stylescore.catalog.places.find_spec", lambda _: None)
    for method, words in (("gatys", "vgg19"), ("adain", "adain-encoder")):
        with pytest.raises(ModelError, match=f"{method} has no weights of .*, {words}") as caught:
            load(method, weights={}, settings=VGG)
        assert f"--weights {words}=" in str(caught.value.hint)
    swapped = {"adain-encoder": weights["adain-decoder"], "adain-decoder": weights["adain-encoder"]}
    with pytest.raises(ModelError, match="weights of AdaIN's encoder do not fit"):
        load("adain", weights=swapped)


def test_other_networks_are_loaded_anew(load: Callable[..., Stylizer]) -> None:
    stylizer = load("gatys", iterations=2, settings=VGG)
    assert stylizer.has_loaded(load("gatys", iterations=5, content=0.8, settings=VGG).run)
    assert not stylizer.has_loaded(load("adain").run)
