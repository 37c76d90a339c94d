"""The metadata of a trained style's file: what it was trained on and how, as far as that is known."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable
from dataclasses import dataclass
from typing import TYPE_CHECKING

from stylescore._version import __version__
from stylescore.catalog.families import MINI, SD2, family_facts
from stylescore.training.config import StyleTrainingConfig
from stylescore.training.pictures import TrainingPicture

if TYPE_CHECKING:
    from stylescore.method.types import PredictionType

PREDICTIONS = {"epsilon": "epsilon", "v_prediction": "v", "sample": "sample"}


@dataclass(frozen=True, kw_only=True)
class Origin:
    """What a style was trained on.

    Attributes:
        base: name of the base model, without folders.
        base_sha256: hash of its files, or the hub id.
        family: key of the defaults it was trained with.
        prediction_type: what the base predicts.
        pictures: how many.
        data_sha256: hash of pictures and prompts.
        start_sha256: hash of the LoRA that the training went on from, if any.
    """

    base: str
    base_sha256: str
    family: str
    prediction_type: PredictionType
    pictures: int
    data_sha256: str
    start_sha256: str | None = None


def data_hash(examples: Iterable[tuple[TrainingPicture, str]]) -> str:
    """Return the SHA-256 over the hash of each picture's file and its prompt, in the order of the paths."""
    lines = [f"{picture.sha256}  {prompt}\n" + _repeat_line(picture) for picture, prompt in examples]
    return hashlib.sha256("".join(lines).encode()).hexdigest()


def _repeat_line(picture: TrainingPicture) -> str:
    return "" if picture.repeats == 1 else f"{picture.repeats} times\n"


def file_metadata(config: StyleTrainingConfig, origin: Origin, steps: int) -> dict[str, str]:
    """Return the metadata of the file: those that other programs read, and our own.

    Dates are left out, so that the same training writes the same bytes.
    """
    metadata = {
        **model_metadata(origin.family, origin.base, PREDICTIONS[origin.prediction_type]),
        "modelspec.title": config.name,
        "modelspec.trigger_phrase": config.trigger,
        "modelspec.resolution": f"{config.resolution}x{config.resolution}",
        "ss_output_name": config.name,
        "ss_network_dim": str(config.rank),
        "ss_network_alpha": f"{config.alpha:g}",
        "ss_steps": str(steps),
        "ss_max_train_steps": str(config.steps),
        "ss_learning_rate": f"{config.learning_rate:g}",
        "ss_num_train_images": str(origin.pictures),
        "ss_total_batch_size": str(config.batch),
        "ss_resolution": f"({config.resolution}, {config.resolution})",
        "ss_seed": str(config.seed),
        "stylescore.version": __version__,
        "stylescore.base_sha256": origin.base_sha256,
        "stylescore.data_sha256": origin.data_sha256,
        "stylescore.pictures": str(origin.pictures),
    }
    start = {"stylescore.start_sha256": origin.start_sha256} if origin.start_sha256 else {}
    return metadata | start | _convolution_metadata(config) | _min_snr_metadata(config)


def model_metadata(family: str, base: str, predicts: str) -> dict[str, str]:
    """Return what the file of a LoRA says of its base model.

    Args:
        family: key of the defaults it was trained with.
        base: name of the base model, without folders.
        predicts: epsilon, v or sample.
    """
    facts = family_facts(family)
    own = f"stylescore-{base}" if facts is MINI else base
    return {
        "modelspec.sai_model_spec": "1.0.0",
        "modelspec.architecture": f"{facts.modelspec_architecture or own}/lora",
        "modelspec.implementation": "diffusers",
        "modelspec.prediction_type": predicts,
        "ss_base_model_version": facts.kohya_version or own,
        "ss_v2": str(facts is SD2),
        "ss_sd_model_name": base,
        "ss_network_module": "networks.lora",
    }


def _convolution_metadata(config: StyleTrainingConfig) -> dict[str, str]:
    """Return what kohya's tools write about adapted convolutions."""
    if config.targets != "attention+conv":
        return {}
    return {"ss_network_args": json.dumps({"conv_dim": str(config.rank), "conv_alpha": f"{config.alpha:g}"})}


def _min_snr_metadata(config: StyleTrainingConfig) -> dict[str, str]:
    """Return what kohya's tools write about Min-SNR."""
    return {"ss_min_snr_gamma": f"{config.min_snr_gamma:g}"} if config.loss == "min_snr" else {}
