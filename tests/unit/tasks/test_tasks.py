"""Prompts as tasks: the grammar, its errors, GenEval's own 553."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from milr.errors import UsageError
from milr.tasks import (
    COLORS,
    COUNT_WORDS,
    OBJECT_NAMES,
    RELATIONS,
    Phrase,
    PromptError,
    check_task,
    parse_prompt,
    plural,
    read_tasks,
    tasks_from_prompts,
    write_prompt,
)
from milr.types import Requirement, Task

# --- helpers ---


def item(name: str, count: int = 1, color: str | None = None, position: tuple[str, int] | None = None) -> Requirement:
    return Requirement.model_validate({"class": name, "count": count, "color": color, "position": position})


def message(prompt: str) -> str:
    with pytest.raises(PromptError) as caught:
        parse_prompt(prompt)
    return str(caught.value)


phrases = st.lists(
    st.builds(Phrase, st.sampled_from(OBJECT_NAMES), st.integers(1, 4), st.none() | st.sampled_from(COLORS)),
    min_size=1,
    max_size=3,
    unique_by=lambda phrase: phrase.name,
)
joiners = st.sampled_from([" and ", ", ", ", and ", *RELATIONS])
WORDS = [
    *("a", "two", "five", "red", "orange", "oranges", "dog", "dogs", "cat", "teddy", "bear", "aple", "photo", "\n"),
    *("left", "of", "to", "the", "on", "above", "and", ",", "."),
]


# --- GenEval's own data ---


@pytest.fixture(scope="module")
def geneval_lines(shared_data: Path) -> list[str]:
    lines = (shared_data / "geneval" / "evaluation_metadata.jsonl").read_text().splitlines()
    assert len(lines) == 553
    return lines


def test_every_geneval_prompt_is_read_as_its_metadata(geneval_lines: list[str]) -> None:
    for line in geneval_lines:
        task = Task.model_validate_json(line)
        assert parse_prompt(task.prompt) == task


def test_every_geneval_prompt_is_written_from_its_metadata(geneval_lines: list[str]) -> None:
    for line in geneval_lines:
        task = Task.model_validate_json(line)
        said = [Phrase(entry.name, entry.count, entry.color) for entry in task.include]
        relations = [entry.position[0] for entry in task.include if entry.position is not None]
        if relations:
            said.reverse()
        assert write_prompt(said, relations or None) == task.prompt


def test_names_are_genevals_in_its_order(shared_data: Path) -> None:
    assert list(OBJECT_NAMES) == (shared_data / "geneval" / "object_names.txt").read_text().splitlines()


def test_genevals_jsonl_file_is_read_unchanged(shared_data: Path, geneval_lines: list[str]) -> None:
    tasks = read_tasks(shared_data / "geneval" / "evaluation_metadata.jsonl")
    assert tasks == [Task.model_validate_json(line) for line in geneval_lines]
    # The same prompts as text give the same tasks.
    assert read_tasks(shared_data / "geneval" / "generation_prompts.txt") == tasks


# --- the grammar ---


@given(phrases, st.data(), st.booleans(), st.booleans())
def test_written_scores_are_read_back(said: list[Phrase], data: st.DataObject, photo: bool, article: bool) -> None:
    between = data.draw(st.lists(joiners, min_size=len(said) - 1, max_size=len(said) - 1))
    task = parse_prompt(write_prompt(said, between, photo=photo, article=article))

    by_name = {entry.name: entry for entry in task.include}
    assert {(e.name, e.count, e.color) for e in task.include} == {(p.name, p.count, p.color) for p in said}
    for i in range(len(said)):
        position = by_name[said[i].name].position
        if i < len(between) and between[i] in RELATIONS:
            assert position is not None
            assert position[0] == between[i]
            assert task.include[position[1]].name == said[i + 1].name
        else:
            assert position is None
    assert list(task.exclude) == [item(e.name, e.count + 1) for e in task.include if e.count > 1]
    check_task(task)


@pytest.mark.slow
@given(st.text(st.characters()) | st.lists(st.sampled_from(WORDS)).map(" ".join))
def test_any_text_is_read_or_refused_in_one_line(text: str) -> None:
    try:
        task = parse_prompt(text)
    except PromptError as error:
        assert "\n" not in str(error)
        assert ": " in str(error)
    else:
        assert task.shown == text.strip()
        assert parse_prompt(task.prompt) == task.model_copy(update={"typed": None})
        check_task(task)


@pytest.mark.parametrize("name", OBJECT_NAMES)
def test_every_object_is_read_single_and_plural(name: str) -> None:
    assert parse_prompt(name).include == (item(name),)
    assert parse_prompt(f"three pink {plural(name)}").include == (item(name, 3, "pink"),)


@pytest.mark.parametrize(
    ("name", "more"),
    [
        *(("bench", "benchs"), ("knife", "knifes"), ("sheep", "sheeps"), ("person", "persons"), ("bus", "buses")),
        *(("wine glass", "wine glasses"), ("toothbrush", "toothbrushs"), ("skis", "skis"), ("scissors", "scissors")),
    ],
)
def test_plurals_are_genevals(name: str, more: str) -> None:
    assert plural(name) == more


@pytest.mark.parametrize(
    ("prompt", "name"),
    [
        *(("two benches", "bench"), ("two knives", "knife"), ("two sheep", "sheep"), ("two people", "person")),
        *(("two couches", "couch"), ("two computer mice", "computer mouse"), ("two dog", "dog")),
    ],
)
def test_english_plurals_and_singulars_are_read_by_their_count(prompt: str, name: str) -> None:
    task = parse_prompt(prompt)
    assert (task.tag, task.include, task.exclude) == ("counting", (item(name, 2),), (item(name, 3),))


def test_one_and_articles_mean_one_for_singular_and_plural_nouns() -> None:
    for prompt in ("a dog", "one dog", "the dog", "dog", "a dogs", "one dogs"):
        task = parse_prompt(prompt)
        assert (task.tag, task.include, task.exclude) == ("single_object", (item("dog"),), ())


@pytest.mark.parametrize(
    ("prompt", "include"),
    [
        ("an orange", [item("orange")]),
        ("orange", [item("orange")]),
        ("an orange orange", [item("orange", color="orange")]),
        ("an orange apple", [item("apple", color="orange")]),
        ("two orange oranges", [item("orange", 2, "orange")]),
        ("two oranges", [item("orange", 2)]),
        ("a red orange", [item("orange", color="red")]),
        ("an orange and a dog", [item("orange"), item("dog")]),
        ("an orange, an orange dog", [item("orange"), item("dog", color="orange")]),
        ("orange to the left of orange dog", [item("dog", color="orange"), item("orange", position=("left of", 0))]),
        ("an orange.", [item("orange")]),
    ],
)
def test_orange_is_a_colour_before_an_object_else_the_fruit(prompt: str, include: list[Requirement]) -> None:
    assert list(parse_prompt(prompt).include) == include


@pytest.mark.parametrize(
    ("typed", "prompt"),
    [
        ("Draw me a blue elephant, please", "a blue elephant"),
        ("a dog, thanks!", "a dog"),
        ('two "cats"', "two cats"),
        ("a \u201cred\u201d 'apple' and 'a clock'", "a red apple and a clock"),
        ("a pizza!!! 4k, highly detailed", "a pizza"),
        ("a dog! a cat?", "a dog and a cat"),
    ],
)
def test_politeness_quotes_and_final_dots_are_accepted(typed: str, prompt: str) -> None:
    assert parse_prompt(typed).prompt == prompt


@pytest.mark.parametrize("side", ["left of", "to the left of", "on the left of", "LEFT  OF"])
def test_every_way_to_say_left_is_read(side: str) -> None:
    task = parse_prompt(f"A photo of a dog {side} a cat.")
    assert task.tag == "position"
    assert task.include == (item("cat"), item("dog", position=("left of", 0)))


@pytest.mark.parametrize(
    ("prompt", "include"),
    [
        (
            "a dog left of a cat above a cow",
            [item("cow"), item("cat", position=("above", 0)), item("dog", position=("left of", 1))],
        ),
        ("a dog left of a cat and a cow", [item("cat"), item("dog", position=("left of", 0)), item("cow")]),
        ("a dog and a cat below a cow", [item("dog"), item("cow"), item("cat", position=("below", 1))]),
        ("a dog, a cat, and a cow", [item("dog"), item("cat"), item("cow")]),
    ],
)
def test_reference_objects_come_before_the_objects_placed_by_them(prompt: str, include: list[Requirement]) -> None:
    task = parse_prompt(prompt)
    assert (task.tag, list(task.include)) == (None, include)


@pytest.mark.parametrize(
    ("prompt", "tag"),
    [
        *(("a dog", "single_object"), ("a red dog", "colors"), ("two dogs", "counting"), ("two red dogs", None)),
        *(("a dog and a cat", "two_object"), ("a dog, a cat", "two_object"), ("two dogs and a cat", None)),
        *(("a red dog and a blue cat", "color_attr"), ("a red dog and a cat", None)),
        *(("a dog above a cat", "position"), ("a red dog above a cat", None), ("two dogs above a cat", None)),
        ("a dog, a cat, a cow", None),
    ],
)
def test_the_tag_is_set_where_geneval_has_one(prompt: str, tag: str | None) -> None:
    assert parse_prompt(prompt).tag == tag


def test_every_count_above_one_excludes_one_more() -> None:
    task = parse_prompt("two dogs left of three cats and a cow")
    assert task.exclude == (item("cat", 4), item("dog", 3))


# --- the canonical form ---


def pad(text: str) -> str:
    return f" {text}. "


def cry(text: str) -> str:
    return f'"{text}!"'


@pytest.mark.parametrize("change", [str.upper, str.title, str.capitalize, pad, cry])
@pytest.mark.parametrize("blank", [" ", "  ", "\t", "\n", "\u00a0", "\u3000", "\u200b \u2009"])
def test_case_spaces_and_final_dots_do_not_change_a_task(change: Callable[[str], str], blank: str) -> None:
    plain = parse_prompt("a red apple left of two blue clocks")
    typed = change(plain.prompt).replace(" ", blank).strip()
    task = parse_prompt(typed)
    assert task.prompt == plain.prompt == "a red apple left of two blue clocks"
    assert task.shown == typed
    assert (task.key, task.include, task.exclude) == (plain.key, plain.include, plain.exclude)


def test_the_typed_prompt_is_stored_only_if_it_differs() -> None:
    assert parse_prompt("  Two   DOGS. \n").typed == "Two   DOGS."
    assert parse_prompt(" two dogs ").typed is None


def test_the_key_of_a_canonical_prompt_is_the_same_as_in_older_versions() -> None:
    assert parse_prompt("two dogs").key == "1659835118e3f290"
    assert Task(prompt="A day, by Monet").key == "a3f1d09435858de2"


@given(phrases, st.booleans(), st.data())
def test_prompts_as_training_writes_them_reach_the_model_unchanged(
    said: list[Phrase], photo: bool, data: st.DataObject
) -> None:
    between = [", ", " and "] if len(said) == 3 else [" and "] * (len(said) - 1)
    if between and data.draw(st.booleans()):
        between[data.draw(st.integers(0, len(between) - 1))] = data.draw(st.sampled_from(RELATIONS))
    prompt = write_prompt(said, between, photo=photo)
    assert (parse_prompt(prompt).prompt, parse_prompt(prompt).typed) == (prompt, None)


def test_lists_are_joined_as_training_joined_them() -> None:
    for typed in ("a dog, a cat, and a cow", "a dog and a cat and a cow", "a dog, a cat, a cow", "dog & cat; the cow"):
        assert parse_prompt(typed).prompt == "a dog, a cat and a cow"
    assert parse_prompt("photo of dog, cat").prompt == "a photo of a dog and a cat"


def test_models_that_read_any_text_get_the_prompt_as_typed() -> None:
    typed = ["A Red Apple and TWO blue Clocks.", "a big dog", "a kitten", "a dog next to a cat", "a phone"]
    free = tasks_from_prompts(typed, free=True)
    assert [task.prompt for task in free] == typed
    assert {task.typed for task in free} == {None}
    # Either everything that the prompt asks for is checked, or nothing.
    assert [bool(task.include) for task in free] == [True, False, False, False, True]


# --- what cannot be read ---


@pytest.mark.parametrize(
    ("prompt", "parts"),
    [
        ("a red aple left of a dog", ["'aple'", "did you mean 'apple'?"]),
        ("two aples", ["'aples'", "did you mean 'apples'?"]),
        ("a gren apple", ["'gren'", "did you mean 'green'?"]),
        ("twoo dogs", ["'twoo'", "did you mean 'two'?"]),
        ("a turquoise apple", ["'turquoise'", "the colours are red, orange"]),
        ("a unicorn", ["'unicorn'", "milr info --words"]),
        ("a mouse", ["'mouse'", "did you mean 'computer mouse'?"]),
        ("a computer", ["did you mean 'computer mouse' or 'computer keyboard'?"]),
        ("a cel phone", ["did you mean 'cell phone'?"]),
        ("a dog abov a cat", ["'abov'", "did you mean 'above'?"]),
        ("a dog between a cat", ["'between'", "'and', commas, 'left of', 'right of', 'above', 'below'"]),
        ("a dog a cat", ["cannot read 'a'"]),
        ("a red blue dog", ["cannot read 'blue'"]),
        ("one one dog", ["cannot read 'one' in 'one one dog': write"]),
        *((f"{count} dogs", [f"'{count}'", "'one', 'two', 'three', 'four'"]) for count in ("five", "zero", "no", "5")),
        *((f"{count} dogs", [f"'{count}'", "'one', 'two', 'three', 'four'"]) for count in ("0", "-1", "some", "12")),
        *((prompt, ["does not say how many dogs", "'two'"]) for prompt in ("dogs", "red dogs", "the dogs")),
        ("a dog and", ["missing at the end of 'a dog and'"]),
        ("a dog,", ["missing at the end of 'a dog,'"]),
        ("a photo of", ["missing at the end"]),
        ("two red", ["missing at the end"]),
        (", a dog", ["missing before ','"]),
        ("a red and a dog", ["missing before 'and'"]),
        ("a dog and left of a cat", ["missing before 'left'"]),
        ("a dog and two red dogs", ["names 'dog' twice", "'two dogs'"]),
        ("a dog, a cat, a cow and a bear", ["more than three"]),
        ("", ["the prompt is empty", "'a photo of a red apple'"]),
        (" \n", ["the prompt is empty"]),
    ],
)
def test_errors_name_the_word_and_how_to_fix_it(prompt: str, parts: list[str]) -> None:
    text = message(prompt)
    assert all(part in text for part in parts), text
    assert "\n" not in text


def test_a_long_prompt_is_cut_in_its_error() -> None:
    assert len(message("dog " * 1000)) < 400


def test_phrases_refuse_unknown_names_counts_and_colours() -> None:
    with pytest.raises(UsageError, match="did you mean 'apple'"):
        Phrase("aple")
    with pytest.raises(UsageError, match="one to four"):
        Phrase("apple", 5)
    with pytest.raises(UsageError, match="unknown colour"):
        Phrase("apple", 1, "gray")


def test_write_prompt_refuses_wrong_joiners_and_numbers_of_phrases() -> None:
    pair = [Phrase("dog"), Phrase("cat")]
    with pytest.raises(UsageError, match="did you mean 'above'"):
        write_prompt(pair, ["abov"])
    for said, between in (([], []), (pair, []), (pair[:1], [" and "]), ([*pair, Phrase("cow"), Phrase("bear")], None)):
        with pytest.raises(UsageError, match="one to three phrases"):
            write_prompt(said, between)


def test_the_count_words_and_their_objects_are_written_out() -> None:
    assert write_prompt([Phrase("apple", 1, "red")]) == "a photo of a red apple"
    assert write_prompt([Phrase("apple")], photo=False) == "an apple"
    assert write_prompt([Phrase("apple")], photo=False, article=False) == "apple"
    said = [Phrase("knife", 2, "orange"), Phrase("oven", 1, "red"), Phrase("skis", 4)]
    assert write_prompt(said, ["below", ", and "], photo=False) == "two orange knifes below a red oven, and four skis"
    assert COUNT_WORDS == {"one": 1, "two": 2, "three": 3, "four": 4}


# --- lists ---


def test_prompts_become_tasks_in_order() -> None:
    assert [task.prompt for task in tasks_from_prompts(["a cat", " A dog "])] == ["a cat", "a dog"]
    assert tasks_from_prompts("a cat") == tasks_from_prompts(["a cat"])  # not six prompts of one letter
    ready = Task(prompt="?")
    assert tasks_from_prompts([ready, "a cat"]) == [ready, parse_prompt("a cat")]
    with pytest.raises(UsageError, match="no prompts"):
        tasks_from_prompts([])
    with pytest.raises(UsageError, match=r"'5' \(int\) is no task: give a prompt in words, or a milr.Task"):
        tasks_from_prompts([5])  # pyright: ignore[reportArgumentType]


def test_free_prompts_become_tasks_without_conditions() -> None:
    free = tasks_from_prompts(["the stars, by van Gogh", "a dog", "a dog and a dog"], free=True)
    assert free[0] == Task(prompt="the stars, by van Gogh")
    assert free[1] == parse_prompt("a dog")
    assert free[2] == Task(prompt="a dog and a dog")


@pytest.mark.parametrize("prompt", ["", "  ", "\ud800"])
def test_free_prompts_still_need_text(prompt: str) -> None:
    with pytest.raises(UsageError):
        tasks_from_prompts([prompt], free=True)
