"""Makes the photos of a call one after another: those of earlier calls are left or resumed, faults do not stop it."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, closing
from dataclasses import dataclass, field, replace
from functools import cached_property, partial
from itertools import groupby
from pathlib import Path
from typing import TYPE_CHECKING

from stylescore.cli.output import add_resume_hint, progress, say, working
from stylescore.cli.resume import print_resume
from stylescore.cli.signals import Interrupts
from stylescore.cli.streams import output_of_this_thread
from stylescore.config.output import OutputConfig
from stylescore.config.run import RunConfig
from stylescore.errors import ConfigError, StylescoreError

if TYPE_CHECKING:
    from stylescore.assembly.sources import Sources
    from stylescore.assembly.stylizer import Stylizer
    from stylescore.diffusion.captioner import Captioner, CaptionModel
    from stylescore.images import Photo
    from stylescore.method.state import PictureState
    from stylescore.runs.job import Job, PictureFolder, Task, Written
    from stylescore.runs.outcomes import Outcome
    from stylescore.runs.plan import Interrupted, New, Step
    from stylescore.runs.runner import Batch
    from stylescore.runs.workers import Workers

SHARED_FAKE = "note: fake.scope = batch: the pictures of a batch share a fake score, so each depends on the others"
MUCH_LARGER = 1.5
"""A photo so many times the working size loses detail that the user can see."""
FINER = "; a larger --size is finer, and slower"


@dataclass(frozen=True)
class Options:
    """How the command behaves: what it prints and writes, how many pictures make a batch, and what it makes again."""

    json: bool
    quiet: bool
    preview_every: int = 0
    gif: bool = False
    batch: int = 1
    overwrite: bool = False
    workers: str | None = None
    output: OutputConfig = field(default_factory=OutputConfig)
    cost: bool = False

    @property
    def written(self) -> Written:
        """What runs write."""
        from stylescore.runs.job import Written

        return Written(gif=self.gif, preview_every=self.preview_every, cost=self.cost, output=self.output)


@dataclass
class Call:
    """One call of the command, checked.

    Attributes:
        run: the configuration, but for captions.
        sources: what its names stand for.
        options: how the command behaves.
        interrupts: signals that ask to stop.
        sizes: width and height of the photos.
        caption_model: what writes captions where a task has none.
        load: loads the models, when the first photo needs them.
    """

    run: RunConfig
    sources: Sources
    options: Options
    interrupts: Interrupts
    sizes: Mapping[Path, tuple[int, int]]
    caption_model: CaptionModel | None
    load: Callable[[], Stylizer]
    alone: bool = False

    @cached_property
    def stylizer(self) -> Stylizer:
        """The loaded models."""
        return self.load()

    @cached_property
    def captioner(self) -> Captioner:
        """The loaded model that writes captions."""
        assert self.caption_model is not None
        return self.caption_model.load(self.run.execution.device)


def make_photos(
    call: Call, tasks: Sequence[Task], failures: Mapping[Path, StylescoreError], workers: Workers | None
) -> Iterator[Outcome]:
    """Make the photos of a call, and yield what became of each.

    Args:
        call: the call.
        tasks: its photos.
        failures: why some of them cannot be used, by their paths.
        workers: processes of a cluster that make them; `None` makes them here.
    """
    from stylescore.runs.outcomes import failed
    from stylescore.runs.plan import Planner

    call.alone = len(tasks) == 1
    for path, error in failures.items():
        yield failed(path, error)
    usable = [task for task in tasks if task.photo not in failures]
    planner = Planner(call.run, call.sources, call.options.written)
    steps = planner.plan(usable, again=call.options.overwrite)
    if workers is None:
        yield from _make_here(call, steps)
    else:
        yield from _make_there(call, steps, workers)


def _make_here(call: Call, steps: Sequence[Step]) -> Iterator[Outcome]:
    """Take the steps one after another, in this process."""
    from stylescore.runs.outcomes import found
    from stylescore.runs.plan import Finished, Interrupted, New

    waiting = sum(_count(step) for step in steps)
    try:
        for step in steps:
            call.interrupts.raise_if_requested()
            match step:
                case Finished():
                    yield found(step.task, step.folder)
                case Interrupted():
                    waiting -= _count(step)
                    yield from _go_on(call, step)
                case New():
                    for tasks in _split(call, step):
                        call.interrupts.raise_if_requested()
                        waiting -= len(tasks)
                        yield from _begin(call, tasks)
    except KeyboardInterrupt:
        if waiting:
            say(f"{waiting} of the photos not begun; the same command goes on with them")
        raise


def _make_there(call: Call, steps: Sequence[Step], workers: Workers) -> Iterator[Outcome]:
    """Let the workers of a cluster take the steps."""
    from stylescore.runs.cluster import Assignment, make_on_cluster
    from stylescore.runs.outcomes import found
    from stylescore.runs.plan import Finished, New

    assignments = []
    for step in steps:
        match step:
            case Finished():
                yield found(step.task, step.folder)
            case New():
                groups = (
                    step.tasks[at : at + call.options.batch] for at in range(0, len(step.tasks), call.options.batch)
                )
                assignments += [Assignment.new(part) for group in groups for part in _by_size(call, group)]
            case _:
                assignments.append(Assignment.of(step, again=call.options.overwrite))
    if assignments:
        say(f"on Ray: {len(assignments)} batches of photos", quiet=call.options.quiet)
        try:
            with output_of_this_thread():
                yield from make_on_cluster(workers, call.run, call.options.written, call.caption_model, assignments)
        except KeyboardInterrupt:
            say("the workers were stopped; the same command goes on from their last saved states")
            raise


def _by_size(call: Call, tasks: Sequence[Task]) -> list[tuple[Task, ...]]:
    """Return neighbouring photos of one size together, as their working size is known to the workers only."""
    return [tuple(group) for _, group in groupby(tasks, key=lambda task: call.sizes[task.photo])]


def _count(step: Step) -> int:
    """Return how many photos of a step are to be made."""
    from stylescore.runs.plan import Finished

    return 0 if isinstance(step, Finished) else len(step.tasks)


def _split(call: Call, step: New) -> Iterator[Sequence[Task]]:
    """Yield batches: neighbouring photos of one working size and length of prompts, at most as many as allowed."""
    limit = call.options.batch
    for _, group in groupby(step.tasks, key=partial(_shape, call)):
        tasks = list(group)
        for start in range(0, len(tasks), limit):
            yield tasks[start : start + limit]


def _shape(call: Call, task: Task) -> tuple[tuple[int, int], int]:
    """Return what the photos of a batch have in common: working size, and windows of the text encoder."""
    stylizer = call.stylizer
    size = stylizer.size_for(task.photo, call.sizes[task.photo])
    return size, stylizer.windows(task.run(call.run).caption)


def _begin(call: Call, tasks: Sequence[Task]) -> Iterator[Outcome]:
    """Open the photos of a batch, make their run folders, and run it."""
    from stylescore.runs.job import make_jobs
    from stylescore.runs.lock import hold
    from stylescore.runs.making import open_photos
    from stylescore.runs.outcomes import Outcome

    opened: list[tuple[Task, Photo]] = []
    describe = None if call.caption_model is None else partial(_describe, call)
    for each in open_photos(tasks, call.run.mask_feather, describe, alone=call.alone):
        if isinstance(each, Outcome):
            yield each
        else:
            opened.append(each)
            _print_notes(*each, call)
    if not opened:
        return
    jobs = make_jobs(call.stylizer, [task for task, _ in opened], [photo for _, photo in opened], call.options.written)
    with ExitStack() as locks:
        for job in jobs:
            locks.enter_context(hold(job.folder.path))
        yield from _run_or_fail(call, jobs, None)


def _describe(call: Call, task: Task, photo: Photo) -> str:
    """Return the caption that a model writes, and print it."""
    with working(f"describing {task.photo.name}", quiet=call.options.quiet):
        text = call.captioner.describe(photo)
    say(f"caption: {task.photo.name}: {text!r}, by {call.captioner.name}", quiet=call.options.quiet)
    return text


def _go_on(call: Call, step: Interrupted) -> Iterator[Outcome]:
    """Resume an interrupted batch, or make a finished one again."""
    from stylescore.runs.making import clear_finished, jobs_at, read_batch
    from stylescore.runs.outcomes import collect_failure, failed

    with ExitStack() as locks:
        if not _lock(locks, step.folders, call.options, alone=call.alone):
            return
        clear_finished(step.folders)
        errors: list[StylescoreError] = []
        jobs: list[Job] = []
        with collect_failure(errors, StylescoreError, alone=call.alone):
            saved, states = read_batch(step.folders)
            jobs = jobs_at(step.tasks, saved, call.stylizer)
        if jobs:
            yield from _run_or_fail(call, jobs, states)
        for error in errors:
            yield from (failed(task.photo, error) for task in step.tasks)


def _run_or_fail(call: Call, jobs: Sequence[Job], states: Sequence[PictureState] | None) -> Iterator[Outcome]:
    """Run a batch; if it diverges or needs too much memory, the photos of a call that are left are still made."""
    from stylescore.runs.job import is_finished
    from stylescore.runs.outcomes import OF_ONE_PHOTO, collect_failure, failed

    errors: list[StylescoreError] = []
    with collect_failure(errors, *OF_ONE_PHOTO, alone=call.alone):
        yield from run_batch(call.stylizer, jobs, states, call.options, call.interrupts)
    for error in errors:
        yield from (failed(job.photo.path, error, job.folder) for job in jobs if not is_finished(job.folder))


def _print_notes(task: Task, photo: Photo, call: Call) -> None:
    """Print what the user should know about a photo, and what the text encoder cuts off its prompts."""
    for note in photo.notes:
        say(f"note: {photo.path.name}: {note}", quiet=call.options.quiet)
    if call.options.output.format == "jpeg" and photo.alpha is not None:
        say(f"note: {photo.path.name}: JPEG has no transparency, it becomes white", quiet=call.options.quiet)
    print_prompt_notes(call.stylizer, task.run(call.run).caption, call.options)


def print_prompt_notes(stylizer: Stylizer, caption: str, options: Options) -> None:
    """Print how a caption's prompts are read, and what of them the text encoder cuts off."""
    for note in stylizer.prompt_notes(caption):
        say(f"note: {note}", quiet=options.quiet)
    for rest in dict.fromkeys(stylizer.cut_prompts(caption)):
        say(f"warning: the prompt is longer than the text encoder reads; cut off: {rest!r}", quiet=options.quiet)


def resume_runs(
    path: Path,
    photos: Mapping[str, Path],
    options: Options,
    interrupts: Interrupts,
    load: Callable[[RunConfig, Options], Stylizer],
) -> Iterator[Outcome]:
    """Resume an interrupted run, or all unfinished runs in a folder that is none itself.

    Args:
        path: the folder.
        photos: photos that were moved, by their hashes.
        options: how the command behaves.
        interrupts: signals that ask to stop.
        load: loads the models of a run.

    Raises:
        ConfigError: there is nothing to resume, or no photo of a run among those given.
    """
    from stylescore.runs.job import require_same_models
    from stylescore.runs.making import read_batch

    stylizer = None
    found = _find_runs(path)
    _require_photo_of(found, photos)
    for folders in found:
        interrupts.raise_if_requested()
        with ExitStack() as locks:
            if not _lock(locks, folders, options, alone=folders[0].path == path):
                continue
            saved, states = read_batch(folders, photos)
            run = saved[0].job.record.settings.run
            if stylizer is None or replace(stylizer.run, caption="") != replace(run, caption=""):
                stylizer = load(run, options)
            for caption in {entry.job.record.settings.run.caption: None for entry in saved}:
                print_prompt_notes(stylizer, caption, options)
            for entry in saved:
                require_same_models(entry.job, stylizer)
            yield from run_batch(stylizer, [entry.job for entry in saved], states, options, interrupts)


def _require_photo_of(found: Sequence[Sequence[PictureFolder]], photos: Mapping[str, Path]) -> None:
    """Raise `ConfigError` if photos were given, and none of them is that of a run."""
    from stylescore.runs.job import COMMAND, StylizeSettings
    from stylescore.runs.record import read_record

    folders = [folder for batch in found for folder in batch]
    hashes = {read_record(folder, COMMAND, StylizeSettings).hashes.get("photo") for folder in folders}
    if photos and not hashes & set(photos):
        names = ", ".join(repr(str(photo)) for photo in photos.values())
        raise ConfigError(
            f"{names} is not the photo that the run in {str(folders[0].path)!r} began with: its SHA-256 is another",
            hint="give the very same file; a copy that was saved again is another one",
        )


def _find_runs(path: Path) -> list[list[PictureFolder]]:
    """Return the runs to resume, batch by batch.

    Raises:
        ConfigError: there is none.
    """
    from stylescore.runs.job import COMMAND, PictureFolder, StylizeSettings, find_unfinished, has_runs
    from stylescore.runs.lock import remove_stale_locks
    from stylescore.runs.record import read_record

    folder = PictureFolder(path)
    if folder.config_file.exists() or not has_runs(path):
        read_record(folder, COMMAND, StylizeSettings)
        return [[folder]]
    remove_stale_locks(path)
    found = find_unfinished(path)
    if not found:
        raise ConfigError(f"every run in {str(path)!r} is finished", hint="there is nothing to resume")
    return found


def _lock(locks: ExitStack, folders: Sequence[PictureFolder], options: Options, *, alone: bool) -> bool:
    """Lock the folders of a batch; return whether no other process holds one.

    Raises:
        InUseError: another process holds the folder that the user named.
    """
    from stylescore.runs.lock import InUseError, hold

    try:
        for folder in folders:
            locks.enter_context(hold(folder.path))
    except InUseError as error:
        if alone:
            raise
        say(f"note: left out: {error}", quiet=options.quiet)
        return False
    return True


def run_batch(
    stylizer: Stylizer,
    jobs: Sequence[Job],
    states: Sequence[PictureState] | None,
    options: Options,
    interrupts: Interrupts,
) -> Iterator[Outcome]:
    """Run one batch; when it is interrupted, print how to resume it."""
    from stylescore.runs.job import is_finished
    from stylescore.runs.runner import Batch

    say(_describe_size(stylizer, jobs[0].photo), quiet=options.quiet)
    if stylizer.run.method.fake.scope == "batch" and (len(jobs) > 1 or states):
        say(SHARED_FAKE, quiet=options.quiet)
    try:
        with working(f"preparing {', '.join(job.photo.path.name for job in jobs)}", quiet=options.quiet):
            batch = Batch.start(stylizer, jobs, states)
        with interrupts.delayed("iteration"), add_resume_hint("stylize", [job.folder for job in jobs]):
            yield from _fit(batch, options, interrupts)
    except KeyboardInterrupt:
        print_resume("stylize", *(job.folder for job in jobs if not is_finished(job.folder)))
        raise


def _fit(batch: Batch, options: Options, interrupts: Interrupts) -> Iterator[Outcome]:
    """Run a batch under a progress bar; an interrupt ends it after the iteration or the result in progress."""
    from stylescore.method.fit import Iteration
    from stylescore.runs.outcomes import made

    title = ", ".join(job.photo.path.name for job in batch.jobs)
    total, done, left = batch.fitting.iterations, batch.fitting.iteration, len(batch.jobs)
    with closing(batch.run()) as events, progress(title, total, done, quiet=options.quiet) as tick:
        for event in events:
            if isinstance(event, Iteration):
                tick()
                interrupts.raise_if_requested()
                if event.index + 1 == total:
                    interrupts.delay_until("picture")
            else:
                tick.finish()
                yield made(event)
                left -= 1
                if left:
                    interrupts.raise_if_requested()


def _describe_size(stylizer: Stylizer, photo: Photo) -> str:
    """Return a line on the size the model works at, and the size of the result."""
    size = stylizer.working_size(photo)
    coarse = stylizer.coarse_size(size)
    first = "" if coarse == size else f"{coarse[0]} x {coarse[1]}, then "
    own = photo.picture.size
    resized = "" if own == size else f"; the picture is resized to the photo's {own[0]} x {own[1]}"
    finer = FINER if min(own) >= MUCH_LARGER * min(size) else ""
    return f"size: {first}{size[0]} x {size[1]} pixels{resized}{finer}"
