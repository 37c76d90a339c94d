"""The models of a benchmark's runs: loaded when a run needs them, and kept for the next."""

from __future__ import annotations

from dataclasses import dataclass

from stylescore.assembly.sources import Sources
from stylescore.assembly.stylizer import Stylizer
from stylescore.config.run import RunConfig


@dataclass
class Models:
    """The models that were loaded last.

    Attributes:
        stylizer: they, with the configuration they were loaded for; `None` before the first.
    """

    stylizer: Stylizer | None = None

    def load(self, run: RunConfig, sources: Sources) -> Stylizer:
        """Return a run's stylizer on the models that are there, or on others that take their place."""
        if self.stylizer is None or not self.stylizer.has_loaded(run):
            self.close()
            self.stylizer = Stylizer(run, sources)
        return self.stylizer.with_run(run)

    def close(self) -> None:
        """Free the models."""
        if self.stylizer is not None:
            self.stylizer.close()
        self.stylizer = None
