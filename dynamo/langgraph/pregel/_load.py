"""Which checkpoint a run starts from.

a checkpoint id, its own or in the map that comes from the graph around it --> that checkpoint
the graph around it replays (`ReplayState`)                                --> the last one before that one's
otherwise                                                                  --> the thread's latest, or none
there is no saver                                                          --> none (`LoopCore.afresh`)
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from dynamo.langgraph._internal._config import patch_configurable
from dynamo.langgraph._internal._constants import (
    CONF,
    CONFIG_KEY_CHECKPOINT_ID,
    CONFIG_KEY_CHECKPOINT_MAP,
    CONFIG_KEY_CHECKPOINT_NS,
    CONFIG_KEY_REPLAY_STATE,
    CONFIG_KEY_RESUMING,
    CONFIG_KEY_SCRATCHPAD,
    CONFIG_KEY_THREAD_ID,
    NS_SEP,
)
from dynamo.langgraph._internal._names import own
from dynamo.langgraph._internal._scratchpad import PregelScratchpad
from dynamo.langgraph._internal._script import Script, ask
from dynamo.langgraph.pregel._checkpoint import empty_checkpoint, is_superseded, load_channels

if TYPE_CHECKING:
    from dynamo.langgraph.pregel._loop import PregelLoop

# What a config says of the place of a run, among threads, checkpoints and graphs.
_PLACE = frozenset((CONFIG_KEY_CHECKPOINT_MAP, CONFIG_KEY_CHECKPOINT_NS, CONFIG_KEY_SCRATCHPAD, CONFIG_KEY_THREAD_ID))


def at_home(config: Any, nested: bool) -> tuple[Any, Any]:
    """The config with the namespace of this graph; and the same as the saver gets it.

    Of several graphs that one task runs, all but the first get a number. A graph that no task runs is at the root,
    whatever the config names. The saver is asked for the checkpoint that is meant for this graph, and gets the
    thread's name as text.
    """
    conf = config[CONF]
    if conf.keys().isdisjoint(_PLACE):
        return config, config
    ns, pad = conf.get(CONFIG_KEY_CHECKPOINT_NS), conf.get(CONFIG_KEY_SCRATCHPAD)
    nth = pad.subgraph_counter() if isinstance(pad, PregelScratchpad) else 0
    if ns and not nested:
        config = patch_configurable(config, {CONFIG_KEY_CHECKPOINT_NS: "", CONFIG_KEY_CHECKPOINT_ID: None})
    elif nth:
        config = patch_configurable(config, {CONFIG_KEY_CHECKPOINT_NS: f"{ns}{NS_SEP}{nth}"})
    keys = CONFIG_KEY_CHECKPOINT_MAP, CONFIG_KEY_CHECKPOINT_NS, CONFIG_KEY_THREAD_ID
    meant, ns, thread = map(config[CONF].get, keys)
    told: dict[str, Any] = {}
    if meant and ns in meant:
        told[CONFIG_KEY_CHECKPOINT_ID] = meant[ns]
    if thread and not isinstance(thread, str):
        told[CONFIG_KEY_THREAD_ID] = str(thread)
    return config, patch_configurable(config, told) if told else config


def load(loop: PregelLoop) -> Script:
    """Get the checkpoint and make live channels of it."""
    saved = yield from _find(loop)
    ours = loop.checkpoint_config
    loop.has_parent = saved is not None
    config, checkpoint, metadata, above, pending = saved or (ours, empty_checkpoint(), {"step": -2}, None, None)
    if saved and loop.migrate is not None:
        loop.migrate(checkpoint)
    loop.checkpoint, loop.checkpoint_metadata, loop.prev_checkpoint_config = checkpoint, metadata, above
    place = {**ours.get(CONF, {}), **config.get(CONF, {})}
    place[CONFIG_KEY_CHECKPOINT_NS] = loop.config[CONF].get(CONFIG_KEY_CHECKPOINT_NS, "")
    loop.checkpoint_config = {**ours, **config, CONF: place}
    loop.checkpoint_pending_writes = [(str(task_id), name, value) for task_id, name, value in pending or ()]
    loop.channels, loop.managed = yield from load_channels(
        loop.specs, loop.checkpoint, saver=loop.checkpointer, config=loop.checkpoint_config
    )


def _find(loop: PregelLoop) -> Script:
    saver, config, conf = loop.checkpointer, loop.checkpoint_config, loop.config[CONF]
    replay = conf.get(CONFIG_KEY_REPLAY_STATE)
    if replay and not config[CONF].get(CONFIG_KEY_CHECKPOINT_ID):
        conf.pop(CONFIG_KEY_RESUMING, None)
        return (yield from replay.find(conf.get(CONFIG_KEY_CHECKPOINT_NS, ""), saver, config))
    loop.from_latest = not config[CONF].get(CONFIG_KEY_CHECKPOINT_ID)
    found = yield ask(saver, "get_tuple", config)
    loop.superseded = yield from is_superseded(saver, config, found)
    return found


own(globals())
