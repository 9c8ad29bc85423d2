"""An agent that calls tools, with langgraph's ready-made ToolNode.

The model is a few rules, so that nothing has to be served.

python react_agent.py "How is the weather in Oslo and in Bergen?"

With a served model instead: `dynamo.graphs.ChatFrontend(url=..., model=...)`, or any other chat model of langchain.
"""

import sys
from collections.abc import Sequence
from typing import Any
from uuid import uuid4

from langchain_core.language_models import BaseChatModel
from langchain_core.messages import AIMessage, BaseMessage, HumanMessage, ToolMessage
from langchain_core.outputs import ChatGeneration, ChatResult
from langchain_core.runnables import Runnable

import dynamo.langgraph
from dynamo.langgraph.graph import START, MessagesState, StateGraph

dynamo.langgraph.install()  # what imports langgraph from here on gets dynamo's engine, such as these ready-made parts

from langgraph.prebuilt import ToolNode, tools_condition  # noqa: E402

WEATHER = {"oslo": "snow", "bergen": "rain", "tromsø": "polar night"}
CLOTHES = {"snow": "a warm coat", "rain": "an umbrella", "polar night": "a lamp"}


def weather(city: str) -> str:
    """The weather in a city."""
    return WEATHER.get(city.lower(), "sunshine")


def what_to_wear(weather: str) -> str:
    """What one needs in such weather."""
    return CLOTHES.get(weather, "a hat")


class Rules(BaseChatModel):
    """Asks for the weather of every city that it knows, then for what to wear, then sums up."""

    @property
    def _llm_type(self) -> str:
        return "rules"

    def bind_tools(self, tools: Sequence[Any], **kwargs: Any) -> Runnable[Any, Any]:
        return self

    def _generate(
        self, messages: list[BaseMessage], stop: Any = None, run_manager: Any = None, **kwargs: Any
    ) -> ChatResult:
        asked = max(i for i, message in enumerate(messages) if isinstance(message, HumanMessage))
        told = [message for message in messages[asked:] if isinstance(message, ToolMessage)]
        cities = [city for city in WEATHER if city in str(messages[asked].content).lower()]
        if not told and cities:
            answer = self.call("weather", [{"city": city.title()} for city in cities])
        elif told and all(message.name == "weather" for message in told):
            answer = self.call("what_to_wear", [{"weather": str(message.content)} for message in told])
        elif told:
            found = [str(message.content) for message in told]
            half = len(found) // 2
            lines = [f"{city.title()}: {w}, take {c}." for city, w, c in zip(cities, found, found[half:], strict=False)]
            answer = AIMessage(" ".join(lines))
        else:
            answer = AIMessage("Ask me about the weather in Oslo, Bergen or Tromsø.")
        return ChatResult(generations=[ChatGeneration(message=answer)])

    def call(self, name: str, every: list[dict[str, str]]) -> AIMessage:
        return AIMessage("", tool_calls=[{"name": name, "args": args, "id": uuid4().hex[:8]} for args in every])


tools = [weather, what_to_wear]
model = Rules().bind_tools(tools)


def think(state: MessagesState) -> dict[str, list[BaseMessage]]:
    return {"messages": [model.invoke(state["messages"])]}


graph = StateGraph(MessagesState).add_node("think", think).add_node("tools", ToolNode(tools))
graph.add_edge(START, "think").add_edge("tools", "think")
graph.add_conditional_edges("think", tools_condition)  # to "tools" as long as the model asks for some
app = graph.compile()

if __name__ == "__main__":
    question = " ".join(sys.argv[1:]) or "How is the weather in Oslo and in Bergen?"
    for message in app.invoke({"messages": [HumanMessage(question)]})["messages"]:
        calls = [f"{call['name']}({', '.join(call['args'].values())})" for call in getattr(message, "tool_calls", ())]
        print(f"{message.type:>5}: {message.content or ', '.join(calls)}")
