"""The documentation names every option, setting, module and dependency, with the right defaults and figures."""

from __future__ import annotations

import dataclasses
import re
import tomllib
from collections.abc import Iterator
from importlib import import_module
from pathlib import Path
from typing import Any

import pytest
import torch
import typer
import yaml

from stylescore import __version__
from stylescore.config.content_knob import relevance_strength, spectrum_factor
from stylescore.config.method import MethodConfig, RelevanceConfig, SpectrumConfig
from stylescore.config.presets import load
from stylescore.config.run import RunConfig, StyleChoice
from stylescore.errors import StylescoreError
from stylescore.method.directions import posterior_coefficients
from stylescore.method.schedule import NoiseSchedule, posterior_weight

ROOT = Path(__file__).parents[2]
DOCS = ROOT / "docs"
SOURCE = ROOT / "src" / "stylescore"
APPLY = ROOT / "apply" / "src" / "stylescore_apply"
CONCEPTS = sorted((DOCS / "concepts").glob("*.md"))
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))


def text(page: str) -> str:
    return (ROOT / page).read_text(encoding="utf-8")


def rows(page: str) -> list[list[str]]:
    """Return the cells of every table row of a page."""
    lines = [line for line in text(page).splitlines() if line.startswith("| ") and not line.startswith("|--")]
    return [[cell.strip() for cell in line.strip("|").split(" | ")] for line in lines]


def options() -> Iterator[tuple[str, str]]:
    from stylescore.cli.main import app

    command: Any = typer.main.get_command(app)
    for name, sub in command.commands.items():
        for parameter in sub.params:
            spellings = (*parameter.opts, *parameter.secondary_opts)
            yield from ((name, option) for option in spellings if option.startswith("-"))
    from stylescore_apply.cli import make_parser

    actions = make_parser("stylescore apply")._actions
    yield from (("apply", option) for action in actions for option in action.option_strings)


@pytest.mark.parametrize(("command", "option"), list(options()))
def test_every_option_stands_on_its_commands_section(command: str, option: str) -> None:
    section = text("docs/reference/cli.md").split(f"## `stylescore {command}")[1].split("\n## ")[0]
    assert f"`{option}`" in section


def test_the_command_page_names_no_option_that_is_gone() -> None:
    known = {option for _, option in options()} | {"--help", "-h", "--version"}
    assert set(re.findall(r"(?<![\w-])--?[a-z][\w-]*", text("docs/reference/cli.md"))) <= known


@pytest.mark.parametrize("page", ["README.md", *(str(p.relative_to(ROOT)) for p in DOCS.rglob("*.md"))])
def test_no_page_names_an_option_that_is_gone(page: str) -> None:
    known = {option for _, option in options()} | {"--help", "--version", "--no-deps"}  # the last one is pip's
    assert set(re.findall(r"(?<![\w`-]-)(?<![\w-])--[a-z][\w-]+", text(page))) <= known


def settings(config: Any, prefix: str = "") -> Iterator[tuple[str, Any]]:
    for field in dataclasses.fields(config):
        value = getattr(config, field.name)
        if dataclasses.is_dataclass(value):
            yield from settings(value, f"{prefix}{field.name}.")
        else:
            yield f"{prefix}{field.name}", value


def shown(value: Any) -> list[str]:
    """Return the ways a default may be written."""
    if value is None:
        return ["automatic"]
    if isinstance(value, bool):
        return [str(value).lower()]
    if isinstance(value, tuple):
        return [", ".join(value)]
    if isinstance(value, float):
        return [str(value), f"{value:g}", f"{value:.0e}".replace("e-0", "e-")]
    return [str(value)]


def test_every_setting_stands_with_its_default() -> None:
    told = (row for row in rows("docs/reference/settings.md") if row[0].startswith("`"))
    table = {row[0].strip("`"): row[1].strip("`") for row in told}
    known = dict(settings(MethodConfig()))
    assert set(table) == set(known)
    for name, value in known.items():
        assert table[name] in shown(value), name


def test_every_setting_of_a_generators_training_stands_with_its_default() -> None:
    from stylescore.training.generator.config import GeneratorTrainingConfig, resolve

    config = resolve({"name": "a"}, RunConfig(styles=(StyleChoice(name="van-gogh"),)))
    table = {row[0].strip("`"): row[1] for row in rows("docs/reference/generator.md") if len(row) == 4}
    del table["setting"]
    own = dict(settings(GeneratorTrainingConfig(name="a", run=config.run)))
    known = {
        name: value
        for name, value in own.items()
        if name not in ("name", "preset") and not name.startswith(("run.", "matching.method."))
    }
    assert set(table) == set(known)
    for name, value in known.items():
        assert table[name] in ([*shown(value), "empty"] if value == "" else shown(value)), name


def test_the_preset_table_says_what_the_presets_hold() -> None:
    balanced, reference, paper = (load(name) for name in ("balanced", "reference", "paper"))
    assert [p.iterations for p in (balanced, reference, paper)] == [200, 500, 500]
    assert [(p.optimiser.warmup, p.optimiser.warmup_fraction) for p in (balanced, reference, paper)] == [
        (0, 0.1),
        (100, 0.0),
        (100, 0.0),
    ]
    assert [p.optimiser.weight_decay for p in (balanced, reference, paper)] == [0, 0.01, 0.01]
    assert [p.relevance.upper_quantile for p in (balanced, reference, paper)] == [0.95, 1, 1]
    assert [p.relevance.reduction[:4] for p in (balanced, reference, paper)] == ["abso", "mean", "abso"]
    assert [p.spectrum.distance for p in (balanced, reference, paper)] == ["l1", "l1", "l2"]
    assert [p.sample_posterior for p in (balanced, reference, paper)] == [False, True, False]
    assert [p.text_encoder_lora for p in (balanced, reference, paper)] == [True, False, False]
    assert [load(name, "pds").guidance_scale for name in ("balanced", "reference", "paper")] == [7.5, 100, 100]
    for name in ("balanced", "reference", "paper"):
        for method in ("sms", "vsd"):
            assert load(name, method).guidance_scale == load(name, method).fake.guidance_scale == 4.5
        assert load(name).spectrum.weight == 5e-4
        assert load(name).style_strength == 0.8


def test_every_dependency_has_its_reason() -> None:
    page = rows("docs/concepts/dependencies.md")
    project = PROJECT["project"]
    for requirement in project["dependencies"]:
        name = re.match(r"[\w-]+", requirement)
        assert name is not None
        assert any(row[0] == f"`{name[0]}`" and len(row[1]) > 5 for row in page), requirement
    for extra, requirements in project["optional-dependencies"].items():
        for requirement in requirements:
            name = re.match(r"[\w-]+", requirement)
            assert name is not None
            assert any(row[:2] == [f"`{extra}`", f"`{name[0]}`"] and row[2] for row in page), requirement


def test_the_changelog_has_a_section_for_this_version() -> None:
    section = re.search(rf"^## \[{re.escape(__version__)}\].*?(?=^## |\Z)", text("CHANGELOG.md"), re.M | re.S)
    assert section is not None
    assert "\n- " in section[0]


def test_the_citation_has_this_version_and_the_papers_authors() -> None:
    citation = yaml.safe_load(text("CITATION.cff"))
    assert citation["version"] == __version__
    assert citation["license"] == PROJECT["project"]["license"]
    families = [author["family-names"] for author in citation["preferred-citation"]["authors"]]
    assert families == ["Jiang", "Jiang", "Yang", "Liu", "Tsang", "Shou"]


def modules() -> set[str]:
    found = set()
    for file in (*SOURCE.rglob("*.py"), *APPLY.rglob("*.py")):
        parts = file.relative_to(SOURCE.parent if file.is_relative_to(SOURCE) else APPLY.parent).with_suffix("").parts
        if parts[-1] not in ("_version", "__main__"):
            found.add(".".join(part for part in parts if part != "__init__"))
    return found


def test_every_module_has_a_reference_entry() -> None:
    pages = "\n".join(page.read_text(encoding="utf-8") for page in (DOCS / "reference").glob("*.md"))
    entries = re.findall(r"^::: (\S+)$", pages, re.MULTILINE)
    assert len(entries) == len(set(entries))
    assert set(entries) == modules(), "add `::: the.module` to a page of docs/reference/"


def test_the_architecture_page_has_the_layers_of_the_contract() -> None:
    contracts = PROJECT["tool"]["importlinter"]["contracts"]
    layers = next(contract["layers"] for contract in contracts if contract["type"] == "layers")
    block = text("docs/concepts/architecture.md").split("## Rooms")[1].split("```")[1]
    told = [re.split(r"\s{2,}", line)[0].split(", ") for line in block.splitlines()[1:] if line[:1].isalpha()]
    contract = [re.findall(r"stylescore\.([\w.]+)", layer) for layer in layers]
    assert [sorted(layer) for layer in told] == [sorted(layer) for layer in contract]


def code_named_on_pages() -> list[str]:
    """Return what the concept pages name as their code, dotted from the package's top."""
    lines = [re.findall(r"Code: (.*?)\*$", page.read_text(encoding="utf-8"), re.M | re.S) for page in CONCEPTS]
    return sorted({name for found in lines for line in found for name in re.findall(r"`([\w.]+)`", line)} - {"refine"})


@pytest.mark.parametrize("name", code_named_on_pages())
def test_the_code_that_a_page_names_is_there(name: str) -> None:
    parts = name.split(".")
    for count in range(len(parts), 0, -1):
        try:
            found: Any = import_module(".".join(["stylescore", *parts[:count]]))
        except ModuleNotFoundError:
            continue
        for part in parts[count:]:
            found = getattr(found, part)
        return
    raise AssertionError(name)


def source_text() -> str:
    """Return all string-bearing source with implicit concatenations joined."""
    code = "\n".join(file.read_text(encoding="utf-8") for file in (*SOURCE.rglob("*.py"), *APPLY.rglob("*.py")))
    return re.sub(r'"\s*\n\s*f?"', "", code).replace("{{style}} and {{caption}}", "{style} and {caption}")


def test_every_message_of_the_troubleshooting_page_exists() -> None:
    code = source_text()
    quoted = [row[0].strip("`") for row in rows("docs/guides/troubleshooting.md") if row[0].startswith("`")]
    assert len(quoted) > 30
    for message in quoted:
        assert message in code or all(part in code for part in message.split(" between")), message


def test_the_errors_a_caller_meets_are_told_apart() -> None:
    from stylescore import errors

    kinds = {
        name for name, kind in vars(errors).items() if isinstance(kind, type) and issubclass(kind, StylescoreError)
    }
    assert kinds <= set(re.findall(r"\w+Error", errors.__doc__ or ""))


def test_the_site_loads_nothing_from_other_hosts() -> None:
    config = yaml.safe_load(text("mkdocs.yml"))
    assert config["theme"]["font"] is False
    assert "repo_url" not in config
    assert not {"extra_javascript", "extra_css"} & set(config)
    for page in DOCS.rglob("*.md"):
        body = page.read_text(encoding="utf-8")
        assert not re.search(r"<(script|img|link|iframe)\b|!\[[^]]*\]\(https?:|```mermaid", body), page


SD = NoiseSchedule(torch.linspace(0.00085**0.5, 0.012**0.5, 1000, dtype=torch.float64) ** 2)


def test_the_table_of_psi_and_chi_is_right() -> None:
    table = {row[0]: row[1:] for row in rows("docs/concepts/other-objectives.md") if len(row) == 7}
    psi, chi = posterior_coefficients(SD, torch.tensor([int(t) for t in table["t"]]))
    for name, values in (("psi", psi), ("chi", chi)):
        for told, value in zip(table[name], values.flatten().tolist(), strict=True):
            assert f"{value:.{len(told.split('.')[1])}f}" == told


def test_the_weights_told_for_sd15_are_right() -> None:
    told = re.search(
        r"SMS weight is ([\d.]+) at t = (\d+), ([\d.]+) at (\d+) and ([\d.]+) at (\d+)",
        text("docs/concepts/schedule.md"),
    )
    assert told is not None
    for value, t in zip(told.groups()[::2], told.groups()[1::2], strict=True):
        assert f"{posterior_weight(SD, torch.tensor([int(t)])).item():.5f}" == value


def test_the_knobs_table_is_right() -> None:
    table = [row for row in rows("docs/guides/style-or-content.md") if re.fullmatch(r"[\d.]+", row[0])]
    assert len(table) == 5
    for content, weight, strength in table:
        assert spectrum_factor(float(content), SpectrumConfig()) == pytest.approx(float(weight))
        assert relevance_strength(float(content), RelevanceConfig()) == pytest.approx(float(strength))


def test_run_defaults_told_are_the_real_ones() -> None:
    run = RunConfig(styles=(StyleChoice(name="x"),))
    table = {
        row[0].split("`")[1]: row[1].strip("`")
        for row in reversed(list(rows("docs/reference/cli.md")))  # those of `stylize` come first, and win
        if row[0].startswith("`--")
    }
    assert float(table["--content"]) == run.content
    assert int(table["--seed"]) == run.seed
    assert table["--model"] == run.model
    for name in ("device", "dtype", "memory", "compile", "style_weights"):
        assert table[f"--{name.replace('_', '-')}"] == getattr(run.execution, name)
