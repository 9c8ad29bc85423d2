"""Stores, leases and watches, in one process."""

import asyncio
import gc
import os
import weakref

import pytest

from dynamo import errors
from dynamo._discovery import Store


@pytest.fixture(params=["mem", "file"])
def pair(request, tmp_path):
    """Two stores that see each other."""
    stores = [Store(request.param, tmp_path / "kv", ttl=2) for _ in range(2)]
    yield stores
    for store in stores:
        store.close()


def run(coroutine):
    return asyncio.run(asyncio.wait_for(coroutine, 20))


async def until(watch, wanted):
    seen = []
    async for change in watch:
        seen.append(tuple(change))
        if seen[-1] == wanted:
            return seen
    raise AssertionError(f"the watch ended after {seen}")


def test_values_are_seen_by_the_other_store(pair):
    one, two = pair
    one.put("v1/instances/ns/c/e/1", b"a")
    two.put("v1/instances/ns/c/e/2", memoryview(b"b"))
    one.put("v1/instances/ns/c/e/3", b"")
    assert two.get("v1/instances/ns/c/e/1") == b"a"
    assert two.list("v1/instances/ns/") == {f"v1/instances/ns/c/e/{i + 1}": v for i, v in enumerate([b"a", b"b", b""])}
    assert two.list("v1/instances/ns/c/e/3") == {"v1/instances/ns/c/e/3": b""}
    assert one.delete("v1/instances/ns/c/e/2")
    assert not one.delete("v1/instances/ns/c/e/2")
    assert two.get("v1/instances/ns/c/e/2") is None
    one.close()
    assert two.list("v1/instances") == {}


def test_create_refuses_what_exists(pair):
    one, two = pair
    one.put("a/b/c", b"1", create=True)
    with pytest.raises(ValueError, match='key "a/b/c"'):
        two.put("a/b/c", b"2", create=True)
    two.put("a/b/c", b"2")
    assert one.get("a/b/c") == b"2"


def test_a_lease_ends_its_keys_and_only_them(pair):
    one, two = pair
    with one.lease() as lease:
        assert 0 < lease.id < 2**63
        one.put("a/b/1", b"x", lease)
        one.put("a/b/2", b"x")
        with pytest.raises(ValueError, match="another store") if one.backend == "file" else _nothing():
            two.put("a/b/3", b"x", lease)
    assert "a/b/1" not in two.list("a/b") and "a/b/2" in two.list("a/b")
    with pytest.raises(errors.StreamBroken, match="the lease"):
        one.put("a/b/1", b"x", lease)


class _nothing:
    def __enter__(self): ...
    def __exit__(self, *exc): ...


def test_a_watch_tells_what_is_there_and_what_changes(pair):
    one, two = pair

    async def main():
        one.put("a/b/1", b"x")
        watch = two.watch("a/b/")
        assert await until(watch, ("synced", None, None)) == [("put", "a/b/1", b"x"), ("synced", None, None)]
        one.put("a/b/ü", b"y")
        await until(watch, ("put", "a/b/ü", b"y"))
        one.delete("a/b/1")
        await until(watch, ("delete", "a/b/1", None))
        watch.close()
        assert [change async for change in watch] == []

    run(main())


def test_a_watch_ends_with_its_store(pair):
    async def main():
        watch = pair[0].watch("a/b")
        await until(watch, ("synced", None, None))
        asyncio.get_running_loop().call_soon(pair[0].close)
        assert [change async for change in watch] == []

    run(main())


def test_a_dropped_watch_is_closed(pair):
    async def main():
        watch = pair[0].watch("a/b")
        await until(watch, ("synced", None, None))
        gone = weakref.ref(watch)
        del watch
        gc.collect()
        assert gone() is None
        pair[0].put("a/b/c", b"x")
        await asyncio.sleep(0)

    run(main())


def test_a_slow_reader_gets_the_last_state_and_the_queue_stays_bounded(pair):
    one, two = pair

    async def main():
        watch = two.watch("a/b")
        await until(watch, ("synced", None, None))
        for i in range(3000):
            one.put(f"a/b/{i % 1500:04}", str(i).encode())
        state = {}
        async for _, key, value in watch:
            state[key] = value
            if len(state) == 1500 and state == two.list("a/b"):
                break

    run(main())


def test_wrong_input_is_refused(pair, tmp_path):
    store = pair[0]
    for key in ("", "a/b", "a/b/../c", "../x/y", "a/b/x\0y", "a/b/x\ny", "a/b/" + "x" * 241):
        with pytest.raises(ValueError):
            store.put(key, b"x")
    with pytest.raises(ValueError, match="1048577"):
        store.put("a/b/c", bytes(2**20 + 1))
    with pytest.raises(TypeError):
        store.put("a/b/c", "text")
    with pytest.raises(ValueError, match="bucket"):
        store.list("a")
    with pytest.raises(ValueError, match="etcd"):
        Store("etcd")
    with pytest.raises(ValueError, match="ttl"):
        Store("file", tmp_path, ttl=0.1)
    store.close()
    store.close()
    assert store.closed and "closed" in repr(store)
    with pytest.raises(errors.StreamBroken, match="the store"):
        store.get("a/b/c")


def test_a_child_of_fork_leaves_the_stores_alone(tmp_path):
    store = Store("file", tmp_path, ttl=2)
    store.put("a/b/c", b"x")
    pid = os.fork()
    if pid == 0:
        code = 1
        try:
            assert store.closed
            with Store("file", tmp_path, ttl=2) as other:
                assert other.get("a/b/c") == b"x"
            code = 0
        finally:
            os._exit(code)
    assert os.waitpid(pid, 0)[1] == 0
    assert store.get("a/b/c") == b"x"
    store.close()


def test_the_environment_names_the_folder(tmp_path, monkeypatch):
    monkeypatch.setenv("DYN_FILE_KV", str(tmp_path / "here"))
    monkeypatch.setenv("DYN_FILE_KV_TTL", "4")
    with Store() as store:
        assert (store.backend, store.root, store.ttl) == ("file", str(tmp_path / "here"), 4.0)
        store.put("v1/instances/my-ns/c/e/1f", b"x")
        assert (tmp_path / "here/v1/instances/my%2Dns%2Fc%2Fe%2F1f").read_bytes() == b"x"
    assert list((tmp_path / "here/v1/instances").iterdir()) == []
