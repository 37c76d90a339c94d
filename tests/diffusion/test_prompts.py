"""Weights of words, prompts longer than the text encoder takes, other layers of CLIP, and the negative prompt."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

import pytest
import torch

from stylescore.assembly.fitting import Prompts, make_scores
from stylescore.assembly.objectives import make_parse
from stylescore.assembly.stylizer import Stylizer
from stylescore.config.ranges import check_run
from stylescore.config.run import RunConfig, StyleChoice
from stylescore.diffusion.checkpoints.loading import load_components
from stylescore.diffusion.execution.devices import DevicePlacement
from stylescore.diffusion.prompts import describe_weights, parse_detected, parse_plain, parse_weights
from stylescore.diffusion.text import TextEncoder, TextModel
from stylescore.errors import ConfigError, ModelError
from stylescore.images import Photo
from stylescore.method.fit import fit

Families = Callable[[str], Any]
LONG = "a cat in a red house by the lake, " * 12

PUBLISHED = {
    "normal text": [("normal text", 1.0)],
    "an (important) word": [("an ", 1.0), ("important", 1.1), (" word", 1.0)],
    "(unbalanced": [("unbalanced", 1.1)],
    r"\(literal\]": [("(literal]", 1.0)],
    "(unnecessary)(parens)": [("unnecessaryparens", 1.1)],
    "a (((house:1.3)) [on] a (hill:0.5), sun, (((sky))).": [
        ("a ", 1.0),
        ("house", 1.573),
        (" ", 1.1),
        ("on", 1.0),
        (" a ", 1.1),
        ("hill", 0.55),
        (", sun, ", 1.1),
        ("sky", 1.4641),
        (".", 1.1),
    ],
    "": [("", 1.0)],
    "a :) b)": [("a :) b)", 1.0)],
    "[a: b]": [("a: b", 1 / 1.1)],
    r"a \\ (b:.5)": [("a \\ ", 1.0), ("b", 0.5)],
}
"""What AUTOMATIC1111's documentation and its own examples say of each prompt, and some of its edges."""


@pytest.mark.parametrize("prompt", PUBLISHED)
def test_weights_are_read_as_published(prompt: str) -> None:
    found = parse_weights(prompt)
    assert [text for text, _ in found] == [text for text, _ in PUBLISHED[prompt]]
    assert [weight for _, weight in found] == pytest.approx([weight for _, weight in PUBLISHED[prompt]])


@pytest.mark.parametrize(
    "prompt",
    ["a cat", "my cat (2019)", "at the lake (by Jane)", "noon (12:30)", "a map (scale 1:200)", "a: b", ":-)", "["],
)
def test_plain_prompts_are_not_taken_for_weighted_ones(prompt: str) -> None:
    assert parse_detected(prompt) == parse_plain(prompt) == ((prompt, 1.0),)


@pytest.mark.parametrize("prompt", ["a (red:1.2) house", "((red)) house", "[red] house", "(red :0.5)"])
def test_weighted_prompts_are_detected(prompt: str) -> None:
    assert parse_detected(prompt) == parse_weights(prompt) != parse_plain(prompt)
    assert "'red'" in describe_weights(parse_detected(prompt))


def test_a_weight_that_nobody_meant_is_refused() -> None:
    with pytest.raises(ConfigError, match=r"must be between -10 and 10, not 30 in 'noon .sun:30.'"):
        parse_weights("noon (sun:30)")


@pytest.fixture
def model(tiny_family: Families) -> TextModel:
    pipeline = tiny_family("sd2").pipeline
    return TextModel("text_encoder", pipeline.tokenizer, pipeline.text_encoder, 77, parse=parse_weights)


def features(model: TextModel, *prompts: str) -> torch.Tensor:
    with torch.no_grad():
        output = model(prompts)
        return output.tokens(output.raw.last_hidden_state)


def test_a_weighted_token_is_moved_away_from_the_empty_prompt(model: TextModel) -> None:
    plain, empty = features(model, "a red house")[0], features(model, "")[0]
    count = len(model.tokenizer("a").input_ids) - 1  # the tokens before the weighted ones, with the first special one
    length = len(model.tokenizer("red", add_special_tokens=False).input_ids)
    for weight in (0.0, 0.5, 2.0):
        found = features(model, f"a (red:{weight}) house")[0]
        inside = (torch.arange(77) >= count) & (torch.arange(77) < count + length)
        torch.testing.assert_close(found[inside], (empty + weight * (plain - empty))[inside])
        torch.testing.assert_close(found[~inside], plain[~inside])


def test_prompts_without_weights_keep_their_features_beside_weighted_ones(model: TextModel) -> None:
    alone, beside = features(model, "a cat"), features(model, "a cat", "a (red:1.5) house")
    torch.testing.assert_close(beside[0], alone[0])
    plain = replace(model, parse=parse_plain)
    assert torch.equal(alone, features(plain, "a cat"))
    assert torch.equal(alone, features(replace(model, parse=parse_detected), "a cat"))


def test_a_long_prompt_is_encoded_window_by_window(model: TextModel) -> None:
    assert [model.count_windows(prompt) for prompt in ("", "a cat", LONG)] == [1, 1, -(-len(tokens(model, LONG)) // 75)]
    two, ids = replace(model, windows=2), tokens(model, LONG)
    first, last = model.tokenizer("").input_ids
    padding = [model.tokenizer.pad_token_id] * (150 - len(ids))
    rows = torch.tensor([[first, *ids[:75], last], [first, *ids[75:150], last, *padding]])
    with torch.no_grad():
        known = model.model(rows).last_hidden_state.flatten(0, 1)
    torch.testing.assert_close(features(two, LONG)[0], known)
    short, empty = features(model, "a cat")[0], features(model, "")[0]
    torch.testing.assert_close(features(two, "a cat")[0], torch.cat([short, empty]))


def tokens(model: TextModel, prompt: str) -> list[int]:
    ids: list[int] = model.tokenizer(prompt, add_special_tokens=False).input_ids
    return ids


@pytest.mark.parametrize(
    ("family", "windows"), [("sd2", 2), ("sdxl", 2), ("sd3 without T5", 2), ("sd3", 1), ("flux-dev", 1)]
)
def test_families_with_a_t5_do_not_split_prompts(tiny_family: Families, family: str, windows: int) -> None:
    text = encoder_of(tiny_family(family))
    prompt = "a cat in a red house by the lake " * 9  # 81 words
    reading = text.reading(parse_plain, [prompt, ""])
    assert (reading.windows > 1) == (windows > 1)
    long, short = reading([prompt]), reading([""])
    assert long.tokens.shape == short.tokens.shape
    assert (long.pooled is None) == (short.pooled is None)
    assert torch.equal(text(["a cat"]).tokens, text.reading(parse_detected, ["a cat"])(["a cat"]).tokens)


@pytest.mark.parametrize("family", ["sd2", "sdxl", "sd3", "flux-dev"])
def test_weights_reach_every_family(tiny_family: Families, family: str) -> None:
    reading = encoder_of(tiny_family(family)).reading(parse_weights, [""])
    plain, same, strong = (
        reading([prompt]).tokens for prompt in ("a red house", "a (red:1.0) house", "a (red:3) house")
    )
    torch.testing.assert_close(plain, same)
    assert not torch.allclose(plain, strong)


def encoder_of(tiny: Any) -> TextEncoder:
    return load_components(tiny.folder, dtype=torch.float32, places=DevicePlacement.on(torch.device("cpu"))).text


def test_clip_skip_is_the_output_of_a_text_model_without_its_last_layers(tiny_family: Families) -> None:
    text = encoder_of(tiny_family("sd2"))
    (whole,) = text.models
    for number in (2, 3):
        config = whole.model.config.to_dict() | {"num_hidden_layers": 4 - number}
        shorter = type(whole.model)(type(whole.model.config)(**config))
        shorter.load_state_dict(whole.model.state_dict(), strict=False)
        expected = replace(text, models=(replace(whole, model=shorter),))(["a cat"]).tokens
        torch.testing.assert_close(text.with_clip_skip(number)(["a cat"]).tokens, expected)
    assert torch.equal(text.with_clip_skip(1)(["a cat"]).tokens, text(["a cat"]).tokens)
    assert text.with_clip_skip(None) is text


def test_clip_skip_of_sdxl_is_that_of_diffusers(tiny_family: Families) -> None:
    """Its count begins at the penultimate layer, ours at the last; neither applies the final layer norm."""
    tiny = tiny_family("sdxl")
    text = encoder_of(tiny)
    for number in (2, 3):
        theirs = tiny.pipeline.encode_prompt(
            prompt="a cat",
            device="cpu",
            num_images_per_prompt=1,
            do_classifier_free_guidance=False,
            clip_skip=number - 2,
        )[0]
        torch.testing.assert_close(text.with_clip_skip(number)(["a cat"]).tokens, theirs)


def run_of(tiny: Any, run_on: Callable[..., RunConfig], **more: Any) -> Stylizer:
    return Stylizer(check_run(run_on(tiny, **more)))


def ended(stylizer: Stylizer, photos: Sequence[Photo], captions: Sequence[str] | None = None) -> torch.Tensor:
    fitting = stylizer.start(photos, captions=captions)
    for _ in fit(fitting):
        pass
    return fitting.subject.render().detach()


def test_clip_skip_of_a_run(tiny_family: Families, run_on: Any) -> None:
    tiny = tiny_family("sd2")
    run_of(tiny, run_on, clip_skip=3)
    with pytest.raises(ModelError, match="clip_skip must be at most 3, the layers of 'model''s text encoder, not 4"):
        run_of(tiny, run_on, clip_skip=4)
    with pytest.raises(ModelError, match=r"clip_skip is for Stable Diffusion 1.x, 2.x and SDXL, the model is FLUX.1"):
        run_of(tiny_family("flux-dev"), run_on, clip_skip=2)
    with pytest.raises(ConfigError, match="clip_skip must be at least 1, not 0"):
        run_of(tiny, run_on, clip_skip=0)
    assert run_of(tiny, run_on, clip_skip=2).resolved_run.clip_skip == 2
    assert run_of(tiny, run_on).resolved_run.clip_skip is None


def stating(tiny: Any, path: Any, clip_skip: str) -> Any:
    from safetensors.torch import load_file, save_file

    save_file(load_file(tiny.lora), path, {"ss_clip_skip": clip_skip})
    return StyleChoice(name=str(path))


def notes_on_clip(stylizer: Stylizer) -> tuple[str, ...]:
    return tuple(note for note in stylizer.notes if "clip skip" in note)


def test_a_styles_own_clip_skip_is_said_and_used(tiny_family: Families, run_on: Any, tmp_path: Any) -> None:
    tiny = tiny_family("sd2")
    styles = [stating(tiny, tmp_path / f"{n}.safetensors", n) for n in ("1", "2", "None")]
    two = run_of(tiny, run_on, styles=(styles[1],))
    assert notes_on_clip(two) == ("clip skip 2, as the style states; --clip-skip 1 for the model's usual layer",)
    assert two.resolved_run.clip_skip == 2
    chosen = run_of(tiny, run_on, styles=(styles[1],), clip_skip=1)
    plain = [run_of(tiny, run_on, styles=(style,)) for style in (styles[0], styles[2])]
    assert notes_on_clip(chosen) == notes_on_clip(plain[0]) == notes_on_clip(plain[1]) == ()
    tokens = [stylizer._networks.text(["a cat"]).tokens for stylizer in (two, chosen, *plain)]
    assert not torch.allclose(tokens[0], tokens[1])
    assert all(torch.equal(tokens[1], other) for other in tokens[2:])
    (note,) = notes_on_clip(run_of(tiny, run_on, styles=(styles[0], styles[1])))
    assert note == "the styles state clip skips 1 and 2; 1 is used, --clip-skip chooses another"
    sdxl = tiny_family("sdxl")
    (note,) = notes_on_clip(run_of(sdxl, run_on, styles=(stating(sdxl, tmp_path / "xl.safetensors", "1"),)))
    assert note == "clip skip 1, which the style states, was without effect in its training on SDXL"


def test_the_negative_prompt_takes_the_place_of_the_empty_one_in_guidance_alone(
    tiny_family: Families, run_on: Any
) -> None:
    stylizer = run_of(tiny_family("sd2"), run_on)
    networks, method = stylizer._networks, stylizer._method
    fake = networks.base.adapters.new_fake(("to_q",), 2, 2.0, [torch.Generator().manual_seed(0)])

    def scores(negative: str) -> Any:
        return make_scores(
            networks, method, Prompts(target=["ink"], edit=["turn"], caption=["cat"], negative=negative), fake
        )

    plain, negative = scores(""), scores("blurry")
    less = networks.text(["blurry"]).tokens
    for name in ("fake", "source"):
        assert torch.equal(negative[name].unconditional.tokens, less)
    assert torch.equal(negative["style"].unconditional.tokens, networks.style_text(["blurry"]).tokens)
    assert torch.equal(negative["edit"].unconditional.tokens, networks.text([""]).tokens)
    for name in ("fake", "source", "style", "edit"):
        assert torch.equal(negative[name].conditional.tokens, plain[name].conditional.tokens)


def test_a_run_with_a_negative_prompt(tiny_family: Families, run_on: Any, photos: Sequence[Photo]) -> None:
    plain, negative = (run_of(tiny_family("sdxl"), run_on, negative_prompt=text) for text in ("", "blurry"))
    assert not torch.allclose(ended(plain, photos[:1]), ended(negative, photos[:1]))
    unguided = replace(negative.run, method=replace(plain.run.method, method="sds", guidance_scale=1.0))
    with pytest.raises(ConfigError, match="negative_prompt has no effect where guidance_scale is 1"):
        check_run(unguided)


@pytest.mark.parametrize("name", ["caption", "style_prompt", "negative_prompt"])
def test_a_lora_in_a_prompt_is_refused_with_the_right_option(tiny_family: Families, run_on: Any, name: str) -> None:
    with pytest.raises(ConfigError, match=r"cannot load '<lora:ink:0\.8>'") as caught:
        run_of(tiny_family("sd2"), run_on, **{name: "a cat <lora:ink:0.8>"})
    assert caught.value.hint == "delete it from the prompt and give --style ink=0.8"


def test_long_and_weighted_prompts_in_a_run(tiny_family: Families, run_on: Any, photos: Sequence[Photo]) -> None:
    stylizer = run_of(tiny_family("sd2"), run_on, caption=f"({LONG}:0.7)")
    weights, windows = stylizer.prompt_notes(stylizer.run.caption)
    assert weights.startswith("weights of words in a prompt: 'a cat in")
    assert "it is read in" in windows
    assert stylizer.cut_prompts(stylizer.run.caption) == []
    plain = run_of(tiny_family("sd2"), run_on, caption=f"({LONG}:0.7)", prompt_weights="off")
    assert len(plain.prompt_notes(plain.run.caption)) == 1
    assert not torch.allclose(ended(stylizer, photos[:1]), ended(plain, photos[:1]))
    assert make_parse("on")("(a)") == (("a", 1.1),)


def test_captions_of_other_lengths_go_into_another_batch(
    tiny_family: Families, run_on: Any, photos: Sequence[Photo]
) -> None:
    stylizer = run_of(tiny_family("sd2"), run_on)
    captions = ["a cat", "a lake", LONG]
    assert list(stylizer.split(photos, 3, captions)) == [[0, 1], [2]]
    assert list(stylizer.split(photos, 3)) == [[0, 1, 2]]


def test_what_a_t5_cuts_off_is_named(tiny_family: Families, run_on: Any) -> None:
    stylizer = run_of(tiny_family("flux-dev"), run_on, caption="a cat " * 300 + "zebra")
    assert stylizer.prompt_notes(stylizer.run.caption) == []
    (target, caption) = stylizer.cut_prompts(stylizer.run.caption)
    assert target.endswith(caption)
    assert stylizer.cut_prompts("a cat") == []
