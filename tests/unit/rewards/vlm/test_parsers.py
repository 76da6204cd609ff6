"""Answers of VLM judges and how they are read, including a thousand random ones."""

from __future__ import annotations

import math
from collections.abc import Callable

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from milr.rewards.vlm.parsers import (
    Answer,
    Unreadable,
    Verdict,
    find_object,
    read_binary,
    read_self_verdict,
    read_unified,
    read_wise,
    read_wise_legacy,
    read_yes,
)

Read = Callable[[Answer], Verdict]
READERS: list[Read] = [read_binary, read_yes, read_wise_legacy, read_wise, read_unified, read_self_verdict]


def value(read: Read, text: str, *, cut: bool = False) -> float | str:
    """Return the value, or the reason why there is none."""
    try:
        return read(Answer(text, cut=cut)).value
    except Unreadable as error:
        assert "\n" not in str(error)
        return str(error)


@pytest.mark.parametrize(
    "text", ["0", " 0\n", "`0`", "**0**", "０", "0.", "The verdict is 0", "0\n0", "\\boxed{0}", '{"score": 0}', "- 0"]
)
def test_a_binary_zero_is_right(text: str) -> None:
    assert value(read_binary, text) == 1.0


@pytest.mark.parametrize("text", ["-1", "`-1`", "\u22121", "－1", "Answer: -1.", "-1\n-1"])
def test_a_binary_minus_one_is_wrong(text: str) -> None:
    assert value(read_binary, text) == 0.0


@pytest.mark.parametrize(
    "text",
    [
        *("1", "10", "0.5", "0-1", "0 or -1", "2/2", "0/2", "yes", "100%", "-10", "2024", "0%", "GPT4o says 0"),
        *(
            "There are 0 apples",
            "Found 0 apples.",
            "-1 degrees outside; the scene is right.",
            "0\nOn second thought -1",
        ),
        "I can find 0 matching objects. The image does not match.",
    ],
)
def test_nothing_else_is_a_binary_verdict(text: str) -> None:
    assert "neither a bare 0 nor a bare -1" in str(value(read_binary, text))


def test_a_binary_verdict_at_the_token_limit_is_refused() -> None:
    assert "goes on after the token limit" in str(value(read_binary, "0", cut=True))
    assert "goes on after the token limit" in str(value(read_binary, "There are 0 apples", cut=True))


@pytest.mark.parametrize(
    "text",
    [
        "Consistency: 2\nRealism: 1\nAesthetic Quality: 0",
        "**Consistency**: 2\n**Realism**: 1\n**Aesthetic Quality**: 0",
        "**Consistency:** 2\n**Realism:** 1\n**Aesthetic Quality:** 0",
        "Consistency：2\nRealism：1\nAesthetic Quality：０",
        "consistency 2, realism 1, aesthetic quality 0",
        "Consistency (0-2): 2\nRealism (0-2): 1\nAesthetic Quality (0-2): 0",
        "Consistency: 2/2\nRealism: 1/2\nAesthetic Quality: 0/2",
        "Sure! Here is my rating.\n\n```\nConsistency: 2\nRealism: 1\nAesthetic Quality: 0\n```\nHope it helps!",
        '{"Consistency": 2, "Realism": 1, "Aesthetic Quality": 0}',
        "2\n1\n0",
        " 2 \n\n1\n0\n",
    ],
)
def test_wise_scores_are_read_and_weighed(text: str) -> None:
    verdict = read_wise_legacy(Answer(text))
    assert verdict.value == pytest.approx((0.7 * 2 + 0.2 * 1 + 0.1 * 0) / 2)
    assert verdict.parts == {"consistency": 1.0, "realism": 0.5, "aesthetic quality": 0.0}


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("Consistency: 2\nRealism: 1", "no score for Aesthetic Quality"),
        ("Consistency: 3\nRealism: 1\nAesthetic Quality: 1", "Consistency is 3, outside 0 to 2"),
        ("Consistency: 4/5\nRealism: 1\nAesthetic Quality: 1", "given of 5"),
        ("Consistency: 1.5\nRealism: 1\nAesthetic Quality: 1", "whole scores only"),
        ("Consistency: 2\nConsistency: 1\nRealism: 1\nAesthetic Quality: 1", "with 1 and with 2"),
        ("一致性：2\n真实感：1\n美学质量：1", "no score for Consistency"),
        ("I'm sorry, but I can't help with that.", "refuses"),
        ("", "empty"),
        ("   \n ", "empty"),
        ("x" * 1_000_000 + "Consistency: 2\nRealism: 2\nAesthetic Quality: 2", "1,000,046 characters"),
    ],
)
def test_an_invalid_wise_score_has_a_reason(text: str, said: str) -> None:
    assert said in str(value(read_wise_legacy, text))


def test_wise_scores_of_two_give_the_value_one() -> None:
    assert value(read_wise_legacy, "2\n2\n2") == 1.0


@pytest.mark.parametrize(
    "text", ["Score: 1", "score：1", "**Score:** 1", "Score: 1/1", "1", "**1**", "<think></think>\nScore: 1"]
)
def test_wise_verified_reads_its_line(text: str) -> None:
    assert value(read_wise, text) == 1.0
    assert value(read_wise, text.replace("1", "0", 1)) in (0.0, "Score: 0")


@pytest.mark.parametrize(
    "text",
    [
        *(
            "Score: 2/2",
            "Score: 2",
            "Score: 0.5",
            "Score: 0 or Score: 1",
            "Score: -1",
            "Score: 1 (of 5)",
            "Score: 0 - 1",
        ),
        "It would be Score: 1 if the dog were there; it is not.",
        "Score: 1 if the dog were there; it is not.",
        "Apples:\n1\nPears:\n0",
    ],
)
def test_wise_verified_reads_no_other_scale(text: str) -> None:
    assert isinstance(value(read_wise, text), str)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("Final Score: 4", 0.75),
        ("apple (object): 1\nred (attribute): 0\nFinal Score: 2.5", 0.375),
        ("**Final Score:** 5/5", 1.0),
        ("Final Score: 1 out of 5", 0.0),
        ("Final Score：3，5".replace("，", ","), 0.625),
    ],
)
def test_unified_scores_may_be_fractions(text: str, expected: float) -> None:
    assert value(read_unified, text) == pytest.approx(expected)


def test_scores_of_unified_reward_become_parts() -> None:
    verdict = read_unified(Answer("apple (object): 1\n- left of (relation): 0\nFinal Score: 2"))
    assert verdict.parts == {"apple (object)": 1.0, "left of (relation)": 0.0}


def test_a_number_at_the_cut_is_not_used() -> None:
    assert value(read_unified, "Final Score: 4") == 0.75
    assert "cut off" in str(value(read_unified, "Final Score: 4", cut=True))
    assert (
        value(read_unified, "Final Score: 4.5\n", cut=True)
        == "the answer is cut off after Final Score: 'Final Score: 4.5'"
    )
    assert value(read_unified, "Final Score: 4.5 because", cut=True) == 0.875
    assert "token limit" in str(value(read_unified, "apple (object): 1", cut=True))
    for text in ("Final Score: 0", "Final Score: 6", "Final Score: 80%", "Final Score: 4/10"):
        assert isinstance(value(read_unified, text), str), text


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ('{"Thought": "one dog", "Score": 0, "Reason": ""}', 1.0),
        ('{"Thought": "three", "Score": -1, "Reason": "three dogs"}', 0.0),
        ('```json\n{"Score": -1}\n```', 0.0),
        ('Here you are: {"score": "0"} and good luck', 1.0),
        ("{'Thought': 'a dog', 'Score': -1, 'Reason': 'x'}", 0.0),
        ('{"Thought": "a dog", "Score": 0,}', 1.0),
        ('{"Thought": "a "dog" here", "Score": 0, "Reason": ""}', 1.0),
        ('{"Score": -1, "Reason": "it was cut o', 0.0),
        ('{"Thought": "a\nbreak", "Score": 0}', 1.0),
        ("Score: 0", 1.0),
    ],
)
def test_the_self_verdict_is_read_leniently(text: str, expected: float) -> None:
    assert value(read_self_verdict, text) == expected


@pytest.mark.parametrize(
    "text",
    [
        "",
        "{}",
        '{"Thought": "cut before the sco',
        '{"Score": 1}',
        '{"Score": true}',
        '{"Score": [0]}',
        "Score: 0 Score: -1",
    ],
)
def test_no_self_verdict_is_guessed(text: str) -> None:
    assert isinstance(value(read_self_verdict, text), str)


W = "Consistency: {0}\nRealism: {0}\nAesthetic Quality: {0}"


@pytest.mark.parametrize(
    ("read", "text", "cut", "expected"),
    [
        (
            read_wise_legacy,
            "<think>A perfect one gets\n" + W.format(2) + "\nNow, the picture shows",
            True,
            "inside its thinking",
        ),
        (read_wise, "<think>If all holds I say Score: 1. Let me", True, "cut off at the token limit"),
        (read_unified, "<think>Perfect is Final Score: 5. But", False, "inside its thinking"),
        (read_self_verdict, '<think>{"Score": 0}</think><think>or', False, "inside its thinking"),
        (read_binary, "<think>0</think>", False, "the answer is empty"),
        (read_wise_legacy, "<think>\n2\n2\n2\n</think>\n0\n0\n0", False, 0.0),
        (read_wise_legacy, "<think>" + W.format(1) + "?</think>" + W.format(2), False, 1.0),
        (read_wise, "Let me see. Score: 1?</think>Score: 0", False, 0.0),  # the template opened the thinking
        (read_unified, "<thinking>Final Score: 2?</thinking>Final Score: 4", False, 0.75),
        (read_binary, "<think>Two apples, so -1? No.</think>0", False, 1.0),
        (read_self_verdict, '<THINK>{"Score": -1}?</THINK>{"Score": 0, "Reason": "x"}', False, 1.0),
    ],
)
def test_thinking_is_not_a_verdict(read: Read, text: str, cut: bool, expected: float | str) -> None:
    found = value(read, text, cut=cut)
    assert found == expected or (isinstance(expected, str) and expected in str(found))


@pytest.mark.parametrize(
    ("read", "text", "expected"),
    [
        (read_wise, "The picture is right. Score: 1", 1.0),
        (read_wise, "Score: 0 (it would be Score: 1 with a dog)", 0.0),
        (read_wise, '{"Reason": "Score: 0 would be harsh", "Score": 1}', 1.0),
        (read_wise, "Unfortunately the dog is missing.\nScore: 0", 0.0),
        (read_wise_legacy, "1) Consistency: 2\n2) Realism: 2\n3) Aesthetic_Quality: 2", 1.0),
        (read_unified, "| Final Score | 4 |", 0.75),
        (read_unified, "I thought of a Final Score: 2 at first.\n\nMy final score is 4 out of 5.", 0.75),
    ],
)
def test_text_about_verdicts_does_not_hide_one(read: Read, text: str, expected: float) -> None:
    assert value(read, text) == expected


@pytest.mark.slow
@pytest.mark.parametrize(
    "text",
    [
        *("Score" + " " * 60_000 + "x", "Score" * 13_000, "Score: " * 9_000, "Score (" * 9_000, '"Score" : ' * 6_000),
        *("0" + "  " * 32_000, "Final Score" + "\n" * 60_000, ", {" * 20_000, "<think>" * 9_000, "Score: 1 " * 7_000),
        *("a (b" * 16_000, "\ufdfa" * 60_000, "'score'" + "\t" * 60_000),
    ],
)
def test_answers_of_64_kb_are_read_in_one_pass(text: str) -> None:
    for read in READERS:  # earlier, the first of them took minutes
        value(read, text)


def test_objects_are_found_in_bounded_time() -> None:
    assert find_object("{" * 60_000) is None
    assert find_object('{"a":' * 10_000) is None
    assert find_object("{'a': " * 10_000 + "}") is None
    assert find_object('x {} y {"a": 1}') == {"a": 1}


def test_p_yes_sums_spellings_and_leaves_the_rest_out() -> None:
    tokens = ((" Yes", math.log(0.3)), ("yes", math.log(0.3)), ("No", math.log(0.2)), ("Maybe", math.log(0.2)))
    assert read_yes(Answer("Yes", first_tokens=tokens)).value == pytest.approx(0.75)
    raw = (("\u2581Yes", -0.05), ("\u0120no", -3.0))
    assert read_yes(Answer("Yes", first_tokens=raw)).value == pytest.approx(0.95, abs=0.01)
    thinking = (("<think>", -0.00001), ("No", -18.0), ("Yes", -25.0))
    for wrong in ((), (("Maybe", 0.0),), (("yes", -math.inf),), (("yes", math.nan),), thinking, (("yes", -0.8),)):
        with pytest.raises(Unreadable):
            read_yes(Answer("Yes", first_tokens=wrong))


WORDS = st.sampled_from(
    [
        *("Consistency", "Realism", "Aesthetic Quality", "Score", "Final Score", "Thought", "Reason", "yes", "no"),
        *(
            ":",
            "：",
            " ",
            "\n",
            "**",
            "```json\n",
            "```",
            "{",
            "}",
            '"',
            "'",
            ",",
            "/",
            "out of",
            "(",
            ")",
            "-",
            "\u2212",
        ),
        *(
            "0",
            "1",
            "2",
            "5",
            "-1",
            "4.5",
            "1e999",
            "NaN",
            "９",
            "null",
            "true",
            "I'm sorry",
            "<think>",
            "\x00",
            "é",
            "Ⅷ",
        ),
    ]
)
TEXTS = st.one_of(st.text(max_size=200), st.lists(WORDS, max_size=25).map("".join))
TOKENS = st.lists(
    st.tuples(
        st.sampled_from(["yes", " Yes", "\u0120no", "NO", "x", ""]), st.floats(allow_nan=True, allow_infinity=True)
    ),
    max_size=5,
).map(tuple)


@pytest.mark.slow
@settings(max_examples=1000)
@given(text=TEXTS, cut=st.booleans(), tokens=TOKENS)
@example(text='{"Score":' * 5000, cut=True, tokens=())
@example(text="Final Score: " + "9" * 5000, cut=False, tokens=())
@example(text="-" + "0" * 5000, cut=False, tokens=())
def test_a_thousand_answers_are_a_verdict_or_unreadable(
    text: str, cut: bool, tokens: tuple[tuple[str, float], ...]
) -> None:
    for read in READERS:
        try:
            verdict = read(Answer(text, cut=cut, first_tokens=tokens))
        except Unreadable as error:
            assert str(error)
        else:
            assert 0.0 <= verdict.value <= 1.0
            assert all(0.0 <= part <= 1.0 for part in verdict.parts.values())
