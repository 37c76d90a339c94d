"""Option texts become values, or one clear error that names the setting."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, get_args, get_type_hints

import pytest

from stylescore.cli.main import app, exit_code
from stylescore.cli.options import parse_embeddings, parse_settings, parse_styles
from stylescore.config.method import MethodConfig
from stylescore.config.run import EmbeddingChoice, StyleChoice
from stylescore.config.toml import overlay
from stylescore.errors import ConfigError
from stylescore_apply.names import parse_path


@pytest.mark.parametrize(
    ("text", "value"),
    [
        *[("0.5", 0.5), (".5", 0.5), ("+.5", 0.5), ("-.5", -0.5), ("5.", 5.0), ("5.e-1", 0.5), (".5e1", 5.0)],
        *[("+3", 3), ("3", 3), ("007", 7), ("-03", -3), ("1_000", 1000), ("1e3", 1000.0), ("00.5", 0.5)],
        *[("true", True), ("[1, 2]", [1, 2]), ('"5"', "5"), ("'a b'", "a b")],
        *[("clean", "clean"), ("ink, 3d render", "ink, 3d render"), ("3d", "3d"), ("1950s", "1950s"), ("", "")],
    ],
)
def test_a_value_is_read_as_what_it_looks_like(text: str, value: Any) -> None:
    found = parse_settings([f"part.x={text}"])
    assert found == {"part": {"x": value}}
    assert type(found["part"]["x"]) is type(value)


@pytest.mark.parametrize("text", ["0,5", "1.2.3", "1/2", "50%", "5e", "--5", "1e-", "3-4", "1,000", "1__0", "9" * 5000])
def test_a_number_that_cannot_be_read_is_refused(text: str) -> None:
    with pytest.raises(ConfigError) as caught:
        parse_settings([f"optimiser.lr={text}"])
    assert str(caught.value) == f"optimiser.lr must be a number or a text in quotes, not {text[:40]}"
    assert caught.value.hint == "write numbers as 300, 0.5 or 5e-4"


@pytest.mark.parametrize(
    ("text", "message", "hint"),
    [
        ("iterations=.5", "iterations must be a whole number, not 0.5", "write a whole number"),
        ("iterations=many", "iterations must be a whole number, not 'many'", "write a whole number"),
        ("optimiser.lr=fast", "optimiser.lr must be a number, not 'fast'", "write a number"),
        ("text_encoder_lora=.5", "text_encoder_lora must be true or false, not 0.5", "write true or false"),
        ("target_prompt=.5", "target_prompt must be a text, not 0.5", 'write a text in quotes: "0.5"'),
        ("target_prompt=1950", "target_prompt must be a text, not 1950", 'write a text in quotes: "1950"'),
        ("fake.targets=.5", "fake.targets must be a list, not 0.5", 'write ["a", "b"]'),
        ("spectrum=.5", "spectrum must be a table of settings, not 0.5", "write a table of settings"),
    ],
)
def test_a_value_of_the_wrong_type_names_its_setting(text: str, message: str, hint: str) -> None:
    with pytest.raises(ConfigError) as caught:
        overlay(MethodConfig(), parse_settings([text]))
    assert (str(caught.value), caught.value.hint) == (message, hint)


def test_settings_of_one_table_are_merged_and_later_ones_win() -> None:
    texts = ["fake.rank=2", "fake.lr=.1", "fake.rank=3"]
    assert parse_settings(texts, iterations=4, style_strength=None) == {"iterations": 4, "fake": {"rank": 3, "lr": 0.1}}


@pytest.mark.parametrize("text", ["iterations", "=3", " = 3"])
def test_a_setting_without_a_key_or_value_is_refused(text: str) -> None:
    with pytest.raises(ConfigError, match="--set needs KEY=VALUE"):
        parse_settings([text])


@pytest.mark.parametrize(
    "words",
    [
        *("inspect", "train-style", "train-style --resume", "stylize --resume"),
        *(
            "train-style pictures --name a --captions",
            "train-style pictures --name a --output",
            "stylize a.png --output",
        ),
    ],
)
def test_an_empty_path_is_not_the_working_folder(words: str, program: Callable[..., Any]) -> None:
    outcome = program(*words.split(), "")
    assert outcome.code == 2
    assert outcome.complaint == ["a file or folder must not be an empty text", "write . for the working folder"]


def test_a_long_message_is_cut_in_the_middle(program: Callable[..., Any]) -> None:
    error, hint = program("stylize", "x" * 30_000 + ".png", "--style", "watercolor").complaint
    assert "xxx ... xxx" in error
    assert max(len(error), len(hint)) < 2100


def test_styles_may_have_weights() -> None:
    found = parse_styles(["ink", "hub/oil=.5", "a=b=-1"])
    assert found == (
        StyleChoice(name="ink"),
        StyleChoice(name="hub/oil", weight=0.5),
        StyleChoice(name="a=b", weight=-1),
    )


def test_a_weight_that_is_no_number_is_refused() -> None:
    with pytest.raises(ConfigError, match="a style's weight must be a number, not 'lots'"):
        parse_styles(["ink=lots"])


@pytest.mark.parametrize(
    ("text", "token", "file"),
    [
        ("my-word=a.safetensors", "my-word", "a.safetensors"),
        ("<s1>=folder/a=b.safetensors", "<s1>", "folder/a=b.safetensors"),
        ("folder/my-word.safetensors", "my-word", "folder/my-word.safetensors"),
        ("owner/name:my-word.safetensors", "my-word", "owner/name:my-word.safetensors"),
        ("owner/name", "name", "owner/name"),
        ("word=owner/name:a.safetensors", "word", "owner/name:a.safetensors"),
    ],
)
def test_an_embedding_is_a_word_and_a_file(text: str, token: str, file: str) -> None:
    assert parse_embeddings([text]) == (EmbeddingChoice(token=token, file=file),)


def test_a_file_whose_name_has_an_equals_sign_is_a_file(tmp_path: Any) -> None:
    path = tmp_path / "a=b.safetensors"
    path.touch()
    assert parse_embeddings([str(path)]) == (EmbeddingChoice(token="a=b", file=str(path)),)


def kinds(hint: Any) -> Iterator[Any]:
    """Yield the types that a type consists of."""
    yield hint
    for inner in get_args(hint):
        yield from kinds(inner)


@pytest.mark.parametrize("command", [entry.callback for entry in app.registered_commands])
def test_no_path_of_the_program_may_be_an_empty_text(command: Any) -> None:
    hints = get_type_hints(command, include_extras=True)
    paths = {name: hint.__metadata__[0] for name, hint in hints.items() if Path in kinds(hint)}
    assert {name for name, declared in paths.items() if declared.parser is not parse_path} == set()


def test_an_empty_path_is_refused(capsys: pytest.CaptureFixture[str]) -> None:
    for line in (["evaluate", "", "out"], ["compare", "a", ""], ["stylize", "a.png", "--list", ""]):
        assert exit_code(line) == 2
        assert capsys.readouterr().err.splitlines()[0] == "error: a file or folder must not be an empty text"


@pytest.mark.parametrize(
    ("words", "value"), [(["--seed", "1.5"], "'1.5'"), (["--content", "much"], "'much'"), (["--batch", "0"], "'0'")]
)
def test_a_value_of_the_wrong_type_is_shown(words: list[str], value: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert exit_code(["stylize", "photo.png", *words]) == 2
    message = capsys.readouterr().err.splitlines()[0]
    assert message.startswith(f"error: Invalid value for '{words[0]}': ")
    assert value.strip("'") in message
