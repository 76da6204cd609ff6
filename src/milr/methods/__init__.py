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

__all__ = ["METHODS", "load_method"]

METHODS: Mapping[str, Entry] = {
    "one-shot": Entry("milr.methods.one_shot:one_shot", "one drawing from the prompt alone"),
    "best-of-n": Entry("milr.methods.best_of_n:best_of_n", "up to K + 1 drawings from one greedy text; the best one"),
    "milr": Entry("milr.search:search", "the paper's search over the latents of text and image"),
}
"""Name -> entry. A method is one file and one line here."""


def load_method(name: str = "milr") -> Method:
    """The method of that name.

    Raises:
        UsageError: No method has that name.
    """
    made: Method = load(find("method", name, METHODS))
    return made
