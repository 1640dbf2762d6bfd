"""The part of pymilvus that the index uses, in memory: quick, and there without the extra."""

from __future__ import annotations

import json
import sys
import types
from pathlib import Path
from typing import Any

import numpy as np
import pytest


class MilvusException(Exception):
    def __init__(self, message: str) -> None:
        super().__init__(message)
        self.message = message


class Collection:
    def __init__(self, properties: dict[str, str]) -> None:
        self.properties = dict(properties)
        self.rows: dict[int, dict[str, Any]] = {}

    def meeting(self, condition: str) -> list[dict[str, Any]]:
        code = compile(condition or "True", "filter", "eval")
        return [one for one in self.rows.values() if eval(code, {}, one)]


class Params:
    def add_field(self, *_: Any, **__: Any) -> None:
        pass

    add_index = add_field


class Servers(dict[str, dict[str, Collection]]):
    """Collections by server; what was done, in order; what `upsert` does first."""

    def __init__(self) -> None:
        super().__init__()
        self.calls: list[str] = []

    def before_upsert(self, rows: list[int]) -> None:
        pass


class Client:
    servers = Servers()

    def __init__(self, uri: str, token: str) -> None:
        if uri not in self.servers:
            self.servers[uri] = {}
            if "://" not in uri:
                Path(uri).mkdir(exist_ok=True)
                self._read(Path(uri) / "data.json")
        self.uri, self.collections = uri, self.servers[uri]

    def _read(self, file: Path) -> None:
        for name, (properties, rows) in (
            json.loads(file.read_text() or "{}").items() if (file.exists()) else ()
        ):
            one = self.servers[str(file.parent)][name] = Collection(properties)
            one.rows = {row["row"]: row for row in rows}

    def create_schema(self, **_: Any) -> Params:
        return Params()

    prepare_index_params = create_schema

    def create_collection(self, name: str, *, properties: dict[str, str], **_: Any) -> None:
        self.servers.calls.append(f"create {name}")
        self.collections[name] = Collection(properties)

    def drop_collection(self, collection_name: str) -> None:
        del self.collections[collection_name]

    def has_collection(self, name: str) -> bool:
        return name in self.collections

    def list_collections(self) -> list[str]:
        return list(self.collections)

    def describe_collection(self, name: str) -> dict[str, Any]:
        return {"properties": self.collections[name].properties}

    def alter_collection_properties(self, name: str, *, properties: dict[str, str]) -> None:
        self.collections[name].properties |= properties

    def load_collection(self, name: str) -> None:
        assert name in self.collections

    def query(
        self, name: str, *, filter: str, output_fields: list[str], **_: Any
    ) -> list[dict[str, Any]]:
        rows = self.collections[name].meeting(filter)
        if output_fields == ["count(*)"]:
            return [{"count(*)": len(rows)}]
        return [{field: one[field] for field in output_fields} for one in rows]

    def upsert(self, name: str, data: list[dict[str, Any]]) -> None:
        self.servers.before_upsert([one["row"] for one in data])
        for one in data:
            kept = {**one, "vector": np.asarray(one["vector"], np.float32).tolist()}
            self.collections[name].rows[one["row"]] = kept

    def delete(self, name: str, *, ids: list[int]) -> None:
        for row in ids:
            self.collections[name].rows.pop(row, None)

    def flush(self, name: str) -> None:
        if "://" not in self.uri:
            everything = {
                name: [one.properties, list(one.rows.values())]
                for name, one in self.collections.items()
            }
            (Path(self.uri) / "data.json").write_text(json.dumps(everything))

    def search(
        self, name: str, *, data: list[list[float]], limit: int, filter: str, **_: Any
    ) -> list[list[dict[str, Any]]]:
        self.servers.calls.append(f"search {limit} {filter[:9]}")
        rows = self.collections[name].meeting(filter)
        answers = []
        for query in data:
            hits = [
                {"distance": float(np.float32(np.dot(one["vector"], query))), "row": one["row"]}
                for one in rows
            ]
            answers.append(sorted(hits, key=lambda hit: -hit["distance"])[:limit])
        return answers

    def close(self) -> None:
        pass


def install(monkeypatch: pytest.MonkeyPatch) -> Servers:
    """Put the fake in the place of the library; return its servers."""
    module = types.ModuleType("pymilvus")
    module.MilvusClient = Client  # type: ignore[attr-defined]
    module.DataType = types.SimpleNamespace(INT64=1, FLOAT_VECTOR=2)  # type: ignore[attr-defined]
    errors = types.ModuleType("pymilvus.exceptions")
    errors.MilvusException = MilvusException  # type: ignore[attr-defined]
    for name, one in (("pymilvus", module), ("pymilvus.exceptions", errors)):
        monkeypatch.setitem(sys.modules, name, one)
    monkeypatch.setitem(sys.modules, "milvus_lite", types.ModuleType("milvus_lite"))
    monkeypatch.setattr(Client, "servers", Servers())
    return Client.servers
