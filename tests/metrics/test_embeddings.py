"""Scores of embeddings, by hand."""

from __future__ import annotations

import math

import pytest
import torch

from stylescore.metrics.embeddings import clip_direction, clip_score, cosine_table, scaled_similarity

EAST, NORTH = torch.tensor([[2.0, 0.0]]), torch.tensor([[0.0, 3.0]])
HALFWAY = torch.tensor([[1.0, 1.0]])


def test_clip_score_is_a_hundredfold_cosine_and_never_negative() -> None:
    pictures = torch.cat([EAST, NORTH, HALFWAY, -EAST])
    assert clip_score(pictures, EAST.expand(4, -1)).tolist() == pytest.approx(
        [100, 0, 100 * math.sqrt(0.5), 0], abs=1e-5
    )


def test_pickscore_scales_the_cosine() -> None:
    assert scaled_similarity(HALFWAY, EAST, 100.0).item() == pytest.approx(100 * math.sqrt(0.5))
    assert scaled_similarity(-EAST, EAST, 20.0).item() == pytest.approx(-20)


def test_direction_is_one_where_pictures_change_as_texts_do() -> None:
    assert clip_direction(EAST, NORTH, EAST, NORTH).item() == pytest.approx(1)
    assert clip_direction(EAST, NORTH, NORTH, EAST).item() == pytest.approx(-1)
    assert clip_direction(5 * EAST, NORTH, EAST, 7 * NORTH).item() == pytest.approx(1)
    assert clip_direction(EAST, EAST, EAST, NORTH).item() == 0


def test_the_table_of_cosines() -> None:
    assert cosine_table(torch.cat([EAST, HALFWAY]), torch.cat([NORTH, EAST])).flatten().tolist() == pytest.approx(
        [0, 1, math.sqrt(0.5), math.sqrt(0.5)]
    )
