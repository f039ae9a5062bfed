"""The description of the server's routes in OpenAPI 3.1."""

from typing import Any

from .settings import ServeSettings
from .v2 import INPUT, OUTPUTS

_TEXT = {"type": "string"}
_REFUSALS = {
    "400": "The body or a parameter is wrong.",
    "401": "The token is missing or wrong.",
    "408": "The request did not arrive in time.",
    "413": "The request or a photo is too large.",
    "415": "The content type is neither a form nor JSON.",
    "422": "A photo cannot be decoded; the sentence names it.",
    "429": "The queue is full; Retry-After says when to try again.",
    "500": "The server failed to compute the answer.",
    "503": "The server is starting, stopping or too busy.",
}


def describe(settings: ServeSettings) -> dict[str, Any]:
    """Return the description, with the limits of the settings."""
    from ... import __version__

    limits = (
        f"A request has at most {settings.max_upload:,} bytes and {settings.queue:,} photos, a "
        f"photo at most {settings.max_pixels:,} pixels."
    )
    base64_list = {"type": "array", "minItems": 1, "items": {"type": "string", "format": "byte"}}
    form = {
        "type": "object",
        "additionalProperties": {"type": "string", "format": "binary"},
        "minProperties": 1,
    }
    images = {
        "type": "object",
        "required": ["images"],
        "additionalProperties": False,
        "properties": {"images": base64_list},
    }
    top_k = {
        "name": "top_k",
        "in": "query",
        "description": "The number of classes for each photo.",
        "schema": {"type": "integer", "minimum": 1, "default": settings.top_k},
    }
    heat_map = {
        "name": "heat_map",
        "in": "query",
        "description": "Add what speaks for the most probable class, a PNG in base64.",
        "schema": {"type": "boolean", "default": False},
    }
    name = {"name": "name", "in": "path", "required": True, "schema": _TEXT}
    ready = _get("Whether the server is ready.", _object(ready={"type": "boolean"}), "503")
    live = _get("Whether the server runs.", _object(live={"type": "boolean"}))
    model = "/v2/models/{name}"
    infer = {"schema": {"$ref": "#/components/schemas/InferRequest"}}
    paths: dict[str, dict[str, Any]] = {
        "/": {"get": _operation("A page to drop photos on.", "text/html", _TEXT)},
        "/predict": {
            "post": {
                **_operation(
                    "Classify photos, as flax-resnet predict --format json does.",
                    "application/json",
                    {"type": "array", "items": {"$ref": "#/components/schemas/Answer"}},
                    *_REFUSALS,
                ),
                "description": limits,
                "parameters": [top_k, heat_map],
                "requestBody": {
                    "required": True,
                    "content": {
                        "multipart/form-data": {"schema": form},
                        "application/json": {"schema": images},
                    },
                },
            }
        },
        "/healthz": {"get": live},
        "/readyz": {"get": ready},
        "/metrics": {"get": _operation("Metrics for Prometheus.", "text/plain", _TEXT, "401")},
        "/openapi.json": {"get": _get("This description.", {"type": "object"}, "401")},
        "/v2": {"get": _get("The server.", {"type": "object"}, "401")},
        "/v2/health/live": {"get": live},
        "/v2/health/ready": {"get": ready},
        model: {
            "get": _get("The model's tensors.", {"type": "object"}, "401", "404"),
            "parameters": [name],
        },
        f"{model}/ready": {
            "get": _get("Whether the model is ready.", {"type": "object"}, "401", "404", "503"),
            "parameters": [name],
        },
        f"{model}/infer": {
            "post": {
                **_operation(
                    "Classify photos by the Open Inference Protocol.",
                    "application/json",
                    {"$ref": "#/components/schemas/InferResponse"},
                    "404",
                    *(status for status in _REFUSALS if status != "415"),
                ),
                "description": limits,
                "requestBody": {"required": True, "content": {"application/json": infer}},
            },
            "parameters": [name],
        },
    }
    described: dict[str, Any] = {
        "openapi": "3.1.0",
        "info": {"title": "flax-resnet serve", "version": __version__},
        "paths": paths,
        "components": {"schemas": _schemas()},
    }
    if settings.token is not None:
        described["components"]["securitySchemes"] = {"token": {"type": "http", "scheme": "bearer"}}
        described["security"] = [{"token": []}]
        for path in ("/", "/healthz", "/readyz", "/v2/health/live", "/v2/health/ready"):
            paths[path] = {"get": {**paths[path]["get"], "security": []}}
    return described


def _schemas() -> dict[str, Any]:
    prediction = _object(
        label=_TEXT, index={"type": "integer"}, probability={"type": "number", "minimum": 0}
    )
    tensor = {"name": _TEXT, "datatype": _TEXT, "shape": _list({"type": "integer"}), "data": {}}
    input_tensor = _object(
        **tensor | {"name": {"const": INPUT}, "datatype": {"enum": ["BYTES", "UINT8"]}}
    )
    output = {"type": "object", "properties": {"name": {"enum": list(OUTPUTS)}}}
    return {
        "Error": _object(error=_TEXT),
        "Answer": {
            "type": "object",
            "required": ["file", "predictions", "error"],
            "properties": {
                "file": _TEXT,
                "predictions": _list(prediction),
                "error": {"type": ["string", "null"]},
                "heat_map": {"type": "string", "format": "byte"},
            },
        },
        "InferRequest": {
            "type": "object",
            "required": ["inputs"],
            "properties": {
                "id": _TEXT,
                "inputs": {**_list(input_tensor), "minItems": 1, "maxItems": 1},
                "outputs": _list({**output, "required": ["name"]}),
            },
        },
        "InferResponse": {
            "type": "object",
            "required": ["model_name", "outputs"],
            "properties": {
                "model_name": _TEXT,
                "id": _TEXT,
                "outputs": _list(_object(**tensor)),
            },
        },
    }


def _object(**properties: Any) -> dict[str, Any]:
    return {"type": "object", "required": list(properties), "properties": properties}


def _list(items: Any) -> dict[str, Any]:
    return {"type": "array", "items": items}


def _get(summary: str, schema: Any, *refusals: str) -> dict[str, Any]:
    return _operation(summary, "application/json", schema, *refusals)


def _operation(summary: str, kind: str, schema: Any, *refusals: str) -> dict[str, Any]:
    """Return an operation that answers with one type of content, or with the refusals."""
    error = {"application/json": {"schema": {"$ref": "#/components/schemas/Error"}}}
    described = _REFUSALS | {"404": "There is no model of this name."}
    return {
        "summary": summary,
        "responses": {
            "200": {"description": "The answer.", "content": {kind: {"schema": schema}}},
            **{n: {"description": described[n], "content": error} for n in sorted(refusals)},
        },
    }
