"""Names the files that cannot be used: adapters of unsupported kinds, and files that hold no adapter."""

from __future__ import annotations

import re
from collections.abc import Iterable

_UNSUPPORTED_ADAPTERS: tuple[tuple[str, str], ...] = (
    (r"\.vera_lambda_|(?:^|\.)vera_[AB]\b", "VeRA"),
    (r"\.lora_E\b", "AdaLoRA"),
    (r"\.glora_[A-E]\.", "PEFT GLoRA"),
    (r"\.oft_[rs](?:\.|$)", "OFT of an old PEFT"),
    (r"\.lambda_layer$|\.[pq]_layer\.weight$", "T-LoRA"),
    (r"\.hra_u\b", "HRA"),
    (r"\.fourierft_spectrum\b", "FourierFT"),
    (r"(?:^|\.)vblora_", "VB-LoRA"),
    (r"\.(?:bone|miss)_block\b|\.bone_\b|\.miss_\b", "MiSS"),
    (r"(?:^|\.)randlora_", "RandLoRA"),
    (r"\.shira_", "SHiRA"),
    (r"\.(?:c3a_kernel|road_theta|road_alpha|waveft_spectrum|delora_[AB]|gralora_[AB])\b", "PEFT"),
    (r"\.qkv_proj(?:_context)?\.lora_(?:down|up)$", "nunchaku LoRA"),
    (r"\.ln_tuning_layers\b", "LN tuning"),
    (r"^prompt_embeddings$|^prompt_encoder\.", "prompt tuning"),
    (r"trainable_tokens_delta", "trainable tokens"),
    (r"\.reshape_weight$", "LoRA for layers of another size"),
    (r"_custom_diffusion\.", "Custom Diffusion"),
    (r"^(?:image_proj|ip_adapter)\.", "IP-Adapter"),
    (r"^lllite_", "ControlNet-LLLite"),
    (r"\.mid_dim_size$|^hypernetwork", "hypernetwork"),
)
"""(pattern of a tensor name, kind): adapters that other programs write and this package cannot apply."""
_VOWEL = re.compile(r"[AEIO]|HRA|LN ")
TEXT_EMBEDDING = "a text embedding"
_OTHER_CONTENT: tuple[tuple[str, str], ...] = (
    (r"^model\.diffusion_model\.|^first_stage_model\.|^cond_stage_model\.|^conditioner\.", "a full model"),
    (r"^control_model\.|^controlnet_|^input_hint_block|^lora_controlnet$", "a ControlNet"),
    (r"^emb_params$|^string_to_|^clip_[lg]$|^t5$|^<[^<>]+>$", TEXT_EMBEDDING),
    (
        r"^(?:conv_in|down_blocks|time_embedding|encoder|decoder|text_model|x_embedder|pos_embed|transformer_blocks"
        r"|double_blocks|joint_blocks)\..*(?:weight|bias)$",
        "a full model",
    ),
)
"""(pattern of a tensor name, content): files that are no adapter."""


def with_article(kind: str) -> str:
    """Return a kind of adapter with "a" or "an" before it."""
    return f"{'an' if _VOWEL.match(kind) else 'a'} {kind}"


def unsupported_adapter(names: Iterable[str]) -> str | None:
    """Return the kind of adapter that these tensors make up if it is an unsupported one, else `None`."""
    return _first_match(names, _UNSUPPORTED_ADAPTERS)


def other_content(names: Iterable[str]) -> str | None:
    """Return what a file that holds no adapter seems to hold, or `None` where its tensors do not show it."""
    return _first_match(names, _OTHER_CONTENT)


def _first_match(names: Iterable[str], table: tuple[tuple[str, str], ...]) -> str | None:
    known = list(names)
    for pattern, kind in table:
        if any(re.search(pattern, name) for name in known):
            return kind
    return None
