"""Tasks: vocabulary, grammar of the icon world, readers of prompt files."""

from milr.tasks.grammar import MAX_PHRASES, Joiner, Phrase, PromptError, parse_prompt, write_prompt
from milr.tasks.readers import check_task, read_tasks, tasks_from_prompts
from milr.tasks.vocabulary import COLORS, COUNT_WORDS, OBJECT_NAMES, RELATIONS, plural, with_article

__all__ = [
    "COLORS",
    "COUNT_WORDS",
    "MAX_PHRASES",
    "OBJECT_NAMES",
    "RELATIONS",
    "Joiner",
    "Phrase",
    "PromptError",
    "check_task",
    "parse_prompt",
    "plural",
    "read_tasks",
    "tasks_from_prompts",
    "with_article",
    "write_prompt",
]
