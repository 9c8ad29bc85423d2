"""What a run shows while it runs, in four modes at once.

python streaming.py
"""

import asyncio

from langchain_core.language_models import GenericFakeChatModel
from langchain_core.messages import AIMessage

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
    question = {"messages": [("user", "What do otters do at night?")]}
    async for mode, part in app.astream(question, stream_mode=["values", "updates", "messages", "custom"]):
        if mode == "values":
            print(f"{mode:>9}: the state has {len(part['messages'])} messages")
        elif mode == "messages":
            chunk, about = part
            print(f"{mode:>9}: {chunk.content!r} from {about['langgraph_node']}")
        else:
            print(f"{mode:>9}: {list(part) if mode == 'updates' else part}")


if __name__ == "__main__":
    asyncio.run(main())
