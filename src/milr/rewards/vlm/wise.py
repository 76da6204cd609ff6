"""`wise` and `wise-verified`: WISE's two protocols, and how their scores are pooled.

Source: PKU-YuanGroup/WISE (arXiv 2503.07265), gpt_eval.py. The legacy protocol's words and settings are part of its
metric, so they stand here as they stand there. Of WISE_Verified we had settings and rule, not the words: ours stand in,
and its numbers are not its leaderboard's.
"""

from __future__ import annotations

from collections.abc import Mapping

from milr.rewards.vlm.client import VlmClient
from milr.rewards.vlm.parsers import read_wise, read_wise_verified
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
    name="wise",
    version=1,
    model="gpt-4o-2024-05-13",
    system=(
        "You are a professional Vincennes image quality audit expert, please evaluate the image quality strictly "
        "according to the protocol."
    ),
    user="""Please evaluate strictly and return ONLY the three scores as requested.

# Text-to-Image Quality Evaluation Protocol

## System Instruction
You are an AI quality auditor for text-to-image generation. Apply these rules with ABSOLUTE RUTHLESSNESS. Only images \
meeting the HIGHEST standards should receive top scores.

**Input Parameters**\x20\x20
- PROMPT: [User's original prompt to]\x20\x20
- EXPLANATION: [Further explanation of the original prompt]\x20
---

## Scoring Criteria

**Consistency (0-2):**  How accurately and completely the image reflects the PROMPT.
* **0 (Rejected):**  Fails to capture key elements of the prompt, or contradicts the prompt.
* **1 (Conditional):** Partially captures the prompt. Some elements are present, but not all, or not accurately.  \
Noticeable deviations from the prompt's intent.
* **2 (Exemplary):**  Perfectly and completely aligns with the PROMPT.  Every single element and nuance of the prompt \
is flawlessly represented in the image. The image is an ideal, unambiguous visual realization of the given prompt.

**Realism (0-2):**  How realistically the image is rendered.
* **0 (Rejected):**  Physically implausible and clearly artificial. Breaks fundamental laws of physics or visual \
realism.
* **1 (Conditional):** Contains minor inconsistencies or unrealistic elements.  While somewhat believable, noticeable \
flaws detract from realism.
* **2 (Exemplary):**  Achieves photorealistic quality, indistinguishable from a real photograph.  Flawless adherence \
to physical laws, accurate material representation, and coherent spatial relationships. No visual cues betraying AI \
generation.

**Aesthetic Quality (0-2):**  The overall artistic appeal and visual quality of the image.
* **0 (Rejected):**  Poor aesthetic composition, visually unappealing, and lacks artistic merit.
* **1 (Conditional):**  Demonstrates basic visual appeal, acceptable composition, and color harmony, but lacks \
distinction or artistic flair.
* **2 (Exemplary):**  Possesses exceptional aesthetic quality, comparable to a masterpiece.  Strikingly beautiful, \
with perfect composition, a harmonious color palette, and a captivating artistic style. Demonstrates a high degree of \
artistic vision and execution.

---

## Output Format

**Do not include any other text, explanations, or labels.** You must return only three lines of text, each containing \
a metric and the corresponding score, for example:

**Example Output:**
Consistency: 2
Realism: 1
Aesthetic Quality: 0

---

**IMPORTANT Enforcement:**

Be EXTREMELY strict in your evaluation. A score of '2' should be exceedingly rare and reserved only for images that \
truly excel and meet the highest possible standards in each metric. If there is any doubt, downgrade the score.

For **Consistency**, a score of '2' requires complete and flawless adherence to every aspect of the prompt, leaving no \
room for misinterpretation or omission.

For **Realism**, a score of '2' means the image is virtually indistinguishable from a real photograph in terms of \
detail, lighting, physics, and material properties.

For **Aesthetic Quality**, a score of '2' demands exceptional artistic merit, not just pleasant visuals.

---\x20
Here are the Prompt and EXPLANATION for this evaluation:
PROMPT: "{prompt}"
EXPLANATION: "{explanation}"
Please strictly adhere to the scoring criteria and follow the template format when providing your results.""",
    read=read_wise,
    stop_at=0.5,
    max_tokens=2000,
    tries=3,
)
VERIFIED = VlmProtocol(
    name="wise-verified",
    version=1,
    model="Qwen3.5-35B-A3B",
    system="You verify strictly whether an image shows what its prompt means.",
    user=(
        "Look at the image. Decide whether it shows what the prompt asks for, as the explanation says what that is, "
        "and whether it can be used as a picture. How beautiful it is does not count.\n"
        'PROMPT: "{prompt}"\n'
        'EXPLANATION: "{explanation}"\n'
        "Answer with one line and nothing else: Score: 1 if both hold, else Score: 0."
    ),
    read=read_wise_verified,
    stop_at=0.9,
    max_tokens=500,
    needs_url=True,
    extra={"chat_template_kwargs": {"enable_thinking": False}},
)


class Wise(VlmReward):
    """WiScore by the legacy protocol; the search stops above 0.5, as the authors' scripts do."""

    def __init__(self, vlm: VlmClient) -> None:
        """Take the client that asks."""
        super().__init__(LEGACY, vlm)


class WiseVerified(VlmReward):
    """Right or wrong by the protocol of 2026; its numbers cannot be compared with `wise`."""

    def __init__(self, vlm: VlmClient) -> None:
        """Take the client that asks."""
        super().__init__(VERIFIED, vlm)


def overall(groups: Mapping[str, float], weights: Mapping[str, float] = LEGACY_WEIGHTS) -> float:
    """WISE's overall score of the six groups' means; a missing group is an error, never a zero.

    Raises:
        ValueError: The groups are not those of the weights.
    """
    if groups.keys() != weights.keys():
        raise ValueError(f"WISE's overall score needs the groups {', '.join(weights)}, not {', '.join(groups)}")
    return sum(weights[name] * value for name, value in groups.items())
