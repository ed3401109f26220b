"""The published contracts: JSON Schema 2020-12 of every model that crosses Kafka or HTTP (`schemas/json`)."""

from __future__ import annotations

import importlib
import inspect
import pkgutil
from collections.abc import Mapping
from functools import cache
from pathlib import Path
from typing import Any

import orjson
from pydantic import BaseModel

import pipeline.models
from pipeline.models.base import Model

__all__ = ["contracts", "export", "stale"]

_DIALECT = "https://json-schema.org/draft/2020-12/schema"


def _models() -> dict[str, type[BaseModel]]:
    found: dict[str, type[BaseModel]] = {}
    for module_info in pkgutil.iter_modules(pipeline.models.__path__):
        module = importlib.import_module(f"pipeline.models.{module_info.name}")
        found |= {
            name: kind
            for name, kind in inspect.getmembers(module, inspect.isclass)
            if issubclass(kind, BaseModel) and kind is not Model and kind.__module__ == module.__name__
            if not name.startswith("_")
        }
    return dict(sorted(found.items()))


@cache
def contracts() -> Mapping[str, bytes]:
    """File name -> content, the same bytes for the same models."""
    files: dict[str, bytes] = {}
    for name, kind in _models().items():
        schema: dict[str, Any] = {"$schema": _DIALECT, "$id": f"urn:headrace:schema:{name}", "title": name}
        schema |= kind.model_json_schema(mode="validation", by_alias=True)
        files[f"{name}.schema.json"] = orjson.dumps(
            schema, option=orjson.OPT_INDENT_2 | orjson.OPT_SORT_KEYS | orjson.OPT_APPEND_NEWLINE
        )
    return files


def export(folder: Path) -> list[str]:
    """Write the contracts into ``folder``, remove those of models that are gone; returns the names that changed."""
    folder.mkdir(parents=True, exist_ok=True)
    changed = stale(folder)
    files = contracts()
    for name in changed:
        if name in files:
            (folder / name).write_bytes(files[name])
        else:
            (folder / name).unlink()
    return changed


def stale(folder: Path) -> list[str]:
    """Names of files that are missing, differ from the models, or have no model any more."""
    files = contracts()
    there = {path.name for path in folder.glob("*.schema.json")}
    differing = [
        name for name, content in files.items() if name not in there or (folder / name).read_bytes() != content
    ]
    return sorted({*differing, *(there - files.keys())})
