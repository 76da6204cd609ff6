"""Measures how long replies of servers keep their parsers busy: every parser, every repeated sign, twice as long each.

Run: python -m bench.reply_times. It prints the slowest parser and the worst growth from 32 to 64 KB; a parser that is
linear in the reply's length has a growth of about 2, a quadratic one of 4. Exit code 1 above 3, or above half a second.
What else runs on the machine can only add to a time, so a time that looks too long is measured again: the smallest of
several is taken, of both lengths in turn.
"""

from __future__ import annotations

import gc
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass
from datetime import UTC, datetime

from milr.rewards.vlm import messages, parsers
from milr.rewards.vlm.parsers import Answer
from milr.serve.judge import recognise
from milr.untrusted import one_line, printable

BEGINNINGS = (
    *("", "Score", "Score:", "Final Score", "Final Score: 3 (", "Consistency: 1", "Realism", "the answer is", "yes"),
    *(
        "{",
        '{"score": 0, "reason": "',
        "{'score'",
        "```json",
        "<think>",
        "a (b",
        "HTTP",
        "sk-",
        "bearer",
        "1",
        "- ",
        "x",
    ),
)
UNITS = (
    *(" ", "\n", "\t", "\u3000", "*", "-", ":", "(", ")", "{", "}", "[", "]", '"', "'", "\\", "`", "/", "=", "."),
    *(",", "<", ">", "#", "|", "$", "_", "%", "0", "1", "a", "K", "\u0120", "\ufb03", "\u2212", "the ", "- ", "1) "),
    *("score ", "Score: 1 ", "score:", '{"score": ', '{"a":', "a(", "a (b): ", "<a", "</a>", "<think>", "</think>"),
    *("<think", "1. ", "of ", "/ ", "is ", "my the ", "sk-", "sk-*", "Bearer ", "bearer\n", "a1", "é", "猫", "\r\n"),
)
ENDS = ("", "x", " 1", "}")
SIZES = (2**15, 2**16)
MOST_SECONDS, MOST_GROWTH = 0.5, 3.0
_TOO_FAST = 0.005
"""Seconds of the longer text below which growth is not measured: the clock and the caches would be."""
_SUSPECT = 2.5
"""Growth above which a pair is measured again."""
_REPEATS = 50
"""Most times that it is."""


def _read(parser: Callable[[Answer], object]) -> Callable[[str], object]:
    return lambda text: parser(Answer(text, cut=len(text) % 2 == 0, first_tokens=((text, -0.1),)))


PARSERS: Mapping[str, Callable[[str], object]] = {
    **{
        parser.__name__: _read(parser)
        for parser in (
            parsers.read_binary,
            parsers.read_yes,
            parsers.read_wise_legacy,
            parsers.read_wise,
            parsers.read_unified,
            parsers.read_self_verdict,
        )
    },
    "find_object": parsers.find_object,
    "quote": parsers.quote,
    "refuses": parsers.refuses,
    "redact": messages.redact,
    "find_fault": lambda text: messages.find_fault(400, {}, text.encode(), "host", "m", 1.0),
    "read_completion": lambda text: messages.read_completion(text.encode(), "host", True),
    "read_object": lambda text: messages.read_object(text.encode(), "host"),
    "retry_after": lambda text: messages.retry_after({"retry-after": text}, datetime.now(UTC)),
    "recognise": recognise,
    "printable": printable,
    "one_line": one_line,
}
"""A reader of untrusted text; its errors count as answers."""


@dataclass(frozen=True)
class Measured:
    """The time that one text of two lengths takes one parser."""

    parser: str
    text: str
    """Its beginning, repeated unit and end."""
    seconds: float
    """Seconds for the longer text."""
    growth: float
    """From the shorter to the longer; 1 if both are too fast to tell."""


def measure(beginnings: tuple[str, ...] = BEGINNINGS, sizes: tuple[int, int] = SIZES) -> Iterator[Measured]:
    """Measure every parser with every text."""
    for name, parser in PARSERS.items():
        for beginning in beginnings:
            for unit in UNITS:
                for end in ENDS:
                    short, long = _time_both(parser, *(make_text(beginning, unit, end, size) for size in sizes))
                    growth = long / short if long > _TOO_FAST else 1.0
                    yield Measured(name, f"{beginning!r} + {unit!r} * n + {end!r}", long, growth)


def make_text(beginning: str, unit: str, end: str, size: int) -> str:
    """Return a text of that length: a repeated unit between beginning and end."""
    return (beginning + unit * (size // len(unit)))[: size - len(end)] + end


def _time_both(parser: Callable[[str], object], shorter: str, longer: str) -> tuple[float, float]:
    """Return the seconds of two texts: of one measurement, or the smallest of several where the first looks wrong."""
    short, long = _time(parser, shorter), _time(parser, longer)
    for _ in range(_REPEATS):
        if long < _TOO_FAST or (long < _SUSPECT * short and long < MOST_SECONDS):
            break
        short, long = min(short, _time(parser, shorter)), min(long, _time(parser, longer))
    return short, long


def _time(parser: Callable[[str], object], text: str) -> float:
    started = time.process_time()
    with suppress(Exception):
        parser(text)
    return time.process_time() - started


def main() -> int:
    """Print the slowest and the fastest growing; return 1 if one is out of bounds."""
    gc.disable()  # a collection in the middle of a text is not its parser's time
    measured = list(measure())
    slowest, steepest = max(measured, key=lambda one: one.seconds), max(measured, key=lambda one: one.growth)
    print(f"{len(measured):,} measurements: {len(PARSERS)} parsers, {SIZES[1]:,} characters")
    print(f"slowest: {slowest.seconds:.3f} s, {slowest.parser} of {slowest.text}")
    print(f"steepest: {steepest.growth:.1f} times for twice the length, {steepest.parser} of {steepest.text}")
    for one in sorted(measured, key=lambda one: -one.seconds)[:10]:
        print(f"  {one.seconds:.3f} s, {one.growth:.1f} times: {one.parser} of {one.text}")
    return int(slowest.seconds > MOST_SECONDS or steepest.growth > MOST_GROWTH)


if __name__ == "__main__":
    sys.exit(main())
