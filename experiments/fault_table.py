"""The fault table of docs/rewards.md: each fault of `tests.unit.rewards.vlm.test_client` in the middle of a search.

python -m experiments.fault_table
"""

from __future__ import annotations

import argparse
import tempfile
from collections.abc import Sequence
from pathlib import Path

import pytest

from milr import search
from milr.rewards import load_reward
from milr.rewards.vlm.client import VlmClient
from milr.rewards.vlm.settings import VlmSettings
from milr.testing import FakeModel
from milr.types import Score, StepRecord, Task
from tests.support.vlm_servers import JudgeServer, completion, send
from tests.support.wise_words import use_made_up_words
from tests.unit.rewards.vlm.test_client import FAULTS

FIRST = {
    "gpt-4o": completion("-1"),
    "gpt-4o:p-yes": completion("no", first=[("no", -0.1), ("yes", -3.0)]),
    "wise-legacy": completion("0\n0\n0"),
    "wise": completion("Score: 0"),
    "unified-reward": completion("Final Score: 1"),
}
"""Reply about the first image, so that the fault hits the second one."""


def main(given: Sequence[str] | None = None) -> None:
    """Print the table."""
    with pytest.MonkeyPatch.context() as patch, tempfile.TemporaryDirectory() as words:
        use_made_up_words(patch, Path(words))
        _print_table(given)


def _print_table(given: Sequence[str] | None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", nargs="+", choices=FAULTS, default=list(FAULTS), metavar="FAULT", help="some lines")
    arguments = parser.parse_args(given)
    print("| fault | requests | what the search did | what the user saw |\n|---|---|---|---|")  # noqa: T201
    for name in arguments.only:
        reward_name, replies, _, _ = FAULTS[name]
        records, requests, summary = _search(reward_name, replies)
        faulty, after = records[1], records[2] if len(records) > 2 else None
        score = faulty.scores[0]
        if isinstance(score, Score):
            did, saw = "scored and went on", f"reward {score.value:.2f}"
        else:
            note = (after or faulty).notes[0]
            did = "ended with the best so far" if faulty.finished == "unscored" else "skipped one update, went on"
            saw = note.replace("|", "/").replace(summary, "HOST")
        print(f"| {name} | {requests} | {did} | {saw} |")  # noqa: T201


def _search(reward_name: str, replies: list) -> tuple[list[StepRecord], int, str]:  # type: ignore[type-arg]
    first = FIRST[reward_name]
    with tempfile.TemporaryDirectory() as cache, JudgeServer(lambda h, _: send(h, first), *replies) as server:
        judges = VlmClient(VlmSettings(url=server.url, first_wait=0, timeout=5, cache=Path(cache)))
        reward = load_reward(reward_name, vlm=judges)
        model = FakeModel()
        settings = model.settings(steps=2, stop_at=1.0, learning_rate=0.2, guidance=2.0)
        task = Task(prompt="a red cat", explanation="It must show a red cat.")
        records: list[StepRecord] = []
        asked = 1
        for record in search([task], model, reward, settings):
            records.append(record)
            if record.step == 1:
                asked = len(server.asked)
        judges.close()
        return records, asked - 1, judges.host


if __name__ == "__main__":
    main()
