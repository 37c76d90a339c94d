"""Natural Python calls, right and wrong ones: each ends in a picture or in one of our errors.

A right call must end in a picture. A wrong one must raise one of our errors, in one line and with a hint; where it can
be understood nevertheless, a picture holds too. Calls without an argument that Python itself demands are left out.
"""

from __future__ import annotations

import random
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import steps
import torch
from attempts import CRASH, Outcome, Tally, attempt
from PIL import Image
from place import LORA, TINY
from steps import PHOTO

PICTURE, ERROR, OTHER = 10, 11, 12
"""Exit codes of an attempt: it ended in pictures, in one of our errors, in another value."""
STYLE = str(LORA)
NAMES = ("stylize", "Stylizer", "RunConfig", "StyleChoice", "read_photo")


@dataclass(frozen=True)
class Call:
    """One call: its text, and whether it must end in a picture."""

    text: str
    is_right: bool = False


def _right(*texts: str) -> list[Call]:
    return [Call(text, is_right=True) for text in texts]


def _wrong(*texts: str) -> list[Call]:
    return [Call(text) for text in texts]


CALLS = [
    *_right(
        "stylize(PHOTO, STYLE, **q)",
        "stylize(Path(PHOTO), STYLE, **q)",
        "stylize(str(Path(PHOTO).absolute()), STYLE, **q)",
        "stylize(photo=PHOTO, style=STYLE, **q)",
        "stylize(Image.open(PHOTO), STYLE, **q)",
        "stylize(Image.open(PHOTO).convert('RGBA'), STYLE, **q)",
        "stylize(Image.open(PHOTO).convert('L'), STYLE, **q)",
        "stylize(Image.open(PHOTO).convert('CMYK'), STYLE, **q)",
        "stylize(Image.open(PHOTO).convert('P'), STYLE, **q)",
        "stylize(np.asarray(Image.open(PHOTO)), STYLE, **q)",
        "stylize(np.asarray(Image.open(PHOTO)) / 255, STYLE, **q)",
        "stylize(torch.rand(3, 80, 80), STYLE, **q)",
        "stylize(torch.rand(1, 3, 80, 80), STYLE, **q)",
        "stylize(read_photo(PHOTO), STYLE, **q)",
        "stylize([PHOTO, PHOTO], STYLE, **q)",
        "stylize((PHOTO, Path(PHOTO)), STYLE, **q)",
        "stylize([PHOTO, PHOTO], STYLE, batch=2, **q)",
        "stylize(PHOTO, Path(STYLE), **q)",
        "stylize(PHOTO, [STYLE], **q)",
        "stylize(PHOTO, {STYLE: 0.5}, **q)",
        "stylize(PHOTO, STYLE, prompt='a cat', **q)",
        "stylize([PHOTO, PHOTO], STYLE, prompt=['a cat', 'a lake'], **q)",
        "stylize(PHOTO, STYLE, style_strength=0.7, **q)",
        "stylize(PHOTO, STYLE, content=0, **q)",
        "stylize(PHOTO, STYLE, content=1.0, **q)",
        "stylize(PHOTO, STYLE, seed=np.int64(3), **q)",
        "stylize(PHOTO, STYLE, content=np.float32(0.5), **q)",
        "stylize(PHOTO, STYLE, method='dds', **q)",
        "stylize(PHOTO, STYLE, preset='swift', **q)",
        "stylize(PHOTO, STYLE, model=Path(TINY), size=64, settings={'iterations': 1})",
        "stylize(PHOTO, STYLE, model=TINY, size=64, iterations=1)",
        "stylize(PHOTO, STYLE, device='cpu', dtype='float32', **q)",
        "stylize(PHOTO, STYLE, memory='low', **q)",
        "stylize(PHOTO, STYLE, on_iteration=print, **q)",
        "stylize(PHOTO, STYLE, on_iteration=lambda update: True, **q)",
        "stylize(PHOTO, STYLE, progress=False, **q)",
        "stylize(PHOTO, STYLE, **q).picture",
        "stylize(PHOTO, STYLE, **q).before_after",
        "in_context(torch.no_grad(), lambda: stylize(PHOTO, STYLE, **q))",
        "in_context(torch.inference_mode(), lambda: stylize(PHOTO, STYLE, **q))",
        "Stylizer.load(STYLE, **q).stylize(PHOTO)",
        "Stylizer.load(STYLE, **q).stylize([PHOTO])",
        "[Stylizer.load(STYLE, **q)] and twice(Stylizer.load(STYLE, **q))",
        "Stylizer.load(STYLE, **q).stylize(PHOTO, content=0.9, seed=4)",
        "stylize(np.asarray(Image.open(PHOTO))[::2, ::-1], STYLE, **q)",
        "stylize(np.asarray(Image.open(PHOTO), dtype=np.float16) / 255, STYLE, **q)",
        "stylize(np.asarray(Image.open(PHOTO).convert('L')), STYLE, **q)",
        "stylize(np.asarray(Image.open(PHOTO).convert('RGBA')), STYLE, **q)",
        "stylize(np.asarray(Image.open(PHOTO)).astype('>f8') / 255, STYLE, **q)",
        "stylize(Image.open(PHOTO).convert('1'), STYLE, **q)",
        "stylize(Image.open(PHOTO).convert('LA'), STYLE, **q)",
        "stylize(Image.open(PHOTO).convert('HSV'), STYLE, **q)",
        "stylize(Image.open(PHOTO).convert('LAB'), STYLE, **q)",
        "stylize(Image.fromarray(np.full((80, 80), 40_000, np.uint16)), STYLE, **q)",
        "stylize((torch.rand(3, 80, 80) * 255).to(torch.uint8), STYLE, **q)",
        "stylize(torch.rand(1, 80, 80, dtype=torch.float64), STYLE, **q)",
        "stylize(torch.rand(80, 3, 80).transpose(0, 1), STYLE, **q)",
        "stylize([Image.open(PHOTO), PHOTO, read_photo(PHOTO), torch.rand(3, 80, 80)], STYLE, **q)",
        "stylize([PHOTO, PHOTO], STYLE, batch=np.int64(2), **q)",
        "stylize(PHOTO, {STYLE: np.float32(0.5)}, **q)",
        "stylize(PHOTO, {Path(STYLE): 1}, **q)",
        "stylize(PHOTO, (STYLE, STYLE), **q)",
        "stylize(PHOTO, STYLE, prompt=np.str_('a cat'), **q)",
        "stylize([PHOTO], STYLE, prompt=('a cat',), **q)",
        "stylize(PHOTO, STYLE, mask=Image.new('L', (80, 80), 255), **q)",
        "stylize(PHOTO, STYLE, mask=np.ones((80, 80)), **q)",
        "stylize(PHOTO, STYLE, mask=np.ones((80, 80), bool), **q)",
        "stylize(PHOTO, STYLE, mask=torch.ones(1, 80, 80), **q)",
        "stylize([PHOTO, PHOTO], STYLE, mask=[None, PHOTO], **q)",
        "stylize(PHOTO, STYLE, model=TINY, size=np.int32(64), settings={'iterations': np.int64(1)})",
        "stylize(PHOTO, STYLE, embeddings={}, **q)",
        "stylize(PHOTO, STYLE, settings=None, model=TINY, size=64, iterations=1)",
        "stylize(PHOTO, STYLE, on_iteration=lambda update: update.preview()[0].size and None, **q)",
        "closed_twice(Stylizer.load(STYLE, **q))",
        "after_failure(Stylizer.load(STYLE, **q), ValueError)",
        "after_failure(Stylizer.load(STYLE, **q), KeyboardInterrupt)",
        "in_threads(lambda: stylize(PHOTO, STYLE, **q))",
        "nested(Stylizer.load(STYLE, **q))",
        "shared(Stylizer.load(STYLE, **q))",
        "copied(Stylizer.load(STYLE, **q)).stylize(PHOTO)",
        "list(Stylizer(RunConfig(styles=(StyleChoice(name=STYLE),), model=TINY, size=64, method=one()))"
        "([read_photo(PHOTO)]))[-1]",
    ),
    *_wrong(
        "stylize(STYLE, PHOTO, **q)",
        "stylize(None, STYLE, **q)",
        "stylize(3, STYLE, **q)",
        "stylize(b'photo.png', STYLE, **q)",
        "stylize(open(PHOTO, 'rb'), STYLE, **q)",
        "stylize('nowhere.png', STYLE, **q)",
        "stylize((name for name in [PHOTO]), STYLE, **q)",
        "stylize(map(str, [PHOTO]), STYLE, **q)",
        "stylize({PHOTO}, STYLE, **q)",
        "stylize({PHOTO: 'a cat'}, STYLE, **q)",
        "stylize([[PHOTO]], STYLE, **q)",
        "stylize(Path(), STYLE, **q)",
        "stylize('photo\\0.png', STYLE, **q)",
        "stylize('p' * 5000, STYLE, **q)",
        "stylize(type('P', (), {'__fspath__': lambda self: b'photo.png'})(), STYLE, **q)",
        "stylize(np.zeros((80, 80, 3), complex), STYLE, **q)",
        "stylize(np.zeros((80, 80, 3), object), STYLE, **q)",
        "stylize(np.zeros((80, 80, 3), bool), STYLE, **q)",
        "stylize(np.zeros((80, 80), [('r', 'u1')]), STYLE, **q)",
        "stylize(np.zeros((0, 0, 3)), STYLE, **q)",
        "stylize(np.zeros((0, 80, 3), np.uint8), STYLE, **q)",
        "stylize(np.full((80, 80, 3), np.inf), STYLE, **q)",
        "stylize(np.float64(0.5), STYLE, **q)",
        "stylize(torch.zeros(3, 80, 80, dtype=torch.complex64), STYLE, **q)",
        "stylize(torch.zeros(3, 80, 80, device='meta'), STYLE, **q)",
        "stylize(torch.zeros(3, 80, 80).to_sparse(), STYLE, **q)",
        "stylize(torch.zeros(2, 3, 80, 80), STYLE, **q)",
        "stylize(torch.tensor(0.5), STYLE, **q)",
        "stylize(torch.zeros(3, 0, 80), STYLE, **q)",
        "stylize(closed_image(), STYLE, **q)",
        "stylize(Image.new('F', (80, 80), 7.5), STYLE, **q)",
        "stylize(Image.new('RGB', (0, 5)), STYLE, **q)",
        "stylize('', STYLE, **q)",
        "stylize('.', STYLE, **q)",
        "stylize('https://example.com/a.jpg', STYLE, **q)",
        "stylize([], STYLE, **q)",
        "stylize([None], STYLE, **q)",
        "stylize([PHOTO, 'nowhere.png'], STYLE, **q)",
        "stylize(Image.new('RGB', (1, 1)), STYLE, **q)",
        "stylize(Image.new('RGB', (900, 20)), STYLE, **q)",
        "stylize(np.zeros((8, 8, 2)), STYLE, **q)",
        "stylize(np.zeros((80, 80, 3), np.int64), STYLE, **q)",
        "stylize(np.full((80, 80, 3), np.nan), STYLE, **q)",
        "stylize(np.array([]), STYLE, **q)",
        "stylize(np.array(['a']), STYLE, **q)",
        "stylize(torch.rand(80, 80, 3), STYLE, **q)",
        "stylize(torch.full((3, 80, 80), 2.0), STYLE, **q)",
        "stylize(torch.rand(3, 80, 80).to(torch.bfloat16), STYLE, **q)",
        "stylize(torch.rand(3, 80, 80, requires_grad=True), STYLE, **q)",
        "stylize(PHOTO, None, **q)",
        "stylize(PHOTO, '', **q)",
        "stylize(PHOTO, 'nowhere', **q)",
        "stylize(PHOTO, 3, **q)",
        "stylize(PHOTO, [], **q)",
        "stylize(PHOTO, {STYLE: 'much'}, **q)",
        "stylize(PHOTO, {STYLE: float('nan')}, **q)",
        "stylize(PHOTO, {3: 0.5}, **q)",
        "stylize(PHOTO, {STYLE}, **q)",
        "stylize(PHOTO, iter([STYLE]), **q)",
        "stylize(PHOTO, (STYLE, 0.5), **q)",
        "stylize(PHOTO, [(STYLE, 0.5)], **q)",
        "stylize(PHOTO, {STYLE: True}, **q)",
        "stylize(PHOTO, {STYLE: 1j}, **q)",
        "stylize(PHOTO, STYLE.encode(), **q)",
        "stylize(PHOTO, type('P', (), {'__fspath__': lambda self: b'a'})(), **q)",
        "stylize(PHOTO, STYLE, model=b'mini')",
        "stylize(PHOTO, STYLE, mask=3, **q)",
        "stylize(PHOTO, STYLE, mask='nowhere.png', **q)",
        "stylize(PHOTO, STYLE, mask=[PHOTO, PHOTO], **q)",
        "stylize(PHOTO, STYLE, mask=np.full((80, 80), 7.0), **q)",
        "stylize(PHOTO, STYLE, mask=np.zeros((3, 3, 3, 3)), **q)",
        "stylize(PHOTO, STYLE, prompt=b'a cat', **q)",
        "stylize(PHOTO, STYLE, prompt={'a': 'cat'}, **q)",
        "stylize([PHOTO], STYLE, prompt=[None], **q)",
        "stylize(PHOTO, STYLE, seed=True, **q)",
        "stylize(PHOTO, STYLE, seed=2**70, **q)",
        "stylize(PHOTO, STYLE, seed=float('nan'), **q)",
        "stylize(PHOTO, STYLE, content=True, **q)",
        "stylize(PHOTO, STYLE, content=1j, **q)",
        "stylize(PHOTO, STYLE, content=np.array([0.5, 0.6]), **q)",
        "stylize(PHOTO, STYLE, model=TINY, size=64.5)",
        "stylize(PHOTO, STYLE, model=TINY, size=True)",
        "stylize(PHOTO, STYLE, model=TINY, size=64, settings={'fake': None})",
        "stylize(PHOTO, STYLE, model=TINY, size=64, settings={'fake': {'rank': True}})",
        "stylize(PHOTO, STYLE, model=TINY, size=64, settings={'fake.rank': 2})",
        "stylize(PHOTO, STYLE, model=TINY, size=64, settings={'iterations': float('inf')})",
        "stylize(PHOTO, STYLE, model=TINY, size=64, settings={'iterations': torch.tensor([1, 2])})",
        "stylize(PHOTO, STYLE, model=TINY, size=64, settings=deep({}, 2000))",
        "stylize(PHOTO, STYLE, embeddings='a', **q)",
        "stylize(PHOTO, STYLE, embeddings={'a': 3}, **q)",
        "stylize(PHOTO, STYLE, memory=None, **q)",
        "stylize(PHOTO, STYLE, tile='none', **q)",
        "stylize(PHOTO, STYLE, styles=STYLE, **q)",
        "stylize(PHOTO, STYLE, execution=3, **q)",
        "stylize(PHOTO, STYLE, batch=1.5, **q)",
        "stylize(PHOTO, STYLE, batch=10**30, **q)",
        "stylize(PHOTO, STYLE, progress='no', **q)",
        "stylize(PHOTO, StyleChoice(name=STYLE), **q)",
        "stylize(PHOTO, STYLE, model='nowhere')",
        "stylize(PHOTO, STYLE, model=None)",
        "stylize(PHOTO, STYLE, model=3)",
        "stylize(PHOTO, STYLE, modle=TINY)",
        "stylize(PHOTO, STYLE, caption='a cat', **q)",
        "stylize(PHOTO, STYLE, prompt=3, **q)",
        "stylize(PHOTO, STYLE, prompt=None, **q)",
        "stylize(PHOTO, STYLE, prompt=['a', 'b'], **q)",
        "stylize(PHOTO, STYLE, steps=20, **q)",
        "stylize(PHOTO, STYLE, num_inference_steps=20, **q)",
        "stylize(PHOTO, STYLE, strength=0.5, **q)",
        "stylize(PHOTO, STYLE, guidance_scale=7.5, **q)",
        "stylize(PHOTO, STYLE, generator=torch.Generator(), **q)",
        "stylize(PHOTO, STYLE, content='0.5', **q)",
        "stylize(PHOTO, STYLE, content=2, **q)",
        "stylize(PHOTO, STYLE, content=None, **q)",
        "stylize(PHOTO, STYLE, content=float('nan'), **q)",
        "stylize(PHOTO, STYLE, seed=1.5, **q)",
        "stylize(PHOTO, STYLE, seed=None, **q)",
        "stylize(PHOTO, STYLE, seed='x', **q)",
        "stylize(PHOTO, STYLE, model=TINY, size='64')",
        "stylize(PHOTO, STYLE, model=TINY, size=0)",
        "stylize(PHOTO, STYLE, model=TINY, size=(64, 64))",
        "stylize(PHOTO, STYLE, model=TINY, size=64, iterations=0)",
        "stylize(PHOTO, STYLE, model=TINY, size=64, iterations='3')",
        "stylize(PHOTO, STYLE, model=TINY, size=64, settings='fast')",
        "stylize(PHOTO, STYLE, model=TINY, size=64, settings=[('iterations', 1)])",
        "stylize(PHOTO, STYLE, model=TINY, size=64, settings={'iteratoins': 1})",
        "stylize(PHOTO, STYLE, model=TINY, size=64, settings={3: 1})",
        "stylize(PHOTO, STYLE, model=TINY, size=64, settings={'fake': {'rank': 'x'}})",
        "stylize(PHOTO, STYLE, model=TINY, size=64, settings={'relevance': {'timesteps': 10**9}})",
        "stylize(PHOTO, STYLE, method='smd', **q)",
        "stylize(PHOTO, STYLE, method=3, **q)",
        "stylize(PHOTO, STYLE, preset='fast', **q)",
        "stylize(PHOTO, STYLE, preset=3, **q)",
        "stylize(PHOTO, STYLE, device=0, **q)",
        "stylize(PHOTO, STYLE, device='gpu', **q)",
        "stylize(PHOTO, STYLE, device=torch.device('cpu'), **q)",
        "stylize(PHOTO, STYLE, dtype=torch.float32, **q)",
        "stylize(PHOTO, STYLE, dtype='half', **q)",
        "stylize(PHOTO, STYLE, memory='tiny', **q)",
        "stylize(PHOTO, STYLE, batch=0, **q)",
        "stylize(PHOTO, STYLE, batch='2', **q)",
        "stylize(PHOTO, STYLE, on_iteration=3, **q)",
        "stylize(PHOTO, STYLE, output='out', **q)",
        "Stylizer(STYLE)",
        "closed(Stylizer.load(STYLE, **q)).stylize(PHOTO)",
        "closed(Stylizer.load(STYLE, **q)).start([read_photo(PHOTO)])",
        "closed(Stylizer.load(STYLE, **q)).stylize(PHOTO, content=0.7)",
        "closed(Stylizer.load(STYLE, **q)).device",
        "entered(closed(Stylizer.load(STYLE, **q))).stylize(PHOTO)",
        "Stylizer.load(STYLE, **q).stylize(PHOTO, nothing=3)",
        "Stylizer.load(STYLE, **q).stylize(PHOTO, model=TINY)",
        "Stylizer.load(STYLE, **q).stylize(PHOTO, settings=3)",
        "Stylizer.load(STYLE, **q).stylize(PHOTO, iterations=0)",
        "Stylizer.load(STYLE, **q).stylize(PHOTO, preset='swift')",
        "Stylizer.load(STYLE, **q).stylize(PHOTO, method='dds')",
        "Stylizer.load(STYLE, **q).stylize(PHOTO, strength=0.5)",
        "Stylizer.load(STYLE, **q).stylize([])",
        "Stylizer.load(STYLE, model='nowhere')",
        "Stylizer.load(STYLE, **q).stylize(PHOTO, style_strength=0.3)",
        "list(Stylizer.load(STYLE, **q)([PHOTO]))[-1]",
        "Stylizer(RunConfig(styles=()))",
        "Stylizer(RunConfig(styles=STYLE, model=TINY))",
        "Stylizer(RunConfig(styles=(STYLE,), model=TINY))",
        "read_photo('nowhere.png')",
        "read_photo(None)",
        "read_photo('.')",
    ),
]


def _space() -> dict[str, Any]:
    """Return the names that a call may use; one that this version does not have is missing."""
    import stylescore

    found = {name: getattr(stylescore, name) for name in NAMES}
    quick = {"model": str(TINY), "size": 64, "settings": {"iterations": 1}}
    values = {"np": np, "torch": torch, "Image": Image, "Path": Path, "PHOTO": PHOTO, "STYLE": STYLE, "TINY": str(TINY)}
    return {**vars(steps), **found, **values, "q": quick}


def _make(text: str) -> int:
    """Make a call in this process and return what it ended in; whatever else it raises goes on."""
    from stylescore import StylescoreError

    try:
        value = eval(text, _space())
        if hasattr(value, "__next__"):
            value = list(value)
    except StylescoreError as error:
        print(f"{type(error).__name__}: {error}\nhint: {error.hint or ''}")
        return ERROR
    return PICTURE if _is_picture(value) else OTHER


def _is_picture(value: Any) -> bool:
    """Tell whether a value is a picture, a result with one, or a list of them."""
    if isinstance(value, list | tuple):
        return bool(value) and all(map(_is_picture, value))
    return isinstance(getattr(value, "picture", value), Image.Image)


def judge(call: Call, outcome: Outcome) -> str:
    """Return what is wrong with how a call ended; empty if nothing is."""
    told, error = outcome.out.splitlines(), outcome.err.strip().splitlines()[-1:]
    if outcome.code == CRASH:
        return f"raises {error[0][:200] if error else 'nothing'}"
    if outcome.code == ERROR:
        if call.is_right:
            return f"is refused: {told[0][:200]}"
        return "" if len(told) >= 2 and told[-1] != "hint:" and "hint: " in told[-1] else f"has no hint: {told}"
    if outcome.code == PICTURE:
        return ""
    return "ends in no picture" if outcome.code == OTHER else f"exit code {outcome.code}"


def run(place: Path, count: int) -> Tally:
    """Make so many calls, or all."""
    chosen = CALLS if not 0 < count < len(CALLS) else random.Random(0).sample(CALLS, count)
    tally = Tally("Python calls")
    for call in chosen:
        outcome = attempt(place, lambda text=call.text: _make(text))  # type: ignore[misc]
        tally.count()
        if reason := judge(call, outcome):
            tally.fail(f"{call.text}: {reason}")
    return tally
