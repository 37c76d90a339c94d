"""The table of families agrees with the released models' own settings, and with what the package writes and reads."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

import stylescore
from stylescore.catalog.families import FAMILIES, MINI, SD1, SD2, SDXL, FamilyFacts, family_label
from stylescore.catalog.families import family_of_text_width as of_width
from stylescore.catalog.families import family_stated_as as stated_as

PACKAGE = Path(stylescore.__file__).parent
PAGE = Path(__file__).parents[2] / "docs" / "guides" / "models.md"
UNETS = {
    "sd1": PACKAGE / "diffusion" / "checkpoints" / "sd1",
    "sd2": PACKAGE / "diffusion" / "checkpoints" / "sd2",
    "sdxl": PACKAGE / "diffusion" / "checkpoints" / "sdxl",
    "mini": PACKAGE / "catalog" / "bundled" / "mini",
}
BY_KEY = {facts.key: facts for facts in FAMILIES}
WITH_NAMES = [facts for facts in FAMILIES if facts.kohya_version is not None]


def config(family: str, part: str) -> dict[str, Any]:
    settings: dict[str, Any] = json.loads((UNETS[family] / part / "config.json").read_text(encoding="utf-8"))
    return settings


def test_keys_are_unique() -> None:
    assert len(BY_KEY) == len(FAMILIES)


@pytest.mark.parametrize("family", UNETS)
def test_widths_and_sizes_are_those_of_the_released_unet(family: str) -> None:
    facts, unet, vae = BY_KEY[family], config(family, "unet"), config(family, "vae")
    assert facts.text_width == unet["cross_attention_dim"]
    assert facts.latent_channels == unet["in_channels"] == vae["latent_channels"]
    assert facts.native_cells == unet["sample_size"]
    assert facts.pixels_per_cell == 2 ** (len(vae["block_out_channels"]) - 1)


def test_the_pooled_width_of_sdxl_is_that_of_its_second_text_model() -> None:
    assert SDXL.pooled_width == config("sdxl", "text_encoder_2")["projection_dim"]


@pytest.mark.parametrize("facts", [SD1, SD2, SDXL], ids=lambda facts: facts.key)
def test_a_unet_family_is_found_by_its_text_width(facts: FamilyFacts) -> None:
    assert of_width(facts.text_width) is facts


@pytest.mark.parametrize("width", [MINI.text_width, 4096, 1])
def test_other_text_widths_belong_to_no_unet_family(width: int) -> None:
    assert of_width(width) is None


@pytest.mark.parametrize("facts", WITH_NAMES, ids=lambda facts: facts.key)
def test_names_that_are_written_into_files_are_recognised(facts: FamilyFacts) -> None:
    assert stated_as(str(facts.kohya_version)) is facts
    assert stated_as(str(facts.modelspec_architecture)) is facts


@pytest.mark.parametrize(
    ("name", "key"),
    [("sdxl_base_v1-0", "sdxl"), ("flux1", "flux"), ("flux-1-dev", "flux"), ("sd3_m", "sd3"), ("SD v2", "sd2")],
)
def test_names_that_other_programs_write_are_recognised(name: str, key: str) -> None:
    assert stated_as(name) is BY_KEY[key]


def test_unknown_names_are_no_family() -> None:
    assert stated_as("stylescore-mini") is None


def test_labels() -> None:
    assert family_label("flux") == "FLUX.1"
    assert family_label("stylescore-mini") == "stylescore-mini"


def test_every_family_of_the_memory_table_is_known() -> None:
    rows = json.loads((PACKAGE / "diagnostics" / "memory.json").read_text(encoding="utf-8"))["rows"]
    assert {row["family"] for row in rows} <= set(BY_KEY)


@pytest.mark.parametrize(
    ("model", "key"),
    [
        ("Stable Diffusion 1.5", "sd1"),
        ("Stable Diffusion 2.1", "sd2"),
        ("SDXL", "sdxl"),
        ("Stable Diffusion 3 medium", "sd3"),
        ("FLUX.1", "flux"),
    ],
)
def test_the_guide_gives_the_parameters_of_the_text_models(model: str, key: str) -> None:
    rows = [[cell.strip() for cell in line.strip("|").split("|")] for line in PAGE.read_text("utf-8").splitlines()]
    found = next(row[2] for row in rows if row[0] == model and "billion" not in row[2] and len(row) == 5)
    assert found == f"{BY_KEY[key].text_parameters:.2f}"


def supported() -> dict[str, list[str]]:
    """Return the rows of the guide's table of families as the code has them, by the family's key."""
    from stylescore.diffusion.checkpoints.layouts import LAYOUTS

    return {
        layout.facts.key: [
            layout.facts.label,
            "yes",  # `load_folder` takes every family
            "yes",
            f"{layout.facts.latent_channels} channels",
            f"multiple of {layout.facts.pixels_per_cell * layout.family.patch}",
            str(layout.facts.native_resolution),
            "none" if layout.family.clip_skip is None else str(layout.family.clip_skip),
        ]
        for layout in LAYOUTS
    }


def test_the_guide_and_the_readme_list_the_families_that_the_code_has() -> None:
    from stylescore.diffusion.families import FAMILIES as LOADED

    known = supported()
    assert set(known) == set(BY_KEY) - {"mini"}
    assert {family.facts.key for family in LOADED} <= set(known)
    lines = [line for line in PAGE.read_text("utf-8").splitlines() if "channels |" in line]
    rows = [[cell.strip() for cell in line.strip("|").split("|")] for line in lines]
    assert len(rows) == len(known)
    for row, facts in zip(rows, known.values(), strict=True):
        assert row[0].startswith(facts[0])
        assert row[1:5] + row[6:] == facts[1:5] + facts[6:]
        assert row[5].endswith(facts[5])  # 2.x has a second one
    sentence = " ".join((PAGE.parents[2] / "README.md").read_text("utf-8").split()).split(" work, see [Which models")[0]
    for facts in known.values():
        assert facts[0] in sentence.rpartition(". ")[2]
