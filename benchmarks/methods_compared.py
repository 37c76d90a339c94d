"""Compare all methods on the bundled model with `stylescore benchmark`, and put its report into the documentation.

    python -m benchmarks.methods_compared --data DIR --out OUT --photos 8 --styles van-gogh stained-glass --publish

DIR is the folder that `bundled_model.prepare` wrote; the photos are those of its test part. Pictures of the styles are
drawn by their programs from other photos. What is made under OUT is not made again, so that the command can be stopped,
repeated, and called with more photos. `--publish` writes `docs/reference/methods-compared.md` and its pictures;
with `--page methods-compared-all` all methods and ablations are compared over their knobs, which takes five times as
long for a photo, and that page is written.
"""

from __future__ import annotations

import argparse
import re
import shutil
import sys
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from PIL import Image

from benchmarks.quality.references import load_style_pictures
from benchmarks.quality.split import SIZES, Photos, read_part
from stylescore.benchmark.grid import OWN_GENERATORS
from stylescore.catalog.registry import find_generator
from stylescore.cli.main import exit_code
from stylescore.images import save_png
from stylescore_apply.storage.files import atomic

DOCS = Path(__file__).parents[1] / "docs"
REFERENCES = 60
"""Pictures of each style."""
SHOWN = 3
"""Photos on the contact sheets."""
WIDTH = 2000
"""Pixels of a contact sheet in the documentation."""


@dataclass(frozen=True, kw_only=True)
class Comparison:
    """What a page compares.

    Attributes:
        name: of the page.
        methods: their names; those of generators are left out where a style has none.
        ablations: of SMS.
        knob: its stands.
        head: the page's beginning, with what its figures show.
    """

    name: str
    methods: str
    ablations: str
    knob: str
    head: str

    @property
    def page(self) -> Path:
        """The page in the documentation."""
        return DOCS / "reference" / f"{self.name}.md"

    @property
    def pictures(self) -> Path:
        """The folder of the page's pictures."""
        return DOCS / "images" / self.name


MAIN = Comparison(
    name="methods-compared",
    methods="sms,vsd,sdedit,generator,mobile",
    ablations="none",
    knob="0.5",
    head="""\
# Methods compared on the bundled model

The report of `stylescore benchmark` on photos that no stage of the bundled model's training used, with every method as
its preset for this model has it, and generators and small networks as their files ask for.
[Comparing methods](../guides/benchmark.md) describes the columns,
[quality of the bundled model](quality.md) how pictures are judged there. All methods, ablations and stands of the knob
are compared on [six of the photos](methods-compared-all.md). `python -m benchmarks.methods_compared` makes this page.

What forty photos in all eight styles show:

* **SMS is nearer to the photo than VSD**: in every style by `st-lpips` and `focus-distance`, beyond chance. Over the
  styles its Frechet distance to the style is smaller too (290 against 304), and in six of them; in ink drawing and
  pencil sketch VSD's is smaller by 10 and 8. There it is further from the photo by as much: on the curves of the
  [other page](methods-compared-all.md), at the `st-lpips` of SMS, VSD has 342 in ink drawing and 329 in pencil sketch,
  SMS 329 and 316. VSD is nearer to the style's colours in all but pencil sketch. This is the balance that the paper
  claims.
* **SDEdit** keeps more of the photo than either, and has less style (376), but in pixel art, where it has more.
* **The one-step generators** are, over the styles, as near to the photo as SMS or nearer, beyond chance by `st-lpips`
  (0.452 against 0.464), and nearer to the style's textures; their colours are further from it. Their Frechet distance
  is larger over the styles (311), most in stained glass, flat illustration and watercolor; in pencil sketch and van
  Gogh it is smaller.
* **The small networks** are, over the styles, as near to the photo as SMS or nearer, and have less style: their Frechet
  distance is about that of SDEdit (372). They come nearest to SMS in ink drawing and pencil sketch, and are furthest in
  stained glass and pixel art.

Seconds of SMS, VSD and SDEdit were taken while other programs used the processor too, and are good for orders of
magnitude only; those of generators and small networks on two cores that they had to themselves. Models of full size and
rivals whose weights are not in this package could not be tried here; the [other page](methods-compared-all.md) has a
command for a GPU.
""",
)
ALL = Comparison(
    name="methods-compared-all",
    methods="sms,vsd,sds,dds,pds,sdedit,generator,mobile",
    ablations="spectrum,uniform",
    knob="0.25,0.5,0.75",
    head="""\
# All methods compared, on six photos

The report of `stylescore benchmark` on photos that no stage of the bundled model's training used, with every method as
its preset for this model has it. [Comparing methods](../guides/benchmark.md) describes its columns,
[rivals](../concepts/rivals.md) and [the other objectives](../concepts/other-objectives.md) the methods,
[quality of the bundled model](quality.md) how pictures are judged there. The main methods are compared on
[more photos](methods-compared.md). `python -m benchmarks.methods_compared` makes both pages.

What six photos in all eight styles show, in the figures and to the eye:

* **SMS is nearer to the photo than VSD** in every measure of content and in every style, over the styles beyond chance.
  Its Frechet distance to the style is smaller over the styles (366 against 379) and in six of them; in pencil sketch
  and pixel art VSD's is smaller by 1 and 7. This is the balance that the paper claims. VSD is nearer to the style in
  its colours, but in pencil sketch, where SMS without the spectrum loss is VSD.
* **The spectrum loss keeps layout.** Without it pictures are further from the photo in every measure of content and in
  every style, at a smaller Frechet distance to the style in all but pixel art.
* A uniform timestep in place of the narrowing range keeps more of the photo and has less style. Pencil sketch has it by
  itself.
* **DDS and PDS hardly leave the photo** at these settings: first in every measure of content, and far from the style.
  **SDS blurs.** SDEdit takes on some of the style, and changes the subject; in pixel art it is nearer than SMS to photo
  and style.
* **The one-step generators**, applied as their files state, differ from runs of SMS in no measure of content beyond
  chance. Their colours are further from the style's, mostly in pencil sketch, which gets the photo's back. Their
  Frechet distance is larger over the styles (395 against 366), most in stained glass and watercolor, and smaller in van
  Gogh, ink drawing and pencil sketch. Five have been [trained
  on](../concepts/generators.md#the-timesteps-of-score-matching) since.
* Not every figure of style follows the eye: `hed-neighbours` ranks the blurred pictures of SDS first.

On six photos a difference must have one sign in all of them to count, so small ones go unseen. Seconds were taken while
other programs used the processor too, and are good for orders of magnitude only.

What could not be tried here: models of full size, and the rivals whose weights are not in this package. On a GPU with
Stable Diffusion 1.5, a style LoRA of yours and pictures in that style:

```text
stylescore benchmark photos --model stable-diffusion-v1-5/stable-diffusion-v1-5 --style my-lora.safetensors \\
    --style-pictures pictures --methods sms,vsd,sds,dds,pds,sdedit,styleid --ablations all --device cuda
```
""",
)
COMPARISONS = {comparison.name: comparison for comparison in (MAIN, ALL)}


def write_inputs(data: Path, out: Path, count: int, styles: list[str]) -> tuple[list[Path], dict[str, Path]]:
    """Write photos with captions, and pictures of the styles; return the photos' files and the styles' folders."""
    photos = _write_photos(out / "photos", read_part(data, "test", count))
    others = read_part(data, "reference", REFERENCES)
    folders = {style: out / "style-pictures" / style for style in styles}
    for style, folder in folders.items():
        folder.mkdir(parents=True, exist_ok=True)
        for number, pixels in enumerate(load_style_pictures(style, others, out / "references")):
            save_png(Image.fromarray(pixels), folder / f"{number:03d}.png")
    return photos, folders


def _write_photos(folder: Path, photos: Photos) -> list[Path]:
    folder.mkdir(parents=True, exist_ok=True)
    files = [folder / f"{number:03d}.png" for number in range(len(photos))]
    for file, caption, pixels in zip(files, photos.captions, photos.pixels, strict=True):
        save_png(Image.fromarray(pixels), file)
        file.with_suffix(".txt").write_text(f"{caption}\n", encoding="utf-8")
    return files


def command(
    compared: Comparison, photos: list[Path], folders: dict[str, Path], out: Path, more: list[str]
) -> list[str]:
    """Return the words of `stylescore benchmark`."""
    names = (name for name in compared.methods.split(",") if _has_generators(name, folders))
    words = ["benchmark", *map(str, photos), "--methods", ",".join(names)]
    words += ["--ablations", compared.ablations, "--knob", compared.knob]
    for style, folder in folders.items():
        words += ["--style", style, "--style-pictures", f"{style}={folder}"]
    return [*words, "--shown", str(SHOWN), "--output", str(out / "benchmark"), *more]


def _has_generators(method: str, styles: Iterable[str]) -> bool:
    """Return whether every style has the generator that a method is, if it is one."""
    _, ending = OWN_GENERATORS.get(method, (method, None))
    return ending is None or all(find_generator(f"{style}{ending}") for style in styles)


def publish(compared: Comparison, report: Path) -> None:
    """Write the documentation's page from a report, without the configuration."""
    text = (report / "report.md").read_text(encoding="utf-8").partition("\n")[2].partition("\n## Configuration")[0]
    compared.pictures.mkdir(parents=True, exist_ok=True)
    for name in re.findall(r"\]\(((?:pareto|sheet)[^)]+)\)", text):
        _copy_picture(report / name, compared.pictures / name)
        text = text.replace(f"]({name})", f"](../images/{compared.name}/{name})")
    with atomic(compared.page) as temporary:
        temporary.write_text(compared.head + text, encoding="utf-8")


def _copy_picture(source: Path, target: Path) -> None:
    """Copy a plot as it is, and a sheet at the width of a page."""
    if source.suffix == ".svg":
        shutil.copy(source, target)
        return
    with Image.open(source) as sheet:
        sheet.thumbnail((WIDTH, 100 * WIDTH), Image.Resampling.LANCZOS)
        sheet.save(target, quality=80)


def main() -> int:
    """Make the inputs, call the program, and publish its report."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.methods_compared", description="Compare all methods.")
    parser.add_argument("--data", type=Path, required=True, help="folder that bundled_model.prepare wrote")
    parser.add_argument("--out", type=Path, required=True, help="folder for pictures and report")
    parser.add_argument("--photos", type=int, default=SIZES["test"])
    parser.add_argument("--styles", nargs="+", default=["van-gogh", "stained-glass", "watercolor"])
    parser.add_argument("--page", choices=list(COMPARISONS), default=MAIN.name, help="what is compared")
    parser.add_argument("--publish", action="store_true", help="write the documentation's page")
    options, more = parser.parse_known_args()
    compared = COMPARISONS[options.page]
    photos, folders = write_inputs(options.data, options.out, options.photos, options.styles)
    code = exit_code(command(compared, photos, folders, options.out, more))
    if code == 0 and options.publish:
        publish(compared, options.out / "benchmark")
    return code


if __name__ == "__main__":
    sys.exit(main())
