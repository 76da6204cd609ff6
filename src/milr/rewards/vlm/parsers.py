"""Parsers of VLM judges' answers: pure functions that return a verdict or raise `Unreadable`.

The rule of all of them: what can be read in two ways is not read. A label that stands twice with different numbers, a
number outside the protocol's range, a fraction of another range: each is `Unreadable`, never a guess, never a zero.
"""

from __future__ import annotations

import ast
import json
import math
import re
import unicodedata
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import cast

LONGEST = 65_536
"""Characters: no protocol's answer comes near it."""
_STARTS = 32  # places where a JSON object may begin that are looked at
_MARKS = r"[\s*_`'\"]*"  # what Markdown and JSON put around words


class Unreadable(ValueError):
    """An answer that holds no verdict in its protocol's form; the message says what is wrong, in one line."""


@dataclass(frozen=True)
class Answer:
    """A VLM judge's answer to one question."""

    text: str
    model: str = ""
    """As the server names itself: the snapshot that really answered."""
    cut: bool = False
    """The answer ended at the token limit."""
    first_tokens: tuple[tuple[str, float], ...] = ()
    """The likeliest tokens of the first place with their log probabilities, where they were asked for."""
    tokens_in: int = 0
    tokens_out: int = 0


@dataclass(frozen=True)
class Verdict:
    """A VLM judge's answer as numbers."""

    value: float
    """In [0, 1]."""
    parts: Mapping[str, float] = field(default_factory=dict[str, float])
    explanation: str = ""


def clean(answer: Answer) -> str:
    """The answer's text with full-width signs as ASCII and the typographic minus as a hyphen.

    Raises:
        Unreadable: Nothing was answered, a refusal, or far more text than any protocol's answer.
    """
    if len(answer.text) > LONGEST:
        raise Unreadable(f"the answer has {len(answer.text):,} characters, and a verdict is short")
    text = unicodedata.normalize("NFKC", answer.text).replace("\u2212", "-").replace("\u2013", "-").strip()
    if not text:
        raise Unreadable("the answer is empty")
    if refuses(text):
        raise Unreadable(f"the VLM judge refuses: {quote(text)}")
    return text


def refuses(text: str) -> bool:
    """Whether an answer is one of the usual refusals."""
    return bool(
        re.match(
            r"(i['\u2019]?m|i am|we['\u2019]?re) (really |very |so )?(sorry|unable|not able)"
            r"|sorry\b|i (can(not|['\u2019]t)|won['\u2019]t|am unable)|unfortunately\b|as an ai\b",
            text.lower(),
        )
    )


def read_binary(answer: Answer) -> Verdict:
    """The `gpt-4o` protocol: 0 for a right image, -1 for a wrong one.

    The authors' code takes the first 0 or -1 that it finds, inside longer numbers too; here a text with both, or with
    another number, is not read, since "10" would else be a right image.
    """
    text = clean(answer)
    found = {match.group() for match in re.finditer(r"(?<![A-Za-z\d])-?\d+(?:[ \t]*[.,/:-][ \t]*\d+)*%?", text)}
    if found == {"0"}:
        return Verdict(1.0, explanation="the judge says 0: right")
    if found == {"-1"}:
        return Verdict(0.0, explanation="the judge says -1: wrong")
    wanted = "both 0 and -1" if found == {"0", "-1"} else "neither 0 nor -1"
    raise Unreadable(f"the answer says {wanted}: {quote(text)}")


def read_yes(answer: Answer) -> Verdict:
    """p(yes) / (p(yes) + p(no)) of the first token, whatever its case and leading space."""
    if not answer.first_tokens:
        raise Unreadable("the server gives no token probabilities; it must support logprobs, or ask without ':p-yes'")
    chances = {"yes": 0.0, "no": 0.0}
    for token, log_probability in answer.first_tokens:
        word = token.strip().lower()
        if word in chances and not math.isnan(log_probability):
            chances[word] += math.exp(min(0.0, log_probability))
    total = chances["yes"] + chances["no"]
    if total <= 0:
        likely = ", ".join(repr(token) for token, _ in answer.first_tokens[:3])
        raise Unreadable(f"neither yes nor no is among the likeliest tokens ({quote(likely)})")
    value = chances["yes"] / total
    return Verdict(value, explanation=f"the judge says yes with a probability of {value:.2f}")


def read_wise(answer: Answer) -> Verdict:
    """WISE's legacy protocol: three digits from 0 to 2, WiScore = (0.7 c + 0.2 r + 0.1 a) / 2.

    Where no name is found, the first three lines that are a single digit count, as in WISE's own reader.
    """
    text = clean(answer)
    names = ("Consistency", "Realism", "Aesthetic Quality")
    found = {name: _labelled(text, name, 0, 2) for name in names}
    if all(value is None for value in found.values()):
        digits = [line.strip() for line in text.splitlines() if re.fullmatch(r"\s*[0-2]\s*", line)][:3]
        if len(digits) == 3:
            found = dict(zip(names, map(float, digits), strict=True))
    missing = [name for name, value in found.items() if value is None]
    if missing:
        raise Unreadable(f"no score for {', '.join(missing)} in the answer{_cut(answer)}: {quote(text)}")
    scores = [_whole(name, value) for name, value in found.items() if value is not None]
    value = (7 * scores[0] + 2 * scores[1] + scores[2]) / 20  # in whole numbers, so that three twos are 1.0
    said = ", ".join(f"{name.lower()} {score:g}" for name, score in zip(names, scores, strict=True))
    parts = {name.lower(): score / 2 for name, score in zip(names, scores, strict=True)}
    return Verdict(value, parts, f"{said} of 2 each")


def read_wise_verified(answer: Answer) -> Verdict:
    """WISE_Verified: one line, "Score: 0" or "Score: 1"."""
    text = clean(answer)
    score = _labelled(text, "Score", 0, 1)
    if score is None:
        raise Unreadable(f"no 'Score: 0' or 'Score: 1' in the answer{_cut(answer)}: {quote(text)}")
    value = _whole("Score", score)
    return Verdict(value, explanation=f"the judge says Score: {value:g}")


def read_unified(answer: Answer) -> Verdict:
    """UnifiedReward's pointwise protocol: a number from 1 to 5 after "Final Score:", value (s - 1) / 4.

    The marks of its elements, "element (type): 0 or 1", become parts.
    """
    text = clean(answer)
    score = _labelled(text, "Final Score", 1, 5, cut=answer.cut)
    if score is None:
        raise Unreadable(f"no 'Final Score:' in the answer{_cut(answer)}: {quote(text)}")
    marks = re.finditer(r"^[\s*-]*([^\n:(]{1,80}?)\s*\(([^\n()]{1,40})\)\s*:\s*([01])\b(?![./\d])", text, re.MULTILINE)
    parts = {f"{mark[1].strip()} ({mark[2].strip()})": float(mark[3]) for mark in marks}
    return Verdict((score - 1) / 4, parts, f"final score {score:g} of 5")


def read_self_verdict(answer: Answer) -> Verdict:
    """The self-reward's JSON: Score 0 for right, -1 for wrong, with Thought and Reason; read leniently.

    Fences, talk around it, single quotes, trailing commas and a cut-off end are borne, as long as one Score is there.
    """
    text = clean(answer)
    found = find_object(text)
    score: object = None
    if found is not None:
        score = next((value for key, value in found.items() if key.lower() == "score"), None)
    if score is None:
        written = set(re.findall(r"[\"']?\bscore\b[\"']?\s*[:=]\s*[\"']?(-?\d+(?:\.\d+)?)", text, re.IGNORECASE))
        score = written.pop() if len(written) == 1 else None
    if isinstance(score, bool) or not isinstance(score, int | float | str):
        raise Unreadable(f"no one Score in the answer{_cut(answer)}: {quote(text)}")
    said = str(score).strip()
    if said not in ("0", "-1", "0.0", "-1.0"):
        raise Unreadable(f"Score is neither 0 nor -1 in the answer: {quote(text)}")
    reason = ""
    if found is not None:
        reason = str(next((value for key, value in found.items() if key.lower() == "reason"), ""))
    right = said.startswith("0")
    return Verdict(float(right), explanation=quote(reason) if reason else "right" if right else "wrong")


def find_object(text: str) -> dict[str, object] | None:
    """The first JSON object in a text that has any key, also written as Python does, or None."""
    decoder = json.JSONDecoder(strict=False)
    starts = [match.start() for match in re.finditer(r"\{", text)][:_STARTS]
    for start in starts:
        try:
            found: object = decoder.raw_decode(text, start)[0]
        except (ValueError, RecursionError):
            end = text.find("}", start)
            found = _as_python(text[start : end + 1]) if end > 0 else None
        if isinstance(found, dict) and found:
            entries = cast("dict[object, object]", found)
            return {str(key): value for key, value in entries.items()}
    return None


def quote(text: str, longest: int = 80) -> str:
    """The text on one line, in quotes, without what cannot be printed, cut where it is long."""
    line = " ".join("".join(c if c.isprintable() else " " for c in text[: 4 * longest]).split())
    return repr(line if len(line) <= longest else line[: longest - 3] + "...")


def _labelled(text: str, label: str, least: int, most: int, *, cut: bool = False) -> float | None:
    """Return the number after "label:", written alone or as a fraction of `most`; None if the label has none.

    Raises:
        Unreadable: Two numbers that differ, a number out of range, a fraction of something else, or a number that may
            go on after the cut.
    """
    words = r"\s+".join(map(re.escape, label.split()))
    pattern = rf"(?<![a-z]){words}{_MARKS}(?:\([^)\n]{{0,20}}\))?{_MARKS}[:=]?{_MARKS}(-?\d+(?:[.,]\d+)?)"
    fraction = r"(?:\s*(?:/|out of|of)\s*(\d+(?:\.\d+)?))?(?![\d%])"
    values: set[float] = set()
    for match in re.finditer(pattern + fraction, text, re.IGNORECASE):
        if cut and match.end() >= len(text):
            raise Unreadable(f"the answer is cut off after {label}")
        value = float(match[1].replace(",", "."))
        if match[2] is not None and float(match[2]) != most:
            raise Unreadable(f"{label} is given of {match[2]} where the protocol's range ends at {most}")
        if not least <= value <= most:
            raise Unreadable(f"{label} is {value:g}, outside {least} to {most}")
        values.add(value)
    if len(values) > 1:
        raise Unreadable(f"{label} stands in the answer with {' and with '.join(f'{v:g}' for v in sorted(values))}")
    return values.pop() if values else None


def _whole(label: str, value: float) -> float:
    if value != int(value):
        raise Unreadable(f"{label} is {value:g}, and the protocol knows whole scores only")
    return value


def _cut(answer: Answer) -> str:
    return ", which was cut off at the token limit" if answer.cut else ""


def _as_python(text: str) -> object:
    """A small object with single quotes or trailing commas."""
    if len(text) > 4096:
        return None
    try:
        return ast.literal_eval(text)
    except (ValueError, SyntaxError, MemoryError, RecursionError, TypeError):
        pass
    try:
        return json.loads(re.sub(r",\s*([}\]])", r"\1", text), strict=False)
    except (ValueError, RecursionError):
        return None


def likeliest(entries: Sequence[tuple[str, float]]) -> tuple[tuple[str, float], ...]:
    """Tokens with their log probabilities, the likeliest first."""
    return tuple(sorted(entries, key=lambda entry: (-entry[1], entry[0])))
