"""Estimates of memory by device, and of time as operations divided by speed."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch

from stylescore.diagnostics.estimates import Need, estimate_needs, measure_matrix_speed
from stylescore.diagnostics.verdicts import judge_families, judge_mini

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


def test_a_family_is_judged_at_its_native_resolution_with_the_first_setting_that_fits() -> None:
    needs = estimate_needs(GPU, 2, 1e12)
    judged = {verdict.model: verdict for verdict in judge_families(needs, 12.0)}
    assert [verdict.size for verdict in judged.values()] == [512, 768, 1024, 1024, 1024]
    assert (judged["Stable Diffusion 1.x"].works, judged["Stable Diffusion 1.x"].memory) == (True, "normal")
    assert (judged["SDXL"].works, judged["SDXL"].memory) == (True, "low")
    assert judged["FLUX.1"].memory == "offload"
    assert all(verdict.gigabytes <= 0.9 * 12 for verdict in judged.values() if verdict.works)
    assert not any(verdict.works for verdict in judge_families(needs, 0.5))
    assert all(verdict.works for verdict in judge_families(needs, None))


def test_the_bundled_model_takes_the_measured_time_on_the_measured_machine() -> None:
    measured = json.loads((Path(__file__).parents[2] / "benchmarks/results/default_run.json").read_text("utf-8"))
    verdict = judge_mini(True, 8.0, 190e9)
    assert verdict.works
    assert verdict.seconds == pytest.approx(sum(measured["seconds"].values()), rel=0.1)
    assert verdict.gigabytes == pytest.approx(measured["peak_memory_mib"] * 2**20 / 1e9, abs=0.05)
    assert not judge_mini(False, 8.0, 190e9).works
    assert not judge_mini(True, 0.5, 190e9).works
