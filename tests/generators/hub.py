"""What stands for the hub in tests."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import huggingface_hub
import pytest
import yaml


class Hub:
    """Stands for the hub's client: it notes what it is called with."""

    def __init__(self, names: list[str] | None = None, folder: Path | None = None) -> None:
        self.names, self.folder = names or [], folder
        self.calls: list[tuple[str, str, dict[str, Any]]] = []
        self.uploaded: dict[str, Any] = {}
        self.keep: Path | None = None

    def replace_client(self, monkeypatch: pytest.MonkeyPatch) -> None:
        """Stand where the hub's client is looked for."""
        monkeypatch.setattr(huggingface_hub, "HfApi", lambda: self)
        monkeypatch.setattr(huggingface_hub, "hf_hub_download", self.download)

    def create_repo(self, hub_id: str, **options: Any) -> str:
        self.calls.append(("create_repo", hub_id, options))
        return f"https://hub.example/{hub_id}"

    def create_commit(self, hub_id: str, operations: list[Any], **options: Any) -> None:
        self.calls.append(("create_commit", hub_id, options))
        self.uploaded = {operation.path_in_repo: operation.path_or_fileobj for operation in operations}
        if self.keep is not None:
            self.keep.mkdir()
            for name, content in self.uploaded.items():
                (self.keep / name).write_bytes(content if isinstance(content, bytes) else Path(content).read_bytes())

    def list_repo_files(self, hub_id: str) -> list[str]:
        self.calls.append(("list_repo_files", hub_id, {}))
        return self.names

    def download(self, hub_id: str, name: str) -> str:
        self.calls.append(("download", hub_id, {"name": name}))
        return str(self.folder / name) if self.folder else f"/cache/{name}"


def head(card: str) -> dict[str, Any]:
    """Return what a model card tells the hub."""
    return dict(yaml.safe_load(card.split("---")[1]))
