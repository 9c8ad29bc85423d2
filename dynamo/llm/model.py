"""The model card: what a worker tells the others about the model it serves.

    register_model(...)  ->  v1/mdc/<namespace>/<component>/<endpoint>/<instance hex>  ->  front ends

A card names the model, says what its worker takes and makes, its limits (context, cache block size), and where the
files are that a front end needs: tokeniser, chat template. Cards are JSON in Dynamo's layout, so both can read each
other's; keys that are not known here are kept.
"""

import enum
import hashlib
import json
import os
import pathlib
import re
from collections.abc import Mapping
from typing import Any, ClassVar

from dynamo._html import html_table
from dynamo.errors import InvalidArgument, NotFound

__all__ = [
    "ModelDeploymentCard",
    "ModelInput",
    "ModelRuntimeConfig",
    "ModelType",
    "WorkerType",
]

MAX_CARD = 1 << 20
MAX_CONTEXT = 1 << 32


class ModelInput(enum.IntEnum):
    """What a worker takes: the text itself, token ids, or tensors."""

    Text = 1
    Tokens = 2
    Tensor = 3

    def __str__(self) -> str:
        return f"ModelInput.{self.name}"

    __repr__ = __str__

    def __format__(self, spec: str) -> str:
        return format(str(self), spec)  # the name, not the number


class WorkerType(enum.Enum):
    """The stage a worker computes; Aggregated does all of them."""

    Prefill = "prefill"
    Decode = "decode"
    Encode = "encode"
    Aggregated = "aggregated"

    def __int__(self) -> int:
        """The place in the order above, from 0."""
        return list(WorkerType).index(self)

    def __str__(self) -> str:
        return str(self.value)

    def __repr__(self) -> str:
        return f"WorkerType.{self.name}"


class ModelType(enum.Flag):
    """The APIs that a model serves; flags, joined with ``|``.

    Examples
    --------
    >>> str(ModelType.Chat | ModelType.Completions)
    'chat,completions'
    >>> (ModelType.Chat | ModelType.Completions).supports_chat()
    True
    """

    Empty = 0
    Chat = 1
    Completions = 2
    Embedding = 4
    TensorBased = 8
    Prefill = 16
    Images = 32
    Audios = 64
    Videos = 128
    Realtime = 256
    Classify = 512
    Pooling = 1024
    Rerank = 2048

    def names(self) -> list[str]:
        """The names of the flags that are set, in the order above."""
        return [flag.name for flag in _FLAGS if flag & self and flag.name]

    def __str__(self) -> str:
        return ",".join("tensor" if name == "TensorBased" else name.lower() for name in self.names())

    def __repr__(self) -> str:
        return f"<ModelType {' | '.join(self.names()) or 'Empty'}>"

    def supports_chat(self) -> bool:
        """Is Chat among the flags?"""
        return bool(self & ModelType.Chat)

    def supports_completions(self) -> bool:
        """Is Completions among the flags?"""
        return bool(self & ModelType.Completions)

    def supports_embedding(self) -> bool:
        """Is Embedding among the flags?"""
        return bool(self & ModelType.Embedding)

    def supports_tensor(self) -> bool:
        """Is TensorBased among the flags?"""
        return bool(self & ModelType.TensorBased)

    def supports_prefill(self) -> bool:
        """Is Prefill among the flags?"""
        return bool(self & ModelType.Prefill)

    def supports_classify(self) -> bool:
        """Is Classify among the flags?"""
        return bool(self & ModelType.Classify)

    def supports_pooling(self) -> bool:
        """Is Pooling among the flags?"""
        return bool(self & ModelType.Pooling)

    def supports_rerank(self) -> bool:
        """Is Rerank among the flags?"""
        return bool(self & ModelType.Rerank)

    @classmethod
    def parse(cls, value: object) -> "ModelType":
        """From what cards hold ("Chat | Completions"), what `str` gives, or the number of the flags."""
        if isinstance(value, bool):
            raise InvalidArgument(f"{value!r} is not a model type")
        if isinstance(value, int) and 0 <= value < 4096:
            return cls(value)
        if isinstance(value, str):
            value = re.split(r"[|,\s]+", value)
        if not isinstance(value, list):
            raise InvalidArgument(f"{value!r} is not a model type")
        found = cls.Empty
        for word in value:
            if word:
                flag = _FLAG_NAMES.get(str(word).lower())
                if flag is None:
                    raise InvalidArgument(f"{word!r} is not a model type; there are {', '.join(sorted(_FLAG_NAMES))}")
                found |= flag
        return found


_FLAGS = [flag for flag in ModelType.__members__.values() if flag.value]
_FLAG_NAMES = {flag.name.lower(): flag for flag in _FLAGS if flag.name}
_FLAG_NAMES |= {"tensor": ModelType.TensorBased, "completion": ModelType.Completions, "backend": ModelType.Completions}


class ModelRuntimeConfig:
    """The limits of a worker and the names of parsers, published with its model.

    Attributes
    ----------
    context_length, max_num_batched_tokens : tokens
    total_kv_blocks : blocks of the model card's size
    max_num_seqs : requests computed at a time
    runtime_data : what engines add, see `set_engine_specific`
    """

    context_length: int | None
    total_kv_blocks: int | None
    max_num_seqs: int | None
    max_num_batched_tokens: int | None
    tool_call_parser: str | None
    reasoning_parser: str | None
    tokenizer_backend: str | None
    structural_tag: dict[str, Any] | None
    exclude_tools_when_tool_choice_none: bool
    data_parallel_start_rank: int
    data_parallel_size: int
    enable_local_indexer: bool
    kv_event_publishing_enabled: bool | None
    kv_event_source_mode: str | None
    kv_state_endpoint: str | None
    enable_eagle: bool
    taints: set[str]
    stable_routing_id: str | None
    runtime_data: dict[str, Any]
    topology_domains: dict[str, str]
    kv_transfer_domain: str | None
    kv_transfer_enforcement: str | None
    kv_transfer_preferred_weight: float | None
    bootstrap_host: str | None
    bootstrap_port: int | None

    # in the order of the JSON; None is left out of it unless it is one of _NULLS
    _DEFAULTS: ClassVar[dict[str, Any]] = {
        "context_length": None,
        "total_kv_blocks": None,
        "max_num_seqs": None,
        "max_num_batched_tokens": None,
        "tool_call_parser": None,
        "reasoning_parser": None,
        "tokenizer_backend": None,
        "structural_tag": None,
        "exclude_tools_when_tool_choice_none": True,
        "data_parallel_start_rank": 0,
        "data_parallel_size": 1,
        "enable_local_indexer": True,
        "kv_event_publishing_enabled": None,
        "kv_event_source_mode": None,
        "kv_state_endpoint": None,
        "runtime_data": {},
        "enable_eagle": False,
        "taints": set(),
        "stable_routing_id": None,
        "topology_domains": {},
        "kv_transfer_domain": None,
        "kv_transfer_enforcement": None,
        "kv_transfer_preferred_weight": None,
        "bootstrap_host": None,
        "bootstrap_port": None,
    }
    _NULLS = ("total_kv_blocks", "max_num_seqs", "max_num_batched_tokens", "tool_call_parser", "reasoning_parser")

    def __init__(self, **values: Any) -> None:
        for name, default in self._DEFAULTS.items():
            setattr(self, name, default.copy() if isinstance(default, dict | set) else default)
        self._more: dict[str, Any] = {}
        for name, value in values.items():
            if name not in self._DEFAULTS:
                raise TypeError(f"ModelRuntimeConfig has no attribute {name!r}")
            setattr(self, name, value)

    def __repr__(self) -> str:
        changed = (f"{n}={getattr(self, n)!r}" for n, default in self._DEFAULTS.items() if getattr(self, n) != default)
        return f"ModelRuntimeConfig({', '.join(changed)})"

    def __eq__(self, other: object) -> bool:
        return isinstance(other, ModelRuntimeConfig) and self.to_dict() == other.to_dict()

    __hash__ = None  # type: ignore[assignment]

    def set_engine_specific(self, key: str, value: Any) -> None:
        """Publish anything that JSON can hold."""
        json.dumps(value)
        self.runtime_data[str(key)] = value

    def get_engine_specific(self, key: str) -> Any | None:
        """What `set_engine_specific` was told, or None."""
        return self.runtime_data.get(key)

    def set_structural_tag(self, structural_tag: dict[str, Any] | None) -> None:
        """The grammar of tool calls that the engine takes."""
        self.structural_tag = structural_tag

    def set_disaggregated_endpoint(self, bootstrap_host: str | None = None, bootstrap_port: int | None = None) -> None:
        """Where decode workers fetch what this prefill worker computed."""
        self.bootstrap_host, self.bootstrap_port = bootstrap_host, bootstrap_port

    def to_dict(self) -> dict[str, Any]:
        """The form of the model card."""
        out: dict[str, Any] = {}
        for name in self._DEFAULTS:
            value = getattr(self, name)
            if name.startswith("bootstrap_"):
                continue
            if isinstance(value, set | frozenset):
                value = sorted(value)
            if value not in (None, [], {}) or name in self._NULLS:
                out[name] = value
        if self.bootstrap_host is not None or self.bootstrap_port is not None:
            out["disaggregated_endpoint"] = {
                "bootstrap_host": self.bootstrap_host,
                "bootstrap_port": self.bootstrap_port,
            }
        return {**self._more, **out}

    @classmethod
    def from_dict(cls, fields: Mapping[str, Any]) -> "ModelRuntimeConfig":
        """From the form of the model card; unknown keys are kept."""
        config = cls()
        for name, value in fields.items():
            if name == "disaggregated_endpoint" and isinstance(value, Mapping):
                config.set_disaggregated_endpoint(value.get("bootstrap_host"), value.get("bootstrap_port"))
            elif name not in cls._DEFAULTS:
                config._more[name] = value
            elif value is not None:
                default = cls._DEFAULTS[name]
                if isinstance(default, dict) and not isinstance(value, Mapping):
                    raise InvalidArgument(f"runtime_config.{name} is {value!r}: it must be an object")
                if isinstance(default, set) and not isinstance(value, list | set):
                    raise InvalidArgument(f"runtime_config.{name} is {value!r}: it must be a list")
                setattr(config, name, type(default)(value) if isinstance(default, dict | set) else value)
        return config


class ModelDeploymentCard:
    """One model as one worker serves it. Make one with `load` or `from_json_str`.

    Attributes
    ----------
    display_name : the name that clients ask for
    slug : that name in lower case, with ``_`` for what does not fit a key
    context_length : tokens of prompt and answer together; 0 when nobody said
    kv_cache_block_size : tokens of one block of the worker's cache; 0 when nobody said
    migration_limit : how many times a broken answer may go on elsewhere
    """

    def __init__(self, fields: Mapping[str, Any]) -> None:
        self._fields: dict[str, Any] = dict(fields)
        name = self._fields.get("display_name")
        if not isinstance(name, str) or not name or len(name) > 1024:
            raise InvalidArgument(f"display_name is {name!r}: a model card needs a name of 1 to 1024 characters")
        self._fields.setdefault("slug", slug(name))
        self._type = ModelType.parse(self._fields.get("model_type") or "")
        given = self._fields.get("model_input", "Text")
        try:
            self.model_input = ModelInput[str(given)]
        except KeyError:
            raise InvalidArgument(f"model_input is {given!r}: it must be Text, Tokens or Tensor") from None
        worker = self._fields.get("worker_type")
        try:
            self.worker_type = None if worker is None else WorkerType(str(worker).lower())
        except ValueError:
            raise InvalidArgument(f"worker_type is {worker!r}: there are {', '.join(map(str, WorkerType))}") from None
        config = self._fields.get("runtime_config") or {}
        if not isinstance(config, Mapping):
            raise InvalidArgument(f"runtime_config is {config!r}: it must be an object")
        self.limits = ModelRuntimeConfig.from_dict(config)
        self.context_length = self._integer("context_length", MAX_CONTEXT)
        self.kv_cache_block_size = self._integer("kv_cache_block_size", 1 << 20)
        self.migration_limit = self._integer("migration_limit", 1 << 20)

    def _integer(self, name: str, high: int) -> int:
        value = self._fields.get(name)
        if value is None:
            return 0
        if type(value) is not int or not 0 <= value <= high:
            raise InvalidArgument(f"{name} is {value!r}: it must be an integer from 0 to {high}")
        return value

    @property
    def display_name(self) -> str:
        return str(self._fields["display_name"])

    @property
    def slug(self) -> str:
        return str(self._fields["slug"])

    @property
    def user_data(self) -> Any:
        return self._fields.get("user_data")

    @property
    def lora(self) -> Any:
        return self._fields.get("lora")

    def name(self) -> str:
        """The name that clients ask for."""
        return self.display_name

    def model_type(self) -> ModelType:
        """The APIs that the model serves."""
        return self._type

    def source_path(self) -> str:
        """Where the worker's model comes from, or its name."""
        return str(self._fields.get("source_path") or self.display_name)

    def local_dir(self) -> str | None:
        """The folder (or GGUF file) of the model on this machine, or None."""
        path = pathlib.Path(self.source_path())
        return str(path) if path.exists() else None

    def runtime_config(self) -> dict[str, Any]:
        """The limits as the JSON holds them; `limits` has them as an object."""
        return self.limits.to_dict()

    def file(self, part: str) -> tuple[str, str] | None:
        """Kind and path of one of the card's files: "model_info", "tokenizer", "prompt_formatter",
        "chat_template_file" or "gen_config"; None when the card has none."""
        found = self._fields.get(part)
        if not isinstance(found, Mapping) or not found:
            return None
        kind, value = next(iter(found.items()))
        value = value.get("file", value) if isinstance(value, Mapping) else value
        path = value.get("path") if isinstance(value, Mapping) else value
        return (str(kind), path) if isinstance(path, str) else None

    def mdcsum(self) -> str:
        """What must be equal for two workers to serve the same model: a BLAKE2b-128 over names, files and limits.

        (Dynamo takes BLAKE3, which Python does not have; the sums are compared only among our own.)
        """
        parts = [self.display_name, self.slug]
        for part in ("model_info", "tokenizer", "prompt_formatter", "chat_template_file", "gen_config"):
            parts.append(json.dumps(_checksums(self._fields.get(part)), sort_keys=True))
        parts += [str(self.context_length), str(self.kv_cache_block_size), str(self.worker_type)]
        parts.append(json.dumps(self._fields.get("prompt_context"), sort_keys=True))
        return hashlib.blake2b("\0".join(parts).encode("utf-8", "surrogatepass"), digest_size=16).hexdigest()

    def to_dict(self) -> dict[str, Any]:
        """The card as its JSON holds it."""
        return {**self._fields, "runtime_config": self.limits.to_dict()}

    def to_json_str(self) -> str:
        """The card as JSON text; `from_json_str` reads it."""
        return json.dumps(self.to_dict(), ensure_ascii=False, separators=(",", ":"))

    def __repr__(self) -> str:
        kind = self._type
        return (
            f"<ModelDeploymentCard {self.display_name!r} {kind or 'no api'} takes {self.model_input.name}, "
            f"context {self.context_length}, block {self.kv_cache_block_size}>"
        )

    def __eq__(self, other: object) -> bool:
        return isinstance(other, ModelDeploymentCard) and self.to_dict() == other.to_dict()

    __hash__ = None  # type: ignore[assignment]

    def _repr_html_(self) -> str:
        files = ("model_info", "tokenizer", "prompt_formatter", "chat_template_file", "gen_config")
        rows = {
            "serves": str(self._type) or "no api",
            "takes": self.model_input.name,
            "worker": str(self.worker_type or "not said"),
            "context": f"{self.context_length or 'not said'}" + (" tokens" if self.context_length else ""),
            "cache block": f"{self.kv_cache_block_size or 'not said'}"
            + (" tokens" if self.kv_cache_block_size else ""),
            "comes from": self.source_path(),
            "files": ", ".join(part for part in files if self.file(part)) or "none",
        }
        return html_table(f"ModelDeploymentCard {self.display_name}", list(rows.items()))

    @staticmethod
    def from_json_str(json_str: str) -> "ModelDeploymentCard":
        """A card from outside: bounded, checked, unknown keys kept.

        Raises
        ------
        InvalidArgument : it is not a card; the message names the field
        """
        if len(json_str) > MAX_CARD:
            raise InvalidArgument(f"the model card has {len(json_str)} characters, the bound is {MAX_CARD}")
        try:
            fields = json.loads(json_str)
        except (ValueError, RecursionError) as error:
            raise InvalidArgument(f"the model card is not JSON: {error}") from None
        if not isinstance(fields, dict):
            raise InvalidArgument(f"the model card is a {type(fields).__name__}: it must be an object")
        return ModelDeploymentCard(fields)

    @staticmethod
    def load(
        path: "str | os.PathLike[str] | None",
        model_name: str | None = None,
        *,
        model_type: ModelType = ModelType.Empty,
        model_input: ModelInput = ModelInput.Text,
        worker_type: WorkerType | None = None,
        context_length: int | None = None,
        kv_cache_block_size: int | None = None,
        migration_limit: int = 0,
        custom_template_path: "str | os.PathLike[str] | None" = None,
        user_data: Mapping[str, Any] | None = None,
        runtime_config: ModelRuntimeConfig | None = None,
        skip_model_assets: bool = False,
        **more: Any,
    ) -> "ModelDeploymentCard":
        """Make the card of a model.

        Parameters
        ----------
        path : a folder in the layout of Hugging Face, a GGUF file, or None for a card that has only a name
        model_name : what clients ask for; the name of the file or folder when left out
        skip_model_assets : name no files even where there are some
        more : further keys of the JSON
        """
        fields: dict[str, Any] = {}
        place = pathlib.Path(path) if path is not None else None
        if place is not None and not skip_model_assets:
            fields = _assets(place)
        name = model_name or (_stem(place) if place is not None else None)
        if not name:
            raise InvalidArgument("a model card needs model_name or a model_path to take it from")
        longest = fields.pop("longest", None)
        if custom_template_path is not None:
            file = _checked(pathlib.Path(custom_template_path))
            fields["chat_template_file"] = {"hf_chat_template": {"is_custom": True, "file": file}}
        config = runtime_config or ModelRuntimeConfig()
        fields = {
            "display_name": name,
            "slug": slug(name),
            **({"source_path": str(place.resolve() if place.exists() else place)} if place is not None else {}),
            **fields,
            **({"architectural_max_context_length": longest} if longest else {}),
            "context_length": context_length or config.context_length or longest or 0,
            "kv_cache_block_size": kv_cache_block_size or 0,
            "migration_limit": migration_limit,
            "model_type": " | ".join(model_type.names()),
            "model_input": model_input.name,
            "worker_type": None if worker_type is None else worker_type.value,
            "needs": [],
            **({"user_data": dict(user_data)} if user_data is not None else {}),
            "runtime_config": config.to_dict(),
            **{key: value for key, value in more.items() if value is not None},
        }
        fields.setdefault("media_decoder", None)
        fields.setdefault("media_fetcher", None)
        card = ModelDeploymentCard(fields)
        if len(card.to_json_str()) > MAX_CARD:
            raise InvalidArgument(f"the model card of {name!r} would have more than {MAX_CARD} characters")
        return card


def slug(name: str) -> str:
    """A name as part of a key: lower case, ``_`` for what is not a letter, digit, ``-`` or ``_``."""
    return re.sub(r"[^a-z0-9_-]", "_", name.lower())


def _stem(place: pathlib.Path) -> str:
    return place.stem if place.suffix == ".gguf" else place.name


def _assets(place: pathlib.Path) -> dict[str, Any]:
    """The files of a model that a front end needs, and how long its context may be."""
    from dynamo.llm.gguf import is_gguf, read_gguf

    if place.is_dir():
        fields: dict[str, Any] = {}
        if (place / "config.json").is_file():
            fields["model_info"] = {"hf_config_json": _checked(place / "config.json")}
            fields["longest"] = _longest(place / "config.json")
        if (place / "tokenizer.json").is_file():
            fields["tokenizer"] = {"hf_tokenizer_json": _checked(place / "tokenizer.json")}
        if (place / "tokenizer_config.json").is_file():
            fields["prompt_formatter"] = {"hf_tokenizer_config_json": _checked(place / "tokenizer_config.json")}
        if (place / "chat_template.jinja").is_file():
            template = {"is_custom": False, "file": _checked(place / "chat_template.jinja")}
            fields["chat_template_file"] = {"hf_chat_template": template}
        elif (place / "chat_template.json").is_file():
            fields["chat_template_file"] = {"hf_chat_template_json": _checked(place / "chat_template.json")}
        if (place / "generation_config.json").is_file():
            fields["gen_config"] = {"hf_generation_config_json": _checked(place / "generation_config.json")}
        if "tokenizer" not in fields and (inside := sorted(place.glob("*.gguf"))):
            fields = {**_assets(inside[0]), **fields}
        return fields
    if not place.exists():
        raise NotFound(
            f"{place}: there is no such folder or GGUF file here; dynamo downloads nothing by itself, "
            f"so give a local path, or leave model_path out for a card that has only a name"
        )
    if not is_gguf(place):
        raise InvalidArgument(f"{place}: a model is a folder with config.json and tokenizer.json, or a GGUF file")
    gguf = read_gguf(place)
    file = _checked(place, gguf.tensors[0].offset if gguf.tensors else gguf.size)
    fields = {"model_info": {"gguf": file}, "longest": gguf.context_length}
    if isinstance(gguf.metadata.get("tokenizer.ggml.tokens"), list):
        fields["tokenizer"] = {"gguf": file}
    if gguf.chat_template is not None:
        fields["prompt_formatter"] = {"gguf": file}
    return fields


def _checked(path: pathlib.Path, only: int | None = None) -> dict[str, Any]:
    """Path, size and checksum of a file. Of a GGUF only the header is summed: it is what a front end reads."""
    digest, left = hashlib.blake2b(digest_size=32), only
    with open(path, "rb") as file:
        while left is None or left > 0:
            piece = file.read(1 << 20 if left is None else min(left, 1 << 20))
            if not piece:
                break
            digest.update(piece)
            left = None if left is None else left - len(piece)
    kind = "blake2b" if only is None else "blake2b-header"
    return {"path": str(path.resolve()), "checksum": f"{kind}:{digest.hexdigest()}", "size": path.stat().st_size}


def _checksums(value: Any) -> Any:
    """The checksums in a part of a card, without the paths, which differ between machines."""
    if isinstance(value, Mapping):
        return {key: _checksums(inner) for key, inner in value.items() if key not in ("path", "size")}
    return value


def _longest(config: pathlib.Path) -> int | None:
    try:
        fields = json.loads(config.read_bytes())
    except ValueError as error:
        raise InvalidArgument(f"{config}: not JSON: {error}") from None
    for part in (fields, fields.get("text_config") if isinstance(fields, dict) else None):
        if isinstance(part, dict):
            value = part.get("max_position_embeddings") or part.get("n_positions")
            if type(value) is int and 0 < value <= MAX_CONTEXT:
                return value
    return None
