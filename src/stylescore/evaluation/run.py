"""Evaluates folders of stylized pictures: a loop over networks that yields its progress, and the report at its end."""

from __future__ import annotations

from collections.abc import Callable, Generator, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path

import torch

from stylescore.catalog.places import PLACES, Found, check_given, how_to_get, locate
from stylescore.config.ranges import SEED, check
from stylescore.errors import ConfigError, ModelError, StylescoreError, did_you_mean, quote
from stylescore.evaluation.catalogue import METRICS, Metric, Sampling, Score
from stylescore.evaluation.keeping import KeptRows
from stylescore.evaluation.loading import WEIGHTS, load_probe
from stylescore.evaluation.pairs import Pair, Pairing
from stylescore.evaluation.passes import Pass, RefusalError, SourceFeatures, batches_of_photos
from stylescore.evaluation.probes import Probe, Texts
from stylescore_apply.storage.files import sha256

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
        kept: folder of what networks have found, where an interrupted evaluation goes on; `None` for none.
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
    kept: Path | None = None


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
        self._style: dict[str, torch.Tensor] = {}
        self._pairs: dict[str, dict[str, torch.Tensor]] = {name: {} for name in request.folders}
        self.metrics = {name: METRICS[name] for name in request.metrics or METRICS if self._is_possible(name)}

    @property
    def probes(self) -> list[str]:
        """The networks that are needed, each once."""
        return list(dict.fromkeys(probe for metric in self.metrics.values() for probe in metric.probes))

    @property
    def total(self) -> int:
        """Number of pictures that are read, over all networks."""
        return len(self.probes) * self.pictures

    @property
    def pictures(self) -> int:
        """Number of pictures that each network sees."""
        return self.report.style + sum(self.report.photos.values())

    def __iter__(self) -> Iterator[Progress]:
        """Run every network over all pictures, one network after the other, and compute the metrics at the end."""
        return run_evaluations([self])

    def skip(self, probe: str, error: StylescoreError) -> None:
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

    def add(self, probe: str, found: Pass) -> None:
        """Add the rows of a network."""
        self.report.weights.update(self.weights_of(probe))
        self._style.update(found.style.tables())
        for folder, rows in found.pairs.items():
            self._pairs[folder].update(rows.tables())

    def weights_of(self, probe: str) -> dict[str, Found]:
        """Return where the weights of a network are."""
        return {weights: self._found[weights] for weights in WEIGHTS[probe]}

    def kept_rows(self, probe: str, weights: Sequence[str]) -> KeptRows:
        """Return what a network with weights of these hashes has found before."""
        request = self.request
        return KeptRows.of_network(request.kept, probe, weights, request.style, request.size, request.device.type)

    def score(self) -> None:
        """Compute the metrics from the rows of the networks."""
        for name, metric in self.metrics.items():
            self._score(name, metric)

    def _score(self, name: str, metric: Metric) -> None:
        """Compute a metric of every folder; what its formula refuses is noted as skipped."""
        sampling = Sampling(self.request.draws, self.request.seed)
        try:
            scores = {folder: metric.compute(rows, self._style, sampling) for folder, rows in self._pairs.items()}
        except ConfigError as error:
            self.report.skipped.append(Skipped(name, str(error), error.hint))
            return
        for folder, score in scores.items():
            self.report.scores[folder][name] = score


def run_evaluations(evaluations: Sequence[Evaluation]) -> Iterator[Progress]:
    """Run every network once over the pictures of several evaluations, and compute the metrics of each at the end.

    A photo of several evaluations goes through a network once. They must have the same weights and device.

    Raises:
        PictureError: a picture cannot be read, or is another part of its photo.
        ModelError: weights that the user gave cannot be used.
    """
    users = _users(evaluations)
    total = sum(evaluation.pictures for each in users.values() for evaluation in each)
    done = begun = 0
    for name, each in users.items():
        for count in _run_probe(name, each):
            done += count
            yield Progress(name, done, total)
        begun += sum(evaluation.pictures for evaluation in each)
        done = begun
    for evaluation in evaluations:
        evaluation.score()


def _users(evaluations: Sequence[Evaluation]) -> dict[str, list[Evaluation]]:
    """Return the networks that are needed, with the evaluations that need each."""
    found: dict[str, list[Evaluation]] = {}
    for evaluation in evaluations:
        for probe in evaluation.probes:
            found.setdefault(probe, []).append(evaluation)
    return found


def _run_probe(name: str, evaluations: Sequence[Evaluation]) -> Iterator[int]:
    """Load a network, run it over all pictures, and release it; yield the number of pictures of each batch."""
    try:
        probe = _load(name, evaluations[0])
    except RefusalError as refusal:
        for evaluation in evaluations:
            evaluation.skip(name, refusal.error)
        return
    weights = _hashes_of(name, evaluations)
    passes = [(each, Pass(each.request, probe, each.kept_rows(name, weights))) for each in evaluations]
    device = evaluations[0].request.device
    with torch.inference_mode():
        passes = yield from _go_through(name, passes, lambda each: each.see_style())
        for photos in batches_of_photos([evaluation.request for evaluation in evaluations]):
            see = partial(Pass.see_pairs, photos=photos, sources=SourceFeatures(probe, device))
            passes = yield from _go_through(name, passes, see)
    for evaluation, found in passes:
        evaluation.add(name, found)


def _hashes_of(name: str, evaluations: Sequence[Evaluation]) -> list[str]:
    """Return the hashes of a network's weights; none if no evaluation keeps what it finds."""
    if all(evaluation.request.kept is None for evaluation in evaluations):
        return []
    return [sha256(found.path) for found in evaluations[0].weights_of(name).values()]


Passes = list[tuple[Evaluation, Pass]]


def _go_through(name: str, passes: Passes, see: Callable[[Pass], Iterator[int]]) -> Generator[int, None, Passes]:
    """Let passes see pictures, and return those whose pictures the network did not refuse."""
    left = []
    for evaluation, each in passes:
        try:
            yield from see(each)
        except RefusalError as refusal:
            evaluation.skip(name, refusal.error)
        else:
            left.append((evaluation, each))
    return left


def _load(name: str, evaluation: Evaluation) -> Probe:
    """Load a network.

    Raises:
        RefusalError: its weights cannot be used, and were not given by the user.
        ModelError: weights that the user gave cannot be used.
    """
    found = evaluation.weights_of(name)
    try:
        return load_probe(name, list(found.values()), evaluation.request.device)
    except ModelError as error:
        if found.keys() & evaluation.request.weights.keys():
            raise
        raise RefusalError(error) from error


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
