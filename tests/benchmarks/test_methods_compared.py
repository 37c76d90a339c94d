"""The report of all methods on the bundled model: the program's call, and the page made of its report."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from benchmarks.quality.split import Photos
from PIL import Image

from benchmarks import methods_compared
from stylescore.benchmark.grid import ABLATIONS, LABELS, OWN_GENERATORS


@pytest.mark.parametrize("compared", methods_compared.COMPARISONS.values(), ids=methods_compared.COMPARISONS)
def test_the_call_names_photos_styles_and_their_pictures(tmp_path: Path, compared: methods_compared.Comparison) -> None:
    """Generators are compared where every style has one."""
    folders = {"ink": tmp_path / "ink", "oil": tmp_path / "oil"}
    words = methods_compared.command(compared, [Path("a.png"), Path("b.png")], folders, tmp_path, ["--seeds", "2"])
    assert words[:3] == ["benchmark", "a.png", "b.png"]
    assert [words[n + 1] for n, word in enumerate(words) if word == "--style"] == ["ink", "oil"]
    assert f"oil={tmp_path / 'oil'}" in words
    assert words[-2:] == ["--seeds", "2"]
    with_generators = methods_compared.command(compared, [Path("a.png")], {"van-gogh": tmp_path}, tmp_path, [])
    assert compared.methods in with_generators
    assert words[words.index("--methods") + 1] == compared.methods.removesuffix(",generator,mobile")
    assert set(compared.methods.split(",")) <= {*LABELS, *OWN_GENERATORS}
    assert set(compared.ablations.split(",")) <= {*ABLATIONS, "none"}


def test_photos_are_written_with_their_captions(tmp_path: Path) -> None:
    pixels = np.random.default_rng(0).integers(0, 256, (2, 8, 9, 3), dtype=np.uint8)
    files = methods_compared._write_photos(tmp_path, Photos((4, 7), ("a photo of tea", "a photo of a cat"), pixels))
    assert [file.with_suffix(".txt").read_text(encoding="utf-8") for file in files] == [
        "a photo of tea\n",
        "a photo of a cat\n",
    ]
    with Image.open(files[1]) as photo:
        assert np.array_equal(np.asarray(photo), pixels[1])


def test_the_page_has_the_tables_and_its_pictures_beside_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(methods_compared, "DOCS", tmp_path)
    compared = methods_compared.MAIN
    compared.page.parent.mkdir(parents=True)
    report = tmp_path / "report"
    report.mkdir()
    Image.new("RGB", (3200, 20)).save(report / "sheet-ink.jpg")
    (report / "pareto-ink.svg").write_text("<svg/>")
    (report / "report.md").write_text(
        "# stylescore benchmark\n\n![pictures](sheet-ink.jpg)\n\n![plot](pareto-ink.svg)\n\n| SMS | 1 |\n\n"
        "## Configuration\n\n{}\n"
    )
    methods_compared.publish(compared, report)
    text = compared.page.read_text(encoding="utf-8")
    assert text.startswith(compared.head)
    assert text.count("\n# ") + text.startswith("# ") == 1
    assert "| SMS | 1 |" in text
    assert "](../images/methods-compared/sheet-ink.jpg)" in text
    assert "Configuration" not in text
    with Image.open(compared.pictures / "sheet-ink.jpg") as sheet:
        assert sheet.width == methods_compared.WIDTH
    assert (compared.pictures / "pareto-ink.svg").read_text() == "<svg/>"
