"""A model's files from one worker to another machine, over the same connections as requests.

    fetch_model("dyn://ns.component.endpoint")  ->  endpoint "<endpoint>-files" of any of its workers
      {"list": true}                            ->  {name, size, needed, blake2b} of each file
      {"name", "offset", "size"}                ->  bytes, a piece at a time

What is received is not trusted: names are plain, sizes bounded, every file is written beside its place and only moved
there when its checksum is right. `needed` is what a front end needs of a file: of a GGUF its header.
"""

import asyncio
import contextlib
import hashlib
import os
import pathlib
import re
import secrets
from collections.abc import AsyncIterator, Mapping
from typing import TYPE_CHECKING, Any

from dynamo.errors import InvalidArgument, RemoteError, Unavailable

if TYPE_CHECKING:
    from dynamo.runtime import Client, Endpoint

__all__ = ["fetch_from_worker", "serve_files"]

SUFFIX = "-files"
PIECE = 1 << 20
MAX_FILES = 64
MAX_TOTAL = 1 << 42
_PLAIN = re.compile(r"[A-Za-z0-9][A-Za-z0-9._+-]{0,254}")
# Of a folder these go; weights in other formats do not help an engine that is here.
_KINDS = (".gguf", ".json", ".jinja", ".safetensors", ".model", ".txt")


async def serve_files(endpoint: "Endpoint", assets: Mapping[str, str]) -> None:
    """Give a model's files to whoever can reach `endpoint`; until the runtime is shut down.

    Parameters
    ----------
    assets : as in `EngineInfo`: files, or folders whose files (not those of folders in them) are given
    """
    files = await asyncio.to_thread(_collect, assets)
    listed: list[dict[str, Any]] | None = None
    lock = asyncio.Lock()

    async def handler(request: Any, context: Any) -> AsyncIterator[Any]:
        nonlocal listed
        if not isinstance(request, Mapping):
            raise InvalidArgument("a request for files must be an object")
        if request.get("list"):
            async with lock:  # checksums are made once, when somebody asks
                if listed is None:
                    listed = await asyncio.to_thread(lambda: [_describe(path) for path in files.values()])
            for one in listed:
                yield one
            return
        name, offset, size = request.get("name"), request.get("offset", 0), request.get("size", 0)
        path = files.get(str(name))
        if path is None:
            raise InvalidArgument(f"there is no file {name!r} here; there are {', '.join(files)}")
        if type(offset) is not int or type(size) is not int or offset < 0 or size < 0:
            raise InvalidArgument(f"offset {offset!r} and size {size!r} must be integers from 0")
        with open(path, "rb") as file:  # noqa: ASYNC230 -- reads go to a thread
            file.seek(offset)
            while size > 0 and not context.is_stopped():
                piece = await asyncio.to_thread(file.read, min(size, PIECE))
                if not piece:
                    return
                size -= len(piece)
                yield piece

    runtime = endpoint.runtime
    target = runtime.endpoint(f"{endpoint.namespace}.{endpoint.component}.{endpoint.name}{SUFFIX}")
    await target.serve_endpoint(handler, graceful_shutdown=False)


def _collect(assets: Mapping[str, str]) -> dict[str, pathlib.Path]:
    found: dict[str, pathlib.Path] = {}
    for place in map(pathlib.Path, assets.values()):
        inside = sorted(place.iterdir()) if place.is_dir() else [place]
        for path in inside:
            if path.is_file() and path.suffix in _KINDS and _PLAIN.fullmatch(path.name):
                found.setdefault(path.name, path)
    if len(found) > MAX_FILES:
        raise InvalidArgument(f"the model has {len(found)} files, the bound is {MAX_FILES}")
    return found


def _describe(path: pathlib.Path) -> dict[str, Any]:
    """Size and checksums of a file: of all of it, and of the part that a front end needs."""
    from dynamo.llm.gguf import is_gguf, read_gguf

    size = needed = path.stat().st_size
    if is_gguf(path):
        header = read_gguf(path)
        needed = header.tensors[0].offset if header.tensors else size
    elif path.suffix == ".safetensors":
        needed = 0
    whole, part, at = hashlib.blake2b(digest_size=32), hashlib.blake2b(digest_size=32), 0
    with open(path, "rb") as file:
        while piece := file.read(PIECE):
            whole.update(piece)
            part.update(piece[: max(0, needed - at)])
            at += len(piece)
    return {"name": path.name, "size": size, "needed": needed, "sum": whole.hexdigest(), "needed_sum": part.hexdigest()}


async def fetch_from_worker(
    address: str, ignore_weights: bool = False, folder: str | None = None, patience: float = 5.0
) -> str:
    """Bring the files of a worker's model here.

    Parameters
    ----------
    address : ``dyn://namespace.component.endpoint``
    ignore_weights : only what a front end needs
    folder : where to; by default ``~/.cache/dynamo/models``. Files that are there already and right are kept
    patience : seconds to wait for a worker

    Returns
    -------
    path of the GGUF file, or of the folder

    Raises
    ------
    Unavailable : no worker there gives files
    RemoteError : what came is not what was announced
    """
    from dynamo.runtime import DistributedRuntime

    try:
        runtime = DistributedRuntime.detached()
        mine = None
    except RuntimeError:
        runtime = mine = DistributedRuntime(asyncio.get_running_loop())
    try:
        client = await runtime.endpoint(address + SUFFIX).client()
        try:
            await asyncio.wait_for(client.wait_for_instances(), patience)
        except (TimeoutError, asyncio.TimeoutError):
            raise Unavailable(
                f"{address}: no worker gives its model's files there (dynamo worker --share-files)"
            ) from None
        return await _fetch(client, address, ignore_weights, folder)
    finally:
        if mine is not None:
            mine.shutdown()


async def _fetch(client: "Client", address: str, ignore_weights: bool, folder: str | None) -> str:
    listed = [one async for one in await client.round_robin({"list": True})]
    files = _checked_list(address, [getattr(one, "data", lambda one=one: one)() for one in listed], ignore_weights)
    name = hashlib.blake2b(repr(sorted(files)).encode(), digest_size=8).hexdigest()
    place = pathlib.Path(folder or pathlib.Path.home() / ".cache" / "dynamo" / "models" / name)
    await asyncio.to_thread(place.mkdir, parents=True, exist_ok=True)
    for file, size, checksum in files:
        target = place / file
        if await asyncio.to_thread(_is_right, target, size, checksum):
            continue
        await _fetch_file(client, address, target, size, checksum)
    models = [file for file, _, _ in files if file.endswith(".gguf")]
    return str(place / models[0]) if len(models) == 1 else str(place)


def _checked_list(address: str, listed: list[Any], ignore_weights: bool) -> list[tuple[str, int, str]]:
    size, checksum = ("needed", "needed_sum") if ignore_weights else ("size", "sum")
    files, total = [], 0
    for one in listed[: MAX_FILES + 1]:
        if not isinstance(one, Mapping) or not isinstance(one.get("name"), str) or not _PLAIN.fullmatch(one["name"]):
            raise RemoteError(f"{address}: announces a file of an unusual name, which is refused: {one!r:.100}")
        if type(one.get(size)) is not int or not 0 <= one[size] <= MAX_TOTAL or not isinstance(one.get(checksum), str):
            raise RemoteError(f"{address}: announces the file {one['name']!r} without size or checksum")
        total += one[size]
        if one[size]:
            files.append((one["name"], one[size], one[checksum]))
    if not files or len(listed) > MAX_FILES or total > MAX_TOTAL:
        raise RemoteError(
            f"{address}: announces {len(listed)} files of {total} bytes; 1 to {MAX_FILES} files are taken"
        )
    return files


async def _fetch_file(client: "Client", address: str, target: pathlib.Path, size: int, checksum: str) -> None:
    beside = target.with_name(f".{target.name}.{secrets.token_hex(4)}")
    digest, got = hashlib.blake2b(digest_size=32), 0
    try:
        with open(beside, "wb") as out:  # noqa: ASYNC230 -- writes go to a thread
            request = {"name": target.name, "offset": 0, "size": size}
            async for item in await client.round_robin(request):
                piece = item.data() if hasattr(item, "data") else item
                if not isinstance(piece, bytes | bytearray | memoryview) or got + len(piece) > size:
                    raise RemoteError(f"{address}: sends something else than the {size} bytes of {target.name!r}")
                got += len(piece)
                digest.update(piece)
                await asyncio.to_thread(out.write, piece)
        if got != size or digest.hexdigest() != checksum:
            raise RemoteError(
                f"{address}: {target.name!r} came as {got} of {size} bytes, or changed on its way; try again"
            )
        os.replace(beside, target)
    finally:
        with contextlib.suppress(FileNotFoundError):
            os.unlink(beside)


def _is_right(path: pathlib.Path, size: int, checksum: str) -> bool:
    if not path.is_file() or path.stat().st_size != size:
        return False
    digest = hashlib.blake2b(digest_size=32)
    with open(path, "rb") as file:
        while piece := file.read(PIECE):
            digest.update(piece)
    return digest.hexdigest() == checksum
