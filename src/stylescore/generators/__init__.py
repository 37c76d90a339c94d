"""One-step generators: networks that stylize a photo in one forward pass, and the files they are stored in.

A generator is G(photo, noise). The noise decides where strokes lie: with the same noise a photo becomes the same
picture, and tiles of one noise field fit together.
"""

from __future__ import annotations

from stylescore.generators.files import GeneratorFacts as GeneratorFacts
from stylescore.generators.files import load_generator as load_generator
from stylescore.generators.files import save_generator as save_generator
