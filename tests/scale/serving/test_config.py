"""Settings of an application on a cluster, and how ``gritlm serve --ray`` fills them in."""

from __future__ import annotations

from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from gritlm.cli.app import create_app
from gritlm.errors import InputError
from gritlm.lm.gritlm import GritLM
from gritlm.scale.serving import ServingConfig
from gritlm.scale.serving.config import read
from gritlm.scale.serving.shared_stores import SharedStores


class _StoppedError(Exception):
    pass


def _config_of(monkeypatch: pytest.MonkeyPatch, model: Path, *arguments: str) -> ServingConfig:
    """Return the settings with which the command would start the replicas."""
    pytest.importorskip("ray", reason="Ray is not installed")
    found: list[ServingConfig] = []

    def stop(settings: ServingConfig, **_: Any) -> None:
        found.append(settings)
        raise _StoppedError

    monkeypatch.setattr("gritlm.scale.serving.run.serve", stop)
    with suppress(_StoppedError):
        CliRunner().invoke(
            create_app(), ["serve", str(model), "--ray", *arguments], catch_exceptions=False
        )
    (settings,) = found
    return settings


def test_every_store_of_a_replica_has_the_shared_blocks(model, tmp_path):
    settings = read(
        {
            "stores": [f"law={tmp_path / 'law'}", f"notes={tmp_path / 'notes'}"],
            "shared_blocks": str(tmp_path / "blocks"),
        }
    )
    stores = SharedStores(settings.places(), GritLM(model, dtype="float32"), longest=512)
    try:
        assert set(stores.engines) == {"law", "notes"}
        assert all(engine.store.is_shared for engine in stores.engines.values())
    finally:
        stores.close()


def test_stores_share_no_blocks_by_default(tmp_path):
    (store,) = ServingConfig(stores=(str(tmp_path),)).places()
    assert store.shared_blocks is None


def test_address_of_shared_blocks_of_another_kind_is_refused():
    with pytest.raises(InputError, match="ftp://host/blocks: expected a folder or an address"):
        ServingConfig(stores=("notes",), shared_blocks="ftp://host/blocks").places()


def test_folder_of_shared_blocks_has_its_whole_path(monkeypatch, model, tmp_path):
    monkeypatch.chdir(tmp_path)
    settings = _config_of(monkeypatch, model, "--store", "notes", "--shared-blocks", "blocks")
    assert settings.shared_blocks == str(tmp_path / "blocks")
    assert settings.stores == (f"default={tmp_path / 'notes'}",)


def test_address_of_shared_blocks_keeps_its_credentials(monkeypatch, model, tmp_path):
    address = "s3://key:secret@bucket/blocks"
    store = str(tmp_path / "notes")
    settings = _config_of(monkeypatch, model, "--store", store, "--shared-blocks", address)
    assert settings.shared_blocks == address
