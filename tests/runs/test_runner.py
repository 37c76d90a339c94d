from pathlib import Path

import pytest
import torch

from stylescore.errors import OutputError
from stylescore.method.fit import Iteration
from stylescore.method.types import FakeStep, Step
from stylescore.runs.job import PictureFolder
from stylescore.runs.runner import step_row


def test_where_things_lie(tmp_path: Path) -> None:
    folder = PictureFolder(tmp_path)
    paths = [folder.picture, folder.model_picture, folder.before_after, folder.animation, folder.preview(20)]
    assert [path.relative_to(folder.path).as_posix() for path in paths] == [
        "picture.png",
        "picture-model-size.png",
        "before-after.png",
        "run.gif",
        "previews/step-00020.png",
    ]


@pytest.mark.parametrize("name", ["picture.png", "run.gif", "steps.jsonl"])
def test_a_folder_in_the_place_of_a_picture_is_told(tmp_path: Path, name: str) -> None:
    (tmp_path / name).mkdir()
    with pytest.raises(OutputError, match=f"{name}' is a folder, the run needs a file there"):
        PictureFolder(tmp_path).check_places()


def test_a_file_in_the_place_of_the_previews_is_told(tmp_path: Path) -> None:
    (tmp_path / "previews").write_text("")
    with pytest.raises(OutputError, match="previews' is not a folder, the run needs one there"):
        PictureFolder(tmp_path).check_places()


def iteration(*, fake: bool) -> Iteration:
    step = Step(
        t=torch.tensor([21, 499]),
        gradient=torch.zeros(2, 4, 1, 2),
        relevance=torch.tensor([[0.0, 0.5], [0.5, 1.0]]).view(2, 1, 1, 2),
        score_loss=torch.tensor([1.0, 2.0]),
        spectrum_loss=torch.tensor([3.0, 4.0]),
        loss=torch.tensor([4.0, 6.0]),
    )
    fake_step = FakeStep(t=torch.tensor([101, 201]), loss=torch.tensor([5.0, 6.0])) if fake else None
    return Iteration(index=3, step=step, fake=fake_step, learning_rate=0.25, forward_passes=12, trained_passes=2)


def test_a_row_tells_one_pictures_share_of_a_step() -> None:
    assert step_row(iteration(fake=True), 1) == {
        "iteration": 3,
        "t": 499,
        "learning_rate": 0.25,
        "score_loss": 2.0,
        "spectrum_loss": 4.0,
        "relevance_mean": 0.75,
        "forward_passes": 6.0,
        "trained_passes": 1.0,
        "fake_t": 201,
        "fake_loss": 6.0,
    }


def test_a_row_of_a_method_without_a_fake_score_does_not_mention_it() -> None:
    assert "fake_loss" not in step_row(iteration(fake=False), 0)
