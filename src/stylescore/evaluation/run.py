"""Evaluates folders of stylized pictures: a loop over networks that yields its progress, and the report at its end."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

import torch

from stylescore.catalog.places import PLACES, Found, check_given, how_to_get, locate
from stylescore.config.ranges import SEED, check
from stylescore.errors import ConfigError, ModelError, PictureError, StylescoreError, did_you_mean, memory_limit, quote
from stylescore.evaluation.catalogue import METRICS, Metric, Sampling, Score
from stylescore.evaluation.loading import WEIGHTS, Setting, load_probe
from stylescore.evaluation.pairs import Pair, Pairing
from stylescore.evaluation.probes import Probe, Texts
from stylescore.evaluation.reading import in_batches, read_pair, read_style
from stylescore.metrics.accumulate import Rows, Table

SMALLEST_SIZE = 64
LARGEST_SIZE = 4096
MOST_DRAWS = 100_000
LARGEST_BATCH = 10_000


@dataclass(frozen=True, kw_only=True)
class Prompts:
    """Texts for CLIP and PickScore; `{caption}` in them stands for a photo's caption.

    Attributes:
        after: what the results should show, or `None`.
        before: what the photos show.
        captions: by base name of the photo.
    """

    after: str | None = None
    before: str = "a photo"
    captions: Mapping[str, str] = field(default_factory=dict)

    def of(self, pairs: Sequence[Pair]) -> Texts:
        """Return the texts of some pairs."""
        captions = [self.captions.get(pair.name, "") for pair in pairs]
        return Texts(
            tuple(_fill(self.before, caption) for caption in captions),
            tuple(_fill(self.after or "", caption) for caption in captions),
        )


def _fill(template: str, caption: str) -> str:
    return template.replace("{caption}", caption).strip(" ,")


@dataclass(frozen=True, kw_only=True)
class Request:
    """What is evaluated, and how.

    Attributes:
        folders: the pairs of each folder of results, by the folder's name.
        style: pictures of the style; empty if there are none.
        prompts: texts for CLIP and PickScore.
        metrics: names; `None` for all.
        weights: paths or hub ids of weights, by network.
        size: longest short side in pixels at which pictures are compared; 0 for their own.
        batch: pictures in one forward pass.
        device: where the networks run.
        draws: number of resamples for intervals; 0 for none.
        seed: of the resamples.
        unequal: whether biased distances are reported though the folders have different numbers of pictures.
    """

    folders: Mapping[str, Pairing]
    style: Sequence[Path] = ()
    prompts: Prompts = field(default_factory=Prompts)
    metrics: Sequence[str] | None = None
    weights: Mapping[str, str] = field(default_factory=dict)
    size: int = 512
    batch: int = 8
    device: torch.device = field(default_factory=lambda: torch.device("cpu"))
    draws: int = 1000
    seed: int = 0
    unequal: bool = False


@dataclass(frozen=True)
class Skipped:
    """A metric that was not computed.

    Attributes:
        metric: its name.
        reason: why.
        hint: what to do about it.
    """

    metric: str
    reason: str
    hint: str | None = None


@dataclass
class Report:
    """The figures.

    Attributes:
        scores: by folder and metric.
        skipped: metrics that were not computed.
        weights: where the weights of each network came from.
        photos: number of pairs of each folder.
        style: number of pictures of the style.
    """

    scores: dict[str, dict[str, Score]]
    skipped: list[Skipped]
    weights: dict[str, Found]
    photos: dict[str, int]
    style: int


@dataclass(frozen=True)
class Progress:
    """Pictures that a network has seen.

    Attributes:
        probe: name of the network.
        done: pictures so far, over all networks.
        total: pictures over all networks.
    """

    probe: str
    done: int
    total: int


class Evaluation:
    """One evaluation. Iterate over it to run it; then it has a report."""

    def __init__(self, request: Request) -> None:
        """Check the request and find the weights; nothing is loaded yet.

        Raises:
            ConfigError: a number is out of range, or there is no such metric or network.
            ModelError: weights that were given do not exist.
        """
        _check_request(request)
        self.request = request
        self.report = Report(
            {name: {} for name in request.folders},
            [],
            {},
            {name: len(pairing.pairs) for name, pairing in request.folders.items()},
            len(request.style),
        )
        self._found: dict[str, Found] = {}
        self.metrics = {name: METRICS[name] for name in request.metrics or METRICS if self._is_possible(name)}

    @property
    def probes(self) -> list[str]:
        """The networks that are needed, each once."""
        return list(dict.fromkeys(probe for metric in self.metrics.values() for probe in metric.probes))

    @property
    def total(self) -> int:
        """Number of pictures that are read, over all networks."""
        return len(self.probes) * (self.report.style + sum(self.report.photos.values()))

    def __iter__(self) -> Iterator[Progress]:
        """Run every network over all pictures, one network after the other, and compute the metrics at the end."""
        pairs: dict[str, dict[str, torch.Tensor]] = {name: {} for name in self.request.folders}
        style: dict[str, torch.Tensor] = {}
        done, total = 0, self.total
        per_probe = total // max(1, len(self.probes))
        for number, name in enumerate(self.probes, start=1):
            try:
                for count in self._run_probe(name, pairs, style):
                    done += count
                    yield Progress(name, done, total)
            except _RefusalError as refusal:
                self._skip(name, refusal.error)
                done = number * per_probe
        for name, metric in self.metrics.items():
            self._score(name, metric, pairs, style)

    def _skip(self, probe: str, error: StylescoreError) -> None:
        """Leave out the metrics of a network that cannot be used."""
        lost = [name for name, metric in self.metrics.items() if probe in metric.probes]
        self.report.skipped += [Skipped(name, str(error), error.hint) for name in lost]
        self.metrics = {name: metric for name, metric in self.metrics.items() if name not in lost}

    def _is_possible(self, name: str) -> bool:
        """Return whether a metric can be computed, and note why if not."""
        reason = self._lacking(METRICS[name])
        if reason is None:
            return True
        self.report.skipped.append(Skipped(name, str(reason), reason.hint))
        return False

    def _lacking(self, metric: Metric) -> StylescoreError | None:
        """Return what a metric lacks: pictures of the style, a text, equal numbers of pictures, or weights."""
        if "style" in metric.needs and not self.request.style:
            return ConfigError("no pictures of the style", hint="give --style FOLDER")
        if "text" in metric.needs and self.request.prompts.after is None:
            return ConfigError("no prompt", hint="give --prompt TEXT")
        counts = sorted(set(self.report.photos.values()))
        if metric.is_biased and len(counts) > 1 and not self.request.unequal:
            return ConfigError(
                f"folders have different numbers of pictures ({', '.join(map(str, counts))}), on which it depends",
                hint="add --common to use the photos that all folders have, or --unequal",
            )
        return self._find_weights(metric)

    def _find_weights(self, metric: Metric) -> ModelError | None:
        """Find the weights of a metric's networks; return an error for the first that are nowhere."""
        for probe in metric.probes:
            for name in WEIGHTS[probe]:
                found = locate(name, self.request.weights)
                if found is None:
                    return ModelError(f"no weights of {PLACES[name].what}", hint=how_to_get(name))
                self._found[name] = found
        return None

    def _run_probe(
        self, name: str, pairs: Mapping[str, dict[str, torch.Tensor]], style: dict[str, torch.Tensor]
    ) -> Iterator[int]:
        """Load a network, run it over all pictures, and release it; yield the number of pictures of each batch."""
        probe = self._load(name)
        with torch.inference_mode():
            rows = Rows()
            for count, table in self._style_tables(probe):
                rows.add(table)
                yield count
            style.update(rows.tables())
            for folder, pairing in self.request.folders.items():
                rows = Rows()
                for count, table in self._pair_tables(probe, pairing.pairs):
                    rows.add(table)
                    yield count
                pairs[folder].update(rows.tables())

    def _load(self, name: str) -> Probe:
        """Load a network.

        Raises:
            _RefusalError: its weights cannot be used, and were not given by the user.
            ModelError: weights that the user gave cannot be used.
        """
        found = {weights: self._found[weights] for weights in WEIGHTS[name]}
        try:
            probe = load_probe(name, list(found.values()), Setting(self.request.device, len(self.request.style)))
        except ModelError as error:
            if found.keys() & self.request.weights.keys():
                raise
            raise _RefusalError(error) from error
        self.report.weights.update(found)
        return probe

    def _style_tables(self, probe: Probe) -> Iterator[tuple[int, Table]]:
        pictures = ((read_style(path, self.request.size),) for path in self.request.style)
        for (batch,) in in_batches(pictures, self.request.batch):
            with _refusals():
                table = probe.style(batch.to(self.request.device))
            yield len(batch), table

    def _pair_tables(self, probe: Probe, pairs: Sequence[Pair]) -> Iterator[tuple[int, Table]]:
        done = 0
        for source, stylized in in_batches((read_pair(p, self.request.size) for p in pairs), self.request.batch):
            texts = self.request.prompts.of(pairs[done : done + len(source)])
            done += len(source)
            with _refusals():
                table = probe.pair(source.to(self.request.device), stylized.to(self.request.device), texts)
            yield len(source), table

    def _score(self, name: str, metric: Metric, pairs: Mapping[str, Table], style: Table) -> None:
        """Compute a metric of every folder; what its formula refuses is noted as skipped."""
        sampling = Sampling(self.request.draws, self.request.seed)
        try:
            scores = {folder: metric.compute(rows, style, sampling) for folder, rows in pairs.items()}
        except ConfigError as error:
            self.report.skipped.append(Skipped(name, str(error), error.hint))
            return
        for folder, score in scores.items():
            self.report.scores[folder][name] = score


class _RefusalError(Exception):
    """A network that cannot be used for these pictures; others go on."""

    def __init__(self, error: StylescoreError) -> None:
        super().__init__(str(error))
        self.error = error


@contextmanager
def _refusals() -> Iterator[None]:
    """Let a network's refusal of a picture end that network only; what needs too much memory ends everything."""
    try:
        with memory_limit("measuring pictures"):
            yield
    except PictureError as error:
        raise _RefusalError(error) from error


def _check_request(request: Request) -> None:
    check_given(request.weights)
    for name in request.metrics or ():
        if name not in METRICS:
            raise ConfigError(f"there is no metric {quote(name)}", hint=did_you_mean(name, METRICS))
    if request.size != 0 and not SMALLEST_SIZE <= request.size <= LARGEST_SIZE:
        raise ConfigError(
            f"--size must be 0 or from {SMALLEST_SIZE} to {LARGEST_SIZE}, not {request.size}", hint="512 is usual"
        )
    if not 1 <= request.batch <= LARGEST_BATCH:
        raise ConfigError(f"--batch must be from 1 to {LARGEST_BATCH}, not {request.batch}", hint="8 is usual")
    check(request, {"seed": SEED}, where="--")
    if not (request.draws == 0 or 20 <= request.draws <= MOST_DRAWS):
        raise ConfigError(
            f"--bootstrap must be 0 or from 20 to {MOST_DRAWS}, not {request.draws}", hint="1000 is usual"
        )
