import tomllib
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from stylescore.config import presets
from stylescore.config.run import RunConfig, StyleChoice
from stylescore.errors import ConfigError
from stylescore.images import Photo
from stylescore.method.state import PictureState
from stylescore.runs import record as records
from stylescore.runs.job import FREE, Job, PictureFolder, SavedJob, StylizeSettings, common_states
from stylescore.runs.record import Record, flat_settings, read_record, to_toml, write_record
from stylescore.runs.resume import require_same, require_same_settings, require_unchanged
from stylescore.training.config import resolve
from stylescore.training.folder import TrainingSettings

HASHES = {"photo": "aa", "model": "bb", "style": ("cc", "dd")}


def record(**changes: Any) -> Record[StylizeSettings]:
    styles = (StyleChoice(name="ink", weight=0.5), StyleChoice(name="wash"))
    run = RunConfig(styles=styles, caption='a "red" house', seed=7, method=presets.load("reference", "vsd"))
    values: dict[str, Any] = {"photo": "photos/ü.jpg", "style_prompt": "ink", "run": run}
    return Record(command="stylize", hashes=HASHES, settings=StylizeSettings(**(values | changes)))


def training() -> Record[TrainingSettings]:
    config = resolve({"name": "ink", "model": "somewhere"}, "sd1")
    settings = TrainingSettings(pictures="pictures", captions="a.csv", config=config)
    return Record(command="train-style", hashes={"base_model": "bb"}, settings=settings)


def read(folder: PictureFolder) -> Record[StylizeSettings]:
    return read_record(folder, "stylize", StylizeSettings)


@pytest.fixture
def folder(tmp_path: Path) -> PictureFolder:
    return PictureFolder.new(tmp_path, "house")


def test_a_record_comes_back_as_it_was(folder: PictureFolder) -> None:
    written = record(gif=True, preview_every=25)
    write_record(folder, written)
    assert read(folder) == written


def test_a_record_of_a_training_comes_back_as_it_was(folder: PictureFolder) -> None:
    write_record(folder, training())
    assert read_record(folder, "train-style", TrainingSettings) == training()


def test_the_head_is_the_same_for_every_command() -> None:
    for one in (record(), training()):
        table = tomllib.loads(to_toml(one))
        assert (table["command"], table["version"]) == (one.command, one.version)
        assert {
            name: tuple(value) if isinstance(value, list) else value for name, value in table["hashes"].items()
        } == (one.hashes)


@pytest.mark.parametrize("content", [None, b"[[", b"\x80", b"a = " + b"[" * 100_000, b"a = " + b"9" * 5_000])
def test_a_folder_without_a_readable_record_is_no_run_folder(folder: PictureFolder, content: bytes | None) -> None:
    if content is not None:
        folder.config_file.write_bytes(content)
    with pytest.raises(ConfigError, match="is not a run folder") as caught:
        read(folder)
    assert caught.value.hint == "give the folder that holds config.toml"


@pytest.mark.parametrize("text", ["", "version = '1'", "command = 3"])
def test_a_record_without_a_command_is_told(folder: PictureFolder, text: str) -> None:
    folder.config_file.write_text(text)
    with pytest.raises(ConfigError, match="does not say which command made it") as caught:
        read(folder)
    assert caught.value.hint == "it was made by an older version; begin a new run"


def test_a_record_of_another_command_is_told_with_the_command_that_resumes_it(folder: PictureFolder) -> None:
    write_record(folder, training())
    with pytest.raises(ConfigError, match="was made by 'train-style', not by 'stylize'") as caught:
        read(folder)
    assert caught.value.hint == f"stylescore train-style --resume {folder.path}"


HEAD = "command = 'stylize'\nversion = '1'\n"


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (HEAD, "lacks photo, style_prompt, run"),
        (f"{HEAD}fotto = 1", "unknown setting 'fotto'"),
        ("command = 'stylize'", "version must be a text, not None"),
    ],
)
def test_a_record_that_lacks_something_is_told(folder: PictureFolder, text: str, message: str) -> None:
    folder.config_file.write_text(text)
    with pytest.raises(ConfigError, match=message):
        read(folder)


@pytest.mark.parametrize(
    ("hashes", "message"),
    [
        ("", "hashes must be a table"),
        ("hashes.photo = 3", "hashes.photo must be a text"),
        ("hashes.style = [1]", "not 1"),
    ],
)
def test_hashes_that_are_none_are_told(folder: PictureFolder, hashes: str, message: str) -> None:
    text = to_toml(record())
    before, _, after = text.partition("[hashes]")
    folder.config_file.write_text(f"{hashes}\n{before}{after[after.index('[run]') :]}")
    with pytest.raises(ConfigError, match=message):
        read(folder)


def test_a_folder_whose_record_cannot_be_written_is_not_left_behind(
    folder: PictureFolder, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(written: object) -> str:
        raise KeyboardInterrupt

    monkeypatch.setattr(records, "to_toml", refuse)
    with pytest.raises(KeyboardInterrupt):
        write_record(folder, record())
    assert not folder.path.exists()


def test_an_input_that_changed_is_named() -> None:
    require_unchanged(record(), {"photo": "aa", "style": ("cc", "dd")})
    with pytest.raises(ConfigError, match="the style changed after the run began"):
        require_unchanged(record(), {"photo": "aa", "style": ("cc", "ee")})
    with pytest.raises(ConfigError, match="the style model changed after the run began"):
        require_unchanged(record(), {"style_model": "ff"})
    with pytest.raises(ConfigError, match="the photo 'a' changed after the run began"):
        require_same("photo 'a'", "1", "2")


def test_settings_are_flat_and_survive_the_file(folder: PictureFolder) -> None:
    write_record(folder, record())
    flat = flat_settings(record())
    assert flat == flat_settings(read(folder))
    assert (flat["run.seed"], flat["run.styles.0.name"], flat["run.styles.0.weight"]) == (7, "ink", 0.5)


def state_of(made_by: Record[StylizeSettings]) -> PictureState:
    return PictureState(3, {}, flat_settings(made_by))


def with_run(**changes: Any) -> Record[StylizeSettings]:
    return record(run=replace(record().settings.run, **changes))


def test_a_state_goes_with_the_settings_that_made_it() -> None:
    now = with_run(seed=8, size=64)
    with pytest.raises(ConfigError) as caught:
        require_same_settings(now, state_of(record()), FREE)
    assert (
        str(caught.value)
        == "config.toml changed after the run began: run.seed is 8, was 7; run.size is 64, was not set"
    )
    assert "begin a new run" in str(caught.value.hint)


def test_many_changes_are_counted() -> None:
    with pytest.raises(ConfigError, match=r"; .*; .* and \d+ more$"):
        require_same_settings(with_run(method=presets.load("paper", "sms")), state_of(record()), FREE)


def test_what_cannot_matter_may_change() -> None:
    run = record().settings.run
    execution = replace(run.execution, device="cuda", memory="low", compile="on", style_weights="merged")
    styles = (replace(run.styles[0], name="moved/ink.safetensors"), *run.styles[1:])
    changed = replace(run, execution=execution, styles=styles, preset="other", model="moved")
    now = record(run=changed, photo="moved.jpg", gif=True, preview_every=3)
    require_same_settings(now, state_of(record()), FREE)
    require_same_settings(with_run(seed=9), None, FREE)
    require_same_settings(with_run(seed=9), PictureState(3, {}), FREE)


@pytest.mark.parametrize(
    ("change", "named"),
    [({"dtype": "float16"}, "run.execution.dtype"), ({"tile": 128}, "run.execution.tile")],
)
def test_precision_and_tiles_matter(change: dict[str, Any], named: str) -> None:
    now = with_run(execution=replace(record().settings.run.execution, **change))
    with pytest.raises(ConfigError, match=named):
        require_same_settings(now, state_of(record()), FREE)


def saved(state: int | None, staged: int | None = None) -> SavedJob:
    states = [None if iteration is None else PictureState(iteration, {}) for iteration in (state, staged)]
    photo = Photo(Path("a.jpg"), Image.new("RGB", (8, 8)))
    return SavedJob(Job(photo, PictureFolder(Path("a")), record()), *states)


@pytest.mark.parametrize(
    ("batch", "found"),
    [
        (((5,), (5,)), 5),
        (((None,), (None,)), None),
        (((None, 5), (None,)), None),  # killed while the first states were staged
        (((5,), (None, 5)), 5),  # killed while they became the saved ones
        (((5, 9), (5,)), 5),
        (((9,), (5, 9)), 9),
        (((5, 9), (5, 9)), 9),
    ],
)
def test_a_killed_batch_has_an_iteration_that_all_its_pictures_have(batch: Any, found: int | None) -> None:
    for jobs in (batch, batch[::-1]):
        states = common_states([saved(*entry) for entry in jobs])
        assert ([state.iteration for state in states] if states else None) == ([found, found] if found else None)


def test_pictures_that_went_on_alone_are_no_batch_any_more() -> None:
    with pytest.raises(ConfigError, match="at different iterations"):
        common_states([saved(5), saved(9)])
