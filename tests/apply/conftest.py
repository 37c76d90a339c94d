"""Files that tests of the applying half need."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import onnx
import pytest
from PIL import Image
from tests.apply.tiny import build, picture

from stylescore_apply.networks import OnnxNetwork


@pytest.fixture
def network_file(tmp_path: Path) -> Callable[..., Path]:
    """Return a writer of networks: `network_file("blur", {"context": None}, whole=True)`."""

    def write(name: str = "blur", facts: dict[str, Any] | None = None, **options: Any) -> Path:
        path = tmp_path / f"{name}.onnx"
        onnx.save(build(facts, **options), path)
        return path

    return write


@pytest.fixture
def network(network_file: Callable[..., Path]) -> OnnxNetwork:
    return OnnxNetwork(network_file(), threads=1)


@pytest.fixture
def photo_file(tmp_path: Path) -> Callable[..., Path]:
    """Return a writer of photos: `photo_file("a.jpg", quality=90)`."""

    def write(name: str = "photo.png", size: tuple[int, int] = (40, 24), seed: int = 0, **options: Any) -> Path:
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(picture(*size, seed)).save(path, **options)
        return path

    return write
