"""The index of searches and their events, in SQLite. Run folders are the truth: `milr index` rebuilds it from them."""

from __future__ import annotations

import json
import time
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from sqlalchemy import Engine, ForeignKey, Index, create_engine, delete, event, func, select, update
from sqlalchemy.orm import DeclarativeBase, Mapped, Session, mapped_column

State = Literal["waiting", "running", "finished", "cancelled", "failed"]
LIVE: tuple[State, ...] = ("waiting", "running")
FILE = "milr.sqlite"
"""Name of the index's file in the folder of the runs."""


class Base(DeclarativeBase):
    """The tables."""


class SearchRow(Base):
    """A search: one run folder."""

    __tablename__ = "searches"

    id: Mapped[str] = mapped_column(primary_key=True)
    """Also the name of the run's folder."""
    owner: Mapped[str] = mapped_column(index=True)
    """The short name of the key that requested it; empty without keys."""
    state: Mapped[str] = mapped_column(index=True)
    created: Mapped[float] = mapped_column(index=True)
    """Seconds since 1970."""
    ended: Mapped[float | None] = mapped_column(default=None)
    model: Mapped[str]
    method: Mapped[str]
    title: Mapped[str]
    """The first prompts."""
    tags: Mapped[str] = mapped_column(default="")
    """The tasks' tags, each between two commas."""
    request: Mapped[str]
    """The request as JSON; empty for a run that no server made."""
    wanted: Mapped[int]
    """Number of requested images."""
    done: Mapped[int] = mapped_column(default=0)
    """Images that are finished."""
    met: Mapped[int] = mapped_column(default=0)
    """The images among these whose reward is met."""
    first: Mapped[float | None] = mapped_column(default=None)
    """Mean reward of the first images."""
    best: Mapped[float | None] = mapped_column(default=None)
    """Mean reward of the best ones."""
    error: Mapped[str] = mapped_column(default="")

    __table_args__ = (Index("searches_owner_created", "owner", "created"),)


class EventRow(Base):
    """An event of a search, numbered from 1 without gaps."""

    __tablename__ = "events"

    search: Mapped[str] = mapped_column(ForeignKey("searches.id", ondelete="CASCADE"), primary_key=True)
    number: Mapped[int] = mapped_column(primary_key=True)
    kind: Mapped[str]
    """"state", "step"; "image", the step that ended an image; "end"."""
    place: Mapped[str]
    """"task/image/step" of a step, which has one event however often it is computed; the kind of others."""
    data: Mapped[str]
    """JSON."""

    __table_args__ = (Index("events_place", "search", "place", unique=True),)


class AttemptRow(Base):
    """A search that was given a place and has made no step since: the process may have ended because of it."""

    __tablename__ = "attempts"

    search: Mapped[str] = mapped_column(ForeignKey("searches.id", ondelete="CASCADE"), primary_key=True)
    many: Mapped[int]
    """Processes that gave it a place, one after the other."""


@dataclass(frozen=True)
class Event:
    """An event of a search."""

    number: int
    kind: str
    data: dict[str, Any]


@dataclass(frozen=True)
class Page:
    """Filter of a list of searches."""

    owner: str
    text: str = ""
    """Words of the prompts."""
    tag: str = ""
    state: str = ""
    outcome: str = ""
    """"met", "improved" or "failed": as strips are framed."""
    sort: Literal["newest", "gain", "best"] = "newest"
    limit: int = 50
    offset: int = 0


class Store:
    """The index. Safe to use from several threads."""

    def __init__(self, folder: Path) -> None:
        """Open or make the index in a folder that exists."""
        self._engine: Engine = create_engine(f"sqlite:///{folder / FILE}", connect_args={"timeout": 30})

        @event.listens_for(self._engine, "connect")
        def prepare(connection: Any, record: object) -> None:  # pyright: ignore[reportUnusedFunction]
            for setting in ("journal_mode=WAL", "synchronous=NORMAL", "foreign_keys=ON"):
                connection.execute(f"PRAGMA {setting}")

        Base.metadata.create_all(self._engine)

    def close(self) -> None:
        """Let go of the file."""
        self._engine.dispose()

    def add(self, row: SearchRow) -> None:
        """Add a search."""
        with Session(self._engine) as session, session.begin():
            session.add(row)

    def get(self, search: str, owner: str) -> SearchRow | None:
        """Return a search of this owner."""
        with Session(self._engine, expire_on_commit=False) as session:
            row = session.get(SearchRow, search)
            return row if row is not None and row.owner == owner else None

    def find_any(self, search: str) -> SearchRow | None:
        """Return a search of any owner."""
        with Session(self._engine, expire_on_commit=False) as session:
            return session.get(SearchRow, search)

    def unfinished(self) -> list[SearchRow]:
        """Return the searches that a server has begun and not ended, oldest first."""
        with Session(self._engine, expire_on_commit=False) as session:
            chosen = select(SearchRow).where(SearchRow.state.in_(LIVE), SearchRow.request != "")
            return list(session.scalars(chosen.order_by(SearchRow.created)))

    def attempts(self) -> dict[str, int]:
        """Return how often searches were given a place without a step after it, by their ids."""
        with Session(self._engine) as session:
            return {row.search: row.many for row in session.scalars(select(AttemptRow))}

    def attempt(self, search: str) -> None:
        """Note that a search is given a place."""
        with Session(self._engine) as session, session.begin():
            row = session.get(AttemptRow, search)
            session.merge(AttemptRow(search=search, many=1 if row is None else row.many + 1))

    def succeed(self, search: str) -> None:
        """Note that a search has made a step, or that the process has ended without a fault of it."""
        with Session(self._engine) as session, session.begin():
            session.execute(delete(AttemptRow).where(AttemptRow.search == search))

    def change(self, search: str, **values: Any) -> None:
        """Set fields of a search."""
        with Session(self._engine) as session, session.begin():
            session.execute(update(SearchRow).where(SearchRow.id == search).values(**values))

    def find(self, page: Page) -> tuple[list[SearchRow], int]:
        """Return the searches of a page, and how many there are on all pages."""
        gain = SearchRow.best - SearchRow.first
        chosen = select(SearchRow).where(SearchRow.owner == page.owner)
        for word in page.text.split():
            chosen = chosen.where(SearchRow.title.icontains(word, autoescape=True))
        if page.tag:
            chosen = chosen.where(SearchRow.tags.contains(f",{page.tag},", autoescape=True))
        if page.state:
            chosen = chosen.where(SearchRow.state == page.state)
        if page.outcome == "met":
            chosen = chosen.where(SearchRow.met == SearchRow.done, SearchRow.done > 0)
        elif page.outcome == "improved":
            chosen = chosen.where(SearchRow.met < SearchRow.done, gain > 0)
        elif page.outcome == "failed":
            chosen = chosen.where(SearchRow.met < SearchRow.done, gain <= 0)
        order = {"gain": gain.desc().nulls_last(), "best": SearchRow.best.desc().nulls_last()}.get(page.sort)
        ordered = chosen if order is None else chosen.order_by(order)
        ordered = ordered.order_by(SearchRow.created.desc(), SearchRow.id)
        with Session(self._engine, expire_on_commit=False) as session:
            total = session.scalar(select(func.count()).select_from(chosen.subquery())) or 0
            return list(session.scalars(ordered.limit(page.limit).offset(page.offset))), total

    def record(self, search: str, kind: str, place: str, data: Mapping[str, Any], **values: Any) -> bool:
        """Add an event, and set fields of its search with it; return False, and do nothing, if the place has one."""
        with Session(self._engine) as session, session.begin():
            known = select(EventRow.number).where(EventRow.search == search, EventRow.place == place)
            if session.scalar(known) is not None:
                return False
            last = session.scalar(select(func.max(EventRow.number)).where(EventRow.search == search)) or 0
            text = json.dumps(data, ensure_ascii=False)
            session.add(EventRow(search=search, number=last + 1, kind=kind, place=place, data=text))
            if values:
                session.execute(update(SearchRow).where(SearchRow.id == search).values(**values))
            return True

    def events(self, search: str, after: int = 0, limit: int = 200, kind: str | None = None) -> list[Event]:
        """Return the events after a number, in order: of all kinds, or of one."""
        with Session(self._engine) as session:
            chosen = select(EventRow).where(EventRow.search == search, EventRow.number > after)
            if kind is not None:
                chosen = chosen.where(EventRow.kind == kind)
            rows: Sequence[EventRow] = session.scalars(chosen.order_by(EventRow.number).limit(limit)).all()
            return [Event(row.number, row.kind, json.loads(row.data)) for row in rows]

    def replace(self, row: SearchRow, events: Iterable[tuple[str, str, Mapping[str, Any]]]) -> None:
        """Replace a search in the index, with its events as (kind, place, data)."""
        with Session(self._engine) as session, session.begin():
            session.execute(delete(EventRow).where(EventRow.search == row.id))
            session.merge(row)
            session.flush()
            for number, (kind, place, data) in enumerate(events, 1):
                text = json.dumps(data, ensure_ascii=False)
                session.add(EventRow(search=row.id, number=number, kind=kind, place=place, data=text))

    def known(self) -> dict[str, str]:
        """Return every search's state, by its id."""
        with Session(self._engine) as session:
            return {row.id: row.state for row in session.execute(select(SearchRow.id, SearchRow.state))}

    def forget(self, search: str) -> None:
        """Remove a search from the index; its run folder stays."""
        with Session(self._engine) as session, session.begin():
            session.execute(delete(SearchRow).where(SearchRow.id == search))


def now() -> float:
    """Return seconds since 1970."""
    return time.time()
