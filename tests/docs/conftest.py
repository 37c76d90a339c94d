"""A folder in which every command of the documentation runs: photos, and the tiny model under the names used there."""

from __future__ import annotations

import glob
import re
import shlex
import shutil
import tomllib
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import av
import onnx
import pytest
from jaxtyping import config
from PIL import Image
from safetensors.torch import load_file, save_file
from tests.apply.tiny import build

from stylescore.generators.files import GeneratorFacts, save_generator
from stylescore.generators.kinds import make_generator

ROOT = Path(__file__).parents[2]
PARITY = ROOT / "tests" / "data" / "parity"
STYLES = ("oil-painting", "pencil-sketch")
FENCE = re.compile(r"^```bash\n(.*?)^```", re.MULTILINE | re.DOTALL)
PIP_EXTRA = re.compile(r"\.(?:\[(\w+)\])?")
SHORT = "iterations = 2\n[optimiser]\nweight_decay = 0.0\nwarmup = 0\nwarmup_fraction = 0.1\n"


def commands(page: Path) -> list[str]:
    """Return the commands of a page's shell blocks, without comments, continued lines joined."""
    blocks = FENCE.findall(page.read_text(encoding="utf-8"))
    lines = "\n".join(blocks).replace("\\\n", " ").splitlines()
    split = (shlex.split(line, comments=True) for line in lines)
    return [shlex.join(words) for words in split if words]


def copy_model(target: Path) -> None:
    """Copy the tiny model, with its own preset of two iterations."""
    shutil.copytree(PARITY / "tiny_base", target)
    (target / "preset.toml").write_text(SHORT, encoding="utf-8")


def fill(place: Path, bundled: Path) -> None:
    """Make every file that the documentation names."""
    lora = PARITY / "style_lora_kohya.safetensors"
    for folder in (place / "my-sd15", place / "my-finetune", bundled / "mini"):
        copy_model(folder)
    (bundled / "mini" / "styles").mkdir()
    for file in (place / "my-lora.safetensors", *(bundled / "mini" / "styles" / f"{s}.safetensors" for s in STYLES)):
        shutil.copy(lora, file)
    weights = load_file(place / "my-sd15" / "text_encoder" / "model.safetensors")
    table = next(tensor for name, tensor in weights.items() if name.endswith("token_embedding.weight"))
    save_file({"emb_params": table[:2].clone()}, place / "my-embedding.safetensors")
    (place / "photos").mkdir()
    (place / "examples").mkdir()
    examples = [f"examples/{file.name}" for file in (ROOT / "examples").glob("*.jpg")]
    for photo in ("photo.jpg", "photos/one.jpg", "photos/two.jpg", *examples):
        with Image.open(PARITY / "input_128x128.png") as picture:
            picture.resize((96, 64)).save(place / photo)
    (place / "masks").mkdir()
    for name in ("one", "two"):
        Image.linear_gradient("L").resize((96, 64)).save(place / "masks" / f"{name}.png")
    (place / "style-pictures").mkdir()
    for number in range(3):
        Image.new("RGB", (96, 80), (60 * number, 90, 120)).save(place / "style-pictures" / f"{number}.png")
    (place / "many-photos").mkdir()
    for number in range(6):
        Image.linear_gradient("L").rotate(40 * number).resize((96, 80)).save(place / "many-photos" / f"{number}.png")
    fill_for_applying(place)
    (place / "my-preset.toml").write_text(SHORT, encoding="utf-8")


def fill_for_applying(place: Path) -> None:
    """Make a trained generator, an exported network and a video."""
    onnx.save(build({"style": "oil-painting"}), place / "oil-painting.onnx")
    (place / "out" / "oil-painting").mkdir(parents=True)
    module = make_generator("mobile", {"width": 4, "blocks": 1}, 2)
    facts = GeneratorFacts(network="mobile", options={"width": 4, "blocks": 1}, style="oil-painting", noise_channels=2)
    save_generator(place / "out" / "oil-painting" / "oil-painting.safetensors", module, facts)
    with av.open(str(place / "clip.mp4"), "w") as out:
        stream = out.add_stream("libx264", rate=25)
        stream.width, stream.height, stream.pix_fmt = 96, 64, "yuv420p"
        for _ in range(3):
            out.mux(stream.encode(av.VideoFrame.from_image(Image.new("RGB", (96, 64), "teal"))))
        out.mux(stream.encode(None))


def interrupt_a_run(folder: Path) -> None:
    """Make a run in `folder` that was stopped after one iteration."""
    from stylescore import RunConfig, StyleChoice, Stylizer, read_photo
    from stylescore.config.presets import preset_for
    from stylescore.runs.job import Task, Written, make_job
    from stylescore.runs.runner import Batch

    run = RunConfig(styles=(StyleChoice(name="oil-painting"),), method=preset_for("mini", None, None))
    stylizer = Stylizer(run)
    task = Task(photo=Path("photo.jpg"), parent=folder.parent)
    job = make_job(stylizer, task, read_photo("photo.jpg"), Written())
    assert job.folder.path == folder
    events = Batch.start(stylizer, [job]).run()
    next(events)
    events.close()


@pytest.fixture
def sandbox(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Work in a folder with photos and small replacements for models and LoRAs."""
    from stylescore.catalog import registry

    place, bundled = tmp_path / "work", tmp_path / "bundled"
    place.mkdir()
    fill(place, bundled)
    monkeypatch.setattr(registry, "BUNDLED", bundled)
    monkeypatch.setenv(registry.STYLES_VARIABLE, str(tmp_path / "styles"))
    monkeypatch.chdir(place)
    return place


def run_stylescore(words: list[str]) -> None:
    """Run the program in this process and demand that it succeeds."""
    from stylescore.cli.main import exit_code

    if "--resume" in words and not (folder := Path(words[words.index("--resume") + 1])).exists():
        interrupt_a_run(folder)
    expanded = [name for word in words for name in (sorted(glob.glob(word)) if "*" in word else [word])]
    with untyped_tracing():
        assert exit_code(expanded) == 0, shlex.join(words)


@contextmanager
def untyped_tracing() -> Iterator[None]:
    """Turn off the checks of types, since an export traces a network with symbols for sizes, which are no numbers."""
    config.update("jaxtyping_disable", True)
    try:
        yield
    finally:
        config.update("jaxtyping_disable", False)


def check_make(words: list[str]) -> None:
    """Demand that these are targets and variables of the Makefile."""
    makefile = (ROOT / "Makefile").read_text(encoding="utf-8")
    for word in words:
        name, equals, _ = word.partition("=")
        pattern = rf"^{name} \?=" if equals else rf"^{name}:"
        assert re.search(pattern, makefile, re.MULTILINE), f"the Makefile has no {name!r}"


def check_pip(words: list[str]) -> None:
    """Demand that this installs the checkout, with extras that exist."""
    extras = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]["optional-dependencies"]
    assert words[0] == "install"
    match = PIP_EXTRA.fullmatch(words[-1])
    assert match is not None
    assert match[1] is None or match[1] in extras


def make_environment(words: list[str]) -> None:
    """Make what `python3 -m venv` makes, as far as the page uses it."""
    assert words[:2] == ["-m", "venv"]
    script = Path(words[2], "bin", "activate")
    script.parent.mkdir(parents=True, exist_ok=True)
    script.touch()


def source_script(words: list[str]) -> None:
    """Demand that a command of the page has made the script."""
    assert Path(*words).is_file()


def copy_files(words: list[str]) -> None:
    """Copy a file; its folder is made by a `mkdir` of the page."""
    shutil.copy(*words)


def make_folder(words: list[str]) -> None:
    """Make a folder and its parents."""
    Path(words[-1]).mkdir(parents=True, exist_ok=True)


RUNNERS: dict[str, Callable[[list[str]], None]] = {
    "stylescore": run_stylescore,
    "make": check_make,
    "pip": check_pip,
    "cp": copy_files,
    "mkdir": make_folder,
    "python3": make_environment,
    ".": source_script,
}


@pytest.fixture(scope="session")
def pages() -> Any:
    """Return functions that read and run the commands of a page."""

    def run(command: str) -> None:
        program, *words = shlex.split(command)
        RUNNERS[program](words)

    return SimpleNamespace(commands=commands, run=run)
