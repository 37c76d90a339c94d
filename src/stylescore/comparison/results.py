"""What the votes of a study say, question by question."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict
from textwrap import wrap
from typing import Any

from stylescore.comparison.ranking import count_wins, strengths, win_rates
from stylescore.comparison.study import QUESTIONS
from stylescore.comparison.votes import Row
from stylescore.errors import ConfigError, count_of


def summarise(rows: Sequence[Row], methods: Sequence[str]) -> dict[str, Any]:
    """Return win rates and strengths for every question, as plain values for JSON.

    Where no finite strengths exist, `ranking` is empty and `no_ranking` says why.
    """
    found = {}
    for question in QUESTIONS:
        chosen = [row for row in rows if row.question == question]
        if chosen:
            found[question] = _summarise_question(chosen, methods)
    return {"methods": list(methods), "questions": found}


def _summarise_question(rows: Sequence[Row], methods: Sequence[str]) -> dict[str, Any]:
    wins = count_wins([row.as_vote() for row in rows], methods)
    try:
        ranking, reason = [asdict(entry) for entry in strengths(wins, methods)], None
    except ConfigError as error:
        ranking, reason = [], str(error)
    return {
        "votes": len(rows),
        "voters": len({row.voter for row in rows}),
        "ties": sum(row.choice == "tie" for row in rows),
        "left": sum(row.choice == "left" for row in rows),
        "win_rates": [asdict(entry) for entry in win_rates(wins, methods)],
        "ranking": ranking,
        "no_ranking": reason,
    }


def format_results(summary: dict[str, Any]) -> list[str]:
    """Format a summary as lines of at most 80 columns."""
    if not summary["questions"]:
        return ["no votes yet"]
    lines = []
    for question, found in summary["questions"].items():
        ties = f", {count_of(found['ties'], 'tie')} among them" if found["ties"] else ""
        lines += ["", f"{question}: {count_of(found['votes'], 'vote')} by {count_of(found['voters'], 'voter')}{ties}"]
        by_name = {entry["name"]: entry for entry in found["ranking"]}
        for rate in found["win_rates"]:
            strength = by_name.get(rate["name"])
            lines.append(_format_line(rate, strength))
        if found["no_ranking"]:
            lines += wrap(f"no ranking: {found['no_ranking']}", 80, initial_indent="  ", subsequent_indent="  ")
    return lines[1:]


def _format_line(rate: dict[str, Any], strength: dict[str, Any] | None) -> str:
    name = rate["name"] if len(rate["name"]) <= 24 else f"...{rate['name'][-21:]}"
    won = f"won {rate['rate']:6.1%} [{rate['low']:.1%}, {rate['high']:.1%}]"
    if strength is None:
        return f"  {name:<24} {won}"
    return f"  {name:<24} {won:<28} {strength['value']:+.2f} [{strength['low']:+.2f}, {strength['high']:+.2f}]"
