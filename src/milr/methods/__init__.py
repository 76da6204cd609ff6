"""Ways to spend test-time compute on a task, by name; one is imported only when it is asked for."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, TypeAlias

from milr.registry import Entry, find, load

if TYPE_CHECKING:
    from milr.config import SearchConfig
    from milr.models.base import Model
    from milr.rewards.base import Reward
    from milr.types import StepRecord, Task

    Method: TypeAlias = Callable[[Sequence[Task], Model, Reward, SearchConfig], Iterator[StepRecord]]
    """Records of all tasks, interleaved, as `milr.search` yields them; a task's last record says why it finished."""

__all__ = ["METHODS", "POOLED", "load_method"]

METHODS: Mapping[str, Entry] = {
    "one-shot": Entry("milr.methods.one_shot:one_shot", "one drawing from the prompt alone"),
    "text-reasoning": Entry("milr.methods.one_shot:text_reasoning", "one drawing after the model's greedy text"),
    "best-of-n": Entry("milr.methods.best_of_n:best_of_n", "up to K + 1 drawings from one greedy text; the best one"),
    "best-of-n-sampled": Entry("milr.methods.best_of_n:best_of_n_sampled", "the same, each from a text of its own"),
    "parm": Entry("milr.methods.parm:parm", "the same from one text; drawings without potential are left unfinished"),
    "reflection": Entry(
        "milr.methods.reflection:reflection", "rewrite the text from what the reward criticises, redraw"
    ),
    "milr": Entry("milr.search:search", "the paper's search over the latents of text and image"),
    "consensus": Entry("milr.methods.consensus:consensus", "ours: think several times, draw what most texts agree on"),
    "keep-right": Entry("milr.methods.keep_right:keep_right", "ours: draw again around the objects that are right"),
    "grid-prune": Entry("milr.methods.grid_prune:grid_prune", "ours: drawings grow side by side, the worse half drops"),
}
"""Name -> entry. A method is one file and one line here."""
POOLED = ("best-of-n", "best-of-n-sampled")
"""Methods whose drawings are independent of one another, and the same however many are made: a pool of N drawn by them
holds every best of n below it."""


def load_method(name: str = "milr") -> Method:
    """The method of that name.

    Raises:
        UsageError: No method has that name.
    """
    made: Method = load(find("method", name, METHODS))
    return made
