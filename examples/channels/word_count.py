"""Threads count words, tasks report: one set of channels, each side with its own face, and no lock anywhere.

threads --update_sync--> counts (folded), done (a barrier)
tasks   --await wait--->   progress, while it goes on; the result, when all threads have come
"""

import asyncio
import sys
import threading
from collections import Counter

from dynamo.channels import BinaryOperator, LastValue, NamedBarrier

TEXTS = {
    "rhyme": "row row row your boat gently down the stream",
    "proverb": "the early bird catches the worm but the second mouse gets the cheese",
    "riddle": "what has keys but no locks and space but no room",
}


def add(counts: Counter[str], more: Counter[str]) -> Counter[str]:
    """A new Counter: a reducer must not change what it is given, since it may be called again."""
    return counts + more


def count(name: str, counts: BinaryOperator[Counter[str]], done: NamedBarrier[str]) -> None:
    words = TEXTS[name].split()
    for i in range(0, len(words), 4):
        counts.update_sync([Counter(words[i : i + 4])])
    done.update_sync([name])


async def report(counts: BinaryOperator[Counter[str]], total: LastValue[int]) -> None:
    """Say how far it is, whenever the event loop has time."""
    while not total.is_available():
        await asyncio.wait({asyncio.create_task(total.wait())}, timeout=0.01)
        print(f"{(await counts.get()).total()} words so far", file=sys.stderr)


async def main() -> None:
    counts: BinaryOperator[Counter[str]] = BinaryOperator(Counter, add, name="counts")
    done = NamedBarrier(str, TEXTS, name="done")
    async with LastValue(int, name="total") as total:
        reporter = asyncio.create_task(report(counts, total))
        for name in TEXTS:
            threading.Thread(target=count, args=(name, counts, done)).start()
        await done.wait()
        await total.update([(await counts.get()).total()])
        await reporter
        print(f"{await total.get()} words; the commonest:", *(word for word, _ in (await counts.get()).most_common(3)))


asyncio.run(main())
