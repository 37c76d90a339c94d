"""The model card of a generator: a README whose head tells the hub what the files are, and the rest people."""

from __future__ import annotations

import json
from collections.abc import Iterator

from stylescore.generators.files import GeneratorFacts

LICENCES = (
    "afl-3.0",
    "agpl-3.0",
    "apache-2.0",
    "bsd-3-clause",
    "cc-by-4.0",
    "cc-by-nc-4.0",
    "cc-by-nc-sa-4.0",
    "cc-by-sa-4.0",
    "cc0-1.0",
    "creativeml-openrail-m",
    "gpl-3.0",
    "lgpl-3.0",
    "mit",
    "mpl-2.0",
    "openrail",
    "openrail++",
    "unlicense",
)
"""Names of licences that the hub knows, among those in use for such files; it takes others as `other` with a name."""
TAGS = ("stylescore", "image-to-image", "style-transfer")


def model_card(facts: GeneratorFacts, hub_id: str, has_onnx: bool = True) -> str:
    """Return a generator's model card in Markdown, with the hub's metadata in YAML at its head.

    Args:
        facts: what the generator's file states.
        hub_id: the repository.
        has_onnx: whether the repository has the generator as an ONNX file too; a network of its own always has.
    """
    head = "\n".join(("---", *_head(facts, has_onnx), "---"))
    body = f"{_LORA_HEAD}{_LORA_WITH_ONNX if has_onnx else _LORA_ALONE}{_LORA_REST}" if facts.is_lora else _BODY
    texts = {"style": _cell(facts.style), "base": _cell(facts.base), "hub_id": hub_id, "rows": _table(facts)}
    return f"{head}\n\n{body.format(**texts)}"


_BODY = """# {style}

A one-step generator: a small network that stylizes a photo in one forward pass, on a CPU too, made with stylescore.

## Use

```bash
stylescore apply {hub_id} photo.jpg
```

The ONNX file runs in other programs as well. Its inputs are `photo` [n, 3, height, width] in 0 to 1, sRGB, of any size,
and, where the table names noise channels, standard normal `noise` with one cell for 8 x 8 pixels; its output is
`picture`, as `photo`. The safetensors file holds the same weights for stylescore.

## Facts

| | |
|---|---|
{rows}
"""


_LORA_HEAD = """# {style}

A one-step generator: a LoRA with which the denoising network of {base} stylizes a photo in one pass, made with
stylescore.

## Use

```bash
stylescore apply {hub_id} photo.jpg
```
"""
_LORA_WITH_ONNX = """
This downloads the ONNX file, which holds encoder, denoising network with the LoRA, and decoder: it needs neither the
base model nor torch. It runs in other programs as well. Its inputs are `photo` [n, 3, height, width] in 0 to 1, sRGB,
and, where the table names noise channels, standard normal `noise` with one cell for 8 x 8 pixels; its output is
`picture`, as `photo`.

`stylescore apply {hub_id}:NAME.safetensors`, with the name of the other file, applies the LoRA itself with torch, on a
GPU where there is one. `--model` then names the base model where it is not found as {base}.
"""
_LORA_ALONE = """
`--model` names the base model where it is not found as {base}. `stylescore export` writes both as one ONNX file, if the
model is of the Stable Diffusion 1.x or 2.x kind and small enough for one.
"""
_LORA_REST = """
The LoRA loads in other programs too. There, encode the photo, add the noise of the timestep below to its latent,
predict the clean latent once under the prompt below without guidance, and decode it. As a style over many steps it was
not trained.

## Facts

| | |
|---|---|
{rows}
"""


def _head(facts: GeneratorFacts, has_onnx: bool) -> Iterator[str]:
    """Yield the lines of the metadata; texts are written as in JSON, which is YAML too."""
    licence = facts.licence.strip().lower()
    if licence in LICENCES:
        yield f"license: {json.dumps(licence)}"
    elif licence:
        yield from ("license: other", f"license_name: {json.dumps(' '.join(facts.licence.split()))}")
    tags = (*TAGS, *(["lora"] if facts.is_lora else []), *(["onnx"] if has_onnx else []))
    yield from ("library_name: stylescore", "pipeline_tag: image-to-image", f"tags: {json.dumps(tags)}")


def _table(facts: GeneratorFacts) -> str:
    """Return the rows of the table of facts; empty ones are left out."""
    numbers = ", ".join(f"{name} {value}" for name, value in sorted(facts.options.items()))
    rows = {
        "network": f"{facts.network} {f'({numbers})' if numbers else ''}",
        "prompt of the style": facts.trigger,
        "prompt of the pass": (facts.prompt or "empty") if facts.is_lora else "",
        "diffusion model that taught it": facts.base,
        "short side of the pictures in training": f"{facts.size} pixels" if facts.size else "",
        "noise channels": facts.noise_channels,
        "licence": facts.licence,
        **{f"training: {name}": _text(value) for name, value in sorted(facts.training.items()) if name != "hashes"},
    }
    return "\n".join(f"| {_cell(name)} | {_cell(value)} |" for name, value in rows.items() if value not in ("", None))


def _text(value: object) -> str:
    return value if isinstance(value, str) else json.dumps(value, sort_keys=True)


def _cell(value: object) -> str:
    """Return a value as one line that does not end a table's cell."""
    return " ".join(str(value).split()).replace("|", "\\|")
