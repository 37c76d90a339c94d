"""Memory that a call needs, counted: every tensor it makes, from when it is made until it is gone."""

from __future__ import annotations

import weakref
from collections.abc import Callable
from typing import Any

from torch import Tensor, UntypedStorage, nn
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves


class Living(TorchDispatchMode):
    """Counts the bytes of what operations inside the block make, each piece of memory once.

    Attributes:
        now: bytes at present.
        most: the largest value so far.
    """

    def __init__(self) -> None:
        super().__init__()
        self.now = self.most = 0
        self.known: set[int] = set()

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        """Run an operation and note what it made."""
        given = {tensor.untyped_storage()._cdata for tensor in tensors((args, kwargs))}
        made = func(*args, **(kwargs or {}))
        for tensor in tensors(made):
            if tensor.untyped_storage()._cdata not in given:
                self.note(tensor.untyped_storage())
        return made

    def note(self, storage: UntypedStorage) -> None:
        """Count a piece of memory until it is gone."""
        key, size = storage._cdata, storage.nbytes()
        if key in self.known:
            return

        def gone() -> None:
            self.known.discard(key)
            self.now -= size

        self.known.add(key)
        self.now += size
        self.most = max(self.most, self.now)
        weakref.finalize(storage, gone)


def tensors(tree: Any) -> list[Tensor]:
    """Return all tensors in nested tuples, lists and dictionaries."""
    return [leaf for leaf in tree_leaves(tree) if isinstance(leaf, Tensor)]


def most_bytes(work: Callable[[], object]) -> int:
    """Return the most memory that is needed at once for what a call makes."""
    with Living() as living:
        work()
    return living.most


def held(network: nn.Module) -> int:
    """Return the bytes of a network's weights and buffers, each piece of memory once."""
    kept = [tensor.untyped_storage() for tensor in (*network.parameters(), *network.buffers())]
    return sum({storage._cdata: storage.nbytes() for storage in kept}.values())
