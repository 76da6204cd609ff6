"""Prompts of users who have not read the grammar: the model's prompt, the notes, or the error."""

from __future__ import annotations

import pytest

from milr.tasks import PromptError, explain, read_prompt

READ: list[tuple[str, str, list[str]]] = [
    ("A Red Apple and TWO blue Clocks.", "a red apple and two blue clocks", []),
    ("2 dogs", "two dogs", []),
    ("a dog next to a cat", "a dog and a cat", ["'next to' is read as 'and'"]),
    ("a cat on top of a bed", "a cat above a bed", []),
    ("a cat on a chair", "a cat above a chair", ["'on' is read as 'above'"]),
    ("a dog under the table", "a dog below a dining table", []),
    ("a big red apple", "a red apple", ["'big' is ignored"]),
    ("an image of a phone", "a photo of a cell phone", []),
    ("draw me a sofa please", "a couch", []),
    ("two men", "two persons", ["'men' is read as 'person'"]),
    ("a kitten", "a cat", ["'kitten' is read as 'cat'"]),
    ("a puppy and a kitten", "a dog and a cat", ["'puppy' is read as 'dog'", "'kitten' is read as 'cat'"]),
    ("Please draw a picture of three bikes", "a photo of three bicycles", []),
    ("a violet vase", "a purple vase", ["'violet' is read as 'purple'"]),
    ("a light blue car", "a blue car", ["'light' is ignored"]),
    ("a man riding a horse", "a person and a horse", ["'man' is read as 'person'", "'riding' is read as 'and'"]),
    ("apple", "an apple", []),
    ("a dog & a cat", "a dog and a cat", []),
    ("a dog with a cat", "a dog and a cat", []),
    ("dog to the left side of cat", "a dog left of a cat", []),
    (
        "a beautiful red apple, highly detailed, 4k",
        "a red apple",
        ["'4k' is ignored", "'highly detailed' is ignored", "'beautiful' is ignored"],
    ),
    ("a red apple on a white background", "a red apple", ["'on a white background' is ignored"]),
    ("a cat, a dog, and a bird", "a cat, a dog and a bird", []),
    ("a cat and a dog and a bird", "a cat, a dog and a bird", []),
    ("a cat, a dog", "a cat and a dog", []),
    ("a pair of scissors", "a scissors", []),
    ("two pairs of scissors", "two scissors", []),
    ("a couple of dogs", "two dogs", []),
    ("the two dogs", "two dogs", []),
    ("a dog is sitting to the left of a cat", "a dog left of a cat", ["'sitting' is ignored"]),
    ("a dog is big", "a dog", ["'big' is ignored"]),
    ("an orange please", "an orange", []),
    ("an orange is above a dog", "an orange above a dog", []),
    ("tv set", "a tv", []),
    ("t.v.", "a tv", []),
    ("a teddy", "a teddy bear", []),
    ("a cup of coffee", "a cup", []),
    ("a hot dog", "a hot dog", []),
    ("a dog.  A cat.", "a dog and a cat", []),
    ('"a dog"', "a dog", []),
    ("a bat", "a baseball bat", ["'bat' is read as 'baseball bat'"]),
    ("a red-colored apple", "a red apple", []),
    ("wine-glass", "a wine glass", []),
    ("two\u3000dogs", "two dogs", []),
    ("Two\xa0Dogs!", "two dogs", []),
    ("make me a sandwich", "a sandwich", []),
    ("can you show me a photo of a nice cake?", "a photo of a cake", ["'nice' is ignored"]),
    ("a drawing of a horse", "a photo of a horse", ["'drawing' is read as 'photo'"]),
    ("a glass of wine", "a wine glass", []),
    ("a dog behind a cat", "a dog and a cat", ["'behind' is read as 'and'"]),
    ("there are two birds over a boat", "two birds above a boat", []),
    ("a woman wearing a tie", "a person and a tie", ["'woman' is read as 'person'", "'wearing' is read as 'and'"]),
    ("3 oranges", "three oranges", []),
    ("two zebra and 1 giraffe", "two zebras and a giraffe", []),
]
"""Prompt, the model's prompt, the beginnings of the notes."""
REFUSED = [
    ("a man and a woman", ["names 'person' twice", "'man' and 'woman'", "'two persons'"]),
    ("a grey cat", ["'grey'", "the colours are red, orange, yellow"]),
    ("a house", ["'house'", "in English", "milr info --words"]),
    ("a tree", ["'tree'", "milr info --words"]),
    ("a unicorn", ["'unicorn'", "milr info --words"]),
    ("ein roter Apfel", ["'ein'", "in English"]),
    ("\u4e00\u4e2a\u82f9\u679c", ["English only"]),
    ("\u043a\u0440\u0430\u0441\u043d\u043e\u0435 \u044f\u0431\u043b\u043e\u043a\u043e", ["English only"]),
    ("an apple that is red", ["'red'", "a colour before its object"]),
    ("a black and white cat", ["one colour"]),
    ("five apples", ["'five'", "'one', 'two', 'three', 'four'"]),
    ("10 apples", ["'10'", "'one', 'two', 'three', 'four'"]),
    ("no dogs", ["'no'", "'one', 'two', 'three', 'four'"]),
    ("some dogs", ["'some'", "'one', 'two', 'three', 'four'"]),
    ("dogs", ["does not say how many dogs"]),
    ("children", ["does not say how many persons"]),
    ("a dgo", ["did you mean 'dog'?"]),
    ("twoo dogs", ["did you mean 'two'?"]),
    ("a cel phone", ["did you mean 'cell phone'?"]),
    ("a mouse", ["did you mean 'computer mouse'?"]),
    ("a hat", ["'hat'", "milr info --words"]),
    ("a cap", ["'cap'", "milr info --words"]),
    ("a boot", ["'boot'", "milr info --words"]),
    ("a majestic horse", ["'majestic'", "colours: red"]),
    ("a car between two dogs", ["'between'", "'left of'"]),
    ("a dog left a cat", ["did you mean 'left of'?"]),
    ("a cat without a dog", ["'without'"]),
    ("a dog holding", ["missing at the end"]),
    ("something", ["'something'"]),
    ("a<image_placeholder>dog", ["'a<image_placeholder>dog'"]),
    ("  .", ["the prompt is empty"]),
    ('""', ["the prompt is empty"]),
]
"""Prompt, parts of the error."""
MAY_SUGGEST = {"a dgo", "twoo dogs", "a cel phone", "a mouse", "a dog left a cat"}


def test_there_are_enough_kinds_of_damage() -> None:
    assert len(READ) + len(REFUSED) >= 60


@pytest.mark.parametrize(("typed", "prompt", "notes"), READ)
def test_the_model_gets_its_own_form_and_the_user_a_note(typed: str, prompt: str, notes: list[str]) -> None:
    reading = read_prompt(typed)
    assert reading.task.prompt == prompt
    assert reading.task.shown == typed.strip()
    assert [note.split(";")[0] for note in reading.notes] == notes
    said = explain(reading.task)
    assert (said is None) == (not notes)
    assert said is None or all(note in said for note in (*notes, repr(prompt)))
    # A prompt in the model's form stays unchanged.
    again = read_prompt(prompt)
    assert (again.task.key, again.task.typed, again.notes) == (reading.task.key, None, ())


@pytest.mark.parametrize(("typed", "parts"), REFUSED)
def test_errors_say_what_can_be_read_and_suggest_nothing_absurd(typed: str, parts: list[str]) -> None:
    with pytest.raises(PromptError) as caught:
        read_prompt(typed)
    text = str(caught.value)
    assert all(part in text for part in parts), text
    assert "\n" not in text
    assert ("did you mean" in text) == (typed in MAY_SUGGEST)


def test_frequent_words_get_no_suggestion() -> None:
    for word in ("house", "moon", "goat", "lock", "ant", "bread", "rain", "sheet", "pear", "hose", "ox cart", "fan"):
        with pytest.raises(PromptError) as caught:
            read_prompt(f"a {word}")
        assert "did you mean" not in str(caught.value), word
