"""One thing that a check found, good or bad.

It stands below all checks: they return findings and print nothing, so that the same check serves
the table, the JSON and a test.
"""

from dataclasses import dataclass
from typing import Literal

Level = Literal["error", "warning", "ok"]


@dataclass(frozen=True)
class Finding:
    """What was found, where, and what to do about it.

    Attributes:
        level: `error` stops a run or opens it to others; `warning` may; `ok` was looked at.
        what: What is so, in one sentence.
        where: File, key, port, package or variable that it is about.
        fix: The command or change that mends it; empty where nothing is to be done.
    """

    level: Level
    what: str
    where: str
    fix: str = ""


def ok(what: str, where: str) -> Finding:
    """Makes a finding of something that is as it should be."""
    return Finding("ok", what, where)


def error(what: str, where: str, fix: str) -> Finding:
    """Makes a finding of something that stops a run or opens it to others."""
    return Finding("error", what, where, fix)


def warning(what: str, where: str, fix: str) -> Finding:
    """Makes a finding of something that may."""
    return Finding("warning", what, where, fix)
