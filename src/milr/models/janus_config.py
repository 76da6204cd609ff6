"""The config of a Janus checkpoint in either layout, and the dimensions that are accepted."""

from __future__ import annotations

import json
from collections.abc import Mapping
from copy import deepcopy
from functools import lru_cache
from pathlib import Path
from typing import Any, Literal, cast

from milr.errors import UsageError
from milr.models.received import refusing

_BOUNDS: Mapping[str, tuple[int, int]] = {
    **dict.fromkeys(("num_hidden_layers", "depth", "num_attention_heads", "num_key_value_heads"), (1, 1024)),
    "num_res_blocks": (0, 1024),  # those beyond the one that each level has
    **dict.fromkeys(("hidden_size", "head_dim", "base_channels", "latent_channels", "embed_dim"), (1, 2**16)),
    **dict.fromkeys(("projection_dim", "image_token_embed_dim", "image_size", "patch_size"), (1, 2**16)),
    **dict.fromkeys(("num_channels", "in_channels", "out_channels", "channel_multiplier"), (1, 2**10)),
    **dict.fromkeys(("intermediate_size", "num_embeddings", "num_image_tokens"), (1, 2**18)),
    "vocab_size": (1, 2**21),
}
"""Dimension of a config -> smallest and largest accepted value; the latter is at least ten times Janus-Pro-7B's."""
_MOST_PARAMETERS = 2e11
"""More than ten times those of Janus-Pro-7B."""


def make_config(
    folder: Path, described: dict[str, Any], token_ids: Mapping[str, int]
) -> tuple[Any, Literal["transformers", "deepseek"]]:
    """Return a `JanusConfig`, and the folder's layout."""
    from milr.models import deepseek_layout

    kind = described.get("model_type")
    if kind == deepseek_layout.MODEL_TYPE:
        with refusing(repr(str(folder / "config.json"))):
            return deepseek_layout.translate_config(described, token_ids, str(folder)), "deepseek"
    if kind != "janus":
        raise UsageError(
            f"{str(folder)!r} holds a model of type {kind!r}: milr loads types 'janus' and "
            f"{deepseek_layout.MODEL_TYPE!r}"
        )
    with refusing(repr(str(folder / "config.json"))):
        return deepcopy(_read_config(json.dumps(described))), "transformers"


@lru_cache(maxsize=4)
def _read_config(described: str) -> Any:
    """Return the `JanusConfig` of a config.json; to copy one is forty times as fast as to make it."""
    from transformers.models.janus.configuration_janus import JanusConfig

    return JanusConfig.from_dict(json.loads(described))


def check_dimensions(folder: Path, config: Any) -> None:
    """Refuse a config whose network fits into no memory, before any of it is allocated."""
    for part in ("text_config", "vision_config", "vq_config"):
        for name, (least, largest) in _BOUNDS.items():
            found: Any = getattr(getattr(config, part), name, None)
            for value in cast("list[Any]", found) if isinstance(found, list) else [found]:
                if isinstance(value, int) and not least <= value <= largest:
                    raise UsageError(
                        f"{str(folder / 'config.json')!r} says {name} {value} (in transformers' {part}): milr loads "
                        f"models with {least} to {largest}; fetch the checkpoint again"
                    )
    for part in (config.text_config, config.vision_config):
        width, depth = int(part.hidden_size), int(part.num_hidden_layers)
        inner = int(getattr(part, "intermediate_size", None) or 4 * width)
        parameters = depth * width * (4 * width + 3 * inner) + 2 * width * int(getattr(part, "vocab_size", 0) or 0)
        if parameters > _MOST_PARAMETERS:
            raise UsageError(
                f"{str(folder / 'config.json')!r} describes a network of {parameters:.0e} weights: milr loads models "
                f"with at most {_MOST_PARAMETERS:.0e}; fetch the checkpoint again"
            )
