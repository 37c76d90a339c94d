from __future__ import annotations

import subprocess
import sys

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from stylescore.errors import ConfigError, PictureError, StylescoreError
from stylescore.images import fitted_size, to_picture, to_tensor

SIDES = st.integers(8, 20_000)


@given(SIDES, SIDES, st.integers(1, 2048), st.sampled_from([1, 8, 16, 64]))
def test_fitted_size(width: int, height: int, short_side: int, multiple: int) -> None:
    if max(width, height) > 8 * min(width, height):
        with pytest.raises(PictureError, match="elongated"):
            fitted_size(width, height, short_side, multiple)
        return
    fitted = fitted_size(width, height, short_side, multiple)
    for side, given_side in zip(fitted, (width, height), strict=True):
        exact = given_side * short_side / min(width, height)
        assert side % multiple == 0
        assert side >= multiple
        assert abs(side - exact) <= multiple / 2 or (side == multiple and exact < multiple)


@given(SIDES, SIDES)
def test_fitted_size_turns_with_the_picture(width: int, height: int) -> None:
    if max(width, height) <= 8 * min(width, height):
        assert fitted_size(width, height, 512) == fitted_size(height, width, 512)[::-1]


@pytest.mark.parametrize(
    ("size", "expected"),
    [((4000, 3000), (680, 512)), ((512, 512), (512, 512)), ((8, 64), (512, 4096)), ((1920, 1080), (912, 512))],
)
def test_known_sizes(size: tuple[int, int], expected: tuple[int, int]) -> None:
    assert fitted_size(*size, 512) == expected


@pytest.mark.parametrize("size", [(8, 65), (9000, 1000), (0, 5), (5, -1)])
def test_unusable_sides(size: tuple[int, int]) -> None:
    with pytest.raises(PictureError) as caught:
        fitted_size(*size, 512)
    assert repr(size) in str(caught.value)


@pytest.mark.parametrize(("short_side", "multiple"), [(0, 8), (512, 0), (-1, 8)])
def test_numbers_out_of_range(short_side: int, multiple: int) -> None:
    with pytest.raises(ConfigError, match="at least 1, got"):
        fitted_size(100, 100, short_side, multiple)


def every_value() -> Image.Image:
    return Image.fromarray(np.arange(256 * 3, dtype=np.uint32).reshape(16, 16, 3).astype(np.uint8))


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_round_trip_is_exact(dtype: torch.dtype) -> None:
    tensor = to_tensor(every_value(), (16, 16))
    back = to_picture(tensor.to(dtype))
    assert (np.asarray(back) == np.asarray(every_value())).all()


def test_tensor_layout() -> None:
    picture = Image.new("RGB", (24, 16), (0, 255, 51))
    tensor = to_tensor(picture, (24, 16))
    assert (tensor.shape, tensor.dtype) == ((1, 3, 16, 24), torch.float32)
    assert tensor.is_contiguous()
    assert tensor[0, :, 3, 3].tolist() == pytest.approx([-1, 1, -0.6])


def test_shrinking_averages() -> None:
    checks = Image.fromarray((np.indices((256, 256)).sum(0) % 2 * 255).astype(np.uint8))
    tensor = to_tensor(checks, (32, 32))
    assert tensor.shape == (1, 3, 32, 32)
    assert tensor[..., 4:-4, 4:-4].abs().max() < 0.02


def test_tensor_size_is_checked() -> None:
    with pytest.raises(PictureError, match=r"\(0, 5\)"):
        to_tensor(every_value(), (0, 5))


def test_picture_clamps_and_rounds() -> None:
    values = torch.tensor([-9.0, -1.0, 0.001, 0.999, 1.0, 9.0])
    picture = to_picture(values.expand(3, 1, 6))
    assert picture.size == (6, 1)
    assert np.asarray(picture)[0, :, 0].tolist() == [0, 0, 128, 255, 255, 255]


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_low_precision_and_gradients_are_taken(dtype: torch.dtype) -> None:
    tensor = torch.ones(1, 3, 8, 8, dtype=dtype, requires_grad=True)
    assert to_picture(tensor).getpixel((0, 0)) == (255, 255, 255)


@pytest.mark.parametrize("shape", [(2, 3, 8, 8), (1, 8, 8), (8, 8), (1, 1, 3, 8, 8), (3, 0, 8)])
def test_wrong_shapes(shape: tuple[int, ...]) -> None:
    with pytest.raises(PictureError, match="got") as caught:
        to_picture(torch.zeros(shape))
    assert repr(list(shape)) in str(caught.value)


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_non_finite_is_refused(value: float) -> None:
    with pytest.raises(StylescoreError, match="NaN or infinity") as caught:
        to_picture(torch.full((3, 8, 8), value))
    assert caught.value.exit_code == 1


def test_importing_images_needs_no_torch() -> None:
    code = "import sys; sys.modules['torch'] = None; import stylescore.images"
    subprocess.run([sys.executable, "-c", code], check=True)
