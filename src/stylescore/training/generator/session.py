"""A whole training of a generator, from the request to the written file."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass, replace
from itertools import chain
from pathlib import Path
from shutil import copyfile
from typing import Any

import torch

from stylescore._version import __version__
from stylescore.assembly.objectives import make_fake_sampler, make_fake_weight, make_objective
from stylescore.assembly.stylizer import Stylizer
from stylescore.config.content_knob import with_content
from stylescore.config.run import RunConfig
from stylescore.config.toml import to_table
from stylescore.diffusion.execution.devices import DTYPES
from stylescore.diffusion.features import FeatureDistance
from stylescore.diffusion.text import CachedTextEncoder
from stylescore.errors import ConfigError, ModelError, OutputError
from stylescore.generators.files import GeneratorFacts
from stylescore.generators.layers import CELL
from stylescore.images import contact_sheet, save_png, to_picture
from stylescore.images.captions import CaptionSource
from stylescore.runs.folder import Curves, make_folder
from stylescore.runs.record import flat_settings, read_record, write_record
from stylescore.runs.resume import require_resumable, require_same_settings, require_unchanged
from stylescore.training.draws import make_generator as make_rng
from stylescore.training.draws import make_seed, shuffle
from stylescore.training.generator.batches import PairSamples, PhotoSamples
from stylescore.training.generator.checkpoint import GeneratorState, capture, restore
from stylescore.training.generator.config import GeneratorTrainingConfig, PairsConfig, check_sides, check_training
from stylescore.training.generator.critic import BETAS, LEARNING_RATE, Critic, to_levels
from stylescore.training.generator.folder import (
    COMMAND,
    FREE,
    GeneratorFolder,
    GeneratorRecord,
    GeneratorSettings,
    curve_points,
    step_row,
)
from stylescore.training.generator.loop import (
    Data,
    Trainer,
    TrainStep,
    held_out_batch,
    make_optimiser,
    paint,
    train,
)
from stylescore.training.generator.losses import Matching, Regression
from stylescore.training.generator.networks import Kind, make_kind
from stylescore.training.generator.pairs import Painter, Pair, PairFolder, PairMaker, RunPainter
from stylescore.training.generator.photos import PhotoSource, open_photos, split_photos
from stylescore.training.generator.teacher import load_teacher
from stylescore.training.plan import require_space
from stylescore.training.process import Process, is_due, make_process, require_even, run_steps
from stylescore_apply.storage.files import sha256

STATE_COPIES = 20
"""Bytes in a saved state for each weight: itself, two moments, the average and the best, in float32."""
SHEET_ROWS = 4


@dataclass(frozen=True, kw_only=True)
class Request:
    """What a user has asked for.

    Attributes:
        photos: folder, table or shard.
        config: the numbers.
        captions: where captions come from.
        pair_folder: where the pairs are; `None` for the training's own folder.
        start: file of the generator that the training goes on from, if any.
        start_name: what `config.toml` names it.
        teacher: file of the generator that makes the pairs; `None` where runs do.
    """

    photos: Path
    config: GeneratorTrainingConfig
    captions: CaptionSource
    pair_folder: Path | None = None
    start: Path | None = None
    start_name: str | None = None
    teacher: Path | None = None


@dataclass(frozen=True)
class PairMade:
    """One more pair is there: how many of how many."""

    done: int
    total: int


@dataclass(frozen=True)
class SavedGenerator:
    """The training is over: the generator's file, and the folder of the training."""

    file: Path
    folder: Path


@dataclass(frozen=True)
class Setup:
    """A request whose photos are found and whose networks are loaded.

    Attributes:
        request: what the user has asked for.
        config: the numbers, with the size filled in.
        process: this one.
        photos: all of them.
        held_out: numbers of those that are not trained on.
        trained: numbers of the others.
        stylizer: the program, on the run that makes the pairs.
        digest: hash of the photos.
        kind: what network is trained.
    """

    request: Request
    config: GeneratorTrainingConfig
    process: Process
    photos: PhotoSource
    held_out: list[int]
    trained: list[int]
    stylizer: Stylizer
    digest: str
    kind: Kind

    @property
    def channels(self) -> int:
        """Channels of the latent, which are those of a run's noise."""
        return _channels(self.stylizer)

    @property
    def noise_channels(self) -> int:
        """Channels of the generator's noise field."""
        return _noise_channels(self.config, self.stylizer)

    @property
    def pairs_wanted(self) -> int:
        """Number of pairs, none where the first phase is left out."""
        return self.config.pairs.count if self.config.regression.steps else 0


def set_up(request: Request) -> Setup:
    """Find the photos and load the networks.

    Raises:
        InputError: a photo source, model, style, device or number that cannot be used.
    """
    config = check_training(request.config)
    _require_teacher(request)
    photos = open_photos(request.photos, request.captions)
    order = shuffle(config.run.seed, "hold", len(photos), 0)
    held_out, trained = split_photos(order, config.held_out)
    process = make_process(config.run.execution.device, config.run.execution.dtype)
    for name, phase in (("regression.batch", config.regression), ("matching.batch", config.matching)):
        require_even(process, phase.batch, name)
        _require_parts(name, phase.batch, process.count * config.accumulate)
    stylizer = Stylizer(_run_here(config.run, process))
    stylizer.networks.codec.vae.float()  # the gradient goes through it, and some overflow in half precision
    config = _with_size(config, stylizer)
    kind = make_kind(config, stylizer, _noise_channels(config, stylizer))
    return Setup(request, config, process, photos, held_out, trained, stylizer, photos.digest(), kind)


def _require_teacher(request: Request) -> None:
    """Raise `ConfigError` for settings of a teacher where there is none."""
    stated, default = request.config.pairs, PairsConfig()
    for name in ("teacher_passes", "teacher_strength"):
        value = getattr(stated, name)
        if request.teacher is None and value != getattr(default, name):
            raise ConfigError(f"pairs.{name} is of a --teacher, and there is none", hint="add --teacher FILE")


def _channels(stylizer: Stylizer) -> int:
    return int(stylizer.networks.codec.vae.config.latent_channels)


def _noise_channels(config: GeneratorTrainingConfig, stylizer: Stylizer) -> int:
    return _channels(stylizer) if config.noise else 0


def _require_parts(name: str, batch: int, parts: int) -> None:
    if batch % parts:
        raise ConfigError(
            f"{name} must be a multiple of accumulate times processes, {parts}, not {batch!r}", hint=f"use {parts}"
        )


def _run_here(run: RunConfig, process: Process) -> RunConfig:
    """Return a run on this process's device."""
    return replace(run, execution=replace(run.execution, device=str(process.device)))


def _with_size(config: GeneratorTrainingConfig, stylizer: Stylizer) -> GeneratorTrainingConfig:
    """Fill in the size, and check that the model has it and that its latents have the generator's cells."""
    networks = stylizer.networks
    if networks.codec.factor != CELL:
        raise ModelError(
            f"a generator's noise has cells of {CELL} pixels, the model's latents have some of {networks.codec.factor}",
            hint="train with another model",
        )
    size = config.size or networks.native_size
    sized = replace(config, size=size, run=replace(config.run, size=size))
    check_sides(sized, networks.multiple, " for this model")
    return sized


def pair_folder(setup: Setup, folder: GeneratorFolder) -> PairFolder:
    """Return the folder of pairs that the user has named, else that of a training."""
    own = setup.request.pair_folder
    return PairFolder(folder.pairs if own is None else own)


def make_pairs(setup: Setup, folder: PairFolder) -> Iterator[PairMade]:
    """Make the pairs that are missing, this process's part of them, and yield after each.

    Raises:
        ConfigError: the folder holds pairs of another model, style or photos.
    """
    if setup.process.is_main:
        folder.prepare(_pairs_record(setup))
    setup.process.accelerator.wait_for_everyone()
    total, batch, present = setup.pairs_wanted, setup.config.pairs.batch, folder.read()
    missing = set(range(total)) - present.keys()
    batches = [range(first, min(first + batch, total)) for first in range(0, total, batch)]
    own = [numbers for numbers in batches if missing.intersection(numbers)][setup.process.rank :: setup.process.count]
    stylizer = setup.stylizer.with_run(_run_here(setup.config.run, setup.process))
    maker = PairMaker(
        _make_painter(setup, stylizer), stylizer, setup.photos, setup.held_out, setup.trained, setup.config.run.seed
    )
    done = total - len(missing.intersection(chain(*own)))
    for _ in maker.make(folder, own, missing):
        done += 1
        yield PairMade(done, total)
    setup.process.accelerator.wait_for_everyone()


def _make_painter(setup: Setup, stylizer: Stylizer) -> Painter:
    """Return what makes the pictures of pairs."""
    teacher = setup.request.teacher
    if teacher is None:
        return RunPainter(stylizer)
    pairs = setup.config.pairs
    return load_teacher(
        teacher,
        stylizer.sources.model.reference,
        setup.process.device,
        passes=pairs.teacher_passes,
        strength=pairs.teacher_strength,
    )


def _pairs_record(setup: Setup) -> dict[str, Any]:
    """Return what makes the pairs of a folder what they are."""
    run, teacher = setup.config.run, setup.request.teacher
    common = {
        "photos": setup.digest,
        "held-out photos": len(setup.held_out),
        "seed": run.seed,
        "size": setup.config.size,
    }
    if teacher is not None:
        pairs = setup.config.pairs
        return {
            **common,
            "teacher": sha256(teacher),
            "teacher's passes": pairs.teacher_passes,
            "teacher's strength": pairs.teacher_strength,
        }
    return {
        **common,
        "style prompt": setup.stylizer.style_prompt,
        "content": run.content,
        "method": to_table(run.method),
        **{name.replace("_", " "): value for name, value in setup.stylizer.hashes.items()},
    }


def _make_data(setup: Setup, folder: PairFolder) -> Data:
    """Return what the phases draw."""
    config, channels = setup.config, setup.noise_channels
    photos = PhotoSamples(setup.photos, setup.trained, channels, config.size)
    if not setup.pairs_wanted:
        return Data(photos, photos, PhotoSamples(setup.photos, setup.held_out, channels, config.size))
    present = folder.read()
    pairs = [present[number] for number in range(setup.pairs_wanted)]

    def some(chosen: list[Pair], side: int) -> PairSamples:
        return PairSamples(folder, chosen, setup.channels, side, config.noise, config.regression.flip)

    count = min(len(setup.held_out), max(1, len(pairs) // 4))
    first = pairs[:count]
    trained = some(pairs[len(setup.held_out) :] or pairs[count:], config.regression.crop or config.size)
    return Data(trained, photos, some(first, config.size))


def make_trainer(setup: Setup, folder: PairFolder) -> Trainer:
    """Assemble a training whose pairs are there."""
    config, network = setup.config, setup.kind.make()
    if setup.request.start is not None:
        setup.kind.start(setup.request.start, network)
    average = copy.deepcopy(network).eval().requires_grad_(False)
    matching = _make_matching(setup)
    fake = matching.fake
    regression = _make_regression(setup, matching)
    critic = regression.critic
    return Trainer(
        config=config,
        process=setup.process,
        kind=setup.kind,
        network=network.train(),
        average=average,
        optimiser=make_optimiser(config, network),
        regression=regression,
        matching=matching,
        fake_optimiser=None
        if fake is None
        else torch.optim.AdamW(fake.parameters, lr=matching.method.fake.lr, weight_decay=0.0),
        critic_optimiser=None
        if critic is None
        else torch.optim.Adam(critic.parameters(), lr=LEARNING_RATE, betas=BETAS),
        data=_make_data(setup, folder),
    )


def _make_matching(setup: Setup) -> Matching:
    """Assemble the second phase."""
    method = with_content(setup.config.matching.method, setup.config.run.content)
    found = setup.stylizer.networks
    networks = replace(found, text=CachedTextEncoder.of(found.text), style_text=CachedTextEncoder.of(found.style_text))
    schedule = networks.base.schedule
    fake = None
    if method.has_fake_score:
        owner = [make_rng(setup.config.run.seed, "fake")]
        fake = networks.base.adapters.new_fake(method.fake.targets, method.fake.rank, method.fake.alpha, owner)
    return Matching(
        networks=networks,
        method=method,
        objective=make_objective(method, schedule),
        style_prompt=setup.stylizer.style_prompt,
        fake=fake,
        fake_timesteps=make_fake_sampler(method, schedule.stride),
        fake_weight=make_fake_weight(method.fake.weight),
    )


def _make_regression(setup: Setup, matching: Matching) -> Regression:
    """Assemble the first phase's loss."""
    networks, config = matching.networks, setup.config
    features = FeatureDistance(networks.base, networks.text([""]))
    critic = _make_critic(setup, features) if config.regression.steps and config.regression.adversarial else None
    return Regression(networks, features, config.regression, critic)


def _make_critic(setup: Setup, features: FeatureDistance) -> Critic:
    """Return a new critic for the latents and features of the training's crops; every call returns the same weights."""
    device, cells = setup.process.device, setup.config.size // CELL
    probe = torch.zeros(1, setup.channels, cells, cells, device=device)
    with torch.no_grad(), torch.random.fork_rng():
        found = features.features(probe, probe, torch.zeros(1, dtype=torch.long, device=device))
        torch.manual_seed(make_seed(setup.config.run.seed, "critic"))
        return Critic([level.shape[1] for level in to_levels(probe, found)]).to(device)


def new_folder(setup: Setup, output: Path) -> GeneratorFolder:
    """Return the folder of a new training, which the first process makes.

    Raises:
        OutputError: the disk is too full, or the folder cannot be made.
    """
    return GeneratorFolder(Path(setup.process.share(lambda: str(_make_folder(setup, output).path))))


def _make_folder(setup: Setup, output: Path) -> GeneratorFolder:
    """Make the folder of a new training."""
    count = sum(weight.numel() for weight in setup.kind.make().parameters())
    require_space(output, STATE_COPIES * count)
    record = make_record(setup)
    return GeneratorFolder.new(output, setup.config.name, lambda folder: _fill(folder, record, setup.request.start))


def _fill(folder: GeneratorFolder, record: GeneratorRecord, start: Path | None) -> None:
    """Write what a new training's folder holds."""
    write_record(folder, record)
    if start is not None:
        make_folder(folder.checkpoints)
        copyfile(start, folder.start_file)


def make_record(setup: Setup) -> GeneratorRecord:
    """Return the record of a training."""
    request = setup.request
    table = request.captions.table
    sources = setup.stylizer.sources
    settings = GeneratorSettings(
        photos=str(request.photos.absolute()),
        caption=request.captions.caption,
        captions=None if table is None else str(table.absolute()),
        pair_folder=None if request.pair_folder is None else str(request.pair_folder.absolute()),
        start=request.start_name,
        teacher=None if request.teacher is None else str(request.teacher.absolute()),
        config=replace(setup.config, run=sources.apply(setup.config.run)),
    )
    return GeneratorRecord(command=COMMAND, hashes=_hash_inputs(setup), settings=settings)


def _hash_inputs(setup: Setup) -> dict[str, str | tuple[str, ...]]:
    files = {"starting_generator": setup.request.start, "teacher": setup.request.teacher}
    return {
        "photos": setup.digest,
        **setup.stylizer.hashes,
        **{name: sha256(file) for name, file in files.items() if file is not None},
    }


def read_training(path: Path) -> tuple[GeneratorFolder, GeneratorRecord, GeneratorState | None]:
    """Read the folder of an interrupted training: its record, and its state if one was saved.

    Raises:
        ConfigError: it is not the folder of a training that can be resumed.
        OutputError: something stands in the way of what the training would write.
    """
    folder = GeneratorFolder(path)
    record = read_record(folder, COMMAND, GeneratorSettings)
    state = folder.load_state(GeneratorState)
    result = folder.result(record.settings.config.name)
    require_resumable(
        folder,
        0 if state is None else state.iteration,
        finished=state is None and result.is_file(),
        hint=f"the generator is {str(result)!r}",
    )
    require_same_settings(record, state, FREE)
    return folder, record, state


def restore_request(settings: GeneratorSettings, folder: GeneratorFolder) -> Request:
    """Return the request that the training in a folder began with."""
    return Request(
        photos=Path(settings.photos),
        config=settings.config,
        captions=CaptionSource(settings.caption, None if settings.captions is None else Path(settings.captions)),
        pair_folder=None if settings.pair_folder is None else Path(settings.pair_folder),
        start=None if settings.start is None else folder.start_file,
        start_name=settings.start,
        teacher=None if settings.teacher is None else Path(settings.teacher),
    )


def require_same_inputs(record: GeneratorRecord, setup: Setup) -> None:
    """Raise `ConfigError` if photos, styles or models changed after the training began."""
    require_unchanged(record, _hash_inputs(setup))


@dataclass
class Session:
    """A training in progress, with its folder.

    Attributes:
        setup: the loaded request.
        trainer: the loop's parts and state.
        folder: of the training; `None` in processes but the first.
    """

    setup: Setup
    trainer: Trainer
    folder: GeneratorFolder | None

    @classmethod
    def open(cls, setup: Setup, folder: GeneratorFolder, state: GeneratorState | None = None) -> Session:
        """Return a training whose pairs are made, from its saved state if there is one.

        Raises:
            ConfigError: the state belongs to another training.
        """
        trainer = make_trainer(setup, pair_folder(setup, folder))
        if state is not None:
            restore(trainer, state)
        return cls(setup, trainer, folder if setup.process.is_main else None)

    def run(self, is_interrupted: Callable[[], bool] = lambda: False) -> Iterator[TrainStep | SavedGenerator]:
        """Yield every step, then the saved generator.

        Args:
            is_interrupted: called after every step; when it returns true, the state is saved and the training ends.

        Raises:
            KeyboardInterrupt: the training was interrupted.
            StylescoreError: it failed.
        """
        writer = _Writer.open(self)
        yield from run_steps(train(self.trainer), writer, self.setup.process, is_interrupted)
        if self.folder is not None:
            yield writer.write_result(self.folder)

    def facts(self) -> GeneratorFacts:
        """Return what the generator's file says of it."""
        setup, config = self.setup, self.setup.config
        return GeneratorFacts(
            network=config.network,
            style=config.name,
            trigger=setup.stylizer.style_prompt,
            base=setup.stylizer.sources.model.name,
            size=config.size,
            noise_channels=setup.noise_channels,
            passes=config.passes,
            strength=config.strength,
            licence=config.licence,
            training=self._training_facts(),
            **setup.kind.stated,
        )

    def _training_facts(self) -> Mapping[str, Any]:
        """Return the record of the training, without dates and paths."""
        setup, config = self.setup, self.setup.config
        return {
            "stylescore": __version__,
            "styles": [choice.name for choice in setup.stylizer.sources.styles],
            "hashes": {name: value for name, value in _hash_inputs(setup).items() if value},
            "method": config.matching.method.method,
            "photos": len(setup.photos),
            "pairs": setup.pairs_wanted,
            "steps": self.trainer.step,
            "preset": config.preset,
            "seed": config.run.seed,
        }


@dataclass
class _Writer:
    """Writes what a session yields; in processes but the first it does nothing."""

    session: Session
    curves: Curves | None = None

    @classmethod
    def open(cls, session: Session) -> _Writer:
        """Cut the log to the steps that are done, and open TensorBoard's curves."""
        if session.folder is None:
            return cls(session)
        session.folder.remove_partials()
        session.folder.cut_steps(session.trainer.step)
        writer = cls(session, Curves(session.folder, session.trainer.step))
        writer.keep_due_generator()
        writer.write_due_sheet()
        return writer

    def write_step(self, step: TrainStep) -> None:
        """Write a step's row and curves, and the state and a sample sheet when they are due."""
        if self.session.folder is None or self.curves is None:
            return
        config, done = self.session.trainer.config, step.index + 1
        self.session.folder.append_step(step_row(step))
        self.curves.add(step.index, curve_points(step))
        if is_due(config.checkpoint_every, done):
            self.save_state()
        self.keep_due_generator()
        self.write_due_sheet()

    def finish_steps(self) -> None:
        """Save the last state, so that what follows is resumed if the process is killed, and write the last sheet."""
        with suppress(OutputError):  # a full disk; the generator is smaller
            self.save_state()
        if self.session.folder is not None and self.session.trainer.config.samples_every:
            self.write_sheet(self.session.folder)

    def save_state(self) -> None:
        """Save the state of the training."""
        if self.session.folder is not None:
            settings = flat_settings(make_record(self.session.setup))
            self.session.folder.save_state(replace(capture(self.session.trainer), settings=settings))

    def keep_due_generator(self) -> None:
        """Write the averaged weights as a generator if that is due now, and remove the oldest beyond those kept."""
        folder, config, done = self.session.folder, self.session.trainer.config, self.session.trainer.step
        if folder is None or not config.keep or not done or not is_due(config.checkpoint_every, done):
            return
        make_folder(folder.checkpoints)
        if not folder.checkpoint(done).is_file():
            self._write(folder.checkpoint(done))
        for old in sorted(folder.checkpoints.glob("step-*.safetensors"))[: -config.keep]:
            old.unlink(missing_ok=True)

    def write_due_sheet(self) -> None:
        """Write a sample sheet if one is due now and is not there."""
        folder, trainer = self.session.folder, self.session.trainer
        due = is_due(trainer.config.samples_every, trainer.step)
        if folder is not None and due and not folder.sheet(trainer.step).is_file():
            self.write_sheet(folder)

    def write_sheet(self, folder: GeneratorFolder) -> None:
        """Write a sheet of held-out photos, the generator's pictures, and those of the pairs."""
        make_folder(folder.samples)
        save_png(sample_sheet(self.session.trainer), folder.sheet(self.session.trainer.step))

    def write_result(self, folder: GeneratorFolder) -> SavedGenerator:
        """Write the generator and remove the saved state, which stays if the generator cannot be written."""
        file = folder.result(self.session.trainer.config.name)
        self._write(file)
        folder.remove_state()
        return SavedGenerator(file, folder.path)

    def _write(self, file: Path) -> None:
        trainer = self.session.trainer
        dtype = DTYPES[trainer.config.file_dtype]
        trainer.kind.write(file, trainer.average, self.session.facts(), dtype)

    def close(self) -> None:
        """Close TensorBoard's curves."""
        if self.curves is not None:
            self.curves.close()


@torch.no_grad()
def sample_sheet(trainer: Trainer) -> Any:
    """Return a sheet: a row for each of some held-out photos, with the generator's picture and the pair's."""
    rows = []
    for index in range(min(SHEET_ROWS, len(trainer.data.held_out))):
        batch = held_out_batch(trainer, index)
        shown = [batch.photo, paint(trainer, trainer.average, batch).pictures, batch.target]
        rows.append([to_picture(picture * 2 - 1) for picture in (shown if trainer.config.pairs.count else shown[:2])])
    return contact_sheet(rows, cell=trainer.config.size)
