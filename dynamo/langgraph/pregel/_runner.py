"""The complete way to run the tasks of a superstep: beside one another, with policies, handlers, calls and streams.

                     start(task)            ended(future)               verdict()
    PregelRunner --> Crowd  ------> future --------> commit: writes or error --> raise, or go on
                       ^                                                    (first error, else all interrupts as one)
                       |  a task calls another one: it joins the crowd

The synchronous and the asynchronous drive differ in how they wait; what an end means is `Crowd`'s. Nothing here keeps
the loop alive: it is known through weak references only.
"""

from __future__ import annotations

import asyncio
import concurrent.futures
import inspect
import threading
import time
import weakref
from collections.abc import AsyncIterator, Awaitable, Callable, Collection, Iterable, Iterator, Mapping, Sequence
from functools import partial
from typing import TYPE_CHECKING, Any

from dynamo.langgraph._internal._constants import (
    CONF,
    CONFIG_KEY_CALL,
    CONFIG_KEY_SCRATCHPAD,
    ERROR,
    ERROR_SOURCE_NODE,
    INTERRUPT,
    NO_WRITES,
    RESUME,
    RETURN,
)
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
_OUR_FILES += ("langgraph/_internal/_runnable.py", "concurrent/futures/thread.py", "concurrent/futures/_base.py")


def error_of(future: Any) -> BaseException | None:
    """What an ended future raised; a cancellation counts."""
    if future.cancelled():
        return asyncio.CancelledError() if asyncio.isfuture(future) else concurrent.futures.CancelledError()
    raised: BaseException | None = future.exception()
    return raised


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
    future_type : type
        The kind of future.
    """

    def __init__(
        self, event: Any, callback: Callable[[], Any], should_stop: Callable[[set[Any]], bool], future_type: type[Any]
    ) -> None:
        super().__init__()
        self.event = event
        event.set()  # nothing is open yet
        self.tell = callback
        self.should_stop = should_stop
        self.open = 0  # tasks that have not ended; guarded by `guard`, as are the two sets
        self.ended: set[Any] = set()
        self.broken: set[Any] = set()
        self.guard = threading.Lock()
        self.waiting_for: dict[Any, Any] = {}  # not in the callback: a future keeps its callbacks for ever

    def __setitem__(self, key: Any, value: PregelExecutableTask | None) -> None:
        dict.__setitem__(self, key, value)
        if value is not None:
            with self.guard:
                self.open += 1
                self.event.clear()
            self.waiting_for[key] = value
            key.add_done_callback(self._ended)

    def _ended(self, future: Any) -> None:
        task = self.waiting_for.pop(future)
        error = error_of(future)
        try:
            listener = self.tell()
            if listener is not None:
                listener(task, error)
        finally:
            with self.guard:
                self.open -= 1
                self.add_end(future, error)

    def add_end(self, future: Any, error: BaseException | None) -> None:
        """Count an ended future."""
        self.ended.add(future)
        if error is not None and not future.cancelled():
            self.broken.add(future)
        if self.open == 0 or self.should_stop(self.broken):
            self.event.set()

    def find(self, task_id: str) -> Any:
        """The future of a task that was started already, or None."""
        for future, task in list(self.items()):
            if task is not None and task.id == task_id:
                return future
        return None


class Crowd:
    """The tasks of one superstep on their way.

    Parameters
    ----------
    runner
        Commits what ends.
    options
        `retry_policy`, `reraise`, `get_waiter` as given to ``tick``.
    run, call, event, kind, start_options
        What differs between the two drives.
    """

    def __init__(
        self,
        runner: PregelRunner,
        *,
        run: Callable[..., Any],
        call: Callable[..., Any],
        event: Any,
        kind: type[Any],
        retry_policy: Any,
        reraise: bool,
        get_waiter: Callable[[], Any] | None,
        start_options: Callable[[Any], dict[str, Any]],
    ) -> None:
        self.runner = runner
        self.run, self.call, self.start_options, self.kind = run, call, start_options, kind
        self.retry_policy, self.reraise, self.get_waiter = retry_policy, reraise, get_waiter
        self.futures = FuturesDict(
            event,
            weakref.WeakMethod(runner.commit),
            partial(_should_stop_others, handled_exception_ids=runner.handled),
            kind,
        )
        self.excused: set[Any] = set()  # failed, and a node takes care of it
        self.fatal = False

    def extras(self, task: PregelExecutableTask) -> dict[str, Any]:
        """What a task's config gets so that it can call others."""
        return {CONFIG_KEY_CALL: partial(self.call, weakref.ref(task), futures=weakref.ref(self.futures))}

    def start(self, task: PregelExecutableTask) -> None:
        """Run a task on a thread, or as a task of the event loop."""
        options = self.start_options(task)
        future = self.runner.submit()(self.run, task, self.retry_policy, configurable=self.extras(task), **options)
        self.futures[future] = task

    def add_failure(self, error: BaseException) -> None:
        """Count the failure of a task that had no future."""
        future = self.kind()
        future.set_exception(error)
        with self.futures.guard:
            self.futures.add_end(future, error)

    def disperse(self) -> None:
        """All is over: futures remember their callbacks, these their tasks, these this crowd."""
        self.futures.clear()
        self.futures.ended.clear()
        self.futures.broken.clear()

    def wait_for_output(self) -> None:
        """Wake up when something was streamed, too."""
        if self.get_waiter is not None:
            self.futures[self.get_waiter()] = None

    @property
    def busy(self) -> bool:
        """Whether a task is on its way."""
        return len(self.futures) > (self.get_waiter is not None)

    def collect(self, done: Iterable[Any]) -> list[tuple[PregelExecutableTask, BaseException]]:
        """Take out what ended; returns the failures that a node takes care of."""
        handed_over = []
        for future in done:
            task = self.futures.pop(future)
            if task is None:
                if self.futures:
                    self.wait_for_output()
                continue
            error = error_of(future)
            if error is not None and self.runner.handles(task, error):
                self.runner.handled.add(id(error))
                SKIP_RERAISE_SET.add(future)
                self.excused.add(future)
                handed_over.append((task, error))
            elif is_fatal(future, self.runner.handled):
                self.fatal = True
        return handed_over

    def verdict(self, late: type[Exception]) -> None:
        """Cancel what still runs, then raise what has to be raised."""
        futures, handled = self.futures, self.runner.handled
        running = [future for future, task in futures.items() if task is not None and not future.done()]
        interrupts, errors = [], []
        for future in futures.ended:
            if future.cancelled() or future in self.excused:
                continue
            error = future.exception()
            if error is None or id(error) in handled:
                continue
            if isinstance(error, GraphInterrupt):
                interrupts.append(error)
            else:
                errors.append((future, error))
        for future in running:
            future.cancel()
        if self.reraise:
            for future, error in errors:
                if future not in SKIP_RERAISE_SET:
                    raise without_our_frames(error)
            if interrupts:
                raise GraphInterrupt(tuple(each for error in interrupts for each in error.args[0]))
        if running and not errors and not interrupts:
            raise late("Timed out")


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
        self.submit = submit
        self.put_writes = put_writes
        self.use_astream = use_astream
        self.node_finished = node_finished
        self.guarded = dict(node_error_handler_map or {})
        self.guardians = frozenset(self.guarded.values())
        self.make_handler = schedule_error_handler
        self.amake_handler = aschedule_error_handler
        self.attempt = attempt
        self.handled: set[int] = set()  # ids of exceptions that a node takes care of

    def handles(self, task: PregelExecutableTask, error: BaseException) -> bool:
        """Whether a node takes care of this failure."""
        if isinstance(error, GraphBubbleUp) or task.name in self.guardians:
            return False
        return task.name in self.guarded

    def commit(self, task: PregelExecutableTask, exception: BaseException | None) -> None:
        """Hand over what a task wrote, or how it failed."""
        put = self.put_writes()
        writes = task.writes
        if exception is None:
            if self.node_finished is not None and TAG_HIDDEN not in ((task.config or {}).get("tags") or ()):
                self.node_finished(task.name)
            if all(name in CONTROL_WRITES for name, _ in writes):
                writes.append((NO_WRITES, None))
            put(task.id, writes)
        elif isinstance(exception, GraphInterrupt):
            if exception.args[0]:
                answers = [write for write in writes if write[0] == RESUME]
                put(task.id, [(INTERRUPT, exception.args[0]), *answers])
        elif not isinstance(exception, GraphBubbleUp):
            writes.append((ERROR, exception))
            if not isinstance(exception, asyncio.CancelledError) and self.handles(task, exception):
                self.handled.add(id(exception))
                writes.append((ERROR_SOURCE_NODE, task.name))
            put(task.id, writes)

    def _excuse(self, crowd: Crowd, error: Exception) -> Exception | None:
        """After the only task failed: None to go on waiting, or what is to be raised now."""
        if not crowd.reraise or id(error) in self.handled:
            return None
        if not crowd.futures:
            return without_our_frames(error)  # type: ignore[no-any-return]
        crowd.add_failure(error)  # it called others: they come first
        return None

    def tick(
        self,
        tasks: Iterable[PregelExecutableTask],
        *,
        reraise: bool = True,
        timeout: float | None = None,
        retry_policy: Sequence[Any] | None = None,
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
        todo = list(tasks)
        yield
        alone = crowd is None
        if crowd is None:
            if not todo:
                return
            crowd = self.crowd(schedule_task, retry_policy, reraise, get_waiter)
        try:
            yield from self._drive(crowd, todo, alone, timeout)
        finally:
            crowd.disperse()

    def _drive(
        self, crowd: Crowd, todo: list[PregelExecutableTask], alone: bool, timeout: float | None
    ) -> Iterator[None]:
        retry_policy, get_waiter = crowd.retry_policy, crowd.get_waiter
        if alone and len(todo) == 1 and timeout is None and get_waiter is None:
            task = todo.pop()
            try:
                run_with_retry(task, retry_policy, configurable=crowd.extras(task))
            except Exception as exc:
                self.commit(task, exc)
                if self.handles(task, exc) and self.make_handler is not None:
                    self.handled.add(id(exc))
                    todo = [made for made in (self.make_handler(task, exc),) if made is not None]
                fatal = self._excuse(crowd, exc)
                if fatal is not None:
                    yield
                    raise fatal  # noqa: B904 (it is the very exception)
            else:
                self.commit(task, None)
            if not todo and not crowd.futures:
                return
        crowd.wait_for_output()
        for task in todo:
            crowd.start(task)
        del todo
        end = None if not timeout else time.monotonic() + timeout
        while crowd.busy and not crowd.fatal:
            left = None if end is None else max(0.0, end - time.monotonic())
            done, _ = concurrent.futures.wait(crowd.futures, left, concurrent.futures.FIRST_COMPLETED)
            if not done:
                break  # out of time
            for failed, error in crowd.collect(done):
                handler = self.make_handler(failed, error) if self.make_handler is not None else None
                if handler is not None:
                    crowd.start(handler)
            del done
            if not crowd.fatal:
                yield
        crowd.futures.event.wait(None if end is None else max(0.0, end - time.monotonic()))
        yield
        crowd.verdict(TimeoutError)

    def crowd(
        self, schedule_task: Any, retry_policy: Any = None, reraise: bool = True, get_waiter: Any = None
    ) -> Crowd:
        """Nobody yet, in a synchronous run."""
        return Crowd(
            self,
            run=self.attempt,
            call=partial(_call, retry_policy=retry_policy, schedule_task=schedule_task, submit=self.submit),
            event=threading.Event(),
            kind=concurrent.futures.Future,
            retry_policy=retry_policy,
            reraise=reraise,
            get_waiter=get_waiter,
            start_options=lambda task: {"__reraise_on_exit__": reraise},
        )

    async def atick(
        self,
        tasks: Iterable[PregelExecutableTask],
        *,
        reraise: bool = True,
        timeout: float | None = None,
        retry_policy: Sequence[Any] | None = None,
        get_waiter: Callable[[], Any] | None = None,
        schedule_task: Callable[..., Awaitable[PregelExecutableTask | None]],
        crowd: Crowd | None = None,
    ) -> AsyncIterator[None]:
        """`tick` in an event loop."""
        todo = list(tasks)
        yield
        alone = crowd is None
        if crowd is None:
            if not todo:
                return
            crowd = self.acrowd(schedule_task, retry_policy, reraise, get_waiter)
        clock = asyncio.get_running_loop().time
        try:
            if alone and len(todo) == 1 and timeout is None and get_waiter is None:
                task = todo.pop()
                try:
                    await arun_with_retry(task, retry_policy, self.use_astream, crowd.extras(task))
                except Exception as exc:
                    self.commit(task, exc)
                    if self.handles(task, exc) and self.amake_handler is not None:
                        self.handled.add(id(exc))
                        todo = [made for made in (await self.amake_handler(task, exc),) if made is not None]
                    fatal = self._excuse(crowd, exc)
                    if fatal is not None:
                        yield
                        raise fatal  # noqa: B904 (it is the very exception)
                else:
                    self.commit(task, None)
                if not todo and not crowd.futures:
                    return
            crowd.wait_for_output()
            for task in todo:
                crowd.start(task)
            del todo
            end = None if not timeout else clock() + timeout
            while crowd.busy and not crowd.fatal:
                left = None if end is None else max(0.0, end - clock())
                done, _ = await asyncio.wait(crowd.futures, timeout=left, return_when=asyncio.FIRST_COMPLETED)
                if not done:
                    break  # out of time
                for failed, error in crowd.collect(done):
                    handler = await self.amake_handler(failed, error) if self.amake_handler is not None else None
                    if handler is not None:
                        crowd.start(handler)
                del done
                if not crowd.fatal:
                    yield
            await asyncio.wait_for(crowd.futures.event.wait(), None if end is None else max(0.0, end - clock()))
            yield
            for future in crowd.futures:
                if crowd.futures[future] is None:
                    future.cancel()
            crowd.verdict(asyncio.TimeoutError)
        finally:
            crowd.disperse()

    def acrowd(
        self,
        schedule_task: Any,
        retry_policy: Any = None,
        reraise: bool = True,
        get_waiter: Any = None,
        home: Any = None,
    ) -> Crowd:
        """Nobody yet, in an asynchronous run."""
        call = partial(
            _acall,
            stream=self.use_astream,
            retry_policy=retry_policy,
            schedule_task=schedule_task,
            submit=self.submit,
            loop=asyncio.get_running_loop() if home is None else home,
        )
        return Crowd(
            self,
            run=arun_with_retry,
            call=call,
            event=asyncio.Event(),
            kind=asyncio.Future,
            retry_policy=retry_policy,
            reraise=reraise,
            get_waiter=get_waiter,
            start_options=partial(_loop_options, self.use_astream, reraise),
        )


def _loop_options(stream: bool, reraise: bool, task: PregelExecutableTask) -> dict[str, Any]:
    """How a task of the event loop is started."""
    return {
        "stream": stream,
        "__name__": task.name,
        "__cancel_on_exit__": True,
        "__reraise_on_exit__": reraise,
    }


def without_our_frames(error: Any) -> Any:
    """The exception, with its traceback beginning where it leaves the engine."""
    trace = error.__traceback__
    while trace is not None and trace.tb_next is not None and trace.tb_frame.f_code.co_filename.endswith(_OUR_FILES):
        trace = trace.tb_next
    return error.with_traceback(trace)


# ------------------------------------------------------------------ calls from one task to another


def _settled(future: Any, writes: Iterable[tuple[str, Any]]) -> Any:
    """A future with the outcome that a task wrote in an earlier run."""
    said: dict[str, Any] = {}
    for name, value in writes:
        said.setdefault(name, value)
    error = None if RETURN in said else said.get(ERROR)
    if error:
        future.set_exception(error if isinstance(error, BaseException) else Exception(error))
    else:
        future.set_result(said.get(RETURN))
    return future


def _next_number(caller: Any) -> int:
    number: int = caller.config[CONF][CONFIG_KEY_SCRATCHPAD].call_counter()
    return number


def _joined(board: Any, wanted: PregelExecutableTask, fresh: Callable[[], Any], begin: Callable[[], Any]) -> Any:
    """The future of a called task: running, known from before, or started now."""
    future = board.find(wanted.id)
    if future is None and wanted.writes:
        return _settled(fresh(), wanted.writes)
    if future is None:
        future = begin()
        SKIP_RERAISE_SET.add(future)  # its caller sees the exception
        board[future] = wanted
    return future


def _call(
    task: Callable[[], Any],
    func: Callable[..., Any],
    input: Any,
    *,
    retry_policy: Any = None,
    futures: Callable[[], Any],
    schedule_task: Callable[..., PregelExecutableTask | None],
    submit: Callable[[], Any],
    **options: Any,
) -> Any:
    """A task of a synchronous run calls a function as another task."""
    if inspect.iscoroutinefunction(func):
        raise RuntimeError(
            f"{getattr(func, '__name__', func)} is asynchronous and this run is not: call it from ainvoke or astream"
        )
    caller = task()
    wanted = schedule_task(caller, _next_number(caller), _call_of(func, input, retry_policy, options))
    if wanted is None:
        raise RuntimeError(f"{func!r} was called but could not be scheduled as a task")
    again = partial(
        _call,
        weakref.ref(wanted),
        retry_policy=retry_policy,
        futures=futures,
        schedule_task=schedule_task,
        submit=submit,
    )
    begin = partial(
        submit(),
        run_with_retry,
        wanted,
        retry_policy,
        configurable={CONFIG_KEY_CALL: again},
        __reraise_on_exit__=False,
        __next_tick__=True,
    )
    future = _joined(futures(), wanted, concurrent.futures.Future, begin)
    return chain_future(future, concurrent.futures.Future())


def _call_of(func: Any, input: Any, retry_policy: Any, options: dict[str, Any]) -> Call:
    return Call(
        func,
        input,
        retry_policy=retry_policy,
        cache_policy=options.get("cache_policy"),
        callbacks=options.get("callbacks"),
        timeout=options.get("timeout"),
    )


def _acall(
    task: Callable[[], Any],
    func: Callable[..., Any],
    input: Any,
    *,
    retry_policy: Any = None,
    loop: asyncio.AbstractEventLoop,
    futures: Callable[[], Any],
    schedule_task: Callable[..., Awaitable[PregelExecutableTask | None]],
    submit: Callable[[], Any],
    stream: bool = False,
    **options: Any,
) -> Any:
    """A task of an asynchronous run calls a function as another task, from the loop's thread or another."""
    inside = asyncio._get_running_loop() is not None and asyncio.current_task() is not None
    promise: Any = asyncio.Future(loop=loop) if inside else concurrent.futures.Future()
    call = _call_of(func, input, retry_policy, options)

    async def join() -> None:
        try:
            caller = task()
            wanted = await schedule_task(caller, _next_number(caller), call)
            if wanted is None:
                raise RuntimeError(f"{func!r} was called but could not be scheduled as a task")
            again = partial(
                _acall,
                weakref.ref(wanted),
                stream=stream,
                loop=loop,
                futures=futures,
                schedule_task=schedule_task,
                submit=submit,
            )
            begin = partial(
                submit(),
                arun_with_retry,
                wanted,
                retry_policy,
                configurable={CONFIG_KEY_CALL: again},
                **{**_loop_options(stream, False, wanted), "__next_tick__": True},
            )
            chain_future(_joined(futures(), wanted, loop.create_future, begin), promise)
        except Exception as exc:
            promise.set_exception(exc)

    run_coroutine_threadsafe(join(), loop, lazy=False)
    return promise


own(globals())
