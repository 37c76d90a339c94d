"""The comparison of iterations: what is measured is what is said, whatever it takes."""

from __future__ import annotations

import argparse
import sys
from typing import Any

import pytest
import torch
from benchmarks.steps.__main__ import main, settings, table
from benchmarks.steps.measure import measured, parser
from benchmarks.steps.networks import KINDS
from benchmarks.steps.plain import low_frequencies

from stylescore.method.spectrum import dct2


def options(**given: Any) -> argparse.Namespace:
    usual = {"family": "mini", "size": 64, "repeats": 2}
    return parser().parse_args([f"--{name}={value}" for name, value in {**usual, **given}.items()])


@pytest.mark.parametrize(
    ("mode", "passes"),
    [
        ("plain", (6, 2)),
        ("apart", (6, 1)),
        ("together", (6, 1)),
        ("merged", (6, 1)),
        ("sparing", (2, 1)),
        ("low-memory", (6, 1)),
        ("offloaded", (6, 1)),
    ],
)
def test_a_mode_takes_the_passes_it_stands_for(mode: str, passes: tuple[int, int]) -> None:
    found = measured(options(mode=mode))
    assert tuple(found["passes_per_picture"].values()) == passes
    assert found["q1_ms"] <= found["median_ms"] <= found["q3_ms"]


def test_operations_are_counted() -> None:
    found = measured(argparse.Namespace(**{**vars(options(mode="apart")), "profile": True}))
    assert found["profile"]["gflop"] > 0


def test_the_yardsticks_low_frequencies_are_those_of_the_spectrum() -> None:
    z = torch.randn(1, 4, 6, 9, generator=torch.Generator().manual_seed(0))
    assert torch.allclose(low_frequencies(z, 1.0), dct2(z), atol=1e-5)
    kept = low_frequencies(z, 0.5)
    assert int((kept[0, 0] != 0).sum()) == sum(u + v <= 0.5 * 13 for u in range(6) for v in range(9))


@pytest.mark.parametrize(
    ("family", "billions"),
    [("mini", 0.00558), ("sd1", 0.8595), ("sd2", 0.8659), ("sdxl", 2.5675), ("sd3", 2.0284), ("flux", 11.9014)],
)
def test_networks_have_their_real_sizes(family: str, billions: float) -> None:
    with torch.device("meta"):
        network = KINDS[family].make()
    assert sum(p.numel() for p in network.parameters()) / 1e9 == pytest.approx(billions, rel=0.002)


def test_the_plain_mode_is_measured_once_for_a_family_and_size() -> None:
    asked = argparse.Namespace(
        family=["mini"], size=[64], dtype=["float32", "bfloat16"], batch=[1, 2], mode=["plain", "sparing"]
    )
    rows = settings(asked)
    assert [row["mode"] for row in rows] == ["plain"] + 4 * ["sparing"]
    assert rows[0]["dtype"] == "float32"
    assert rows[0]["batch"] == 1


def test_the_table_compares_pictures_not_steps() -> None:
    def row(mode: str, batch: int, each: float) -> dict[str, Any]:
        return {
            "family": "mini",
            "size": 64,
            "dtype": "float32",
            "batch": batch,
            "mode": mode,
            "peak_memory_mib": 5,
            "median_ms": each * batch,
            "q1_ms": each,
            "q3_ms": each,
            "ms_per_picture": each,
            "passes_per_picture": {"forward": 6.0, "trained": 1.0},
        }

    failed = {"family": "flux", "size": 64, "dtype": "float32", "batch": 1, "mode": "apart", "failed": "no memory"}
    lines = table([row("plain", 1, 100.0), row("sparing", 4, 20.0), failed]).splitlines()
    assert lines[2].endswith("5.00 x")
    assert "360.0" in lines[2]
    assert "no memory" in lines[3]


@pytest.mark.skipif(torch.cuda.is_available(), reason="a GPU can reset its peak of memory")
def test_settings_share_a_process_on_a_gpu_only(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(sys, "argv", ["steps", "--in-process", "--mode", "plain"])
    with pytest.raises(SystemExit) as ended:
        main()
    assert ended.value.code == 2
    assert "--in-process needs a GPU" in capsys.readouterr().err


def test_a_network_is_made_on_the_default_device() -> None:
    with torch.device("meta"):
        network = KINDS["mini"].make()
    assert {weight.device.type for weight in network.parameters()} == {"meta"}
