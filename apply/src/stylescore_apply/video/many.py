"""Stylizes the videos among a command's inputs, and says what became of each."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass

from stylescore_apply.batch import Outcome, Saving
from stylescore_apply.errors import StylescoreError
from stylescore_apply.inputs import Job
from stylescore_apply.networks import Network
from stylescore_apply.stylizing import Settings
from stylescore_apply.video.library import require_av, require_cv2
from stylescore_apply.video.noise import NoiseMotion
from stylescore_apply.video.stylizing import check_smooth, describe_video, stylize_video, unfinished_path

Show = Callable[[Job, int, int | None, float], None]
"""Is given a video, how many of its frames are done, how many there are, and the seconds so far."""


@dataclass(frozen=True, kw_only=True)
class Film:
    """How videos are stylized.

    Attributes:
        smooth: at least 0 and less than 1, weight of the previous frame along the optical flow.
        noise: whether the noise field is fixed, one for all frames, or moved along the optical flow.
    """

    smooth: float = 0.0
    noise: NoiseMotion = "fixed"

    def __post_init__(self) -> None:
        """Raise `ConfigError` for a number out of range."""
        check_smooth(self.smooth)

    def require_libraries(self) -> None:
        """Raise `ConfigError` unless the libraries are installed."""
        require_av()
        if self.smooth or self.noise == "moved":
            require_cv2()


def stylize_videos(
    network: Network, jobs: Iterable[Job], settings: Settings, saving: Saving, film: Film, show: Show
) -> Iterator[Outcome]:
    """Stylize videos, and yield what became of each; a failure does not stop the others."""
    for job in jobs:
        if not saving.overwrite and job.is_done:
            yield Outcome(job, "skipped")
        else:
            yield _stylize(network, job, settings, film, show)


def _stylize(network: Network, job: Job, settings: Settings, film: Film, show: Show) -> Outcome:
    start, done = time.perf_counter(), 0
    try:
        notes = describe_video(job.source)
        frames = stylize_video(network, job.source, job.target, settings, smooth=film.smooth, noise=film.noise)
        for done, total in frames:
            show(job, done, total, time.perf_counter() - start)
    except StylescoreError as error:
        left = unfinished_path(job.target)
        kept = (f"what was made so far can be played: {left}",) if done and left.exists() else ()
        return Outcome(job, "failed", error, notes=kept)
    return Outcome(job, "made", notes=notes, seconds=time.perf_counter() - start, frames=done)
