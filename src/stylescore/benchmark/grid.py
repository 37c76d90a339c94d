"""What a benchmark makes: methods and ablations, each over its strength knob and over seeds. No torch."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from types import MappingProxyType
from typing import Any

from stylescore.config.content_knob import with_content
from stylescore.config.execution import ExecutionConfig
from stylescore.config.method import ONE_PICTURE, Method, MethodConfig
from stylescore.config.presets import METHODS, origin, preset_for
from stylescore.config.ranges import check_run
from stylescore.config.run import RunConfig, WeightsChoice
from stylescore.config.toml import overlay
from stylescore.errors import ConfigError, did_you_mean, quote
from stylescore_apply.names import SMALL_ENDING

GENERATOR = "generator"
OWN_GENERATORS = {GENERATOR: ("Generator", ""), "mobile": ("Small network", SMALL_ENDING)}
"""Among the methods: the generators of the style itself, with their labels and what follows its name in theirs."""
NONE: Mapping[str, Path] = MappingProxyType({})
CENTRE = 0.5
"""Where the knob stands for the preset's own constants."""
MOST_SEEDS = 100
LABELS = {
    "sms": "SMS",
    "vsd": "VSD",
    "sds": "SDS",
    "dds": "DDS",
    "pds": "PDS",
    "sdedit": "SDEdit",
    "styleid": "StyleID",
    "freestyle": "FreeStyle",
    "instantstyle": "InstantStyle",
    "gatys": "Gatys et al.",
    "adain": "AdaIN",
    "ghiasi": "Ghiasi et al.",
    "sdedit-edges": "SDEdit + edges",
    "sdedit-tile": "SDEdit + tile",
    "instantstyle-edges": "InstantStyle + edges",
    "instantstyle-tile": "InstantStyle + tile",
}
_NO_SPECTRUM = {"spectrum": {"weight": 0.0}}
_NO_RELEVANCE = {"relevance": {"strength": 0.0, "largest_strength": 0.0}}
ABLATIONS: Mapping[str, tuple[str, Mapping[str, Any]]] = {
    "spectrum": ("without spectrum", _NO_SPECTRUM),
    "relevance": ("without relevance", _NO_RELEVANCE),
    "neither": ("neither", {**_NO_SPECTRUM, **_NO_RELEVANCE}),
    "uniform": ("uniform t", {"timesteps": {"sampler": "uniform"}}),
    "annealed": ("annealed t", {"timesteps": {"sampler": "annealed"}}),
}
"""The ablations of SMS: what they are called, and the constants that differ."""


@dataclass(frozen=True, kw_only=True)
class Variant:
    """A method as it is compared.

    Attributes:
        key: for names of folders.
        label: for tables.
        method: the method's name; `None` for a generator.
        changes: constants that differ from its preset.
        options: fields of the run that differ.
        is_ablation: whether it is SMS with something left out or replaced.
        generator: file of a one-step generator, which makes the pictures in place of runs.
    """

    key: str
    label: str
    method: Method | None
    changes: Mapping[str, Any] = field(default_factory=dict)
    options: Mapping[str, Any] = field(default_factory=dict)
    is_ablation: bool = False
    generator: Path | None = None

    @property
    def has_knob(self) -> bool:
        """Whether it is made at every stand of the knob: ablations are not, and generators have none."""
        return not self.is_ablation and self.generator is None


@dataclass(frozen=True, kw_only=True)
class Row:
    """A method at one stand of its knob: a row of the tables, a point of the plot.

    Attributes:
        variant: the method.
        content: where the knob stands.
        is_central: whether it is the stand that tables and sheets show.
    """

    variant: Variant
    content: float
    is_central: bool

    @property
    def key(self) -> str:
        """Its name in folders and figures."""
        return self.variant.key if self.variant.generator else f"{self.variant.key}-{self.content:g}"


def make_variants(
    methods: Sequence[str], ablations: Sequence[str], generators: Mapping[str, Path] = NONE
) -> list[Variant]:
    """Return the methods by their names, SMS first where it is among them, ablations after it, and generators last.

    Args:
        methods: names.
        ablations: names.
        generators: files, by their labels.

    Raises:
        ConfigError: there is no such method or ablation, none is named, or ablations are without SMS.
    """
    for kind, names, known in (("method", methods, LABELS), ("ablation", ablations, ABLATIONS)):
        for name in names:
            if name not in known:
                hint = did_you_mean(name, [*known, *(OWN_GENERATORS if kind == "method" else [])])
                raise ConfigError(f"a benchmark has no {kind} {quote(name)}", hint=hint)
    if not methods and not generators:
        raise ConfigError("a benchmark needs at least one method", hint="give --methods sms,sdedit")
    if ablations and "sms" not in methods:
        raise ConfigError("ablations are of sms, which is not among the methods", hint="add sms to --methods")
    ordered = sorted(dict.fromkeys(methods), key=lambda name: name != "sms")
    variants = [_variant(name) for name in ordered]
    trained = [_trained(label, file) for label, file in generators.items()]
    return variants[:1] + [_ablation(name) for name in dict.fromkeys(ablations)] + variants[1:] + trained


def _variant(name: str) -> Variant:
    plain, _, control = name.partition("-")
    method = next(known for known in METHODS if known == plain)
    options = {"control": control} if control else {}
    return Variant(key=name, label=LABELS[name], method=method, options=options)  # type: ignore[arg-type]


def _ablation(name: str) -> Variant:
    label, changes = ABLATIONS[name]
    return Variant(key=f"sms-{name}", label=label, method="sms", changes=changes, is_ablation=True)


def _trained(label: str, file: Path) -> Variant:
    own = next((name for name, (its_label, _) in OWN_GENERATORS.items() if its_label == label), None)
    key = own or f"{GENERATOR}-{file_name(label)}"
    return Variant(key=key, label=label, method=None, generator=file)


def make_rows(variants: Sequence[Variant], contents: Sequence[float]) -> list[Row]:
    """Return every method at every stand of its knob, ablations and generators once; central rows come first.

    Raises:
        ConfigError: there is no stand, or one is out of range.
    """
    wrong = next((content for content in contents if not 0 <= content <= 1), None)
    if wrong is not None or not contents:
        raise ConfigError(
            f"--knob must be numbers from 0 to 1, not {wrong if contents else 'nothing'}",
            hint="--knob 0.25,0.5,0.75",
        )
    centre = centre_of(contents)
    rows = [Row(variant=variant, content=centre, is_central=True) for variant in variants]
    others = [content for content in dict.fromkeys(contents) if content != centre]
    rows += [
        Row(variant=variant, content=content, is_central=False)
        for variant in variants
        if variant.has_knob
        for content in others
    ]
    return rows


def centre_of(contents: Sequence[float]) -> float:
    """Return the stand of the knob that is nearest to that of the presets."""
    return min(contents, key=lambda content: abs(content - CENTRE))


@dataclass(frozen=True, kw_only=True)
class Setting:
    """What the runs of a benchmark have in common.

    Attributes:
        run: model, style and everything else but the method.
        preset: name or file, or `None` for the model's own.
        constants: that differ from the preset's, for every method.
        weights: files and hub ids by network; each method takes those that it has.
        style_picture: a picture in the style, for methods that take one.
    """

    run: RunConfig
    preset: str | None = None
    style_picture: Path | None = None
    constants: Mapping[str, Any] = field(default_factory=dict)
    weights: Mapping[str, str] = field(default_factory=dict)

    def method(self, variant: Variant) -> MethodConfig:
        """Return the constants of a method."""
        assert variant.method is not None
        own = preset_for(self.run.model, self.preset, variant.method, self._styles(variant))
        return overlay(overlay(own, self.constants), variant.changes)

    def configure(self, row: Row, seed: int) -> RunConfig:
        """Return the checked configuration of a row's runs.

        Raises:
            ConfigError: a number is out of range.
        """
        method, content = with_knob(self.method(row.variant), row.content)
        run = overlay(replace(self.run, method=method, content=content, seed=seed), row.variant.options)
        if not row.variant.options:
            run = replace(run, control_model=None, control_scale=1.0)
        if method.takes_style_picture:
            run = replace(run, styles=(), style_model=None, style_image=self._picture(row.variant))
        if method.is_transfer:
            run = replace(run, execution=ExecutionConfig(device=run.execution.device))
        own = tuple(
            WeightsChoice(network=name, file=self.weights[name]) for name in method.weights if name in self.weights
        )
        run = replace(run, weights=own)
        return check_run(replace(run, preset=origin(run.model, self.preset, self._styles(row.variant))))

    def _styles(self, variant: Variant) -> list[str]:
        """Return the names of the adapters that a method uses."""
        return [] if variant.method in ONE_PICTURE else [style.name for style in self.run.styles]

    def _picture(self, variant: Variant) -> str:
        if self.style_picture is None:
            raise ConfigError(
                f"{variant.key} takes the style from a picture, and there is none of "
                f"{Path(self.run.styles[0].name).stem!r}",
                hint="give --style-pictures NAME=DIR, or leave it out of --methods",
            )
        return str(self.style_picture)


@dataclass(frozen=True, kw_only=True)
class Plan:
    """The runs of one style.

    Attributes:
        setting: what they have in common.
        rows: methods at the stands of their knobs.
        same: ablations that change nothing, with the key of what they equal.
        seeds: of the runs.
        folder: the parent of their folders' parents.
    """

    setting: Setting
    rows: Sequence[Row]
    same: Mapping[str, str]
    seeds: Sequence[int]
    folder: Path

    @classmethod
    def of(
        cls,
        setting: Setting,
        variants: Sequence[Variant],
        contents: Sequence[float],
        seeds: Sequence[int],
        folder: Path,
    ) -> Plan:
        """Return the runs of a style; ablations that change nothing are left out.

        Raises:
            ConfigError: a stand of the knob is out of range.
        """
        every = make_rows(variants, contents)
        same = repeated(setting, variants, centre_of(contents))
        rows = [row for row in every if row.variant.key not in same]
        return cls(setting=setting, rows=rows, same=same, seeds=seeds, folder=folder)

    @property
    def style(self) -> str:
        """The style's name, of a file its base name."""
        return style_label(self.setting.run.styles[0].name)

    def parent(self, row: Row, seed: int) -> Path:
        """Return the parent of the run folders of a row and seed."""
        return self.folder / f"{row.key}-seed{seed}"

    def cells(self) -> Iterator[tuple[Row, int, RunConfig]]:
        """Yield every row of runs and seed with their configuration.

        Raises:
            ConfigError: a number is out of range.
        """
        for seed in self.seeds:
            for row in self.rows:
                if row.variant.generator is None:
                    yield row, seed, self.setting.configure(row, seed)

    def generators(self) -> Iterator[tuple[Row, Path]]:
        """Yield every row of a generator with its file."""
        for row in self.rows:
            if row.variant.generator is not None:
                yield row, row.variant.generator


def style_label(name: str) -> str:
    """Return what a style is called in tables and folders: a file's base name, else its name."""
    return Path(name).stem if name.endswith(".safetensors") else Path(name).name


def file_name(label: str) -> str:
    """Return a style's label as the name of a folder, or part of a file's."""
    return "".join(letter if letter.isalnum() or letter in "-_." else "_" for letter in label)


def require_different(styles: Sequence[str]) -> None:
    """Raise `ConfigError` if two styles would have one name in the report."""
    labels = [style_label(style) for style in styles]
    twice = next((label for label in labels if labels.count(label) > 1), None)
    if twice is not None:
        raise ConfigError(f"two styles of a benchmark are called {twice!r}", hint="rename one of the files")


def make_seeds(first: int, count: int) -> list[int]:
    """Return so many seeds, one after another.

    Raises:
        ConfigError: there are none, or too many.
    """
    if not 1 <= count <= MOST_SEEDS:
        raise ConfigError(f"--seeds must be from 1 to {MOST_SEEDS}, not {count}", hint="3 show how much chance does")
    return [first + number for number in range(count)]


def with_knob(method: MethodConfig, content: float) -> tuple[MethodConfig, float]:
    """Return a method and its `--content` at a stand of the knob; 0.5 is the preset for every method.

    SMS and most rivals have a knob. What the others do to a picture is a matter of how long they run: their iterations
    are multiplied by 2 (1 - content).
    """
    if method.has_knob:
        return method, content
    return replace(method, iterations=max(1, round(method.iterations * 2 * (1 - content)))), CENTRE


def repeated(setting: Setting, variants: Sequence[Variant], centre: float = CENTRE) -> dict[str, str]:
    """Return ablations that change nothing at a stand of the knob, with the key of what they equal."""
    seen: dict[MethodConfig, str] = {}
    same: dict[str, str] = {}
    for variant in variants:
        if variant.method != "sms":
            continue
        first = seen.setdefault(_felt(setting.method(variant), centre), variant.key)
        if first != variant.key:
            same[variant.key] = first
    return same


def _felt(method: MethodConfig, content: float) -> MethodConfig:
    """Return a method as it runs at a stand of the knob, with equal values for what the knob reads."""
    moved = with_content(method, content)
    return replace(moved, relevance=replace(moved.relevance, largest_strength=0.0))
