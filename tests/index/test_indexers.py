import asyncio

import pytest

from dynamo._discovery import Store
from dynamo.llm import ApproxKvIndexer, KvEventPublisher, KvIndexer, RadixTree, compute_block_hash_for_seq


def test_the_indexers_of_2025_still_answer():
    async def main():
        indexer = KvIndexer(None, 4)
        assert indexer.block_size() == 4
        hashes = compute_block_hash_for_seq(range(12), 4)
        indexer.tree.apply_stored(7, [1, 2, 3], hashes)
        assert (await indexer.find_matches(hashes[:2])).scores == {(7, 0): 2}
        assert (await indexer.find_matches_for_request(list(range(9)), 0)).scores == {(7, 0): 2}
        assert (await indexer.find_matches_for_request(list(range(9)), "adapter")).scores == {}

    asyncio.run(main())


def test_an_index_may_be_shared():
    tree = RadixTree()
    assert KvIndexer(None, 16, tree=tree).tree is tree


def test_an_indexer_hears_the_publishers_of_its_component():
    class Runtime:
        def __init__(self):
            self.store = Store("mem")
            self.lease = self.store.lease()

        def instance_id(self):
            return 77

    class Component:
        namespace, name = "ns", "comp"

        def __init__(self, runtime):
            self._runtime = runtime

    class Endpoint(Component):
        component, name = "comp", "generate"

    async def main():
        runtime = Runtime()
        publisher = KvEventPublisher(Endpoint(runtime), 5, 4)
        indexer = KvIndexer(Component(runtime), 4)
        await asyncio.wait_for(indexer.synced(), 20)
        publisher.publish_stored([1, 2, 3, 4, 5, 6, 7, 8], [4, 4], [11, 12])
        end = asyncio.get_running_loop().time() + 20
        while (await indexer.find_matches_for_request(list(range(1, 9)))).scores != {(5, 0): 2}:
            assert asyncio.get_running_loop().time() < end
            await asyncio.sleep(0.005)
        publisher.shutdown()
        while (await indexer.find_matches_for_request(list(range(1, 9)))).scores != {}:
            assert asyncio.get_running_loop().time() < end
            await asyncio.sleep(0.005)
        indexer.close()
        runtime.lease.revoke()
        runtime.store.close()

    asyncio.run(main())


def test_the_approximate_indexer_learns_from_decisions():
    async def main():
        indexer = ApproxKvIndexer(None, 4, 120.0)
        await indexer.process_routing_decision_for_request(list(range(10)), 3)
        await indexer.process_routing_decision_for_request(list(range(6)), 4, 1)
        assert (await indexer.find_matches_for_request(list(range(12)))).scores == {(3, 0): 2, (4, 1): 1}

    asyncio.run(main())


@pytest.mark.parametrize("kind", [KvIndexer, ApproxKvIndexer])
def test_a_block_size_of_nothing_is_refused(kind):
    with pytest.raises(ValueError):
        kind(None, 0)
