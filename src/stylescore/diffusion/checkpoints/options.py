"""What a user states about a model besides naming it."""

from __future__ import annotations

from dataclasses import dataclass

from stylescore.catalog.registry import ModelSource
from stylescore.config.run import PredictionName


@dataclass(frozen=True, kw_only=True)
class ModelOptions:
    """What is stated about a model, and which of its components come from elsewhere.

    Attributes:
        prediction: what the network predicts, where the files do not state it.
        vae: autoencoder in place of the model's own.
        text_encoders: model whose text encoders and tokenizers take the place of its own.
    """

    prediction: PredictionName | None = None
    vae: ModelSource | None = None
    text_encoders: ModelSource | None = None

    def replaces(self, component: str) -> bool:
        """Tell whether a component, by the name of its subfolder, comes from elsewhere."""
        if component == "vae":
            return self.vae is not None
        return self.text_encoders is not None and component.startswith(("text_encoder", "tokenizer"))
