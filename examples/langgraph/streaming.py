"""What a run shows while it runs, in four modes at once.

python streaming.py
"""

import asyncio

from langchain_core.language_models import GenericFakeChatModel
from langchain_core.messages import AIMessage, HumanMessage

from dynamo.langgraph.config import get_stream_writer
from dynamo.langgraph.graph import END, START, MessagesState, StateGraph

# Any chat model of langchain streams here; this one says a text that it was given, word by word.
model = GenericFakeChatModel(messages=iter([AIMessage("Otters hold hands while they sleep.")]))


async def look_up(state: MessagesState) -> None:
    tell = get_stream_writer()
    for page in ("otters", "sleep"):
        tell({"reading": page})
        await asyncio.sleep(0.01)


async def answer(state: MessagesState) -> dict[str, list[AIMessage]]:
    return {"messages": [await model.ainvoke(state["messages"])]}


graph = StateGraph(MessagesState).add_node("look_up", look_up).add_node("answer", answer)
graph.add_edge(START, "look_up").add_edge("look_up", "answer").add_edge("answer", END)
app = graph.compile()


async def main() -> None:
    question: MessagesState = {"messages": [HumanMessage("What do otters do at night?")]}
    # version="v2": parts with a type, which type checkers know too.
    async for part in app.astream(question, stream_mode=["values", "updates", "messages", "custom"], version="v2"):
        if part["type"] == "values":
            shown = f"the state has {len(part['data']['messages'])} messages"
        elif part["type"] == "messages":
            chunk, about = part["data"]
            shown = f"{chunk.content!r} from {about['langgraph_node']}"
        elif part["type"] == "updates":
            shown = f"{list(part['data'])}"
        else:
            shown = f"{part['data']}"
        print(f"{part['type']:>9}: {shown}")


if __name__ == "__main__":
    asyncio.run(main())
