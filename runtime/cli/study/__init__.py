"""`limner study`: plans and their sizes, people's answers, runs, tables, sheets, times, measures and settings."""

from limner.runtime.cli.study import people, plans, runs
from limner.runtime.cli.study.app import app

__all__ = ["app", "people", "plans", "runs"]
