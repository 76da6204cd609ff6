"""Checklists in files of prompts: milr's form and the benchmarks' own, and what is wrong with them in one line."""

from __future__ import annotations

from pathlib import Path

import pytest

from milr.errors import UsageError
from milr.tasks import read_tasks
from milr.types import ChecklistItem, Task

CAT = ChecklistItem(question="Is there a cat?", tags=("object",))
TWO = ChecklistItem(question="How many dogs are there?", answer="two", tags=("count",))
BODY = '"prompt": "a cat, two dogs"'


@pytest.mark.parametrize(
    ("name", "text"),
    [
        (
            "a.jsonl",
            f'{{{BODY}, "checklist": [{{"question": "Is there a cat?", "tags": ["object"]}}, '
            '{"question": "How many dogs are there?", "answer": 2, "tags": ["count"]}]}',
        ),
        (
            "a.jsonl",
            f'{{{BODY}, "atom_count": 4, "vqa_list": [["Is there a cat?", "Yes"], ["How many dogs are there?", "two"]]'
            ', "skills": ["object", "count"]}',
        ),
        (
            "a.json",
            '{"C-MI-001": {"Prompt": "a cat, two dogs", "Checklist": [{"question": "Is there a cat?", "tags": ["object"'
            ']}, {"question": "How many dogs are there?", "answer": "Two", "tags": ["count"]}]}}',
        ),
    ],
)
def test_every_form_of_a_checklist_gives_the_same_questions(name: str, text: str, tmp_path: Path) -> None:
    (tmp_path / name).write_text(text)
    (task,) = read_tasks(tmp_path / name, free=True)
    assert task.checklist == (CAT, TWO)
    assert Task.model_validate_json(task.model_dump_json(by_alias=True)) == task


def test_a_task_without_questions_keeps_its_key_and_its_form() -> None:
    task = Task(prompt="a cat")
    assert task.key == "3c1a794e61ed854d"  # random streams and folders depend on it
    assert "checklist" not in task.model_dump()
    assert task.model_copy(update={"checklist": (CAT,)}).key != task.key


@pytest.mark.parametrize(
    ("text", "said"),
    [
        (
            f'{{{BODY}}}\n{{{BODY}, "checklist": [{{"question": "Q?", "anser": "yes"}}]}}',
            r"line 2: 'checklist\[0\]' has the key 'anser': the keys are question, answer, tags",
        ),
        (f'{{{BODY}, "checklist": [{{"answer": "yes"}}]}}', r"line 1: 'checklist\[0\]' has no key 'question'"),
        (f'{{{BODY}, "checklist": []}}', "line 1: 'checklist' is empty: give at least one question"),
        (f'{{{BODY}, "checklist": "Q?"}}', "line 1: 'checklist' is no list"),
        (f'{{{BODY}, "checklist": ["Q?", "R?", "Q?"]}}', "line 1: question 3 of 'checklist' repeats question 1, 'Q"),
        (f'{{{BODY}, "checklist": ["Q?", " "]}}', r"line 1: 'checklist\[1\]' is .*: give a text"),
        (f'{{{BODY}, "vqa_list": [["Q?", "eleven"]]}}', r"line 1: 'vqa_list\[0\]' expects 'eleven': answers are yes"),
        (f'{{{BODY}, "checklist": [{{"question": "Q?", "answer": 11}}]}}', r"'checklist\[0\].answer' expects '11'"),
        (f'{{{BODY}, "vqa_list": [["Q?", "yes", 3]]}}', r"line 1: 'vqa_list\[0\]' is no pair"),
        (f'{{{BODY}, "vqa_list": [["Q?", "yes"]], "skills": []}}', "line 1: 'skills' is empty"),
        (f'{{{BODY}, "vqa_list": [["Q?", "yes"]], "skills": ["a", "b"]}}', "'skills' has 2 entries for 1 questions"),
        (
            f'{{"id": 7, {BODY}, "checklist": ["Q?"]}}\n{{"id": 7, {BODY}, "checklist": ["Q?"]}}',
            "line 2: 'id' is '7', as in line 1",
        ),
        (
            f'{{\n"A-1": {{{BODY}, "Checklist": ["Q?"]}},\n"A-1": {{{BODY}, "Checklist": ["Q?"]}}}}',
            "line 3: the key 'A-1' is there twice",
        ),
        (f'{{"A-1": {{{BODY}, "Checklist": ["Q?"]}}, "A-2": {{"Checklist": ["Q?"]}}}}', "entry 'A-2': no key 'prompt'"),
    ],
)
def test_a_wrong_checklist_is_one_line_that_names_line_and_field(text: str, said: str, tmp_path: Path) -> None:
    path = tmp_path / "tasks.json"
    path.write_text(text)
    with pytest.raises(UsageError, match=said) as error:
        read_tasks(path, free=True)
    assert str(error.value).startswith(f"{str(path)!r}, ") and "\n" not in str(error.value)
