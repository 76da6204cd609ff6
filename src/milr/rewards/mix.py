"""`mix:`: a weighted mean of rewards. The paper's MixedReward is one such mix."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from PIL import Image

from milr.rewards.base import Reward, Scores, WaitingReward, start_scoring
from milr.rewards.spec import parse_mix
from milr.rewards.vlm.budget import CallCost
from milr.types import Score, Task, Unscored


class Mix:
    """The weighted mean of its parts' values. Implements `milr.rewards.base.Reward`.

    Every part scales its own values to [0, 1] (`unified-reward` by (s - 1) / 4), so weights are comparable. A score's
    parts are the parts' values by name; its evidence holds each part's weight, reward, parts and evidence; its cost is
    their sum; its regions are those of its first part that has any. An image that one part could not score is
    `Unscored`: half a mix is another metric.
    """

    stop_at = 0.8
    """The authors' script for MixedReward stops at mix - 1 > -0.2."""

    def __init__(self, argument: str | None, load: Callable[[str], Reward]) -> None:
        """Load the parts.

        Args:
            argument: "icons-soft*0.7+self*0.3".
            load: Loads a part by name.

        Raises:
            UsageError: Names the part that cannot be read or loaded.
        """
        parts = parse_mix(argument)
        total = sum(part.weight for part in parts)
        self.weights = {part.name: part.weight / total for part in parts}
        self.parts: dict[str, Reward] = {part.name: load(part.name) for part in parts}
        self.name = f"mix@1:{'+'.join(f'{self.parts[n].name}*{weight:.4g}' for n, weight in self.weights.items())}"

    def __call__(self, images: Sequence[Image.Image], tasks: Sequence[Task]) -> list[Score | Unscored]:
        """Return one score per image, in order."""
        return self.begin(images, tasks)()

    def begin(self, images: Sequence[Image.Image], tasks: Sequence[Task]) -> Scores:
        """Start the parts that wait for a server, then score the others here."""
        order = sorted(self.parts, key=lambda name: not isinstance(self.parts[name], WaitingReward))
        begun = {name: start_scoring(self.parts[name], images, tasks) for name in order}

        def finish() -> list[Score | Unscored]:
            found = {name: wait() for name, wait in begun.items()}
            return [self._mix({name: found[name][i] for name in self.parts}) for i in range(len(images))]

        return finish

    def call_costs(self, image_size: int, tasks: Sequence[Task] = ()) -> list[CallCost]:
        """Return the calls for scoring one image of that side, part by part."""
        return [cost for part in self.parts.values() for cost in costs_of(part, image_size, tasks)]

    def _mix(self, found: dict[str, Score | Unscored]) -> Score | Unscored:
        cost = sum(score.cost for score in found.values())
        lost = {name: score for name, score in found.items() if isinstance(score, Unscored)}
        if lost:
            reason = "; ".join(f"{name}: {score.reason}" for name, score in lost.items())
            return Unscored(reason, self.name, final=any(score.final for score in lost.values()), cost=cost)
        scores = {name: score for name, score in found.items() if isinstance(score, Score)}
        value = sum(self.weights[name] * score.value for name, score in scores.items())
        return Score(
            value=min(1.0, value),
            reward=self.name,
            stop_at=self.stop_at,
            parts={name: score.value for name, score in scores.items()},
            explanation=", ".join(
                f"{name} {score.value:.2f}" + (f" ({score.explanation})" if score.explanation else "")
                for name, score in scores.items()
            ),
            evidence={
                name: {
                    "weight": self.weights[name],
                    "reward": score.reward,
                    "parts": dict(score.parts),
                    "evidence": dict(score.evidence),
                }
                for name, score in scores.items()
            },
            cost=cost,
            regions=next((score.regions for score in scores.values() if score.regions), ()),
        )


def costs_of(reward: object, image_size: int, tasks: Sequence[Task] = ()) -> list[CallCost]:
    """Return the calls to VLM judges for scoring one image of that side of these tasks; none for other rewards."""
    costs = getattr(reward, "call_costs", None)
    return [] if costs is None else list(costs(image_size, tasks))
