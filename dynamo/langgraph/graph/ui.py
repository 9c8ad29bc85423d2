"""Messages for a user interface, kept in the state beside those for the model."""

import typing
import uuid
from typing import Any, Literal, TypeAlias

from typing_extensions import TypedDict

from dynamo.langgraph._internal._constants import CONF, CONFIG_KEY_SEND
from dynamo.langgraph._internal._names import own
from dynamo.langgraph.config import get_config, get_stream_writer

if typing.TYPE_CHECKING:
    from langchain_core.messages import AnyMessage

__all__ = (
    "AnyUIMessage",
    "RemoveUIMessage",
    "UIMessage",
    "delete_ui_message",
    "push_ui_message",
    "ui_message_reducer",
)


class UIMessage(TypedDict):
    """Show the component `name` with `props`."""

    type: Literal["ui"]
    id: str
    name: str
    props: dict[str, Any]
    metadata: dict[str, Any]


class RemoveUIMessage(TypedDict):
    """Take a component away."""

    type: Literal["remove-ui"]
    id: str


AnyUIMessage: TypeAlias = UIMessage | RemoveUIMessage


def _publish(message: Any, state_key: str | None) -> None:
    """Show a message in the "custom" stream now, and write it to the state when the node ends."""
    get_stream_writer()(message)
    if state_key:
        get_config()[CONF][CONFIG_KEY_SEND]([(state_key, message)])


def push_ui_message(
    name: str,
    props: dict[str, Any],
    *,
    id: str | None = None,
    metadata: dict[str, Any] | None = None,
    message: "AnyMessage | None" = None,
    state_key: str | None = "ui",
    merge: bool = False,
) -> UIMessage:
    """Show a component from within a node.

    Parameters
    ----------
    name, props : the component and what it is given
    id : of the component, to change it later; a new one by default
    metadata : goes with it
    message : the message it belongs to
    state_key : where it is kept; None to show it only
    merge : add `props` to those the component has, rather than replacing them
    """
    here: Any = get_config()
    notes: dict[str, Any] = {
        "merge": merge,
        "run_id": here.get("run_id"),
        "tags": here.get("tags"),
        "name": here.get("run_name"),
        **(metadata or {}),
    }
    if message is not None:
        notes["message_id"] = message.id
    shown: UIMessage = {"type": "ui", "id": id or str(uuid.uuid4()), "name": name, "props": props, "metadata": notes}
    _publish(shown, state_key)
    return shown


def delete_ui_message(id: str, *, state_key: str = "ui") -> RemoveUIMessage:
    """Take a component away from within a node."""
    removal: RemoveUIMessage = {"type": "remove-ui", "id": id}
    _publish(removal, state_key)
    return removal


def ui_message_reducer(
    left: list[AnyUIMessage] | AnyUIMessage, right: list[AnyUIMessage] | AnyUIMessage
) -> list[AnyUIMessage]:
    """Merge messages by their ids: the reducer of a key that holds them.

    Raises
    ------
    ValueError
        if one is to be removed that is not there
    """
    there: list[Any] = list(left) if isinstance(left, list) else [left]
    place = {message["id"]: at for at, message in enumerate(there)}
    removed = set()
    for message in right if isinstance(right, list) else [right]:
        key = message["id"]
        at = place.get(key)
        if message["type"] == "remove-ui":
            if at is None:
                raise ValueError(f"Attempting to delete an UI message with an ID that doesn't exist ('{key}')")
            removed.add(key)
            continue
        removed.discard(key)
        if at is None:
            place[key] = len(there)
            there.append(message)
        elif (message.get("metadata") or {}).get("merge"):
            there[at] = {**message, "props": {**there[at].get("props", {}), **message["props"]}}
        else:
            there[at] = message
    return [message for message in there if message["id"] not in removed]


own(globals())
