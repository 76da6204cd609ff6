"""One sentence on a section: the best method, if the interval supports it."""

from __future__ import annotations

import math

from milr.benchmarks.intervals import write_interval, write_number
from milr.report.comparison import END, compare, mark
from milr.report.entries import Entry
from milr.report.sections import Section
from milr.report.statistics import OVERALL
from milr.report.tables import BOLD_FROM


def summarise(section: Section) -> str:
    """Return the conclusion of a section; empty if there is nothing to compare or there are too few prompts.

    An entry is called best only if its paired difference to the next one is over `BOLD_FROM` prompts or more and its 95
    % interval excludes zero. Two kinds of entries do not take part: those of fewer prompts than others, and pools that
    drew more images than any search could, because more images do not make a better method.
    """
    prompts = {entry.label: len(set(entry.outcomes.prompts)) for entry in section.entries}
    whole = [entry for entry in section.entries if prompts[entry.label] == max(prompts.values())]
    most = max((float(one.outcomes.last_spent.max()) for one in whole if not one.pooled), default=math.inf)
    scored = [one for one in whole if one.drawings <= most and not math.isnan(_value(section, one))]
    ranked = sorted(scored, key=lambda entry: -_value(section, entry))
    if len(ranked) < 2 or prompts[ranked[0].label] < BOLD_FROM:
        return ""
    first, second = ranked[:2]
    difference = compare([first, second], first.label).differences[second.label][OVERALL][END]
    if difference.high < 0 and difference.prompts >= BOLD_FROM:
        gap = (
            f"{write_number(-difference.value, 2, False)} {write_interval(-difference.high, -difference.low, 2, False)}"
        )
        return (
            f"On {section.name}, {_tell(section, first)} is best; the next, {_tell(section, second)}, is {gap} below."
        )
    gap = f"{write_number(-difference.value, 2, True)} {write_interval(-difference.high, -difference.low, 2, True)}"
    return (
        f"On {section.name}, no method is shown to be best: {_tell(section, first)} and {_tell(section, second)} "
        f"differ by {gap}."
    )


def _tell(section: Section, entry: Entry) -> str:
    estimate = section.at_end(entry, OVERALL)
    assert estimate is not None
    interval = write_interval(estimate.low, estimate.high, 2, False)
    many = "image" if entry.drawings == 1 else "images"
    return (
        f"{mark(entry)} ({write_number(estimate.value, 2, False)} {interval} at {entry.drawings:.3g} {many} a prompt)"
    )


def _value(section: Section, entry: Entry) -> float:
    estimate = section.at_end(entry, OVERALL)
    return math.nan if estimate is None else estimate.value
