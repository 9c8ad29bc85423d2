"""dynamo.channels beside their naive twins: a value, a fold and a list behind a lock, in plain Python."""

import asyncio
import operator
import threading

from dynamo.channels import BinaryOperator, LastValue, Topic


class Locked:
    """The twin: one lock, held while the reducer runs."""

    def __init__(self, operator):
        self.lock, self.value, self.operator = threading.Lock(), 0, operator

    def get_sync(self):
        with self.lock:
            return self.value

    def update_sync(self, writes):
        with self.lock:
            for write in writes:
                self.value = self.operator(self.value, write)
        return True


class AsyncLocked(Locked):
    """The twin for tasks of one loop."""

    def __init__(self, operator):
        super().__init__(operator)
        self.turn = asyncio.Lock()

    async def get(self):
        async with self.turn:
            return self.value

    async def update(self, writes):
        async with self.turn:
            for write in writes:
                self.value = self.operator(self.value, write)
        return True


MAKERS = {
    "last": lambda: LastValue(int),
    "fold": lambda: BinaryOperator(int, operator.add),
    "topic": lambda: Topic(int),
    "naive": lambda: Locked(operator.add),
}


class OneThread:
    """A call when nobody else is there."""

    params, param_names = list(MAKERS), ["channel"]

    def setup(self, channel):
        self.channel, self.writes = MAKERS[channel](), [1]
        self.channel.update_sync(self.writes)

    def time_get(self, channel):
        self.channel.get_sync()

    def time_update(self, channel):
        self.channel.update_sync(self.writes)


class OneLoop:
    """A thousand awaited calls of one task."""

    params, param_names = ["fold", "naive"], ["channel"]

    def setup(self, channel):
        self.naive = channel == "naive"

    def _run(self, method, *arguments):
        async def program():
            channel = AsyncLocked(operator.add) if self.naive else BinaryOperator(int, operator.add)
            call = getattr(channel, method)
            for _ in range(1000):
                await call(*arguments)

        asyncio.run(program())

    def time_get(self, channel):
        self._run("get")

    def time_update(self, channel):
        self._run("update", [1])


class Threads:
    """Four threads that fold 2,000 writes each with a reducer in Python."""

    params, param_names = ["fold", "naive"], ["channel"]

    def time_fold(self, channel):
        def add(value, write):
            return value + write

        made = Locked(add) if channel == "naive" else BinaryOperator(int, add)

        def work():
            for _ in range(2000):
                made.update_sync([1])

        threads = [threading.Thread(target=work) for _ in range(4)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert made.get_sync() == 8000
