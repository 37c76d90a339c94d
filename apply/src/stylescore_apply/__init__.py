"""Stylizes pictures and videos with a trained network, in one forward pass.

`OnnxNetwork` loads a network's file, `stylize` applies it to one picture, `stylize_pictures` to many files.
"""

from __future__ import annotations

from stylescore_apply._version import __version__ as __version__
from stylescore_apply.errors import InputError as InputError
from stylescore_apply.errors import StylescoreError as StylescoreError
