"""Estimates of memory by device, and of time as operations divided by speed."""

from __future__ import annotations

import pytest
import torch

from stylescore.diagnostics.estimates import Need, estimate_needs, measure_matrix_speed

CPU, GPU = torch.device("cpu"), torch.device("cuda")


def of(device: torch.device, itemsize: int = 2, speed: float = 1e12) -> dict[tuple[str, int], Need]:
    return {(need.family, need.size): need for need in estimate_needs(device, itemsize, speed)}


def test_only_on_a_gpu_are_text_encoders_moved_away() -> None:
    here, gpu = of(CPU)["sd3", 1024], of(GPU)["sd3", 1024]
    assert here.gigabytes["normal"] > gpu.gigabytes["normal"] > gpu.gigabytes["low"]
    assert here.gigabytes["low"] > gpu.gigabytes["low"] + 10  # T5 alone has more


def test_only_on_a_gpu_are_the_weights_offloaded() -> None:
    assert set(of(CPU)["flux", 1024].gigabytes) == {"normal", "low"}
    for need in of(GPU).values():
        assert need.gigabytes["offload"] < need.gigabytes["low"] < need.gigabytes["normal"]


def test_memory_goes_with_the_bytes_of_a_number() -> None:
    for key, half in of(GPU).items():
        whole = of(GPU, itemsize=4)[key]
        for setting, size in whole.gigabytes.items():
            assert size == pytest.approx(2 * half.gigabytes[setting], abs=0.051)


def test_time_goes_with_the_speed_and_swift_is_swifter() -> None:
    slow, fast = of(CPU, speed=1e11)["sd1", 512].seconds, of(CPU, speed=1e12)["sd1", 512].seconds
    assert slow["balanced"] == pytest.approx(10 * fast["balanced"])
    assert slow["swift"] < 0.6 * slow["balanced"]


def test_a_released_run_has_the_operations_of_the_known_pass() -> None:
    """A pass of Stable Diffusion 1 at 512 pixels is known to take 0.803e12 operations; `balanced` takes 8 times 200."""
    assert of(CPU, speed=2e12)["sd1", 512].seconds["balanced"] == pytest.approx(1600 * 0.803, rel=0.03)


def test_the_speed_of_this_machine_is_within_reason() -> None:
    assert 1e8 < measure_matrix_speed(CPU, torch.float32) < 1e15
