"""Prompt files in every common form, and the benchmarks' own."""

from __future__ import annotations

import io
import json
import os
import sys
from collections import Counter
from pathlib import Path
from threading import Thread

import pytest

from milr.errors import UsageError
from milr.tasks import parse_prompt, prompt_files, read_prompt_file, read_tasks, tasks_from_prompts
from milr.types import Requirement, Task

TWO = tasks_from_prompts(["two dogs", "a red cat, a clock"], free=True)


def item(name: str, color: str | None = None) -> Requirement:
    return Requirement.model_validate({"class": name, "color": color})


# --- forms ---


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("a.txt", "two dogs\n\n  a red cat, a clock  \n"),
        ("a.txt", "\ufefftwo dogs\r\na red cat, a clock"),
        ("a.txt", "two dogs\ra red cat, a clock\r"),
        ("a.txt", "prompt\ntwo dogs\na red cat, a clock"),
        ("a.txt", "Prompt\tCategory\ntwo dogs\tAnimals\na red cat, a clock\tThings"),
        ("a", 'id,prompt\n1,two dogs\n2,"a red cat, a clock"'),
        ("a.txt", '["two dogs", "a red cat, a clock"]'),
        (
            "a.json",
            '\ufeff[\n {"prompt": "two dogs"},\n {"Prompt": "a red cat, a clock", "tag": null, "include": []}\n]\n',
        ),
        ("a.jsonl", '{"prompt": "two dogs"}\r\n\r\n{"caption": "a red cat, a clock", "id": "0001"}'),
        ("a.jsonl", '"two dogs"\n"a red cat, a clock"'),
        ("a.csv", 'two dogs\n"a red cat, a clock"\n'),
        ("a.csv", 'Caption\r\ntwo dogs\r\n"a red cat, a clock"\r\n'),
        ("a.csv", '\ufeff id , Prompt ,tag\n0001,two dogs,\n0002, "a red cat, a clock",\n,,\n'),
        ("a.csv", "prompt;id\ntwo dogs;1\na red cat, a clock;2"),
        ("a.TSV", "Prompt\tCategory\ntwo dogs\tAnimals\na red cat, a clock\tThings\n"),
        ("a.tsv", "two dogs\na red cat, a clock\n"),
    ],
)
@pytest.mark.parametrize("encoding", ["utf-8", "utf-16"])
def test_every_form_of_a_file_gives_the_same_tasks(tmp_path: Path, name: str, text: str, encoding: str) -> None:
    path = tmp_path / name
    path.write_bytes(text.removeprefix("\ufeff" if encoding == "utf-16" else "").encode(encoding))
    assert read_tasks(path, free=True) == TWO


def test_lines_that_only_look_like_a_form_are_prompts(tmp_path: Path) -> None:
    path = tmp_path / "prompts.txt"
    lines = ["[oil painting] a dog", "text, a sign", "a\u2028b", "a dog\tand a cat", '"quoted"']
    path.write_text("\n".join(lines), encoding="utf-8")
    assert [task.prompt for task in read_tasks(path, free=True)] == lines


def test_table_cells_and_json_keys_give_tag_and_explanation(tmp_path: Path) -> None:
    table, array = tmp_path / "a.csv", tmp_path / "a.json"
    table.write_text('prompt,Explanation,tag\n"two\ndogs",pets,mine\n')
    array.write_text('[{"Prompt": "two\\ndogs", "Explanation": "pets", "tag": "mine", "include": null}]')
    (task,) = read_tasks(table, free=True)
    assert (task.prompt, task.explanation, task.tag) == ("two\ndogs", "pets", "mine")
    assert read_tasks(array, free=True) == [task]


def test_unknown_fields_are_skipped_with_a_note(tmp_path: Path) -> None:
    path = tmp_path / "e.jsonl"
    more = {"index": 3, "detailed_caption": "x", "tag": "counting", "include": [{"class": "dog", "count": 2}]}
    path.write_text(json.dumps({**more, "prompt": "a photo of two dogs"}) + '\n{"index": 4, "prompt": "a cat"}')
    read = read_prompt_file(path)
    assert [task.prompt for task in read.tasks] == ["a photo of two dogs", "a cat"]
    assert read.tasks[0].include[0].count == 2
    assert read.notes == (f"{str(path)!r} says more than a task holds; passed over: index, detailed_caption (of 1)",)
    path.write_text('"two dogs"')
    assert read_prompt_file(path).notes == ()


# --- where files are ---


def test_pipes_and_standard_input_are_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pipe = tmp_path / "pipe"
    os.mkfifo(pipe)
    writer = Thread(target=pipe.write_text, args=("two dogs\na red cat, a clock\n",))
    writer.start()
    assert read_tasks(pipe, free=True) == TWO
    writer.join()
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(b"two dogs\na dgo\n")))
    with pytest.raises(UsageError, match="^standard input, line 2: cannot read 'dgo'"):
        read_tasks("-")


# --- the benchmarks' own files ---


@pytest.mark.slow
def test_the_official_files_are_read_unchanged(shared_data: Path) -> None:
    wise = read_prompt_file(shared_data / "wise" / "legacy" / "natural_science.json", free=True)
    official = json.loads((shared_data / "wise" / "legacy" / "natural_science.json").read_text())
    assert [(task.prompt, task.explanation) for task in wise.tasks] == [
        (one["Prompt"].strip(), one["Explanation"]) for one in official
    ]
    assert len(wise.notes) == 1 and "Category, Subcategory, prompt_id" in wise.notes[0]
    lengths = Counter[int]()
    for file in sorted((shared_data / "t2i_compbench").glob("*_val.txt")):
        lines = [line.strip() for line in file.read_bytes().decode().split("\n")]
        tasks = read_tasks(file, free=True)
        assert [task.prompt for task in tasks] == [line for line in lines if line]
        lengths[len(tasks)] += 1
    assert lengths == {300: 8}


# --- files that are refused ---


def test_a_text_file_has_one_prompt_per_line(tmp_path: Path) -> None:
    path = tmp_path / "prompts.txt"
    path.write_bytes(b"\xef\xbb\xbf\r\na photo of a dog\r\n\r\n  two cats\r\n")
    assert read_tasks(path) == [parse_prompt("a photo of a dog"), parse_prompt("two cats")]
    assert read_tasks(str(path)) == read_tasks(path)


def test_the_requirements_in_a_json_line_override_its_prompt(tmp_path: Path) -> None:
    path = tmp_path / "tasks.txt"
    line = {"prompt": "a dog", "include": [{"class": "cat", "count": 1, "color": "red"}]}
    path.write_text(f'{json.dumps(line)}\n\n{{"prompt": "two cats", "explanation": "pets"}}\n')
    tasks = read_tasks(path)
    assert tasks[0] == Task(prompt="a dog", include=(item("cat", color="red"),))
    assert tasks[1] == parse_prompt("two cats").model_copy(update={"explanation": "pets"})


def test_every_task_survives_being_written_as_json(tmp_path: Path) -> None:
    tasks = tasks_from_prompts(["two red dogs left of a cat", "a cow", "a cow, a dog and three cats"])
    path = tmp_path / "tasks.jsonl"
    path.write_text("\n".join(task.model_dump_json(by_alias=True) for task in tasks))
    assert read_tasks(path) == tasks


def test_json_lines_reach_the_model_in_its_form_and_survive_being_written(tmp_path: Path) -> None:
    path = tmp_path / "tasks.jsonl"
    path.write_text('{"prompt": "A Dog", "include": [{"class": "dog"}]}\n{"prompt": "TWO cats"}\n')
    tasks = read_tasks(path)
    assert [(task.prompt, task.typed) for task in tasks] == [("a dog", "A Dog"), ("two cats", "TWO cats")]
    assert [task.prompt for task in read_tasks(path, free=True)] == ["A Dog", "TWO cats"]
    path.write_text("\n".join(task.model_dump_json(by_alias=True) for task in tasks))
    assert read_tasks(path) == tasks


@pytest.mark.parametrize(
    ("text", "free", "parts"),
    [
        ("a dog\n\na dgo\n", False, ["line 3", "'dgo'"]),
        ('{"prompt": "a dog"}\na dog', False, ["line 2", "JSON"]),
        (
            '{"prompt": "a dog", "include": [{"class": "dog", "size": 3}]}',
            True,
            ["'include.0.size'", "class, count, color, position"],
        ),
        (
            f'{{"prompt": "?", "include": [{{"class": "dog", "count": {10**399}}}]}}',
            True,
            ["'include.0.count'", "1000"],
        ),
        ('{"include": []}', True, ["'prompt'"]),
        ("{\n", True, ["line 1", "JSON"]),
        ("{" * 100_000, True, ["line 1"]),
        ('{"prompt": "a dgo"}', False, ["line 1", "'dgo'"]),
        ('{"prompt": "a dgo", "include": [{"class": "dog"}]}', False, ["line 1", "'dgo'"]),
        ('{"prompt": " "}', True, ["the prompt is empty"]),
        ('{"prompt": "?", "include": [{"class": "dgo"}]}', True, ["did you mean 'dog'?"]),
        ('{"prompt": "?", "include": [{"class": "dog", "color": "gray"}]}', True, ["unknown colour 'gray'"]),
        ('{"prompt": "?", "include": [{"class": "dog", "position": ["above", 0]}]}', True, ["'dog' by item 0"]),
        ('{"prompt": "?", "exclude": [{"class": "dog", "color": "red"}]}', True, ["class and count only"]),
    ],
)
def test_file_errors_name_file_and_line(tmp_path: Path, text: str, free: bool, parts: list[str]) -> None:
    path = tmp_path / "prompts.txt"
    path.write_text(text)
    with pytest.raises(UsageError) as caught:
        read_tasks(path, free=free)
    assert all(part in str(caught.value) for part in [str(path), *parts]), str(caught.value)
    assert "\n" not in str(caught.value)


def test_missing_empty_and_unreadable_files_are_refused(tmp_path: Path) -> None:
    empty, binary = tmp_path / "empty.txt", tmp_path / "picture.png"
    empty.write_text(" \n\n")
    binary.write_bytes(b"\x89PNG\xff\xfe")
    for path, part in (
        (tmp_path / "none.txt", "no file"),
        (empty, "holds no prompts"),
        (binary, "UTF-8"),
        (tmp_path, "is a folder"),
    ):
        with pytest.raises(UsageError, match=part) as caught:
            read_tasks(path)
        assert str(path) in str(caught.value)
        assert "\n" not in str(caught.value)


def test_a_plain_prompt_file_accepts_any_line(tmp_path: Path) -> None:
    path = tmp_path / "prompts.txt"
    path.write_text("the stars\na dog\n")
    assert read_tasks(path, free=True) == [Task(prompt="the stars"), parse_prompt("a dog")]


def test_tables_without_a_readable_prompt_column_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "a.csv"
    for text, part in (
        ("name,id\ntwo dogs,1\n", "no column of the first line, 'name, id', is named 'prompt'"),
        ("prompt,id\na red cat, a clock,1\n", "line 2: 3 cells under 2 headings; put a prompt"),
        ('prompt,id\n"two dogs,1\n', "line 2: not a table"),
        ('prompt,id\n"",1\n', "line 2: the prompt is empty"),
        (",,\n", "holds no prompts"),
        ("prompt,id\n", "holds no prompts"),
    ):
        path.write_text(text)
        with pytest.raises(UsageError) as caught:
            read_tasks(path, free=True)
        assert f"{str(path)!r}" in str(caught.value) and part in str(caught.value), str(caught.value)


@pytest.mark.parametrize(
    ("name", "text", "part"),
    [
        ("a.json", '[\n {"prompt": "two dogs"},\n', "begins as a JSON array and is not one (Expecting value: line 3"),
        ("a.txt", '[\n {"prompt": "two dogs"},\n', "line 1: '[' is JSON, not a prompt"),
        ("a.txt", 'two dogs\n{"prompt": "a cat"},\n', 'line 2: \'{"prompt": "a cat"},\' is JSON, not a prompt'),
        ("a.json", "[1]", "item 1: '1' is no prompt; give a string, or an object"),
        ("a.json", "[[]]", "item 1: '[]' is no prompt"),
        ("a.json", "[" * 100_000, "it is nested too deeply"),
        ("a.json", '[{"prompt": "a cat"}, {"title": "a dog"}]', "item 2: no key 'prompt' among 'title'"),
        ("a.json", '[{"prompt": null}]', "item 1: 'prompt': is missing"),
        ("a.json", "[]", "holds no prompts"),
        ("a.txt", "two\0dogs", "holds NUL characters"),
    ],
)
def test_broken_files_are_refused_and_not_read_as_prompts(tmp_path: Path, name: str, text: str, part: str) -> None:
    path = tmp_path / name
    path.write_text(text)
    with pytest.raises(UsageError) as caught:
        read_tasks(path, free=True)
    assert str(path) in str(caught.value) and part in str(caught.value), str(caught.value)


def test_a_file_that_is_not_a_prompt_list_is_not_read_completely(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(prompt_files, "_MOST_BYTES", 1000)
    with pytest.raises(UsageError, match="'/dev/zero' is longer than"):
        read_tasks("/dev/zero")
