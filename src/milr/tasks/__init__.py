"""Tasks: vocabulary, grammar of the icon world, readers of prompt files."""

from milr.tasks.grammar import Reading, explain, parse_prompt, read_prompt
from milr.tasks.phrases import MAX_PHRASES, Phrase, write_prompt
from milr.tasks.readers import PromptFile, check_task, make_task, read_prompt_file, read_tasks, tasks_from_prompts
from milr.tasks.refusals import PromptError
from milr.tasks.spellings import Joiner
from milr.tasks.vocabulary import COLORS, COUNT_WORDS, OBJECT_NAMES, RELATIONS, list_words, plural, with_article

__all__ = [
    "COLORS",
    "COUNT_WORDS",
    "MAX_PHRASES",
    "OBJECT_NAMES",
    "RELATIONS",
    "Joiner",
    "Phrase",
    "PromptError",
    "PromptFile",
    "Reading",
    "check_task",
    "explain",
    "list_words",
    "make_task",
    "parse_prompt",
    "plural",
    "read_prompt",
    "read_prompt_file",
    "read_tasks",
    "tasks_from_prompts",
    "with_article",
    "write_prompt",
]
