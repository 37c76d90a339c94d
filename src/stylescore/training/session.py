"""A training from the base's loading to the written style."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path

import torch

from stylescore.assembly.sources import model_hash
from stylescore.catalog.families import MINI
from stylescore.catalog.registry import resolve_model
from stylescore.diffusion.checkpoints.loading import Components, load_components
from stylescore.diffusion.execution.devices import DTYPES, DevicePlacement
from stylescore.errors import ConfigError, InputError, ModelError, OutputError
from stylescore.images import save_png
from stylescore.method.schedule import NoiseSchedule
from stylescore.method.types import PredictionType
from stylescore.runs.folder import RunFolder, unwritable
from stylescore.training.cache import Cache, make_cache
from stylescore.training.checkpoint import load_checkpoint, save_checkpoint
from stylescore.training.config import StyleTrainingConfig, family_of, resolve
from stylescore.training.export import kohya_tensors, write_lora
from stylescore.training.folder import Events, TrainingFolder, TrainingRecord, step_row
from stylescore.training.loop import Trainer, TrainStep, train
from stylescore.training.lora import add_adapter
from stylescore.training.machine import Machine, make_machine
from stylescore.training.metadata import Origin, file_metadata
from stylescore.training.plan import Plan, require_space, style_file
from stylescore.training.samples import sample_sheet

BYTES_KEPT = 12
"""Of each trained number: itself and two moments in float32."""


@dataclass(frozen=True)
class Encoded:
    """One more picture has been encoded; `total` of them there are."""

    done: int
    total: int


@dataclass(frozen=True)
class Written:
    """The training is over: the style's file, and the folder of the training."""

    style: Path
    folder: Path


@dataclass(frozen=True)
class Base:
    """A loaded base with what a training takes from it.

    Attributes:
        parts: its networks.
        machine: this process.
        config: the numbers, resolved for it.
        origin: what the file will tell.
    """

    parts: Components
    machine: Machine
    config: StyleTrainingConfig
    origin: Origin


def load_base(plan: Plan) -> Base:
    """Load the base that a plan names and fill in its defaults.

    Raises:
        InputError: a base, device or number that cannot be used.
    """
    config = resolve(plan.request.given, MINI.key)
    machine = make_machine(config)
    source = resolve_model(config.model)
    parts = load_components(source.location, dtype=machine.dtype, places=DevicePlacement.on(machine.device))
    kind = trainable(parts)
    parts.vae.float()  # it runs little, and some overflow in half precision
    family = family_of(parts.text_width)
    config = resolve(plan.request.given, family)
    config = fitted(replace(config, resolution=config.resolution or parts.native_size), parts)
    origin = Origin(
        base=source.name,
        base_sha256=model_hash(source),
        family=family,
        prediction_type=kind,
        pictures=len(plan.survey.pictures),
        data_sha256=plan.data_sha256,
    )
    return Base(parts, machine, config, origin)


def trainable(parts: Components) -> PredictionType:
    """Return what a base predicts.

    Raises:
        ModelError: it is a flow model, whose training is another one.
    """
    if parts.prediction_type is None:
        raise ModelError(
            f"styles are trained on U-Nets that predict noise, v or the clean latent, {parts.name!r} is a flow model "
            f"({parts.family.label})",
            hint="train on a model of the Stable Diffusion 1.x, 2.x or SDXL kind",
        )
    return parts.prediction_type


def fitted(config: StyleTrainingConfig, parts: Components) -> StyleTrainingConfig:
    """Return `config` if its resolution suits the base, and its batch the processes."""
    multiple = parts.vae_scale * 2 ** (len(parts.network.config.block_out_channels) - 1)
    if config.resolution % multiple:
        nearest = max(1, round(config.resolution / multiple)) * multiple
        raise ConfigError(
            f"resolution must be a multiple of {multiple} for this base, not {config.resolution!r}",
            hint=f"use --resolution {nearest}",
        )
    return config


def encode(base: Base, plan: Plan) -> Iterator[Encoded | Cache]:
    """Encode pictures and prompts, telling of each picture."""
    for event in make_cache(base.parts, plan.examples, base.config, plan.sheet_prompts):
        yield event if isinstance(event, Cache) else Encoded(event, len(plan.survey.pictures))


def cut_prompts(base: Base, plan: Plan) -> list[str]:
    """Return the prompts that are longer than the text encoder reads."""
    return [words for words in dict.fromkeys(plan.prompts) if base.parts.text.truncated_end(words)]


def make_trainer(base: Base, cache: Cache) -> Trainer:
    """Give the base its adapter and an optimiser."""
    config, accelerator = base.config, base.machine.accelerator
    unet = base.parts.network
    base.parts.text.to(torch.device("cpu"))  # every prompt is encoded by now
    parameters = add_adapter(unet, config)
    if config.gradient_checkpointing:
        unet.enable_gradient_checkpointing()
    optimiser = torch.optim.AdamW(parameters.values(), lr=config.learning_rate, weight_decay=config.weight_decay)
    unet, prepared = accelerator.prepare(unet, optimiser)
    return Trainer(
        unet=unet,
        call=base.parts.call,
        parameters=parameters,
        optimiser=prepared,
        machine=base.machine,
        cache=cache,
        schedule=NoiseSchedule(base.parts.betas, stride=1),
        prediction_type=base.origin.prediction_type,
        config=config,
    )


@dataclass
class Session:
    """A training under way, with the folder it is kept in.

    Attributes:
        base: the loaded base.
        plan: what was asked for.
        trainer: how far it is.
        folder: where it is kept; processes but the first have none.
    """

    base: Base
    plan: Plan
    trainer: Trainer
    folder: TrainingFolder | None

    def run(self, stopped: Callable[[], bool] = lambda: False) -> Iterator[TrainStep | Written]:
        """Yield every step, then the written style.

        Args:
            stopped: asked after every step; when it is true, the state is kept.

        Raises:
            KeyboardInterrupt: the training was stopped.
            StylescoreError: it failed.
        """
        keeper = Keeper.of(self)
        try:
            for step in train(self.trainer):
                keeper.keep(step)
                yield step
                if self.base.machine.agreed(stopped()):
                    keeper.save()
                    raise KeyboardInterrupt
        finally:
            keeper.close()
        self.base.machine.accelerator.wait_for_everyone()
        if self.folder is not None:
            yield keeper.finish(self.folder)

    def tensors(self) -> dict[str, torch.Tensor]:
        """Return the adapter as the file will have it."""
        config, unet = self.trainer.config, self.base.machine.accelerator.unwrap_model(self.trainer.unet)
        return kohya_tensors(unet, config.alpha, DTYPES[config.file_dtype])


@dataclass
class Keeper:
    """Writes what a session yields; in processes but the first it does nothing."""

    session: Session
    events: Events | None = None

    @classmethod
    def of(cls, session: Session) -> Keeper:
        """Cut the log to the steps that are done, and open TensorBoard's."""
        if session.folder is None:
            return cls(session)
        session.folder.run.cut_steps(session.trainer.step)
        return cls(session, Events(session.folder.events, session.trainer.step))

    def keep(self, step: TrainStep) -> None:
        """Write a step's row and curves, and sheet and checkpoint when they are due."""
        if self.session.folder is None or self.events is None:
            return
        config, done = self.session.trainer.config, step.index + 1
        self.session.folder.run.append_step(step_row(step))
        self.events.add(step)
        if due(config.samples_every, done):
            self.write_sheet(self.session.folder, done)
        if due(config.checkpoint_every, done) and done < config.steps:
            self.save()

    def write_sheet(self, folder: TrainingFolder, done: int) -> None:
        """Draw and write a sample sheet."""
        parts, prompts = self.session.base.parts, self.session.plan.sheet_prompts
        sheet = sample_sheet(self.session.trainer, parts.vae, parts.scheduler_config, prompts)
        target = folder.sheet(done)
        try:
            target.parent.mkdir(exist_ok=True)
        except OSError as error:
            raise unwritable(target.parent, error) from error
        save_png(sheet, target, {"prompts": "\n".join(prompts)})

    def save(self) -> None:
        """Write the checkpoint."""
        if self.session.folder is not None:
            save_checkpoint(self.session.trainer, self.session.folder.checkpoint)

    def finish(self, folder: TrainingFolder) -> Written:
        """Write the style and forget the checkpoint; if the style cannot be written, the checkpoint is kept."""
        trainer, base = self.session.trainer, self.session.base
        try:
            target = style_file(trainer.config.name, replace=self.session.plan.request.replace)
            require_space(target.parent, 0)
            write_lora(target, self.session.tensors(), file_metadata(trainer.config, base.origin, trainer.step))
        except InputError:
            with suppress(OutputError):
                self.save()
            raise
        folder.checkpoint.unlink(missing_ok=True)
        return Written(target, folder.path)

    def close(self) -> None:
        """Close TensorBoard's log."""
        if self.events is not None:
            self.events.close()


def due(every: int, done: int) -> bool:
    """Tell whether something that happens every so many steps happens after `done`."""
    return every > 0 and done % every == 0


def begin(base: Base, plan: Plan, cache: Cache, output: Path) -> Session:
    """Make a new training and its folder under `output`.

    Raises:
        OutputError: there is no room, or the folder cannot be made.
    """
    trainer = make_trainer(base, cache)
    if not base.machine.main:
        return Session(base, plan, trainer, None)
    count = sum(parameter.numel() for parameter in trainer.parameters.values())
    require_space(output, BYTES_KEPT * count)
    require_space(style_file(base.config.name, replace=True).parent, 4 * count)
    folder = TrainingFolder(RunFolder.new(output, base.config.name))
    folder.begin(record_of(base, plan))
    return Session(base, plan, trainer, folder)


def record_of(base: Base, plan: Plan) -> TrainingRecord:
    """Return what is written down of a training."""
    request = plan.request
    table = request.words.table
    return TrainingRecord(
        pictures=str(request.pictures.absolute()),
        caption=request.words.caption,
        captions=str(table.absolute()) if table else None,
        strict=request.strict,
        replace=request.replace,
        data_sha256=plan.data_sha256,
        model_sha256=base.origin.base_sha256,
        config=replace(base.config, model=lasting(base.config.model)),
    )


def lasting(model: str) -> str:
    """Return a model's name so that it means the same in any working folder."""
    source = resolve_model(model)
    return model if source.bundled or source.kind == "hub" else str(Path(source.location).absolute())


def go_on(base: Base, plan: Plan, cache: Cache, folder: TrainingFolder) -> Session:
    """Take up a training where its checkpoint left it.

    Raises:
        ConfigError: the checkpoint is damaged or belongs to another training.
    """
    trainer = make_trainer(base, cache)
    load_checkpoint(trainer, folder.checkpoint)
    return Session(base, plan, trainer, folder if base.machine.main else None)


def require_unchanged(record: TrainingRecord, plan: Plan, base: Base) -> None:
    """Raise `ConfigError` if pictures, captions or the base are not what they were when the training began."""
    for what, then, now in (
        ("pictures or captions have", record.data_sha256, plan.data_sha256),
        ("base model has", record.model_sha256, base.origin.base_sha256),
    ):
        if then != now:
            raise ConfigError(f"the {what} changed since the training began", hint="begin a new training")


def unfinished(folder: TrainingFolder, record: TrainingRecord) -> None:
    """Raise `ConfigError` if there is nothing left to do."""
    if not folder.checkpoint.is_file() and folder.steps_written() >= record.config.steps:
        raise ConfigError(
            f"the training in {str(folder.path)!r} is finished",
            hint=f"stylescore stylize PHOTO --style {record.config.name}",
        )
