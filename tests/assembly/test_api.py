"""The Python front end: one function, and the stylizer behind it."""

from __future__ import annotations

import gc
import weakref
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import load_file, save_file

from stylescore import InputError, NonFiniteError, RunConfig, StyleChoice, Stylizer, Update, read_photo, stylize
from stylescore.config.presets import load
from stylescore.config.toml import overlay
from stylescore.errors import ConfigError, PictureError, StyleError
from stylescore.images import keep_colours
from stylescore.method.fit import fit

PARITY = Path(__file__).parents[1] / "data" / "parity"
PHOTO = PARITY / "input_128x128.png"
STYLE = str(PARITY / "style_lora_kohya.safetensors")
TINY = str(PARITY / "tiny_base")


def quick(photo: Any = PHOTO, iterations: int = 2, style: Any = STYLE, **more: Any) -> Any:
    return stylize(photo, style, **({"model": TINY, "size": 64, "iterations": iterations} | more))


def run_config(iterations: int, **more: Any) -> RunConfig:
    method = overlay(load("balanced"), {"iterations": iterations})
    return RunConfig(styles=(StyleChoice(name=STYLE),), model=TINY, size=64, method=method, **more)


class TestStylize:
    def test_a_file_and_a_picture_in_memory_give_the_same(self) -> None:
        from_file, in_memory = quick(str(PHOTO)), quick(Image.open(PHOTO))

        assert from_file.picture.size == (128, 128)
        assert from_file.model_picture.size == (64, 64)
        assert from_file.before_after.width > 2 * 128
        assert from_file.picture.tobytes() == in_memory.picture.tobytes()

    def test_embeddings_are_given_by_word(self, tmp_path: Path) -> None:
        width = load_file(Path(TINY) / "text_encoder" / "model.safetensors")
        table = next(tensor for name, tensor in width.items() if name.endswith("token_embedding.weight"))
        save_file({"emb_params": 9 * table[:2]}, tmp_path / "a.safetensors")
        options = {"iterations": 4, "prompt": "my-word"}

        with_word = quick(embeddings={"my-word": tmp_path / "a.safetensors"}, **options)

        assert with_word.picture.tobytes() != quick(**options).picture.tobytes()
        with pytest.raises(ConfigError, match="embeddings must map words to files, not list"):
            quick(embeddings=["a.safetensors"])

    def test_transparency_in_memory_is_kept(self) -> None:
        source = Image.open(PHOTO).convert("RGB")
        source.putalpha(Image.linear_gradient("L").resize(source.size))

        result = quick(source, iterations=1)

        assert result.picture.mode == "RGBA"
        assert result.picture.getchannel("A").tobytes() == source.getchannel("A").tobytes()

    def test_every_iteration_is_reported(self) -> None:
        seen: list[Update] = []

        quick(iterations=3, on_iteration=seen.append)

        assert [update.index for update in seen] == [0, 1, 2]
        assert [update.is_last for update in seen] == [False, False, True]

    def test_the_method_is_chosen_by_name(self) -> None:
        seen: list[Update] = []

        quick(iterations=1, method="dds", on_iteration=seen.append)

        assert seen[0].iteration.fake is None

    @pytest.mark.parametrize(
        ("more", "kind", "words"),
        [
            ({"settings": {"iteratoins": 3}}, ConfigError, "unknown setting 'iteratoins'"),
            ({"contents": 0.4}, ConfigError, "unknown option 'contents'"),
            ({"content": 2}, ConfigError, "content must be between 0 and 1, not 2.0"),
            ({"seed": 1.5}, ConfigError, "seed must be a whole number, not 1.5"),
            ({"caption": "a cat"}, ConfigError, "unknown option 'caption'"),
            ({"prompt": 3}, ConfigError, "prompt must be a text"),
            ({"prompt": ["a", "b"]}, ConfigError, "prompt must be a text, or one text per photo, not 2 for 1 photos"),
            ({"model": 3}, ConfigError, "model must be a name or a path, not int"),
            ({"preset": 0.5}, ConfigError, "preset must be a name or a path, not float"),
            (
                {"method": "smd"},
                ConfigError,
                "method must be one of sms, vsd, sds, dds, pds, sdedit, styleid, freestyle, "
                "instantstyle, gatys, adain, ghiasi, not 'smd'",
            ),
            ({"iterations": 2.5}, ConfigError, "iterations must be a whole number, not 2.5"),
            ({"batch": 0}, ConfigError, "batch must be a whole number of at least 1, not 0"),
            ({"device": 1}, ConfigError, "device must be a text, not 1"),
            ({"memory": "tiny"}, ConfigError, "memory must be one of normal, low, offload, not 'tiny'"),
            ({"photo": 3}, PictureError, "a photo must be a path, an image, an array or a tensor, not int"),
            ({"photo": None}, PictureError, "a photo must be a path, an image, an array or a tensor, not NoneType"),
            ({"photo": "none.png"}, PictureError, "there is no file 'none.png'"),
            ({"photo": Image.new("RGB", (400, 20))}, PictureError, "too elongated"),
            ({"photo": Image.new("RGB", (0, 5))}, PictureError, "'image' is too small: each side must have at least"),
            ({"photo": torch.zeros(3, 8, 8, device="meta")}, PictureError, "the numbers of a tensor cannot be read"),
            ({"photo": torch.zeros(3, 8, 8).to_sparse()}, PictureError, "the numbers of a tensor cannot be read"),
            (
                {"photo": iter([PHOTO])},
                PictureError,
                "a photo must be a path, an image, an array or a tensor, not list",
            ),
        ],
    )
    def test_bad_input(self, more: dict[str, Any], kind: type[InputError], words: str) -> None:
        with pytest.raises(kind) as caught:
            quick(**more)

        assert str(caught.value).startswith(words) or words in str(caught.value)
        assert caught.value.hint
        assert caught.value.exit_code == 2

    @pytest.mark.parametrize(
        ("name", "hint"),
        [
            ("caption", "write prompt='a cat on a sofa'"),
            ("num_inference_steps", "write iterations=200"),
            ("spectrum", "write settings={'spectrum': ...}"),
            ("contant", "did you mean 'content'?"),
        ],
    )
    def test_a_name_that_is_wrong_is_hinted_rightly(self, name: str, hint: str) -> None:
        with pytest.raises(ConfigError) as caught:
            quick(**{name: 1})

        assert caught.value.hint == hint

    @pytest.mark.parametrize("style", [3, None, [], {}, {"a": "b"}, [3]])
    def test_a_style_of_the_wrong_type(self, style: Any) -> None:
        with pytest.raises(StyleError) as caught:
            stylize(PHOTO, style, model=TINY)

        assert caught.value.hint

    @pytest.mark.parametrize(
        ("call", "kind", "words"),
        [
            (lambda: quick([]), PictureError, "at least one photo is needed"),
            (lambda: quick(PHOTO.open("rb")), PictureError, "a photo must be a path, an image"),
            (lambda: read_photo(None), PictureError, "a photo's path must be a text, not NoneType"),
            (lambda: quick(settings="fast"), ConfigError, "settings must be a table of constants, not 'fast'"),
            (lambda: quick(settings={3: 1}), ConfigError, "settings must be a table of constants"),
            (lambda: quick(on_iteration=3), ConfigError, "on_iteration must be a function, not int"),
            (lambda: Stylizer(STYLE), ConfigError, "Stylizer takes a RunConfig, not str"),
            (lambda: RunConfig(styles=STYLE), ConfigError, "styles must be a tuple of StyleChoice"),
            (lambda: RunConfig(styles=(STYLE,)), ConfigError, "styles must be a tuple of StyleChoice"),
        ],
    )
    def test_what_has_the_wrong_type_is_named(self, call: Any, kind: type[InputError], words: str) -> None:
        with pytest.raises(kind) as caught:
            call()

        assert str(caught.value).startswith(words)
        assert caught.value.hint

    def test_numbers_of_numpy_are_numbers(self) -> None:
        odd = quick(seed=np.int64(3), content=np.float32(0.25), iterations=np.int32(2))

        assert odd.picture.tobytes() == quick(seed=3, content=0.25).picture.tobytes()

    def test_a_tensor_in_half_precision_is_a_photo(self) -> None:
        assert quick(torch.rand(3, 80, 80).to(torch.bfloat16)).picture.size == (80, 80)

    def test_a_stylizer_takes_photos_of_every_type_when_it_is_called(self) -> None:
        stylizer = Stylizer(run_config(1))

        pictures = [[*stylizer([photo])][-1].picture.tobytes() for photo in (PHOTO, read_photo(PHOTO))]

        assert pictures[0] == pictures[1]

    def test_photos_of_every_type_give_the_same(self) -> None:
        image = Image.open(PHOTO).convert("RGB")
        pixels = np.asarray(image)
        tensor = torch.from_numpy(pixels.copy()).permute(2, 0, 1)

        kinds = [PHOTO, image, pixels, pixels / np.float32(255), tensor, (tensor / 255)[None], read_photo(PHOTO)]
        results = quick(kinds, iterations=1)

        assert len(results) == len(kinds)
        assert len({result.picture.tobytes() for result in results}) == 1

    @pytest.mark.parametrize(
        ("values", "words"),
        [
            (np.zeros((8, 8, 2), np.uint8), "must have the shape [height, width, 3], not [8, 8, 2]"),
            (np.zeros((8,), np.uint8), "must have the shape [height, width, 3], not [8]"),
            (np.zeros((80, 80, 3), np.int64), "must hold uint8 or floats, not int64"),
            (np.full((80, 80, 3), 2.0), "must be between 0 and 1, not 0 to 2"),
            (np.full((80, 80, 3), np.nan), "must be between 0 and 1"),
            (torch.zeros(2, 3, 80, 80), "must have the shape [3, height, width], not [2, 3, 80, 80]"),
            (torch.zeros(80, 80, 3), "must have the shape [3, height, width], not [80, 80, 3]"),
        ],
    )
    def test_numbers_that_are_no_photo(self, values: Any, words: str) -> None:
        with pytest.raises(PictureError) as caught:
            quick(values)

        assert words in str(caught.value)
        assert caught.value.hint

    def test_several_photos_keep_their_order_prompts_and_sizes(self) -> None:
        square = Image.open(PHOTO).convert("RGB")
        wide = square.resize((160, 96))

        both = quick([square, wide, square], prompt=["a cat", "a lake", "a cat"], batch=2)

        assert [result.picture.size for result in both] == [(128, 128), (160, 96), (128, 128)]
        assert both[0].picture.tobytes() == both[2].picture.tobytes()
        assert both[1].picture.tobytes() == quick(wide, prompt="a lake").picture.tobytes()

    def test_several_styles_with_weights(self) -> None:
        half, alone = quick(style={STYLE: 0.5}), quick(style=[STYLE])

        assert alone.picture.tobytes() == quick().picture.tobytes()
        assert half.picture.tobytes() != alone.picture.tobytes()

    def test_a_callback_may_look_and_stop(self) -> None:
        seen: list[Image.Image] = []

        def stop(update: Update) -> bool:
            seen.extend(update.preview())
            return update.index == 1

        stopped = quick(iterations=4, on_iteration=stop)

        assert [image.size for image in seen] == [(64, 64), (64, 64)]
        assert stopped.model_picture.tobytes() == seen[-1].tobytes()
        assert stopped.picture.tobytes() != quick(iterations=4).picture.tobytes()

    def test_a_bar_is_shown_in_a_terminal_only(
        self, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
    ) -> None:
        quick()
        assert capsys.readouterr().err == ""
        monkeypatch.setattr("sys.stderr.isatty", lambda: True)
        quick()
        assert "2/2" in capsys.readouterr().err
        quick(progress=False)
        assert capsys.readouterr().err == ""

    def test_an_unknown_style(self) -> None:
        with pytest.raises(StyleError, match="there is no style 'nothing'"):
            stylize(PHOTO, "nothing", model=TINY)

    def test_not_a_number_stops_the_run(self, monkeypatch: pytest.MonkeyPatch) -> None:
        forward = torch.nn.Linear.forward
        monkeypatch.setattr(torch.nn.Linear, "forward", lambda layer, x: forward(layer, x) * torch.inf)

        with pytest.raises(NonFiniteError) as caught:
            quick()

        assert caught.value.iteration == 0
        assert len(caught.value.timesteps) == 1
        assert caught.value.exit_code == 1


class TestContentKnob:
    """From 0, the strongest style, to 1, the strongest content: the latent stays nearer and nearer to the source."""

    def test_distance_to_the_source_falls(self) -> None:
        photo = read_photo(PHOTO)

        def distance(content: float) -> float:
            fitting = Stylizer(run_config(10, content=content)).start([photo])
            for _ in fit(fitting):
                pass
            return float((fitting.subject.render() - fitting.subject.z_source).abs().mean())

        distances = [distance(content) for content in (0.0, 0.5, 0.75, 1.0)]

        assert distances == sorted(distances, reverse=True)
        assert distances[-1] < distances[0] / 2


class TestStylizer:
    def test_one_stylizer_serves_many_batches(self) -> None:
        stylizer, photo = Stylizer(run_config(2)), read_photo(PHOTO)

        first, second = ([*stylizer([photo])][-1].picture for _ in range(2))

        assert np.array_equal(np.asarray(first), np.asarray(second))

    def test_calls_may_differ_from_what_was_loaded(self) -> None:
        with Stylizer.load(STYLE, model=TINY, size=64, iterations=2) as stylizer:
            first = stylizer.stylize(PHOTO)
            other = stylizer.stylize(PHOTO, content=0.9, seed=4, iterations=3, settings={"spectrum": {"weight": 1e-3}})
            again = stylizer.stylize(PHOTO)
            with pytest.raises(ConfigError, match="fixed once loaded"):
                stylizer.stylize(PHOTO, style_strength=0.3)

        alone = quick(content=0.9, seed=4, iterations=3, settings={"spectrum": {"weight": 1e-3}})
        assert first.picture.tobytes() == again.picture.tobytes() == quick().picture.tobytes()
        assert other.picture.tobytes() == alone.picture.tobytes() != first.picture.tobytes()

    def test_a_block_frees_the_networks(self) -> None:
        with Stylizer.load(STYLE, model=TINY, size=64, iterations=1) as stylizer:
            network = weakref.ref(stylizer._networks.base.network)
            stylizer.stylize(PHOTO)
        gc.collect()
        assert network() is None

    def test_iterations_come_before_results(self) -> None:
        photo = read_photo(PHOTO)

        events = list(Stylizer(run_config(2))([photo, photo]))

        assert [type(event).__name__ for event in events] == ["Iteration", "Iteration", "Result", "Result"]

    def test_sides_are_what_the_model_takes(self) -> None:
        stylizer, photo = Stylizer(run_config(1)), read_photo(PHOTO)

        assert stylizer.working_size(photo) == (64, 64)
        assert stylizer.device.type in ("cpu", "cuda", "mps")

    def test_the_bare_minimum_of_a_configuration(self) -> None:
        with pytest.raises(ConfigError, match="a run needs at least one style"):
            Stylizer(RunConfig(styles=()))


class TestMasksAndColours:
    def mask(self) -> Image.Image:
        mask = Image.new("L", (128, 128), 0)
        mask.paste(255, (64, 0, 128, 128))
        return mask

    def test_black_keeps_the_photo_to_the_bit_and_white_is_stylized(self) -> None:
        photo = np.asarray(Image.open(PHOTO).convert("RGB"))
        picture = np.asarray(quick(mask=self.mask(), mask_feather=4).picture)
        assert (picture[:, :64] == photo[:, :64]).all()
        assert not (picture[:, 70:] == photo[:, 70:]).all()

    def test_a_white_mask_is_none_and_one_mask_may_be_given_for_each_photo(self) -> None:
        white = Image.new("L", (64, 64), 255)
        plain, masked = quick([PHOTO, PHOTO], mask=[None, white], batch=2)
        assert np.abs(np.asarray(plain.picture).astype(int) - np.asarray(masked.picture)).max() <= 1

    def test_keep_colours_changes_the_finished_picture_only(self) -> None:
        plain, kept = (quick(keep_colours=share) for share in (0, 1.0))
        assert np.array_equal(np.asarray(plain.model_picture), np.asarray(kept.model_picture))
        photo = Image.open(PHOTO).convert("RGB")
        assert np.array_equal(np.asarray(kept.picture), np.asarray(keep_colours(plain.picture, photo, 1.0)))

    def test_wrong_ones(self) -> None:
        with pytest.raises(ConfigError, match="mask must be a picture, or one per photo, not 1 for 2 photos"):
            quick([PHOTO, PHOTO], mask=[self.mask()])
        with pytest.raises(ConfigError, match=r"keep_colours must be between 0 and 1, not 1\.5"):
            quick(keep_colours=1.5)
        with pytest.raises(PictureError, match="has another aspect ratio"):
            quick(mask=Image.new("L", (50, 80)))


class TestThreads:
    def test_stylizers_are_loaded_and_run_in_several_threads(self) -> None:
        alone = quick().picture.tobytes()
        with ThreadPoolExecutor(2) as threads:
            results = list(threads.map(lambda _: quick().picture.tobytes(), range(2)))
        assert results == [alone, alone]

    def test_one_stylizer_is_called_from_several_threads(self) -> None:
        stylizer = Stylizer(run_config(2))
        alone = {seed: stylizer.stylize(PHOTO, seed=seed).picture.tobytes() for seed in (0, 1)}
        with ThreadPoolExecutor(2) as threads:
            results = threads.map(lambda seed: stylizer.stylize(PHOTO, seed=seed).picture.tobytes(), alone)
        assert list(results) == list(alone.values())


def test_a_closed_stylizer_says_so() -> None:
    stylizer = Stylizer(run_config(1))
    stylizer.close()
    stylizer.close()
    for call in (stylizer.stylize, lambda photo: stylizer.start([read_photo(photo)]), lambda _: stylizer.device):
        with pytest.raises(ConfigError, match="the stylizer is closed"):
            call(PHOTO)
    with pytest.raises(AttributeError, match="no attribute 'nothing'"):
        _ = stylizer.nothing


def test_a_photo_is_read_before_a_model_is_loaded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Stylizer, "load", lambda *_, **__: pytest.fail("a model was loaded"))
    with pytest.raises(PictureError, match=r"there is no file 'none\.png'"):
        quick("none.png")


def test_an_image_of_a_closed_or_damaged_file_is_told(tmp_path: Path) -> None:
    closed = Image.open(PHOTO)
    closed.close()
    (tmp_path / "cut.png").write_bytes(PHOTO.read_bytes()[:2000])
    for image in (closed, Image.open(tmp_path / "cut.png")):
        with pytest.raises(PictureError, match="the PIL image cannot be read") as caught:
            quick(image)
        assert caught.value.hint == "open it again, or give its path"


class TestWeightsAndMasks:
    def test_weights_and_batches_may_be_numbers_of_numpy(self) -> None:
        odd = quick([PHOTO, PHOTO], style={STYLE: np.float32(0.5)}, batch=np.int64(1), iterations=1)
        assert odd[0].picture.tobytes() == quick(style={STYLE: 0.5}, iterations=1).picture.tobytes()

    def test_a_mask_may_be_of_truth_values(self) -> None:
        mask = np.zeros((128, 128), np.bool_)
        mask[:64] = True
        given = [quick(mask=each, iterations=1).picture.tobytes() for each in (mask, mask.astype(np.uint8) * 255)]
        assert given[0] == given[1]

    def test_a_path_of_bytes_is_no_path(self) -> None:
        path = type("Path", (), {"__fspath__": lambda self: b"a"})()
        with pytest.raises(PictureError, match="not bytes"):
            quick(path)
        with pytest.raises(ConfigError, match="style must be a name or a path, not bytes"):
            quick(style=path)
        with pytest.raises(StyleError, match="a style must be a name, a file or"):
            quick(style=b"a")


@pytest.mark.parametrize("change", [{"preset": "swift"}, {"method": "dds"}])
def test_what_a_stylizer_took_its_constants_from_is_fixed(change: dict[str, str]) -> None:
    stylizer = Stylizer(run_config(1))
    with pytest.raises(ConfigError, match=f"{next(iter(change))} is fixed once loaded"):
        stylizer.stylize(PHOTO, **change)
