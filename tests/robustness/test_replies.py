"""Seeded and hostile server replies: every parser answers or refuses in one line, quickly."""

from __future__ import annotations

import random

import pytest

from bench import reply_times
from milr.rewards.vlm.messages import LastingFault, PassingFault
from milr.rewards.vlm.parsers import Unreadable
from milr.serve.judge import BadRequest, find_prompt
from milr.untrusted import UntrustedError
from tests.robustness.rounds import ROUNDS

ALLOWED = (Unreadable, LastingFault, PassingFault, BadRequest, UntrustedError)
"""The errors with which a parser refuses."""


def make_replies(many: int, seed: int) -> list[str]:
    """Return texts from pieces of verdicts in any order and number, some of 64 KB."""
    dice = random.Random(seed)
    pieces = [
        *reply_times.UNITS,
        *reply_times.BEGINNINGS,
        "-1",
        "0.5",
        "2/2",
        "NaN",
        "\x00",
        "\x1b[2J",
        "\u202e",
        "\ud7ff",
    ]
    made: list[str] = []
    for _ in range(many):
        words = [dice.choice(pieces) * dice.choice((1, 1, 1, 2, 50)) for _ in range(dice.randrange(1, 12))]
        text = "".join(words)
        made.append(text * (2**16 // max(1, len(text))) if dice.random() < 0.02 else text)
    return made


@pytest.mark.parametrize("name", reply_times.PARSERS)
def test_any_server_reply_is_read_or_refused_in_one_line(name: str) -> None:
    parser = reply_times.PARSERS[name]
    for text in make_replies(60 * ROUNDS, seed=29):
        try:
            parser(text)
        except ALLOWED as error:
            assert "\n" not in str(error) and len(str(error)) < 2000, (name, text[:200])


@pytest.mark.slow
@pytest.mark.parametrize("name", reply_times.PARSERS)
def test_64_kilobytes_of_any_repeated_sign_are_read_at_once(name: str) -> None:
    """A parser of quadratic time would take minutes for one of these; `bench/reply_times.py` measures it."""
    parser = reply_times.PARSERS[name]
    dice = random.Random(name)
    for unit in reply_times.UNITS:
        beginning, end = dice.choice(reply_times.BEGINNINGS), dice.choice(reply_times.ENDS)
        try:
            parser(reply_times.make_text(beginning, unit, end, 2**16))
        except ALLOWED:
            continue


def test_a_judges_questions_are_recognised_with_any_content() -> None:
    one, two = 'Is this "{prompt}"?', "Prompt: {prompt}\nMeaning: {explanation}\nScore?"
    assert find_prompt(one, 'Is this "a "cat"?"?') == 'a "cat"?'
    assert find_prompt(one, 'Is this ""?') == "" and find_prompt(one, 'Is that "x"?') is None
    assert find_prompt(two, "Prompt: a\nMeaning: b\nMeaning: c\nScore?") == "a\nMeaning: b"
    assert find_prompt(two, "Prompt: a\nScore?") is None and find_prompt("ab{prompt}bc", "abc") is None
    assert find_prompt(two, "Prompt: " + "\nMeaning: " * 7000 + "\nScore!") is None
