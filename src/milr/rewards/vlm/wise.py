"""`wise` and `wise-legacy`: WISE's two protocols, of 2026 and 2025, and how their scores are pooled.

Source: PKU-YuanGroup/WISE (arXiv 2503.07265), WISE_legacy/gpt_eval.py and vllm_eval.py, commit eb51174. The questions
of both are part of their metrics and may not be shipped: `milr data get` fetches the two programs that contain them.
"""

from __future__ import annotations

from collections.abc import Mapping

from milr.rewards.vlm.client import VlmClient
from milr.rewards.vlm.parsers import read_wise, read_wise_legacy
from milr.rewards.vlm.reward import VlmProtocol, VlmReward

LEGACY_WEIGHTS: Mapping[str, float] = {
    "Cultural": 0.4,
    "Time": 0.167,
    "Space": 0.133,
    "Biology": 0.1,
    "Physics": 0.1,
    "Chemistry": 0.1,
}
VERIFIED_WEIGHTS: Mapping[str, float] = {
    "Culture": 0.4,
    "Time": 0.12,
    "Space": 0.12,
    "Biology": 0.12,
    "Physics": 0.12,
    "Chemistry": 0.12,
}

LEGACY = VlmProtocol(
    name="wise-legacy",
    version=3,
    model="gpt-4o-2024-05-13",
    system=None,
    user="",
    read=read_wise_legacy,
    stop_at=0.5,
    max_tokens=2000,
    tries=3,
    asks_explanation=True,
    words_of="wise-legacy",
)
VERIFIED = VlmProtocol(
    name="wise",
    version=3,
    model="Qwen3.5-35B-A3B",
    system=None,
    user="",
    read=read_wise,
    stop_at=0.9,
    max_tokens=500,
    tries=3,
    needs_url=True,
    extra={"chat_template_kwargs": {"enable_thinking": False}},
    asks_explanation=True,
    words_of="wise",
)


class Wise(VlmReward):
    """Correct or wrong by the protocol of 2026; its numbers cannot be compared with `wise-legacy`."""

    def __init__(self, vlm: VlmClient) -> None:
        """Take the client that asks."""
        super().__init__(VERIFIED, vlm)


class WiseLegacy(VlmReward):
    """WiScore by the protocol of 2025; the search stops above 0.5, as the authors' scripts do."""

    def __init__(self, vlm: VlmClient) -> None:
        """Take the client that asks."""
        super().__init__(LEGACY, vlm)


def overall(groups: Mapping[str, float], weights: Mapping[str, float]) -> float:
    """Return WISE's overall score from the six groups' means; a missing group is an error, never a zero.

    Raises:
        ValueError: The groups are not those of the weights.
    """
    if groups.keys() != weights.keys():
        raise ValueError(f"WISE's overall score needs the groups {', '.join(weights)}, not {', '.join(groups)}")
    return sum(weights[name] * value for name, value in groups.items())
