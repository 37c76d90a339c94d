"""Names the files that cannot be used: adapters of unsupported kinds, and files that hold no adapter."""

from __future__ import annotations

import re
from collections.abc import Iterable

_UNSUPPORTED_ADAPTERS: tuple[tuple[str, str], ...] = (
    (r"[._]boft_", "BOFT"),
    (r"[._]oft_", "OFT"),
    (r"\.on_input$|\.ia3_l(?:\.|$)", "IA3"),
    (r"\.(?:a1|a2|b1|b2|bm|bm1|bm2)\.weight$", "GLoRA"),
    (r"\.vera_lambda_|^vera_", "VeRA"),
    (r"\.diff(?:_b)?$|\.(?:w|b)_norm$|\.set_weight$", "full weight difference"),
    (r"^(?:image_proj|ip_adapter)\.", "IP-Adapter"),
    (r"^lllite_", "ControlNet-LLLite"),
)
"""(pattern of a tensor name, kind): adapters that other programs write and this package cannot apply."""
_OTHER_CONTENT: tuple[tuple[str, str], ...] = (
    (r"^model\.diffusion_model\.|^first_stage_model\.|^cond_stage_model\.|^conditioner\.", "a full model"),
    (r"^control_model\.|^controlnet_|^input_hint_block|^lora_controlnet$", "a ControlNet"),
    (r"^emb_params$|^string_to_|^clip_[lg]$|^<[^<>]+>$", "a text embedding"),
    (
        r"^(?:conv_in|down_blocks|time_embedding|encoder|decoder|text_model|x_embedder|pos_embed|transformer_blocks"
        r"|double_blocks|joint_blocks)\..*(?:weight|bias)$",
        "a full model",
    ),
)
"""(pattern of a tensor name, content): files that are no adapter."""


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
