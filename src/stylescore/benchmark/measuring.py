"""From the pictures of a benchmark to its figures, by the metrics of `evaluate`."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from stylescore.benchmark.grid import Plan
from stylescore.benchmark.results import Found, StyleResults, pair_rows
from stylescore.catalog.metadata import stated_trigger_words, trigger_or_name
from stylescore.catalog.registry import resolve_style
from stylescore.diffusion.execution.devices import pick_device
from stylescore.errors import ConfigError, StyleError
from stylescore.evaluation.catalogue import Sampling
from stylescore.evaluation.differences import by_photo, compare_photos
from stylescore.evaluation.pairs import list_pictures
from stylescore.evaluation.run import Evaluation, Prompts, Request
from stylescore.storage.safetensors_header import read_header


@dataclass(frozen=True, kw_only=True)
class Measuring:
    """How pictures are measured.

    Attributes:
        folders: of pictures in a style, by its name.
        metrics: their names; empty for all.
        weights: paths or hub ids of weights, by network.
        draws: resamples for intervals.
        batch: pictures in one forward pass.
        device: name of the device.
        kept: folder of what the networks have found, where an interrupted benchmark goes on; `None` for none.
    """

    folders: Mapping[str, Path] = field(default_factory=dict)
    metrics: Sequence[str] = ()
    weights: Mapping[str, str] = field(default_factory=dict)
    draws: int = 1000
    batch: int = 8
    device: str = "auto"
    kept: Path | None = None

    def check(self) -> None:
        """Check metrics, weights and folders before any picture is made.

        Raises:
            InputError: one of them does not exist.
        """
        for style in (*self.folders, ""):
            Evaluation(self._request(style, folders={}))

    def first_picture(self, style: str) -> Path | None:
        """Return the first picture in a style, if there are some.

        Raises:
            PictureError: its folder does not exist or holds none.
        """
        folder = self.folders.get(style)
        return None if folder is None else list_pictures(folder)[0]

    def begin(self, plan: Plan, found: Found) -> Evaluation:
        """Return the evaluation of a style's pictures; iterate over it to run it.

        Raises:
            ConfigError: no photo has a picture of every method.
        """
        pictures = found.of(plan.style)
        rows = [row for row in plan.rows if any(picture.row == row.key for picture in pictures)]
        pairs = pair_rows(rows, pictures)
        if not rows or not all(pairing.pairs for pairing in pairs.values()):
            raise ConfigError(
                f"no photo has a picture of every method in the style {plan.style!r}",
                hint="the same command makes what is missing; leave out a method that fails",
            )
        captions = found.captions if all(found.captions.values()) else {}
        style_prompt = found.style_prompts.get(plan.style) or _trigger_words(plan.setting.run.styles[0].name)
        prompts = Prompts(
            after=f"{style_prompt}, {{caption}}",
            before="{caption}" if captions else "a photo",
            captions=captions,
        )
        return Evaluation(self._request(plan.style, folders=pairs, prompts=prompts))

    def _request(self, style: str, **more: Any) -> Request:
        folder = self.folders.get(style)
        return Request(
            style=() if folder is None else tuple(list_pictures(folder)),
            metrics=self.metrics or None,
            weights=self.weights,
            draws=self.draws,
            batch=self.batch,
            device=pick_device(self.device),
            kept=self.kept,
            **more,
        )


def _trigger_words(style: str) -> str:
    """Return a style's trigger words, for generators, whose pictures were made without a prompt."""
    source = resolve_style(style)
    return trigger_or_name(stated_trigger_words(read_header(source.path, error=StyleError)), source.name)


def results_of(plan: Plan, found: Found, evaluation: Evaluation) -> StyleResults:
    """Return the results of a style once its evaluation has run."""
    request, report = evaluation.request, evaluation.report
    photos = by_photo(report.scores, request.folders)
    return StyleResults(
        style=plan.style,
        rows=[row for row in plan.rows if row.key in request.folders],
        pictures=found.of(plan.style),
        report=report,
        metrics=evaluation.metrics,
        differences=compare_photos(photos, Sampling(request.draws, request.seed)),
        photos=photos,
        same=plan.same,
        hashes=found.hashes.get(plan.style, {}),
    )
