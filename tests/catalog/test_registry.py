from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from stylescore.catalog import hub, list_styles, registry, resolve_model, resolve_preview_model, resolve_style
from stylescore.catalog.metadata import stated_trigger_words, suggested_trigger_words
from stylescore.errors import ModelError, StyleError
from stylescore.storage.safetensors_header import SafetensorsHeader


@pytest.fixture
def bundled(tmp_path, monkeypatch) -> Path:
    root = tmp_path / "package"
    styles = root / "mini" / "styles"
    styles.mkdir(parents=True)
    (root / "mini" / "model_index.json").write_text("{}")
    write_style(styles / "sketch.safetensors", **{"modelspec.trigger_phrase": "pencil sketch"})
    write_style(styles / "glass.safetensors", ss_base_model_version="stylescore-mini")
    monkeypatch.setattr(registry, "BUNDLED", root)
    monkeypatch.setenv(registry.STYLES_VARIABLE, str(tmp_path / "own"))
    return root


@pytest.fixture
def own(bundled, tmp_path) -> Path:
    folder = tmp_path / "own"
    folder.mkdir()
    write_style(folder / "anime.safetensors")
    write_style(folder / "sketch.safetensors")
    (folder / "broken.safetensors").write_bytes(b"abc")
    return folder


def write_style(path: Path, **metadata: str) -> None:
    save_file({"unet.m.lora_A.weight": torch.ones(1, 4)}, path, metadata)


def test_bundled_model(bundled):
    source = resolve_model("mini")
    assert (source.name, source.kind, source.location, source.bundled) == ("mini", "folder", bundled / "mini", True)


def test_bundled_model_that_is_not_there(tmp_path, monkeypatch):
    monkeypatch.setattr(registry, "BUNDLED", tmp_path)
    with pytest.raises(ModelError, match="'mini' is not installed"):
        resolve_model("mini")


def test_own_folder_and_file(tmp_path):
    file = tmp_path / "model.safetensors"
    file.touch()
    assert resolve_model(str(tmp_path)).kind == "folder"
    assert (resolve_model(str(file)).kind, resolve_model(str(file)).name) == ("file", "model")


def test_hub_id_is_not_looked_up():
    source = resolve_model("stable-diffusion-v1-5/stable-diffusion-v1-5")
    assert (source.kind, source.location) == ("hub", "stable-diffusion-v1-5/stable-diffusion-v1-5")


@pytest.mark.parametrize("name", ["", "mimi", "a/b/c", "models/none.safetensors", "/nowhere/at/all", "../x"])
def test_unknown_model(name):
    with pytest.raises(ModelError, match="there is no model") as caught:
        resolve_model(name)
    assert "mini" in str(caught.value.hint)


@pytest.mark.parametrize(
    ("name", "hint"),
    [
        ("minni", "did you mean 'mini'? Otherwise give a folder, a .safetensors file or a hub id owner/name"),
        ("sdxl", "give 'mini', a folder, a .safetensors file or a hub id owner/name"),
    ],
)
def test_the_hint_for_an_unknown_model_is_a_sentence(name, hint):
    with pytest.raises(ModelError) as caught:
        resolve_model(name)
    assert caught.value.hint == hint


def test_preview_model_is_a_folder_or_a_hub_id(tmp_path):
    assert resolve_preview_model(str(tmp_path)).location == tmp_path
    assert resolve_preview_model("madebyollin/taesd").kind == "hub"
    file = tmp_path / "tiny.safetensors"
    file.touch()
    with pytest.raises(ModelError, match="is a file, a folder is needed"):
        resolve_preview_model(str(file))


@pytest.mark.parametrize("name", ["", "mini", "a/b/c", "models/none.safetensors", "/nowhere/at/all"])
def test_unknown_preview_model(name):
    with pytest.raises(ModelError, match="there is no preview model") as caught:
        resolve_preview_model(name)
    assert "config.json" in str(caught.value.hint)


def test_style_by_name(own, bundled):
    assert resolve_style("anime").path == own / "anime.safetensors"
    assert resolve_style("sketch").path == bundled / "mini" / "styles" / "sketch.safetensors"


def test_style_by_path(own, tmp_path):
    source = resolve_style(str(own / "sketch.safetensors"))
    assert (source.path, source.name) == (own / "sketch.safetensors", "sketch")


def test_given_folders_replace_the_usual_ones(own):
    assert [entry.name for entry in list_styles([own])] == ["anime", "sketch"]
    with pytest.raises(StyleError):
        resolve_style("glass", [own])


def test_unknown_style_suggests_the_closest(bundled):
    with pytest.raises(StyleError, match="there is no style 'skech'") as caught:
        resolve_style("skech")
    assert caught.value.hint == "did you mean 'sketch'?"


def test_unknown_style_where_there_are_none(tmp_path):
    with pytest.raises(StyleError) as caught:
        resolve_style("ink", [tmp_path / "none"])
    assert "put ink.safetensors into" in str(caught.value.hint)


def test_list_reads_headers_and_leaves_out_unsound_files(own):
    entries = list_styles()
    assert [(entry.name, entry.bundled) for entry in entries] == [("glass", True), ("sketch", True), ("anime", False)]
    assert [entry.trigger for entry in entries] == [None, "pencil sketch", None]
    assert entries[0].base == "stylescore-mini"


def test_added_tokens_are_the_trigger_words_of_a_file_without_others(bundled, tmp_path):
    (tmp_path / "own").mkdir()
    words = {"<s1>": torch.ones(4), "<s2>": torch.ones(4)}
    save_file(
        {"unet:0:down": torch.ones(1, 4), "unet:0:up": torch.ones(4, 1), **words}, tmp_path / "own" / "a.safetensors"
    )
    assert {entry.name: entry.trigger for entry in list_styles()}["a"] == "<s1><s2>"


@pytest.mark.parametrize(
    ("name", "asked"),
    [("maker/ink:soft.safetensors", ("maker/ink", "soft.safetensors")), ("maker/ink", ("maker/ink", None))],
)
def test_style_from_the_hub(bundled, monkeypatch, tmp_path, name, asked):
    calls = []

    def download(hub_id: str, file: str | None) -> Path:
        calls.append((hub_id, file))
        return tmp_path / (file or hub.DEFAULT_STYLE_FILE)

    monkeypatch.setattr(registry, "download_style", download)
    assert resolve_style(name).name == ("soft" if asked[1] else "ink")
    assert calls == [asked]


@pytest.mark.parametrize(
    ("files", "chosen"),
    [
        (["a.safetensors", "x.txt"], "a.safetensors"),
        (["a.safetensors", hub.DEFAULT_STYLE_FILE], hub.DEFAULT_STYLE_FILE),
    ],
)
def test_the_only_or_usual_file_of_a_hub_style(monkeypatch, files, chosen):
    import huggingface_hub

    monkeypatch.setattr(huggingface_hub.HfApi, "list_repo_files", lambda self, hub_id: files)
    monkeypatch.setattr(huggingface_hub, "hf_hub_download", lambda hub_id, name: f"/cache/{name}")
    assert hub.download_style("maker/ink", None).name == chosen


@pytest.mark.parametrize(
    ("file", "settings"),
    [("adapter_model.safetensors", "adapter_config.json"), ("a/b.safetensors", "a/adapter_config.json")],
)
@pytest.mark.parametrize("has_settings", [True, False])
def test_the_settings_beside_a_hub_style_are_fetched_too(monkeypatch, file, settings, has_settings):
    import huggingface_hub
    from huggingface_hub.errors import LocalEntryNotFoundError

    asked = []

    def fetch(hub_id: str, name: str) -> str:
        asked.append(name)
        if name == settings and not has_settings:
            raise LocalEntryNotFoundError("there is none")
        return f"/cache/{name}"

    monkeypatch.setattr(huggingface_hub, "hf_hub_download", fetch)
    assert hub.download_style("maker/ink", file) == Path(f"/cache/{file}")
    assert asked == [file, settings]


def test_several_files_of_a_hub_style_must_be_chosen_from(monkeypatch):
    import huggingface_hub

    files = ["a.safetensors", "b.safetensors"]
    monkeypatch.setattr(huggingface_hub.HfApi, "list_repo_files", lambda self, hub_id: files)
    with pytest.raises(StyleError, match="has 2") as caught:
        hub.download_style("maker/ink", None)
    assert "maker/ink:a.safetensors" in str(caught.value.hint)


@pytest.mark.parametrize(("plain", "calls"), [(True, 1), (False, 2)])
def test_half_precision_is_fetched_only_where_there_is_nothing_else(monkeypatch, tmp_path, plain, calls):
    import huggingface_hub

    asked = []

    def snapshot(hub_id: str, *, allow_patterns: list[str], ignore_patterns: list[str]) -> str:
        asked.append(hub.HALF_PRECISION_FILES in ignore_patterns)
        return str(tmp_path)

    (tmp_path / "unet").mkdir()
    if plain:
        (tmp_path / "unet" / "diffusion_pytorch_model.safetensors").touch()
    monkeypatch.setattr(huggingface_hub, "snapshot_download", snapshot)
    assert hub.download_model("maker/model") == tmp_path
    assert asked == [True, False][:calls]


def test_of_a_tiny_autoencoder_only_its_two_files_are_fetched(monkeypatch, tmp_path):
    import huggingface_hub

    asked = []

    def snapshot(hub_id: str, **options: object) -> str:
        asked.append((hub_id, options))
        return str(tmp_path)

    monkeypatch.setattr(huggingface_hub, "snapshot_download", snapshot)
    assert hub.download_tiny("maker/tiny") == hub.cached_tiny("maker/tiny") == tmp_path
    files = {"allow_patterns": ["config.json", "diffusion_pytorch_model.safetensors"]}
    assert asked == [("maker/tiny", files), ("maker/tiny", files | {"local_files_only": True})]


def test_the_cache_is_searched_without_the_hub(monkeypatch, tmp_path):
    import huggingface_hub

    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_CACHE", str(tmp_path))
    assert hub.cached_tiny("maker/tiny") is None
    place = tmp_path / "models--maker--tiny"
    snapshot = place / "snapshots" / ("0" * 40)
    for folder in (snapshot, place / "refs"):
        folder.mkdir(parents=True)
    (place / "refs" / "main").write_text("0" * 40)
    for name in hub.TINY_FILES:
        (snapshot / name).touch()
    assert hub.cached_tiny("maker/tiny") == snapshot


def test_no_network_is_an_error_of_ours(monkeypatch):
    import huggingface_hub

    def fail(*_args: object, **_options: object) -> None:
        raise OSError("no route to host")

    monkeypatch.setattr(huggingface_hub, "hf_hub_download", fail)
    monkeypatch.setattr(huggingface_hub, "snapshot_download", fail)
    with pytest.raises(StyleError, match="no route to host"):
        hub.download_style("maker/ink", "a.safetensors")
    with pytest.raises(ModelError, match="no route to host") as caught:
        hub.download_model("maker/model")
    with pytest.raises(ModelError, match="the preview model 'maker/tiny' cannot be fetched: no route to host"):
        hub.download_tiny("maker/tiny")
    assert hub.cached_tiny("maker/tiny") is None
    assert "network" in str(caught.value.hint)


@pytest.mark.parametrize(
    ("platform", "variables", "expected"),
    [
        ("linux", {"XDG_DATA_HOME": "/data"}, Path("/data/stylescore/styles")),
        ("win32", {"APPDATA": "/roaming"}, Path("/roaming/stylescore/styles")),
        ("darwin", {}, Path.home() / "Library" / "Application Support" / "stylescore" / "styles"),
        ("linux", {}, Path.home() / ".local" / "share" / "stylescore" / "styles"),
        ("linux", {"STYLESCORE_STYLES": "/mine"}, Path("/mine")),
    ],
)
def test_own_style_folder(monkeypatch, platform, variables, expected):
    for name in ("XDG_DATA_HOME", "APPDATA", "STYLESCORE_STYLES"):
        monkeypatch.delenv(name, raising=False)
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setattr("sys.platform", platform)
    assert registry.user_styles_dir() == expected


def with_metadata(**metadata: str) -> SafetensorsHeader:
    return SafetensorsHeader(tensors={}, metadata=metadata)


@pytest.mark.parametrize(
    "text", ["[", "[]", '{"a": 1}', '{"3_": {"b": "c"}}', '{"img": {"": 3}}', "9" * 6000, "[" * 6000]
)
def test_odd_tag_frequencies_tell_nothing(text):
    assert suggested_trigger_words(with_metadata(ss_tag_frequency=text)) == ()


def test_frequent_tags_where_no_folder_has_a_token():
    header = with_metadata(ss_tag_frequency='{"img": {"a": 1, "b": 5, "c": 3, "d": 2}}')
    assert suggested_trigger_words(header) == ("b", "c", "d")


@pytest.mark.parametrize(
    "metadata",
    [
        {"ss_tag_frequency": '{"img": {"1girl": 96, "brown hair": 75}}'},
        {"ss_tag_frequency": '{"10_img": {"1girl": 96}}'},
        {"modelspec.usage_hint": "Use a weight of 0.8, and no other LoRA."},
        {"modelspec.trigger_phrase": "None"},
    ],
)
def test_what_is_only_a_guess_never_enters_a_prompt(metadata, own):
    assert stated_trigger_words(with_metadata(**metadata)) == ()
    write_style(own / "guess.safetensors", **metadata)
    assert {entry.name: entry.trigger for entry in list_styles()}["guess"] is None


def test_a_style_may_be_given_with_its_ending(own, bundled):
    assert resolve_style("anime.safetensors") == resolve_style("anime")
    assert registry.bundled_style("glass.safetensors") == bundled / "mini" / "styles" / "glass.safetensors"


def test_a_path_without_its_ending_is_completed(own):
    assert resolve_style(str(own / "anime")).path == own / "anime.safetensors"


@pytest.mark.parametrize("file", ["pytorch_lora_weights.safetensors", "adapter_model.safetensors", "mine.safetensors"])
def test_a_folder_with_a_style_is_never_a_hub_id(own, tmp_path, monkeypatch, file):
    monkeypatch.chdir(tmp_path)
    folder = tmp_path / "runs" / "my-lora"
    folder.mkdir(parents=True)
    write_style(folder / file)
    if file != "mine.safetensors":
        write_style(folder / "other.safetensors")
    source = resolve_style("runs/my-lora")
    assert (source.path.name, source.name, source.reference) == (file, "my-lora", str(folder / file))


@pytest.mark.parametrize("names", [(), ("a.safetensors", "b.safetensors")])
def test_a_folder_without_one_style_is_refused(own, tmp_path, monkeypatch, names):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "runs" / "my-lora").mkdir(parents=True)
    for name in names:
        write_style(tmp_path / "runs" / "my-lora" / name)
    with pytest.raises(StyleError, match=rf"has {len(names)} \.safetensors files, exactly one is needed"):
        resolve_style("runs/my-lora")


def test_a_style_may_lie_in_a_folder_of_the_style_folder(own):
    (own / "painters").mkdir()
    write_style(own / "painters" / "monet.safetensors")
    for name in ("painters/monet", "painters/monet.safetensors", "painters"):
        assert resolve_style(name).path == own / "painters" / "monet.safetensors"


def test_what_an_interrupted_program_left_is_no_style(own):
    write_style(own / ".partial-0123456789ab.safetensors")
    assert "anime" in {entry.name for entry in list_styles()}
    assert not any(entry.name.startswith(".") for entry in list_styles())


@pytest.mark.parametrize("name", ["a\0b", "x" * 5000, "~nobody-of-this-name/x/y", "\udcff", "/" * 3000])
def test_a_name_that_no_file_can_have_is_refused(own, name):
    for resolve, error in (
        (resolve_style, StyleError),
        (resolve_model, ModelError),
        (resolve_preview_model, ModelError),
    ):
        if name.startswith("/") and resolve is not resolve_style:
            continue  # the root folder
        with pytest.raises(error) as caught:
            resolve(name)
        assert len(str(caught.value)) < 300


def test_names_are_resolved_without_torch():
    code = (
        "import stylescore.catalog, sys; sys.exit(bool({'torch', 'diffusers', 'huggingface_hub'} & set(sys.modules)))"
    )
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
