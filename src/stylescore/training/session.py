"""A whole training, from loading the base model to writing the style."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path
from shutil import copyfile
from typing import Any

import torch

from stylescore.assembly.sources import model_hash
from stylescore.catalog.families import MINI
from stylescore.catalog.registry import ModelSource, resolve_model
from stylescore.config.ranges import check
from stylescore.diffusion.checkpoints.loading import Components, load_components
from stylescore.diffusion.execution.devices import DTYPES, DevicePlacement
from stylescore.diffusion.fingerprint import fingerprint, other_base
from stylescore.errors import ConfigError, ModelError, OutputError
from stylescore.images import save_png
from stylescore.lora import Product
from stylescore.method.schedule import NoiseSchedule
from stylescore.method.types import PredictionType
from stylescore.runs.folder import Curves, make_folder, read_state
from stylescore.runs.record import Hashes, Record, flat_settings, read_record, replace_record, write_record
from stylescore.runs.resume import require_resumable, require_same_settings, require_unchanged
from stylescore.training.buckets import Buckets, make_buckets, size_multiple
from stylescore.training.cache import Cache, make_cache
from stylescore.training.checkpoint import capture, restore
from stylescore.training.config import B_LORA, RULES, SINGLE, StyleTrainingConfig, family_of, resolve
from stylescore.training.export import kohya_tensors, lora_bytes, write_lora
from stylescore.training.folder import (
    COMMAND,
    FREE,
    TrainingFolder,
    TrainingRecord,
    TrainingSettings,
    TrainingState,
    curve_points,
    step_row,
)
from stylescore.training.loop import Trainer, TrainStep, learning_rate, train
from stylescore.training.lora import add_adapter, match_targets
from stylescore.training.metadata import Origin, file_metadata
from stylescore.training.plan import Plan, require_free_name, require_space, style_file
from stylescore.training.process import Process, is_due, make_process, require_even, run_steps
from stylescore.training.samples import sample_sheet
from stylescore.training.start import bind_start
from stylescore_apply.storage.files import remove_partials, sha256

TAKEN = "move it away, or set another name in config.toml; then resume"
STATE_BYTES = 12
"""Of each trained number: itself and two moments in float32."""


@dataclass(frozen=True)
class EncodedPicture:
    """One more picture is encoded.

    Attributes:
        done: pictures encoded so far.
        total: of the training.
    """

    done: int
    total: int


@dataclass(frozen=True)
class SavedStyle:
    """The training is over: the style's file, and the folder of the training."""

    style: Path
    folder: Path


@dataclass(frozen=True)
class BaseModel:
    """A loaded base model, with the settings of a training on it.

    Attributes:
        source: where it was loaded from.
        parts: its networks.
        process: this one.
        config: the numbers, resolved for this model.
        origin: what the metadata of the style's file say of the training.
        buckets: the size of each picture.
        start: weights that the adapter begins with, by layer; empty for a new one.
    """

    source: ModelSource
    parts: Components
    process: Process
    config: StyleTrainingConfig
    origin: Origin
    buckets: Buckets
    start: Mapping[str, Product]


def load_base(plan: Plan) -> BaseModel:
    """Load the base model that a plan names, and fill in the settings that follow from it.

    Raises:
        InputError: a base model, device or number that cannot be used.
    """
    config = resolve(plan.request.given, MINI.key)
    process = make_process(config.device, config.dtype)
    require_even(process, config.batch)
    source = resolve_model(config.model)
    parts = load_components(source.location, dtype=process.dtype, places=DevicePlacement.on(process.device))
    prediction_type = _require_prediction_type(parts)
    parts.vae.float()  # it runs little, and some overflow in half precision
    family = family_of(parts.text_width)
    config = resolve(plan.request.given, family, _single_defaults(plan, parts))
    config = replace(config, resolution=config.resolution or parts.native_size)
    _check_resolution(config, parts)
    parts = replace(parts, notes=(*parts.notes, *_base_notes(plan, parts)))
    start = {} if plan.start is None else bind_start(plan.start, parts.network)
    if start:
        config = replace(config, targets=match_targets(parts.network, start, plan.request.given.get("targets")))
    origin = Origin(
        base=source.name,
        base_sha256=model_hash(source),
        base_weights=fingerprint(parts.network),
        family=family,
        prediction_type=prediction_type,
        pictures=len(plan.dataset.pictures),
        data_sha256=plan.data_sha256,
        start_sha256=None if plan.request.start is None else sha256(plan.request.start),
    )
    pictures, multiple = plan.dataset.pictures, size_multiple(parts)
    buckets = make_buckets(pictures, config.resolution, multiple, enabled=config.buckets)
    return BaseModel(source, parts, process, config, origin, buckets, start)


def _base_notes(plan: Plan, parts: Components) -> Iterator[str]:
    """Yield a note if the LoRA that a training goes on from was trained on another base."""
    line = None if plan.start is None else other_base(plan.start.lora.metadata, parts.network)
    if plan.start is not None and line is not None:
        yield f"{plan.start.lora.path.name}: {line}"


def _single_defaults(plan: Plan, parts: Components) -> Mapping[str, Any]:
    """Return what differs from a family's defaults where there is one picture only."""
    if not plan.is_single:
        return {}
    return B_LORA if parts.family.facts.style_block else SINGLE


def _require_prediction_type(parts: Components) -> PredictionType:
    """Return what a base model predicts.

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


def _check_resolution(config: StyleTrainingConfig, parts: Components) -> None:
    """Raise `ConfigError` if the resolution does not divide into the cells of the U-Net's smallest feature map."""
    multiple = size_multiple(parts)
    if config.resolution % multiple:
        nearest = max(1, round(config.resolution / multiple)) * multiple
        raise ConfigError(
            f"resolution must be a multiple of {multiple} for this base, not {config.resolution!r}",
            hint=f"use --resolution {nearest}",
        )


def encode(base: BaseModel, plan: Plan) -> Iterator[EncodedPicture | Cache]:
    """Encode pictures and prompts: yield after each picture, then the cache."""
    for event in make_cache(base.parts, base.buckets, plan.examples, base.config, plan.sheet_prompts):
        yield event if isinstance(event, Cache) else EncodedPicture(event, len(plan.dataset.pictures))


def long_prompts(base: BaseModel, plan: Plan) -> list[str]:
    """Return the prompts whose ends the text encoder cuts off."""
    return [prompt for prompt in dict.fromkeys(plan.prompts) if base.parts.text.truncated_end(prompt)]


def _make_trainer(base: BaseModel, cache: Cache) -> Trainer:
    """Add an adapter and an optimiser to the base model."""
    config, accelerator = base.config, base.process.accelerator
    unet = base.parts.network
    base.parts.text.to(torch.device("cpu"))  # every prompt is encoded by now
    parameters = add_adapter(unet, config, base.start)
    if config.gradient_checkpointing:
        unet.enable_gradient_checkpointing()
    optimiser = torch.optim.AdamW(parameters.values(), lr=config.learning_rate, weight_decay=config.weight_decay)
    unet, prepared = accelerator.prepare(unet, optimiser)
    return Trainer(
        unet=unet,
        call=base.parts.call,
        parameters=parameters,
        optimiser=prepared,
        process=base.process,
        cache=cache,
        schedule=NoiseSchedule(base.parts.betas, stride=1),
        prediction_type=base.origin.prediction_type,
        config=config,
    )


@dataclass
class Session:
    """A training in progress, with its folder.

    Attributes:
        base: the loaded base model.
        plan: the user's request, with its pictures.
        trainer: the loop's parts and state.
        folder: of the training; `None` in processes but the first.
    """

    base: BaseModel
    plan: Plan
    trainer: Trainer
    folder: TrainingFolder | None

    def run(self, is_interrupted: Callable[[], bool] = lambda: False) -> Iterator[TrainStep | SavedStyle]:
        """Yield every step, then the saved style.

        Args:
            is_interrupted: called after every step; when it returns true, the state is saved and the training ends.

        Raises:
            KeyboardInterrupt: the training was interrupted.
            StylescoreError: it failed.
        """
        writer = _Writer.open(self)
        yield from run_steps(train(self.trainer), writer, self.base.process, is_interrupted)
        if self.folder is not None:
            yield writer.write_style(self.folder)

    def style_tensors(self) -> dict[str, torch.Tensor]:
        """Return the adapter's tensors as the style's file has them."""
        config, unet = self.trainer.config, self.base.process.accelerator.unwrap_model(self.trainer.unet)
        return kohya_tensors(unet, config, DTYPES[config.file_dtype])


@dataclass
class _Writer:
    """Writes what a session yields; in processes but the first it does nothing."""

    session: Session
    curves: Curves | None = None
    is_saved: bool = False

    @classmethod
    def open(cls, session: Session) -> _Writer:
        """Cut the log to the steps that are done, and open TensorBoard's curves."""
        if session.folder is None:
            return cls(session)
        session.folder.remove_partials()
        session.folder.cut_steps(session.trainer.step)
        writer = cls(session, Curves(session.folder, session.trainer.step))
        writer.write_due_sheet()
        return writer

    def write_step(self, step: TrainStep) -> None:
        """Write a step's row and curves, and the state and a sample sheet when they are due."""
        if self.session.folder is None or self.curves is None:
            return
        config, done = self.session.trainer.config, step.index + 1
        self.session.folder.append_step(step_row(step))
        self.curves.add(step.index, curve_points(step))
        if done < config.steps:
            if is_due(config.checkpoint_every, done):
                self.save_state()
            self.write_due_sheet()

    def finish_steps(self) -> None:
        """Save the last state, so that what follows is resumed if the process is killed, and write the last sheet."""
        with suppress(OutputError):  # a full disk; the style is smaller, and may go to another disk
            self.save_state()
            self.is_saved = True
        self.write_due_sheet()

    def write_due_sheet(self) -> None:
        """Draw and write a sample sheet if one is due now and is not there."""
        folder, done = self.session.folder, self.session.trainer.step
        if folder is None or not done or not is_due(self.session.trainer.config.samples_every, done):
            return
        if not folder.sheet(done).is_file():
            self.write_sheet(folder, done)

    def write_sheet(self, folder: TrainingFolder, done: int) -> None:
        """Draw and write a sample sheet."""
        parts, prompts = self.session.base.parts, self.session.plan.sheet_prompts
        sheet = sample_sheet(self.session.trainer, parts.vae, parts.scheduler_config, prompts)
        make_folder(folder.samples)
        save_png(sheet, folder.sheet(done), {"prompts": "\n".join(prompts)})

    def save_state(self) -> None:
        """Save the state of the training."""
        if self.session.folder is not None:
            record = make_record(self.session.base, self.session.plan)
            self.session.folder.save_state(replace(capture(self.session.trainer), settings=flat_settings(record)))

    def write_style(self, folder: TrainingFolder) -> SavedStyle:
        """Write the style, then make the saved state the final one, or remove it if it is an earlier one."""
        trainer, base = self.session.trainer, self.session.base
        target = style_file(trainer.config.name)
        if not folder.has_written(target):
            require_free_name(trainer.config.name, replace=self.session.plan.request.replace, hint=TAKEN)
        require_space(target.parent, 0)
        remove_partials(target.parent, owned=False)
        metadata = file_metadata(trainer.config, base.origin, trainer.step)
        data = lora_bytes(self.session.style_tensors(), metadata)
        folder.save_result(target, hashlib.sha256(data).hexdigest())
        write_lora(target, data)
        if self.is_saved:
            folder.keep_state()
        folder.remove_state()
        return SavedStyle(target, folder.path)

    def close(self) -> None:
        """Close TensorBoard's curves."""
        if self.curves is not None:
            self.curves.close()


def start(base: BaseModel, plan: Plan, cache: Cache, output: Path) -> Session:
    """Return a new training, with a new folder in `output`.

    Raises:
        OutputError: the disk is too full, or the folder cannot be made.
    """
    trainer = _make_trainer(base, cache)
    if not base.process.is_main:
        return Session(base, plan, trainer, None)
    count = sum(parameter.numel() for parameter in trainer.parameters.values())
    require_space(output, STATE_BYTES * count)
    require_space(style_file(base.config.name).parent, 4 * count)
    record = make_record(base, plan)
    folder = TrainingFolder.new(output, base.config.name, lambda folder: _fill(folder, record, plan.request.start))
    return Session(base, plan, trainer, folder)


def _fill(folder: TrainingFolder, record: TrainingRecord, start: Path | None) -> None:
    """Write what a new training's folder holds."""
    write_record(folder, record)
    if start is not None:
        copyfile(start, folder.start_file)


def make_record(base: BaseModel, plan: Plan) -> TrainingRecord:
    """Return the record of a training."""
    request = plan.request
    table = request.captions.table
    settings = TrainingSettings(
        pictures=str(request.pictures.absolute()),
        caption=request.captions.caption,
        captions=str(table.absolute()) if table else None,
        strict=request.strict,
        replace=request.replace,
        start=request.start_name,
        config=replace(base.config, model=base.source.reference),
    )
    return Record(command=COMMAND, hashes=_hash_inputs(base, plan), settings=settings)


def _hash_inputs(base: BaseModel, plan: Plan) -> Hashes:
    start = base.origin.start_sha256
    return {
        "pictures_or_captions": plan.data_sha256,
        "base_model": base.origin.base_sha256,
        **({} if start is None else {"starting_lora": start}),
    }


def read_training(path: Path, steps: int | None = None) -> tuple[TrainingFolder, TrainingRecord, TrainingState | None]:
    """Read the folder of a training that is to be resumed or made longer: its record, and its state if one is saved.

    Args:
        path: of the folder.
        steps: the new length, for one that is made longer.

    Raises:
        ConfigError: it is not the folder of a training that can be resumed.
        OutputError: something stands in the way of what the training would write.
    """
    folder = TrainingFolder(path)
    record = read_record(folder, COMMAND, TrainingSettings)
    if steps is not None:
        record = extend(record, steps)
    name = record.settings.config.name
    written = folder.has_written(style_file(name))
    state = _load_state(folder, record, is_written=written)
    if steps is not None and written and state is None:
        raise ConfigError(
            f"the training in {str(path)!r} cannot be made longer: its final state is gone",
            hint=f"train on from its weights: --from {path}",
        )
    require_resumable(
        folder,
        0 if state is None else state.iteration,
        finished=state is None and written,
        hint=f"stylescore stylize PHOTO --style {name}",
    )
    require_same_settings(record, _allow_extension(record, state), FREE)
    if not written:
        require_free_name(name, replace=record.settings.replace, hint=TAKEN)
    return folder, record, state


def extend(record: TrainingRecord, steps: int) -> TrainingRecord:
    """Return the record of a training that is made longer.

    Raises:
        ConfigError: it is not longer than planned, or too long.
    """
    settings = record.settings
    planned = settings.config.steps
    if steps <= planned:
        raise ConfigError(
            f"--steps must be more than the {planned} steps that the training was planned for, not {steps}",
            hint="leave --steps out to resume it as planned",
        )
    check(replace(settings.config, steps=steps), {"steps": RULES["steps"]})
    longer = replace(settings, extended=(*settings.extended, planned), config=replace(settings.config, steps=steps))
    return replace(record, settings=longer)


def _load_state(folder: TrainingFolder, record: TrainingRecord, *, is_written: bool) -> TrainingState | None:
    """Return the state that a training is resumed from: the saved one, or the final one if something is left to do."""
    state = folder.load_state(TrainingState)
    if state is not None:
        return state
    final = read_state(folder.final_state_file, TrainingState)
    is_done = final is not None and final.iteration >= record.settings.config.steps and is_written
    return None if is_done else final


def _allow_extension(record: TrainingRecord, state: TrainingState | None) -> TrainingState | None:
    """Return the state as one of the length that the record has, if it was planned shorter before."""
    known = {} if state is None or state.settings is None else state.settings
    if state is None or known.get("config.steps") not in record.settings.extended:
        return state
    return replace(state, settings={**known, "config.steps": record.settings.config.steps})


def describe_extension(record: TrainingRecord) -> str:
    """Return one line on what a longer training does to the learning rate."""
    config, planned = record.settings.config, record.settings.extended[-1]
    before, now = (learning_rate(replace(config, steps=steps), planned - 1) for steps in (planned, config.steps))
    line = f"{config.steps} steps instead of {planned}"
    if config.rate_schedule == "constant":
        return f"{line}; the rate is constant, so this is the training that was planned for {config.steps}"
    return (
        f"{line}; the cosine now ends at step {config.steps}: the rate goes up again, from {before:.2g} to {now:.2g}, "
        "so this is not the training that was planned for as many"
    )


def require_same_inputs(record: TrainingRecord, plan: Plan, base: BaseModel) -> None:
    """Raise `ConfigError` if pictures, captions or the base model changed after the training began."""
    require_unchanged(record, _hash_inputs(base, plan))


def resume(
    base: BaseModel,
    plan: Plan,
    cache: Cache,
    folder: TrainingFolder,
    state: TrainingState | None,
    record: TrainingRecord | None = None,
) -> Session:
    """Return a training that continues from its saved state, or from the first step if none was saved.

    Args:
        base: the loaded base model.
        plan: of the training.
        cache: encoded pictures and prompts.
        folder: of the training.
        state: the saved one, if there is one.
        record: written into the folder, for a training that is made longer.

    Raises:
        ConfigError: the state belongs to another training.
    """
    trainer = _make_trainer(base, cache)
    if state is not None:
        restore(trainer, state)
    if record is not None and base.process.is_main:
        replace_record(folder, record)
    return Session(base, plan, trainer, folder if base.process.is_main else None)
