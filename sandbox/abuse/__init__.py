"""Hostile programs, each with the ending it must come to: run by the tests and by the self-test."""

from nightlab.sandbox.abuse import escapes, hoards, lies, outputs, struggles
from nightlab.sandbox.abuse.case import Case

CASES: tuple[Case, ...] = (
    *hoards.CASES,
    *struggles.CASES,
    *escapes.CASES,
    *outputs.CASES,
    *lies.CASES,
)
