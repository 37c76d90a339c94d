"""Studies and the file of votes."""

from __future__ import annotations

import csv
import io
import sqlite3
from collections import Counter
from dataclasses import replace
from pathlib import Path

import pytest

from stylescore.comparison.results import format_results, summarise
from stylescore.comparison.study import Study, make_study
from stylescore.comparison.votes import Votes, to_csv
from stylescore.errors import ConfigError, PictureError
from stylescore.evaluation.pairs import Result


def results(folder: str, *names: str) -> list[Result]:
    return [Result(Path(folder) / f"{name}.png", name) for name in names]


def big(methods: int = 3, photos: int = 30) -> Study:
    names = [f"p{n}" for n in range(photos)]
    return make_study({f"m{n}": results(f"m{n}", *names) for n in range(methods)}, [])


def test_every_two_methods_of_every_photo_are_compared_once() -> None:
    tasks = big().tasks("anna")
    assert len(tasks) == 3 * 30
    assert len({(task.photo, *sorted((task.left, task.right))) for task in tasks}) == 90


def test_orders_differ_between_voters_and_stay_the_same_for_one() -> None:
    study = big()
    assert study.tasks("anna") == study.tasks("anna")
    assert study.tasks("anna") != study.tasks("ben")
    assert study.tasks("anna") != replace(study, seed=1).tasks("anna")


def test_sides_are_drawn_evenly() -> None:
    left = Counter(task.left for voter in range(20) for task in big(2, 50).tasks(str(voter)))
    assert 0.45 < left["m0"] / left.total() < 0.55


def test_each_voter_may_get_only_some() -> None:
    assert len(replace(big(), most=7).tasks("anna")) == 7


def test_photos_that_only_one_method_has_are_left_out() -> None:
    study = make_study({"a": results("a", "x", "y"), "b": results("b", "y", "z")}, [])
    assert study.pairs() == [("y", "a", "b")]


def test_bad_studies_are_refused() -> None:
    two = {"a": results("a", "x"), "b": results("b", "x")}
    with pytest.raises(ConfigError, match="at least two folders, got 1"):
        make_study({"a": results("a", "x")}, [])
    with pytest.raises(ConfigError, match="questions must be of style, content, overall, not beauty"):
        make_study(two, [], questions=["beauty"])
    with pytest.raises(ConfigError, match="--pairs must be 0 or more, not -1"):
        make_study(two, [], most=-1)
    with pytest.raises(PictureError, match="no photo has a picture in two"):
        make_study({"a": results("a", "x"), "b": results("b", "y")}, [])
    with pytest.raises(PictureError, match="'a' has two pictures of 'x'"):
        make_study({"a": results("a", "x-1", "x-2"), "b": results("b", "x")}, [Path("x.jpg")])


def test_votes_are_saved_replaced_taken_back_and_found_again(study: Study, votes: Votes, tmp_path: Path) -> None:
    task = study.tasks("anna")[0]
    votes.save("anna", 0, task, "style", "left")
    votes.save("anna", 0, task, "style", "right")
    votes.save("ben", 0, study.tasks("ben")[0], "style", "tie")
    again = Votes.open(tmp_path / "votes.sqlite", study, ["anna", "carl"])
    assert again.answered("anna") == {(0, "style")}
    assert list(again.voters().values()) == ["anna", "ben", "carl"]
    assert [row.choice for row in again.rows()] == ["right", "tie"]
    assert again.rows()[0].as_vote().winner == task.right
    again.remove("anna", 0, "style")
    assert again.answered("anna") == set()
    (row,) = csv.DictReader(io.StringIO(to_csv(again.rows())))
    assert (row["voter"], row["choice"]) == ("ben", "tie")


def test_tokens_are_secret_and_stay(study: Study, votes: Votes, tmp_path: Path) -> None:
    tokens = list(votes.voters())
    assert all(len(token) >= 20 for token in tokens)
    assert len(set(tokens)) == 2
    assert list(Votes.open(tmp_path / "votes.sqlite", study, ["anna"]).voters()) == tokens


def test_other_studies_and_other_files_are_refused(study: Study, votes: Votes, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="holds the votes of other folders"):
        Votes.open(votes.path, replace(study, seed=5), ["anna"])
    (tmp_path / "text").write_text("no database, but long enough to be looked at as one", encoding="utf-8")
    with pytest.raises(ConfigError, match="is no file of votes"):
        Votes.open(tmp_path / "text", study, ["anna"])
    with sqlite3.connect(tmp_path / "other.sqlite") as db:
        db.execute("CREATE TABLE other (x)")
    db.close()
    for open_it in (lambda p: Votes.open(p, study, []), Votes.existing):
        with pytest.raises(ConfigError, match="is no file of votes of this version"):
            open_it(tmp_path / "other.sqlite")
    with pytest.raises(ConfigError, match="there is no file of votes"):
        Votes.existing(tmp_path / "none.sqlite")


def test_results_question_by_question(study: Study, votes: Votes) -> None:
    for number, task in enumerate(study.tasks("anna")):
        winner = "left" if task.left == "secret-sms" else "right"
        votes.save("anna", number, task, "style", winner)
        votes.save("anna", number, task, "overall", winner if number else "tie")
    found = summarise(votes.rows(), votes.methods())
    style, overall = found["questions"]["style"], found["questions"]["overall"]
    assert [(rate["name"], rate["rate"]) for rate in style["win_rates"]] == [("secret-sms", 1), ("secret-dds", 0)]
    assert style["ranking"] == []
    assert "has not won" in style["no_ranking"]
    assert overall["ranking"][0]["name"] == "secret-sms"
    assert overall["ties"] == 1
    lines = format_results(found)
    assert max(map(len, lines)) <= 80
    assert lines[0] == "style: 3 votes by 1 voter"
    assert format_results(summarise([], ["a", "b"])) == ["no votes yet"]
