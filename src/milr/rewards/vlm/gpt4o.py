"""`gpt-4o`: a verdict, 0 for correct and -1 for wrong; `gpt-4o:p-yes`: the probability of a yes.

The binary rule is that of the authors' code (0 only where consistency, realism and aesthetics are beyond doubt;
temperature 0, four tokens, gpt-4o-2024-11-20). The second asks the question of Image-Generation-CoT's reward models
(arXiv 2501.13926). The words of both are ours.
"""

from __future__ import annotations

from milr.rewards.vlm.client import VlmClient
from milr.rewards.vlm.parsers import read_binary, read_yes
from milr.rewards.vlm.reward import VlmProtocol, VlmReward, choose_variant

SNAPSHOT = "gpt-4o-2024-11-20"

BINARY = VlmProtocol(
    name="gpt-4o",
    version=2,
    model=SNAPSHOT,
    system="You judge strictly whether an image shows what its prompt asks for.",
    user=(
        "Look at the image and compare it with the prompt below.\n"
        "- Consistency: every object, attribute, count and relation of the prompt is there, and nothing contradicts "
        "it.\n"
        "- Realism: the image is plausible and coherent, without obvious faults.\n"
        "- Aesthetics: composition, colours and sharpness are acceptable.\n"
        "Answer 0 only if the image clearly and fully does what the prompt asks and passes the other two. "
        "In any doubt answer -1.\n"
        "Answer with that one token, 0 or -1, and nothing else.\n\n"
        'Prompt: "{prompt}"'
    ),
    read=read_binary,
    stop_at=0.9,
    max_tokens=4,
)
P_YES = VlmProtocol(
    name="gpt-4o:p-yes",
    version=2,
    model=SNAPSHOT,
    system=None,
    user=(
        'This image was drawn for a prompt: "{prompt}". Does it show all that the prompt asks for, and nothing that '
        "contradicts it? Answer with one word, yes or no."
    ),
    read=read_yes,
    stop_at=0.9,
    max_tokens=1,
    image_first=True,
    probabilities=True,
)


class GPT4o(VlmReward):
    """A reward by a VLM judge on any OpenAI-compatible server."""

    def __init__(self, argument: str | None, vlm: VlmClient) -> None:
        """Take None for the verdict or "p-yes" for the probability, and the client that asks."""
        super().__init__(choose_variant("gpt-4o", argument, {None: BINARY, "p-yes": P_YES}), vlm)
