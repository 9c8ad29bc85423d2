"""The complete way to run the tasks of a superstep: beside one another, with policies, handlers, calls and streams.

                   start(task)           ended(future)              verdict()
    todo --> Crowd ----------> future ------------> commit: writes or error --> raise, or go on
               ^                                                    (first error, else all interrupts as one)
               |  a task calls another one (`Caller`): it joins the crowd

What happens in which order is written once, in `PregelRunner.course`; it never waits itself but says what to wait for.
`tick` does so by blocking and `atick` by awaiting, with the help of `Threads` and `EventLoop`. Nothing here keeps the
run's loop alive: it is known through weak references only.
"""

from __future__ import annotations

import asyncio
import concurrent.futures
import inspect
import threading
import time
import weakref
from collections.abc import AsyncIterator, Awaitable, Callable, Collection, Generator, Iterable, Iterator, Mapping
from functools import partial
from typing import TYPE_CHECKING, Any

from dynamo.langgraph._internal import _constants as names
from dynamo.langgraph._internal._future import chain_future, run_coroutine_threadsafe
from dynamo.langgraph._internal._names import own
from dynamo.langgraph.constants import TAG_HIDDEN
from dynamo.langgraph.errors import GraphBubbleUp, GraphInterrupt, is_invalid_resume
from dynamo.langgraph.pregel._algo import Call
from dynamo.langgraph.pregel._executor import SKIP_RERAISE_SET
from dynamo.langgraph.pregel._retry import arun_with_retry, run_with_retry
from dynamo.langgraph.pregel._task_status import CONTROL_WRITES

if TYPE_CHECKING:
    from dynamo.langgraph.types import PregelExecutableTask

# Where a traceback may begin without telling a user anything.
_OUR_FILES = tuple(f"langgraph/pregel/{name}.py" for name in ("_retry", "_runner", "_executor"))
_OUR_FILES += ("langgraph/_internal/_runnable.py", "dynamo/_workers.pyx", "concurrent/futures/_base.py")


def without_our_frames(error: Any) -> Any:
    """The exception, with its traceback beginning where it leaves the engine."""
    trace = error.__traceback__
    while trace is not None and trace.tb_next is not None and trace.tb_frame.f_code.co_filename.endswith(_OUR_FILES):
        trace = trace.tb_next
    return error.with_traceback(trace)


# ------------------------------------------------------------------ how tasks end


def is_fatal(future: Any, handled: Collection[int]) -> bool:
    """Whether a superstep is given up because of how this future ended."""
    if future.cancelled() or future in SKIP_RERAISE_SET:
        return False
    error = future.exception()
    harmless = error is None or isinstance(error, GraphBubbleUp) or id(error) in handled
    return not harmless and not is_invalid_resume(error)


def _should_stop_others(done: set[Any], *, handled_exception_ids: Collection[int] | None = None) -> bool:
    """Whether one of these ended so that the others are not waited for."""
    return any(is_fatal(future, handled_exception_ids or ()) for future in done)


class FuturesDict(dict[Any, Any]):
    """Futures and their tasks; a future without a task is only waited for.

    Parameters
    ----------
    event : threading.Event or asyncio.Event
        Set when no task is left, or as soon as `should_stop` is true.
    callback : weakref
        To a function that is told of each end: ``callback()(task, exception)``.
    should_stop : callable
        Asked about the futures that failed.
    future_type : type, optional
        The kind of future; not needed.
    """

    def __init__(
        self,
        event: Any,
        callback: Callable[[], Any],
        should_stop: Callable[[set[Any]], bool],
        future_type: type[Any] | None = None,
    ) -> None:
        super().__init__()
        self.event, self.listener, self.hopeless = event, callback, should_stop
        self.ended: dict[Any, BaseException | None] = {}  # in the order of their ends; guarded by `guard`, as `open`
        self.open: dict[Any, Any] = {}  # not in the callback: a future keeps its callbacks for ever
        self.guard = threading.Lock()
        event.set()  # nothing is open yet

    def __setitem__(self, key: Any, value: PregelExecutableTask | None) -> None:
        super().__setitem__(key, value)
        if value is not None:
            with self.guard:
                self.open[key] = value
                self.event.clear()
            key.add_done_callback(self._end)

    def _end(self, future: Any) -> None:
        error = self._outcome(future)
        try:
            listener = self.listener()
            if listener is not None:
                listener(self.open[future], error)
        finally:
            self.add_end(future, error)

    def _outcome(self, future: Any) -> BaseException | None:
        if future.cancelled():
            return asyncio.CancelledError() if asyncio.isfuture(future) else concurrent.futures.CancelledError()
        raised: BaseException | None = future.exception()
        return raised

    def add_end(self, future: Any, error: BaseException | None) -> None:
        """Count an ended future."""
        with self.guard:
            self.open.pop(future, None)
            self.ended[future] = error
            if not self.open or (error is not None and self.hopeless({future})):
                self.event.set()

    def find(self, task_id: str) -> Any:
        """The future of a task that was started already, or None."""
        for future, task in list(self.items()):
            if task is not None and task.id == task_id:
                return future
        return None

    def forget(self) -> None:
        """All is over: futures remember their callbacks, these their tasks, these this."""
        self.clear()
        self.ended.clear()


class Crowd:
    """The tasks of one superstep on their way.

    Parameters
    ----------
    ways : Threads or EventLoop
        How tasks are started and waited for.
    reraise : bool
        Raise in the end what tasks raised.
    spectator : callable, optional
        Gives a future that ends when something was streamed.
    """

    def __init__(self, ways: Threads | EventLoop, reraise: bool = True, spectator: Callable[[], Any] | None = None):
        self.ways, self.reraise, self.spectator = ways, reraise, spectator
        self.handled = ways.runner.handled
        stop = partial(_should_stop_others, handled_exception_ids=self.handled)
        self.futures = FuturesDict(ways.event(), weakref.WeakMethod(ways.runner.commit), stop)
        self.fatal = False

    def extras(self, task: PregelExecutableTask) -> dict[str, Any]:
        """What a task's config gets so that it can call others."""
        return {names.CONFIG_KEY_CALL: Caller(self, task)}

    def start(self, task: PregelExecutableTask) -> None:
        """Run a task beside the others."""
        self.futures[self.ways.start(task, self.extras(task), reraise=self.reraise)] = task

    def call(self, caller: Callable[[], Any], func: Callable[..., Any], input: Any, **policies: Any) -> Any:
        """A task calls a function as another one: the future of its result."""
        return self.ways.call(self, caller, Call(func, input, **policies))

    def join(self, task: PregelExecutableTask) -> Any:
        """The future of a task that another one called: on its way, known from an earlier run, or begun now."""
        future = self.futures.find(task.id)
        if future is None and task.writes:
            return _settled(self.ways.future(), task.writes)
        if future is None:
            future = self.ways.start(task, self.extras(task), reraise=False, late=True)
            SKIP_RERAISE_SET.add(future)  # its caller sees the exception
            self.futures[future] = task
        return future

    def add_failure(self, error: BaseException) -> None:
        """Count the failure of a task that had no future."""
        future = self.ways.future()
        future.set_exception(error)
        self.futures.add_end(future, future.exception())  # asked: asyncio need not complain that nobody did

    def watch(self) -> None:
        """Wake up when something was streamed, too."""
        if self.spectator is not None:
            self.futures[self.spectator()] = None

    @property
    def busy(self) -> bool:
        """Whether there is a task to wait for, and a point in it."""
        return not self.fatal and len(self.futures) > (self.spectator is not None)

    def collect(self, done: Iterable[Any]) -> list[tuple[PregelExecutableTask, BaseException]]:
        """Take out what ended; returns the failures that a node takes care of."""
        handed_over = []
        for future in done:
            task = self.futures.pop(future)
            error = None if task is None or future.cancelled() else future.exception()
            if task is None and self.futures:
                self.watch()
            elif error is not None and self.ways.runner.handles(task, error):
                self.handled.add(id(error))
                SKIP_RERAISE_SET.add(future)
                handed_over.append((task, error))
            elif error is not None and is_fatal(future, self.handled):
                self.fatal = True
        return handed_over

    def verdict(self) -> BaseException | None:
        """Cancel what still runs; what has to be raised."""
        failures = [(each, error) for each, error in self.futures.ended.items() if error and not each.cancelled()]
        failures = [(each, error) for each, error in failures if id(error) not in self.handled]
        interrupts = [error.args[0] for _, error in failures if isinstance(error, GraphInterrupt)]
        running = [future for future, task in self.futures.items() if task is not None and not future.done()]
        for future in running:
            future.cancel()
        if self.reraise:
            for future, error in failures:
                if not isinstance(error, GraphInterrupt) and future not in SKIP_RERAISE_SET:
                    return without_our_frames(error)  # type: ignore[no-any-return]
            if interrupts:
                return GraphInterrupt(tuple(each for some in interrupts for each in some))
        return self.ways.out_of_time("Timed out") if running and not failures else None


class Caller:
    """How a task calls another one; keeps neither alive."""

    __slots__ = ("crowd", "task")

    def __init__(self, crowd: Crowd, task: PregelExecutableTask) -> None:
        self.crowd, self.task = weakref.ref(crowd), weakref.ref(task)

    def __call__(self, func: Callable[..., Any], input: Any, **policies: Any) -> Any:
        crowd = self.crowd()
        if crowd is None:
            raise RuntimeError(f"{func!r} was called as a task after its caller's superstep had ended")
        return crowd.call(self.task, func, input, **policies)


def _settled(future: Any, writes: Iterable[tuple[str, Any]]) -> Any:
    """A future with the outcome that a task wrote in an earlier run."""
    said: dict[str, Any] = {}
    for name, value in writes:
        said.setdefault(name, value)
    error = None if names.RETURN in said else said.get(names.ERROR)
    if error:
        future.set_exception(error if isinstance(error, BaseException) else Exception(error))
    else:
        future.set_result(said.get(names.RETURN))
    return future


# ------------------------------------------------------------------ two ways to wait


class Threads:
    """How a synchronous run starts tasks and waits for them."""

    future: Callable[[], Any] = concurrent.futures.Future
    out_of_time: type[Exception] = TimeoutError
    event: Callable[[], Any] = threading.Event

    def __init__(self, runner: PregelRunner, schedule: Callable[..., Any], policies: Any = None) -> None:
        self.runner, self.schedule, self.policies = runner, schedule, policies

    def alone(self, task: PregelExecutableTask, extras: dict[str, Any]) -> Any:
        """Run the only task here and now; returns its exception."""
        try:
            run_with_retry(task, self.policies, extras)
        except Exception as error:
            return error

    def start(self, task: PregelExecutableTask, extras: dict[str, Any], *, reraise: bool, late: bool = False) -> Any:
        """Run a task on a thread."""
        how = {"__reraise_on_exit__": reraise, "__next_tick__": late}
        return self.runner.submit()(self.runner.attempt, task, self.policies, configurable=extras, **how)

    def call(self, crowd: Crowd, caller: Callable[[], Any], call: Call) -> Any:
        """A task calls a function as another one."""
        if inspect.iscoroutinefunction(call.func):
            name = getattr(call.func, "__name__", call.func)
            raise RuntimeError(f"{name} is asynchronous and this run is not: call it from ainvoke or astream")
        task = caller()
        wanted = _scheduled(call, self.schedule(task, _number_of(task), call))
        return chain_future(crowd.join(wanted), concurrent.futures.Future())

    def first(self, futures: Collection[Any], seconds: float | None) -> Any:
        """Those that ended, as soon as there is one."""
        return concurrent.futures.wait(futures, seconds, concurrent.futures.FIRST_COMPLETED).done

    def counted(self, futures: FuturesDict, seconds: float | None) -> Any:
        """Wait until what ended has been committed, too."""
        futures.event.wait(seconds)

    def handler(self, task: PregelExecutableTask, error: BaseException) -> Any:
        """The task of the node that takes care of a failure."""
        return self.runner.make_handler and self.runner.make_handler(task, error)


class EventLoop:
    """`Threads` for an asynchronous run: what waits there is awaited here."""

    out_of_time: type[Exception] = asyncio.TimeoutError
    event: Callable[[], Any] = asyncio.Event

    def __init__(
        self, runner: PregelRunner, schedule: Callable[..., Awaitable[Any]], policies: Any = None, home: Any = None
    ) -> None:
        self.runner, self.schedule, self.policies = runner, schedule, policies
        self.home: asyncio.AbstractEventLoop = home or asyncio.get_running_loop()
        self.future: Callable[[], Any] = self.home.create_future

    async def alone(self, task: PregelExecutableTask, extras: dict[str, Any]) -> Any:
        try:
            await arun_with_retry(task, self.policies, self.runner.use_astream, extras)
        except Exception as error:
            return error

    def start(self, task: PregelExecutableTask, extras: dict[str, Any], *, reraise: bool, late: bool = False) -> Any:
        how = {"__name__": task.name, "__cancel_on_exit__": True, "__reraise_on_exit__": reraise, "__next_tick__": late}
        stream = self.runner.use_astream
        return self.runner.submit()(arun_with_retry, task, self.policies, stream, configurable=extras, **how)

    def call(self, crowd: Crowd, caller: Callable[[], Any], call: Call) -> Any:
        """A task calls a function as another one, in the loop's thread or in one of its own."""
        inside = asyncio._get_running_loop() is not None and asyncio.current_task() is not None
        promise: Any = self.future() if inside else concurrent.futures.Future()
        run_coroutine_threadsafe(self._call(crowd, caller, call, promise), self.home, lazy=False)
        return promise

    async def _call(self, crowd: Crowd, caller: Callable[[], Any], call: Call, promise: Any) -> None:
        try:
            task = caller()
            wanted = _scheduled(call, await self.schedule(task, _number_of(task), call))
            chain_future(crowd.join(wanted), promise)
        except Exception as error:
            promise.set_exception(error)

    async def first(self, futures: Collection[Any], seconds: float | None) -> Any:
        return (await asyncio.wait(futures, timeout=seconds, return_when=asyncio.FIRST_COMPLETED))[0]

    async def counted(self, futures: FuturesDict, seconds: float | None) -> Any:
        await asyncio.wait_for(futures.event.wait(), seconds)
        for future, task in futures.items():
            if task is None:
                future.cancel()

    async def handler(self, task: PregelExecutableTask, error: BaseException) -> Any:
        return self.runner.amake_handler and await self.runner.amake_handler(task, error)


def _number_of(caller: Any) -> int:
    number: int = caller.config[names.CONF][names.CONFIG_KEY_SCRATCHPAD].call_counter()
    return number


def _scheduled(call: Call, task: Any) -> Any:
    if task is None:
        raise RuntimeError(f"{call.func!r} was called but could not be scheduled as a task")
    return task


# ------------------------------------------------------------------ the runner


class PregelRunner:
    """Runs tasks.

    Parameters
    ----------
    submit, put_writes : weakref
        To the loop's executor and to its ``put_writes``.
    use_astream : bool
        Drive nodes of an asynchronous run through ``astream``.
    node_finished : callable, optional
        Told the name of each visible node that finished.
    node_error_handler_map : mapping
        Which node takes care of the errors of which.
    schedule_error_handler, aschedule_error_handler : callable
        Makes the task of such a node.
    attempt : callable
        Runs one of several tasks of a synchronous run: ``attempt(task, retry_policy, configurable=...)``.
    """

    def __init__(
        self,
        *,
        submit: Callable[[], Any],
        put_writes: Callable[[], Any],
        use_astream: bool = False,
        node_finished: Callable[[str], None] | None = None,
        node_error_handler_map: Mapping[str, str] | None = None,
        schedule_error_handler: Callable[..., Any] | None = None,
        aschedule_error_handler: Callable[..., Awaitable[Any]] | None = None,
        attempt: Callable[..., Any] = run_with_retry,
    ) -> None:
        self.submit, self.put, self.use_astream, self.tell = submit, put_writes, use_astream, node_finished
        self.guarded = dict(node_error_handler_map or {})
        self.guardians = frozenset(self.guarded.values())
        self.make_handler, self.amake_handler, self.attempt = schedule_error_handler, aschedule_error_handler, attempt
        self.handled: set[int] = set()  # ids of exceptions that a node takes care of

    def handles(self, task: PregelExecutableTask, error: BaseException) -> bool:
        """Whether a node takes care of this failure."""
        theirs = task.name in self.guarded and task.name not in self.guardians
        return theirs and not isinstance(error, (GraphBubbleUp, asyncio.CancelledError))

    def commit(self, task: PregelExecutableTask, exception: BaseException | None) -> None:
        """Hand over what a task wrote, or how it failed."""
        writes: Any = task.writes
        if isinstance(exception, GraphInterrupt):
            asked = exception.args[0]
            writes = [(names.INTERRUPT, asked), *(write for write in writes if write[0] == names.RESUME)]
            if not asked:
                return
        elif isinstance(exception, GraphBubbleUp):
            return
        elif exception is not None:
            writes.append((names.ERROR, exception))
            if self.handles(task, exception):
                self.handled.add(id(exception))
                writes.append((names.ERROR_SOURCE_NODE, task.name))
        else:
            if self.tell is not None and TAG_HIDDEN not in ((task.config or {}).get("tags") or ()):
                self.tell(task.name)
            if CONTROL_WRITES.issuperset(name for name, _ in writes):
                writes.append((names.NO_WRITES, None))
        self.put()(task.id, writes)

    def crowd(self, schedule_task: Any) -> Crowd:
        """Nobody yet, in a synchronous run."""
        return Crowd(Threads(self, schedule_task))

    def acrowd(self, schedule_task: Any, home: Any = None) -> Crowd:
        """Nobody yet, in an asynchronous run."""
        return Crowd(EventLoop(self, schedule_task, home=home))

    def course(
        self, crowd: Crowd, todo: list[PregelExecutableTask], seconds: float | None, alone: bool
    ) -> Generator[Callable[[], Any] | None, Any, None]:
        """Run tasks.

        Yields
        ------
        callable or None
            None: there may be something to show. Else what to call (or to call and await); its result is sent back.
        """
        ways, end = crowd.ways, time.monotonic() + seconds if seconds else None

        def left() -> float | None:
            return None if end is None else max(0.0, end - time.monotonic())

        if alone and len(todo) == 1 and end is None and crowd.spectator is None:
            task = todo.pop()
            failure = yield partial(ways.alone, task, crowd.extras(task))
            self.commit(task, failure)
            if failure is not None and self.handles(task, failure):
                todo.append((yield partial(ways.handler, task, failure)))
            elif failure is not None:
                crowd.add_failure(failure)  # if it called others, they come first
            del failure, task  # its frames know us
            if not todo and not crowd.futures:
                yield None
                return
        crowd.watch()
        for task in filter(None, todo):
            crowd.start(task)
        todo.clear()
        while crowd.busy and (done := (yield partial(ways.first, crowd.futures, left()))):  # empty: out of time
            for failed, error in crowd.collect(done):
                handler = yield partial(ways.handler, failed, error)
                if handler is not None:
                    crowd.start(handler)
            del done
            if not crowd.fatal:
                yield None
        yield partial(ways.counted, crowd.futures, left())
        yield None

    def tick(
        self,
        tasks: Iterable[PregelExecutableTask],
        *,
        reraise: bool = True,
        timeout: float | None = None,
        retry_policy: Any = None,
        get_waiter: Callable[[], Any] | None = None,
        schedule_task: Callable[..., PregelExecutableTask | None],
        crowd: Crowd | None = None,
    ) -> Iterator[None]:
        """Run tasks; yields whenever there may be something to show.

        Parameters
        ----------
        reraise
            Raise what a task raised (after all have ended or were given up).
        timeout
            Seconds for all of them.
        get_waiter
            A future that ends when something was streamed.
        schedule_task
            Makes the task for a call from a task.
        crowd
            Tasks that are on their way already.
        """
        todo, alone = list(tasks), crowd is None
        yield
        if crowd is None:
            crowd = Crowd(Threads(self, schedule_task, retry_policy), reraise, get_waiter)
        if todo or not alone:
            course = self.course(crowd, todo, timeout, alone)
            try:
                asked = next(course, _END)
                while asked is not _END:
                    if asked is None:
                        yield
                    asked = _go_on(course, asked and asked())
                _raise(crowd.verdict())
            finally:
                crowd.futures.forget()

    async def atick(
        self,
        tasks: Iterable[PregelExecutableTask],
        *,
        reraise: bool = True,
        timeout: float | None = None,
        retry_policy: Any = None,
        get_waiter: Callable[[], Any] | None = None,
        schedule_task: Callable[..., Awaitable[PregelExecutableTask | None]],
        crowd: Crowd | None = None,
    ) -> AsyncIterator[None]:
        """`tick` in an event loop."""
        todo, alone = list(tasks), crowd is None
        yield
        if crowd is None:
            crowd = Crowd(EventLoop(self, schedule_task, retry_policy), reraise, get_waiter)
        if todo or not alone:
            course = self.course(crowd, todo, timeout, alone)
            try:
                asked = next(course, _END)
                while asked is not _END:
                    if asked is None:
                        yield
                    asked = _go_on(course, asked and await asked())
                _raise(crowd.verdict())
            finally:
                crowd.futures.forget()


_END: Any = object()


def _go_on(course: Generator[Any, Any, None], answer: Any) -> Any:
    try:
        return course.send(answer)
    except StopIteration:
        return _END


def _raise(error: BaseException | None) -> None:
    try:
        if error:
            raise error
    finally:
        del error  # which knows this frame


own(globals())
