"""The parser of the icon world's grammar: a prompt's words to phrases and the words between them."""

from __future__ import annotations

from collections.abc import Sequence

from milr.tasks.cursor import Cursor
from milr.tasks.phrases import MAX_PHRASES, Phrase
from milr.tasks.refusals import PromptError, refuse_joiner, refuse_object
from milr.tasks.spellings import (
    ARTWORKS,
    COLOR_WORDS,
    COUNTED_WORDS,
    FAREWELLS,
    JOINING_WORDS,
    LINKS,
    OBJECT_WORDS,
    PICTURES,
    REQUESTS,
    SCENERY,
    SILENT_WORDS,
    UNSAID,
    Joiner,
)
from milr.tasks.vocabulary import IGNORED_WORDS, OBJECT_NAMES, plural, quote


class PromptParser(Cursor):
    """A parser that reads one prompt from left to right."""

    def __init__(self, prompt: str) -> None:
        """Begin before the first word."""
        super().__init__(prompt)
        self.photo = False
        """True if the prompt begins with "a photo of", or similar words."""
        self.notes: list[str] = []
        """Notes on words that were left out, or read as something similar."""
        self._nouns: list[str] = []

    def read(self) -> tuple[list[Phrase], list[Joiner]]:
        """Read the phrases and the words between them."""
        self._leave_out_the_end()
        self._begin()
        phrases = [self._phrase()]
        joiners: list[Joiner] = []
        while self.at < len(self.words):
            joiner = self._joiner()
            if joiner is None:
                break
            if len(phrases) == MAX_PHRASES:
                raise PromptError(f"{quote(self.prompt)} asks for more than three kinds of objects: leave some out")
            joiners.append(joiner)
            phrases.append(self._phrase())
            self._refuse_twice([phrase.name for phrase in phrases])
        return phrases, joiners

    def _leave_out_the_end(self) -> None:
        """Skip words that may follow the objects: thanks, a background, words of style after a comma."""
        before: list[str] = []
        while before != self.words:
            before = list(self.words)
            for words in FAREWELLS:
                if self.words[-len(words) :] == words and len(self.words) > len(words):
                    del self.words[-len(words) :]
                    while len(self.words) > 1 and self.words[-1] == ",":
                        del self.words[-1]
            text = " ".join(self.words)
            found = SCENERY.search(text)
            if found and found.start() > 0:
                self._ignore(found.group())
                self.words = text[: found.start()].rstrip(" ,").split()
            elif "," in self.words:
                last = len(self.words) - 1 - self.words[::-1].index(",")
                style = self.words[last + 1 :]
                if last > 0 and style and IGNORED_WORDS.issuperset(style):
                    self._ignore(" ".join(style))
                    del self.words[last:]

    def _begin(self) -> None:
        """Read words that may come before the objects: a request, "a photo of"."""
        asked = False
        while length := self.count(REQUESTS) or int(asked and self.words[self.at : self.at + 1] == [","]):
            self.at += length
            asked = True
        at, ignored = self.at, list[str]()
        if self.words[at : at + 1] in (["a"], ["an"], ["the"]):
            at += 1
        while at < len(self.words) and self.words[at] in IGNORED_WORDS:
            ignored.append(self.words[at])
            at += 1
        kind, after = " ".join(self.words[at : at + 1]), self.words[at + 1 : at + 2]
        if kind in (*PICTURES, *ARTWORKS) and after in (["of"], ["with"], ["showing"], ["containing"]):
            self.at, self.photo = at + 2, True
            self._ignore(*ignored)
            if kind in ARTWORKS:
                self.notes.append(f"{kind!r} is read as 'photo'")

    def _phrase(self) -> Phrase:
        start = self.at
        self._skip_silent()
        counted_at = self.at
        count = self.take(COUNTED_WORDS) or UNSAID
        pair = "of" in self.words[counted_at : self.at]
        if count == UNSAID:
            self._skip_silent()
            count = self.take(COUNTED_WORDS) or UNSAID  # "the two dogs"
        color: str | None = None
        while True:
            self._skip_silent()
            here = self.at
            if color is None and (found := self.take(COLOR_WORDS)) is not None:
                if found in OBJECT_NAMES and self._phrase_ends():
                    self.at = here
                    break
                color = found
                if self.words[here] != found:
                    self.notes.append(f"{self.words[here]!r} is read as {found!r}")
            elif (
                self.at < len(self.words)
                and self.words[self.at] in IGNORED_WORDS
                and not self.comes(OBJECT_WORDS, here)
            ):
                self._ignore(self.words[self.at])
                self.at += 1
            else:
                break
        here = self.at
        noun = self.take(OBJECT_WORDS)
        if noun is None:
            raise refuse_object(self, may_count=self.at == start, color=color)
        said = " ".join(self.words[here : self.at])
        self._nouns.append(said)
        if not noun.exact:
            self.notes.append(f"{said!r} is read as {noun.name!r}")
        if pair and plural(noun.name) == noun.name:
            count = 1
        if noun.is_plural and count == UNSAID:
            raise PromptError(
                f"{quote(self.prompt)} does not say how many {plural(noun.name)}: "
                f"write 'two', 'three' or 'four' before the word, or {noun.name!r} for one"
            )
        return Phrase(noun.name, count or 1, color)

    def _joiner(self) -> Joiner | None:
        """Read the words between two phrases; return None if the prompt ends after a word that is left out."""
        here = self.at
        passed = self._pass_links()
        table_at = self.at
        found = self.take(JOINING_WORDS)
        if found is None and passed and self.at == len(self.words):
            self._ignore(*passed)
            return None
        if found is None:
            raise refuse_joiner(self, here)
        joiner, exact = found
        self._ignore(*passed)
        if not exact:
            said = " ".join(self.words[table_at : self.at]).removeprefix(", ")
            side = "; for a place write 'left of', 'right of', 'above' or 'below'" if joiner == "and" else ""
            self.notes.append(f"{said!r} is read as {joiner!r}{side}")
        return joiner

    def _pass_links(self) -> list[str]:
        """Skip "is", "that is" and words of looks after an object; return the latter."""
        passed: list[str] = []
        while self.at < len(self.words):
            if length := self.count(LINKS):
                self.at += length
                continue
            if self.words[self.at] not in IGNORED_WORDS:
                break
            passed.append(self.words[self.at])
            self.at += 1
        return passed

    def _skip_silent(self) -> None:
        while self.at < len(self.words) and self.words[self.at] in SILENT_WORDS:
            self.at += 1

    def _ignore(self, *words: str) -> None:
        self.notes += [f"{word!r} is ignored" for word in words]

    def _refuse_twice(self, names: Sequence[str]) -> None:
        """Refuse a last object that an earlier phrase also names."""
        name = names[-1]
        if name not in names[:-1]:
            return
        first, last = self._nouns[names.index(name)], self._nouns[-1]
        both = "" if first == last else f" ({first!r} and {last!r} are one kind of object here)"
        raise PromptError(
            f"{quote(self.prompt)} names {name!r} twice{both}, which GenEval's rules cannot judge: "
            f"write a count ('two {plural(name)}') or another object"
        )

    def _phrase_ends(self) -> bool:
        at = self.at
        self._pass_links()
        ends = self.at == len(self.words) or self.comes(JOINING_WORDS, self.at)
        self.at = at
        return ends
