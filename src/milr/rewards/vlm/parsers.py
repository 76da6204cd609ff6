"""Parsers of VLM judges' answers: pure functions that return a verdict or raise `Unreadable`.

The rule for all of them: an ambiguous answer is not read. A label with two different numbers, a number outside the
protocol's range, a fraction of another range: each is `Unreadable`, never a guess, never a zero.
"""

from __future__ import annotations

import ast
import json
import math
import re
import unicodedata
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cache
from typing import cast

LONGEST = 65_536
"""Most characters of an answer, far more than any protocol's answer has."""
_STARTS = 32  # positions at which a JSON object may begin that are tried
_SIGNS = str.maketrans(dict.fromkeys("*_`'\"{}#>|\\$", " "))  # characters that Markdown, JSON and TeX put around words
_RAW_BLANKS = str.maketrans("\u0120\u010a\u2581", "   ")
_AROUND = "*_`'\"()[]{}.,:;! "
_THINKING = re.compile(r"(?:<(/?)(?:think|thinking|thought|reasoning)>)", re.IGNORECASE)
_BINARY = re.compile(
    r"^(?:- )?(?:(?:the|my|final|boxed) )*(?:(?:answer|verdict|score|result)(?: is)? ?[:=]? ?)?| ?[.!]$", re.I
)
_LEAD = "the|my|final|overall|answer|verdict|result"  # words before a label that change nothing
_ENDS = re.compile(r" ?[.,;!)\]]* ?$| ?\(|[.,;]? (?:-|because|since|as)(?: (?!\d)|$)", re.IGNORECASE)
"""Text that may follow a verdict in its sentence: nothing, or its reason."""
_SCORE_KEY = re.compile(r"[\"']score[\"']\s*:\s*[\"']?(-?\d+(?:\.\d+)?)", re.IGNORECASE)
_MARK = re.compile(r"[\s*-]*([^:(]{1,80}?)\s*\(([^()]{1,40})\)\s*:\s*([01])\b(?![./\d])")
_LONGEST_MARK = 200


class Unreadable(ValueError):
    """The error for an answer without a verdict in its protocol's form; the message gives the reason in one line."""


@dataclass(frozen=True)
class Answer:
    """A VLM judge's answer to one question."""

    text: str
    model: str = ""
    """The server's name of the model: the snapshot that really answered."""
    cut: bool = False
    """True if the answer ended at the token limit."""
    first_tokens: tuple[tuple[str, float], ...] = ()
    """The most probable tokens of the first position with their log probabilities, if they were requested."""
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
    """Return an answer's text after its thinking, with full-width signs as ASCII, the typographic minus as a hyphen.

    Raises:
        Unreadable: Nothing was answered, the thinking does not end, or far more text than any protocol's answer.
    """
    text = answer.text
    if len(text) <= LONGEST:
        text = unicodedata.normalize("NFKC", text).replace("\u2212", "-").replace("\u2013", "-")
    if len(text) > LONGEST:
        raise Unreadable(f"the answer has {len(text):,} characters, and a verdict is short")
    parts = _THINKING.split(text)  # text, slash or nothing, text, ...
    closed = max((place for place, slash in enumerate(parts) if place % 2 and slash), default=-1)
    if len(parts) > closed + 2:  # opened after that, and not closed
        raise Unreadable(f"the answer ends inside its thinking{_cut(answer)}: {quote(text)}")
    said = parts[-1].strip()
    if not said:
        raise Unreadable(f"the answer is empty{_cut(answer)}")
    return said


def refuses(text: str) -> bool:
    """Return true if an answer is one of the usual refusals."""
    return bool(
        re.match(
            r"(i['\u2019]?m|i am|we['\u2019]?re) (really |very |so )?(sorry|unable|not able)"
            r"|sorry\b|i (can(not|['\u2019]t)|won['\u2019]t|am unable)|unfortunately\b|as an ai\b",
            text.lower(),
        )
    )


def read_binary(answer: Answer) -> Verdict:
    """Read the `gpt-4o` protocol's answer: 0 for a right image, -1 for a wrong one, and nothing else.

    The authors' code takes the first 0 or -1 that it finds: "There are 0 apples" would be a right image.
    """
    text = clean(answer)
    found = {_BINARY.sub("", one) for one in _lines(text)}
    if answer.cut:
        raise _unreadable(text, "the answer goes on after the token limit")
    if found == {"0"}:
        return Verdict(1.0, explanation="the judge says 0: right")
    if found == {"-1"}:
        return Verdict(0.0, explanation="the judge says -1: wrong")
    raise _unreadable(text, "the answer is neither a bare 0 nor a bare -1")


def read_yes(answer: Answer) -> Verdict:
    """Read p(yes) / (p(yes) + p(no)) of the first token, in any case and with any signs around it.

    If both together have less than half of the probability, there is none, because the judge would have given another
    answer.
    """
    if not answer.first_tokens:
        raise Unreadable("the server gives no token probabilities; it must support logprobs, or ask without ':p-yes'")
    chances = {"yes": 0.0, "no": 0.0}
    for token, log_probability in answer.first_tokens:
        word = plain_token(token).strip(_AROUND).lower()
        if word in chances and not math.isnan(log_probability):
            chances[word] += math.exp(min(0.0, log_probability))
    total = chances["yes"] + chances["no"]
    if total < 0.5:
        likely = ", ".join(repr(token) for token, _ in answer.first_tokens[:3])
        raise Unreadable(f"yes and no together have a probability of {total:.2g}; the likeliest are {quote(likely)}")
    value = chances["yes"] / total
    return Verdict(value, explanation=f"the judge says yes with a probability of {value:.2f}")


def plain_token(token: str) -> str:
    """Return a token as text: tokenizers' marks for blanks and line ends become blanks."""
    return token.translate(_RAW_BLANKS).strip()


def read_wise_legacy(answer: Answer) -> Verdict:
    """Read WISE's protocol of 2025: three digits from 0 to 2, WiScore = (0.7 c + 0.2 r + 0.1 a) / 2.

    Three lines of one digit, in an answer without names, are taken in the names' order, as WISE's own reader does.
    """
    text = clean(answer)
    names = ("Consistency", "Realism", "Aesthetic Quality")
    found = _labelled(text, names, 0, 2, cut=answer.cut)
    if not found and not answer.cut:
        digits = [line for line in _lines(text) if line in ("0", "1", "2")]
        found = dict(zip(names, map(float, digits), strict=True)) if len(digits) == len(names) else {}
    missing = [name for name in names if name not in found]
    if missing:
        raise _unreadable(text, f"no score for {', '.join(missing)} in the answer{_cut(answer)}")
    scores = [_whole(name, found[name]) for name in names]
    value = (7 * scores[0] + 2 * scores[1] + scores[2]) / 20  # in whole numbers, so that three twos are 1.0
    said = ", ".join(f"{name.lower()} {score:g}" for name, score in zip(names, scores, strict=True))
    parts = {name.lower(): score / 2 for name, score in zip(names, scores, strict=True)}
    return Verdict(value, parts, f"{said} of 2 each")


def read_wise(answer: Answer) -> Verdict:
    """Read WISE_Verified's line, "Score: 0" or "Score: 1"; a bare 0 or 1 is one too, as in WISE's own reader."""
    text = clean(answer)
    found = _labelled(text, ("Score",), 0, 1, cut=answer.cut)
    if not found and not answer.cut and _lines(text) in (["0"], ["1"]):
        found = {"Score": float(_lines(text)[0])}
    if not found:
        raise _unreadable(text, f"no 'Score: 0' or 'Score: 1' in the answer{_cut(answer)}")
    value = _whole("Score", found["Score"])
    return Verdict(value, explanation=f"the judge says Score: {value:g}")


def read_unified(answer: Answer) -> Verdict:
    """Read UnifiedReward's pointwise protocol: a number from 1 to 5 after "Final Score:", value (s - 1) / 4.

    The marks of its elements, "element (type): 0 or 1", become parts.
    """
    text = clean(answer)
    found = _labelled(text, ("Final Score",), 1, 5, cut=answer.cut)
    if not found:
        raise _unreadable(text, f"no 'Final Score:' in the answer{_cut(answer)}")
    score = found["Final Score"]
    marks = [mark for line in text.splitlines() if len(line) <= _LONGEST_MARK and (mark := _MARK.match(line))]
    parts = {f"{mark[1].strip()} ({mark[2].strip()})": float(mark[3]) for mark in marks}
    return Verdict((score - 1) / 4, parts, f"final score {score:g} of 5")


def read_self_verdict(answer: Answer) -> Verdict:
    """Read the self-reward's JSON: Score 0 for right, -1 for wrong, with Thought and Reason; leniently.

    Fences, text around it, single quotes, trailing commas and a cut-off end are accepted if there is one Score.
    """
    text = clean(answer)
    found = find_object(text) or {}
    scores = [value for key, value in found.items() if key.lower() == "score"] or list(
        _labelled(text, ("Score",), -1, 0, cut=answer.cut).values()
    )
    written = {float(number) for number in _SCORE_KEY.findall(text)}
    score = scores[0] if scores else written.pop() if len(written) == 1 else None
    if isinstance(score, bool) or not isinstance(score, int | float | str) or len(written) > 1:
        raise _unreadable(text, f"no one Score in the answer{_cut(answer)}")
    said = str(score).strip()
    if said not in ("0", "-1", "0.0", "-1.0", "-0.0"):
        raise _unreadable(text, "Score is neither 0 nor -1 in the answer")
    reason = str(next((value for key, value in found.items() if key.lower() == "reason"), ""))
    right = float(said) == 0
    return Verdict(float(right), explanation=quote(reason) if reason else "right" if right else "wrong")


def find_object(text: str) -> dict[str, object] | None:
    """Return the first JSON object in a text that has any key, also in Python's notation, or None."""
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
    """Return the text on one line, in quotes, without unprintable characters, shortened if it is long."""
    line = " ".join("".join(c if c.isprintable() else " " for c in text[: 4 * longest]).split())
    return repr(line if len(line) <= longest else line[: longest - 3] + "...")


def _labelled(text: str, names: Sequence[str], least: int, most: int, *, cut: bool = False) -> dict[str, float]:
    """Return the number that each name is given as a verdict; names without one are left out.

    A verdict is a JSON entry, or a sentence that begins with "name: number", for several names in a row if need be, the
    number alone or as a fraction of `most`. A number in the middle of a sentence is not a verdict.

    Raises:
        Unreadable: Two numbers that differ, a number out of range, a fraction of something else, or a number that may
            go on after the cut.
    """
    item = _item(tuple(names))
    by_name = {name.lower(): name for name in names}
    sentences = _sentences(text)
    found: dict[str, float] = {}
    for place, sentence in enumerate(sentences, start=1):
        read: list[re.Match[str]] = []
        while match := item.match(sentence, read[-1].end() if read else 0):
            read.append(match)
        rest = sentence[read[-1].end() :] if read else "x"
        if not _ENDS.match(rest):
            continue
        if cut and place == len(sentences) and not rest.strip():
            raise _unreadable(text, f"the answer is cut off after {by_name[read[-1][1].lower()]}")
        for match in read:
            name, value = by_name[match[1].lower()], float(match[2].replace(",", "."))
            if match[3] is not None and float(match[3]) != most:
                raise Unreadable(f"{name} is given of {match[3]} where the protocol's range ends at {most}")
            if not least <= value <= most:
                raise Unreadable(f"{name} is {value:g}, outside {least} to {most}")
            if found.setdefault(name, value) != value:
                both = sorted((found[name], value))
                raise Unreadable(f"{name} stands in the answer with {' and with '.join(f'{v:g}' for v in both)}")
    return found


@cache
def _item(names: tuple[str, ...]) -> re.Pattern[str]:
    """Return the pattern of one "name: number" in plain text, with words that may come before it."""
    either = "|".join(map(re.escape, names))
    return re.compile(
        rf"(?: ?[,;] ?|[-\u2022] ?|\d\) ?| )?(?:(?:{_LEAD}):? )*({either}) ?(?:\([^()]{{0,20}}\))? ?"
        r"(?:[:=]|is)? ?(-?\d+(?:[.,]\d+)?)(?: ?\(?(?:/|out of|of) ?(\d+(?:\.\d+)?))?(?![\w%]|[.,/]\d)",
        re.IGNORECASE,
    )


def _sentences(text: str) -> list[str]:
    """Return the sentences of a text, or the entries of the JSON object that it is, in plain text."""
    if re.match(r"(?:```\w*\s*)?\{", text):
        found = find_object(text)
        if found is not None:
            return [" ".join(f"{key}: {value}".replace("_", " ").split()) for key, value in found.items()]
    return [sentence for line in _lines(text) for sentence in re.split(r"(?<=[.!?]) ", line)]


def _lines(text: str) -> list[str]:
    """Return the lines with content, without tags and the signs of Markdown and JSON, with single blanks."""
    plain = re.sub(r"</?[A-Za-z_]{1,20}>", " ", text).translate(_SIGNS)
    return [line for line in (" ".join(one.split()) for one in plain.splitlines()) if line]


def _unreadable(text: str, reason: str) -> Unreadable:
    """Return the error for an answer without a verdict; a refusal is called one."""
    return Unreadable(f"{'the VLM judge refuses' if refuses(text) else reason}: {quote(text)}")


def _whole(label: str, value: float) -> float:
    if value != int(value):
        raise Unreadable(f"{label} is {value:g}, and the protocol knows whole scores only")
    return value


def _cut(answer: Answer) -> str:
    return ", which was cut off at the token limit" if answer.cut else ""


def _as_python(text: str) -> object:
    """Parse a small object with single quotes or trailing commas."""
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
    """Sort tokens with their log probabilities, the most probable first."""
    return tuple(sorted(entries, key=lambda entry: (-entry[1], entry[0])))
