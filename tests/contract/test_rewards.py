"""Contract of every reward, the examples included. A new reward is one line in `REWARDS_TO_TEST`."""

from __future__ import annotations

import re
import subprocess
import sys
from collections.abc import Iterator
from contextlib import ExitStack
from functools import partial
from typing import Any

import pytest
from PIL import Image, ImageDraw

from milr.registry import Entry
from milr.rewards import REWARDS, Reward, load_reward
from milr.rewards.icons.reward import Icons
from milr.tasks import parse_prompt
from milr.testing import FakeModel
from milr.types import ChecklistItem, Score, Task, Unscored
from tests.support.paths import GOLDEN, ROOT

pytest.importorskip("openai", reason='VLM judges need pip install "milr[vlm]"')

from milr.rewards.vlm.client import VlmClient  # noqa: E402
from milr.rewards.vlm.settings import VlmSettings  # noqa: E402
from milr.serve.judge import Judge  # noqa: E402
from tests.support.judges import judging  # noqa: E402
from tests.support.vlm_servers import JudgeServer, image_of, say  # noqa: E402
from tests.support.wise_words import use_made_up_words  # noqa: E402

EXAMPLES = ROOT / "examples"
REWARDS_TO_TEST = [
    *("icons", "icons-judge", "icons-soft"),
    *("self", "self:p-yes", "gpt-4o", "gpt-4o:p-yes", "wise-legacy", "wise", "unified-reward"),
    *("checklist", "checklist-self", "geneval2", "t2i-corebench"),
    *("mix:icons-soft*0.7+self*0.3", "mix:gpt-4o+icons", "http", "sharpness"),
]
NEED_WEIGHTS = {
    "geneval",
    "geneval-hf",
    "t2i-compbench",
    "grounding-dino",
    "git-vqa",
}  # their own tests check the same
CATS = parse_prompt("three cats").model_copy(
    update={"explanation": "Three cats.", "checklist": (ChecklistItem(question="Are there three cats?"),)}
)
ODD = {
    "1 x 1": Image.new("RGB", (1, 1), "red"),
    "4000 x 10": Image.new("RGB", (4000, 10), "red"),
    "CMYK": Image.new("CMYK", (40, 30), (0, 200, 200, 0)),
    "RGBA": Image.new("RGBA", (40, 30), (255, 0, 0, 90)),
    "palette": Image.new("P", (40, 30)),
    "grey, 16 bits": Image.new("I;16", (40, 30)),
    "bilevel": Image.new("1", (40, 30)),
    "0 x 5": Image.new("RGB", (0, 5)),
}


def test_every_reward_is_tested_here() -> None:
    tested = {name.split(":")[0] for name in REWARDS_TO_TEST} - {"sharpness"}
    assert tested == set(REWARDS) - NEED_WEIGHTS


@pytest.fixture(scope="module")
def detector() -> Icons:
    return Icons()


@pytest.fixture(scope="module")
def judge_url(detector: Icons) -> Iterator[str]:
    with judging(detector) as url:
        yield url


def tick(detector: Icons, handler: Any, body: dict[str, Any]) -> None:
    """Answer a checklist's question: are there three cats in the image?"""
    (score,) = detector([image_of(body)], [CATS])
    right = isinstance(score, Score) and score.value == 1
    first = [("yes", -0.1), ("no", -2.4)] if right else [("no", -0.1), ("yes", -2.4)]
    say(first[0][0], first=first)(handler, body)


@pytest.fixture(scope="module", params=REWARDS_TO_TEST)
def reward(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory, detector: Icons, judge_url: str
) -> Iterator[Reward]:
    """Return each reward by name; VLM judges ask a real server that answers by the icon detector."""
    with ExitStack() as stack, pytest.MonkeyPatch.context() as patch:
        patch.setenv("MILR_CACHE", str(tmp_path_factory.mktemp("cache")))
        use_made_up_words(patch, tmp_path_factory.mktemp("data"))
        asks_items = request.param in ("checklist", "geneval2", "t2i-corebench")
        judge = JudgeServer(partial(tick, detector)) if asks_items else None
        url = judge_url if judge is None else stack.enter_context(judge).url
        model = Judge(detector).name if judge is None else None
        vlm = VlmClient(VlmSettings(url=url, model=model, first_wait=0))
        stack.callback(vlm.close)
        name = request.param
        if name == "http":
            name = f"http://127.0.0.1:{stack.enter_context(example_server())}/score"
        if name == "sharpness":
            patch.setitem(REWARDS, name, Entry("examples.sharpness_reward:Sharpness", "how sharp an image is"))  # type: ignore[misc]
        yield load_reward(name, model=FakeModel(), vlm=vlm)


class example_server:  # noqa: N801
    """Start the example's server in its own process, as a user does."""

    def __enter__(self) -> int:
        code = (
            "import runpy, sys; from http.server import HTTPServer; serve = HTTPServer.serve_forever\n"
            "def forever(self): print(self.server_address[1], flush=True); serve(self)\n"
            "HTTPServer.serve_forever = forever; sys.argv[1:] = ['0']\n"
            f"runpy.run_path({str(EXAMPLES / 'reward_server.py')!r}, run_name='__main__')"
        )
        self._process = subprocess.Popen(
            [sys.executable, "-c", code], stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True
        )
        assert self._process.stdout is not None
        return int(self._process.stdout.readline())

    def __exit__(self, *_: object) -> None:
        self._process.terminate()
        self._process.communicate()


def scenes() -> tuple[list[Image.Image], list[Task]]:
    images: list[Image.Image] = []
    for name in ("three_cats.png", "apple_and_clock.png", "dog_above_bench.png"):
        with Image.open(GOLDEN / name) as image:
            image.load()
            images.append(image.copy())
    lines = Image.new("RGB", (50, 40), "white")
    ImageDraw.Draw(lines).line((0, 0, 49, 39), "black", 3)
    tasks = [CATS, CATS, CATS.model_copy(update={"prompt": "a dog"}), CATS]
    return [*images, lines], tasks


def test_a_batch_equals_single_calls_in_any_order_and_repeats(reward: Reward) -> None:
    images, tasks = scenes()
    batch = reward(images, tasks)
    assert len(batch) == 4
    assert batch == [reward([p], [t])[0] for p, t in zip(images, tasks, strict=True)]
    assert batch[::-1] == reward(images[::-1], tasks[::-1])
    assert batch == reward(images, tasks)
    assert reward([], []) == []
    for score in batch:
        assert isinstance(score, Score), score
        assert (score.reward, score.stop_at) == (reward.name, reward.stop_at)
        assert all(0 <= part <= 1 for part in score.parts.values())


def test_a_reward_says_its_version_and_its_stop(reward: Reward) -> None:
    assert re.search(r"@[1-9]", reward.name)
    assert 0 < reward.stop_at <= 1


@pytest.mark.parametrize("color", ["white", "black", (220, 221, 224)])
def test_a_blank_image_does_not_pass(reward: Reward, color: str) -> None:
    if reward.name.startswith(("self:p-yes", "checklist-self")) and color == "white":
        pytest.skip("the fake model says yes to what is bright")
    (score,) = reward([Image.new("RGB", (128, 128), color)], [CATS])
    assert not isinstance(score, Score) or score.value <= reward.stop_at


@pytest.mark.parametrize("odd", ODD)
def test_odd_images_are_scored_or_refused_by_name(reward: Reward, odd: str) -> None:
    (score,) = reward([ODD[odd]], [CATS])
    if isinstance(score, Unscored):
        width, height = ODD[odd].size
        assert f"{width} x {height}" in score.reason
    else:
        assert odd != "0 x 5"


def test_an_unscorable_image_does_not_affect_its_neighbours(reward: Reward) -> None:
    images, tasks = scenes()
    alone = reward(images, tasks)
    beside = reward([images[0], ODD["0 x 5"], *images[1:]], [tasks[0], CATS, *tasks[1:]])
    assert isinstance(beside[1], Unscored)
    assert [beside[0], *beside[2:]] == alone


def test_unequal_lengths_are_refused(reward: Reward) -> None:
    with pytest.raises(ValueError):
        reward([Image.new("RGB", (8, 8))], [])


def test_scores_can_be_kept_in_a_run(reward: Reward) -> None:
    from pydantic import TypeAdapter
    from pydantic_core import to_json

    images, tasks = scenes()
    for score in reward(images, tasks):
        assert TypeAdapter(Score | Unscored).validate_json(to_json(score)) == score
