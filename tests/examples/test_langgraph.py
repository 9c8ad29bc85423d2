"""examples/langgraph and examples/langgraph_agent: the programs as their READMEs run them, without any network."""

import asyncio
import contextlib
import importlib.util
import json
import re
import signal
import subprocess
import sys
import time
import urllib.request
from itertools import pairwise

import pytest

from dynamo.runtime import DistributedRuntime

from ..conftest import ROOT
from ..frontend.stack import EOS, run, stack, text_of

EXAMPLES = ROOT / "examples"

pytest.importorskip("langgraph.checkpoint.memory", reason="the extra langgraph is not installed")


def output_of(run_python, example, *arguments):
    process = run_python(str(ROOT / "examples" / example), *arguments)
    out, _ = process.communicate(timeout=60)
    assert process.returncode == 0, out
    return out


def test_hello_is_greeted_by_the_node_that_a_function_chose(run_python):
    assert output_of(run_python, "langgraph/hello.py") == "HELLO ADA!\nhello Barbara\n"


def test_the_agent_with_rules_calls_its_tools(run_python):
    pytest.importorskip("langgraph_sdk")
    lines = output_of(run_python, "langgraph/react_agent.py", "The weather in Tromsø, please.").splitlines()
    assert lines[-1] == "   ai: Tromsø: polar night, take a lamp."
    assert sum(line.startswith(" tool:") for line in lines) == 2


@pytest.mark.parametrize("answer, last", [("yes", "paid 5000"), ("no", "did not pay 5000")])
def test_a_person_decides(run_python, answer, last):
    out = output_of(run_python, "langgraph/human_in_the_loop.py", "--answer", answer)
    assert out.splitlines() == ["paid 30", f"Pay 5000? {answer}", last]


def test_words_of_all_files_are_counted_together(run_python, tmp_path):
    (tmp_path / "a.txt").write_text("otter river otter")
    (tmp_path / "b.txt").write_text("otter stone")
    out = output_of(run_python, "langgraph/map_reduce.py", "a.txt", "b.txt")
    assert out.splitlines()[:2] == ["2 files, 5 words", "     3 otter"]
    assert output_of(run_python, "langgraph/map_reduce.py").startswith("6 files")


def test_four_modes_are_streamed_in_their_order(run_python):
    lines = output_of(run_python, "langgraph/streaming.py").splitlines()
    assert [line.split(":")[0].strip() for line in lines[:4]] == ["values", "custom", "custom", "updates"]
    said = [re.search(r": '(.*)' from answer", line).group(1) for line in lines if " messages:" in line]
    assert "".join(said) == "Otters hold hands while they sleep."


def test_threads_are_kept_and_another_way_is_taken(run_python):
    lines = output_of(run_python, "langgraph/persistence.py").splitlines()
    assert lines[0] == "Ada: ['engines', 'numbers', 'looms']" and lines[-1].endswith("['engines', 'numbers', 'poems']")


def test_threads_in_a_file_are_there_the_next_time(run_python):
    pytest.importorskip("langgraph.checkpoint.sqlite")
    first = output_of(run_python, "langgraph/persistence.py", "--db", "notes.sqlite")
    second = output_of(run_python, "langgraph/persistence.py", "--db", "notes.sqlite")
    assert "Grace: ['compilers']" in first and "Grace: ['compilers', 'compilers']" in second


def test_the_programs_are_typed():
    pytest.importorskip("mypy")
    files = [str(place) for folder in ("langgraph", "langgraph_agent") for place in (EXAMPLES / folder).glob("*.py")]
    how = ["--strict", "--config-file", "pyproject.toml", "--no-error-summary", "--no-pretty"]
    out = subprocess.run([sys.executable, "-m", "mypy", *how, *files], capture_output=True, text=True, cwd=ROOT)
    assert out.returncode == 0, out.stdout + out.stderr


# ---------------------------------------------------------------- the agent on a served model
def agent_module():
    spec = importlib.util.spec_from_file_location("example_agent", ROOT / "examples/langgraph_agent/agent.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.mark.parametrize(
    "tool, argument, result",
    [
        ("calculate", "231 * 19", "4389"),
        ("calculate", "-(1 + 2) / 4", "-0.75"),
        ("weekday", "2026-11-21", "Saturday"),
    ],
)
def test_the_tools_of_the_agent_are_right(tool, argument, result):
    assert agent_module().TOOLS[tool](argument) == result


@pytest.mark.parametrize("bad", ["__import__('os')", "2 ** 99", "a", "1 +", "f(1)", "'x' * 9"])
def test_a_calculator_calculates_and_does_no_more(bad):
    with pytest.raises((KeyError, SyntaxError, ValueError, TypeError)):
        agent_module().calculate(bad)


def calling(text):
    """What a worker says that has learned from the examples of the prompt."""
    last = text.rstrip().rsplit("user", 1)[-1]
    if "RESULT" in last:
        found = re.search(r"RESULT ([^\s<]+)", last)
        return f"ANSWER It is {found.group(1)}."
    asked = re.search(r"What is ([^?]+)\?", last)
    return f"CALL calculate({asked.group(1)})" if asked else "ANSWER Hello."


def test_the_agent_calls_tools_of_a_scripted_model_and_each_prompt_begins_with_the_last(tmp_path):
    async def main():
        module, prompts = agent_module(), []

        async def worker(request, context):
            prompts.append(text_of(request))
            for letter in calling(prompts[-1]).encode():
                yield {"token_ids": [letter]}
            yield {"token_ids": [EOS], "finish_reason": "eos"}

        async with stack(tmp_path) as s:
            await s.worker(worker, context_length=16384)
            model = await asyncio.to_thread(module.model_at, s.url)
            agent = module.make_agent(model, module.InMemorySaver())
            config = {"configurable": {"thread_id": "t"}}
            for question, answer in (("What is 6 * 7?", "ANSWER It is 42."), ("What is 1 / 0?", "impossible")):
                result = await agent.ainvoke({"messages": [module.HumanMessage(question)]}, config)
                assert any(answer in message.content for message in result["messages"]), result
            assert len(prompts) == 4
            for before, after in pairwise(prompts):
                assert after.startswith(before)

    run(main())


@contextlib.contextmanager
def two_workers(run_python, gguf, engine, discovery="mem"):
    """`dynamo serve` with two workers; its URL."""
    options = ["--engine", engine, "--workers", "2", "--port", "0", "--discovery", discovery]
    options += ["--speedup", "0"] if engine == "mocker" else ["--threads", "1"]
    process = run_python("-m", "dynamo", "serve", str(gguf), *options)
    lines = []
    for line in process.stdout:
        lines.append(line)
        found = re.search(r"http://[\d.]+:\d+", line)
        if found:
            break
    else:
        raise AssertionError("".join(lines))
    url, end = found.group(), time.monotonic() + 30
    while True:
        with contextlib.suppress(OSError), urllib.request.urlopen(f"{url}/health", timeout=5) as answer:
            if json.load(answer)["models"]:
                break
        assert time.monotonic() < end, "no model in 30 s"
        time.sleep(0.05)
    try:
        yield url
    finally:
        process.send_signal(signal.SIGTERM)
        process.communicate(timeout=30)


@pytest.mark.parametrize("engine", ["mocker", "llamacpp"])
def test_the_agent_runs_on_served_workers_and_its_thread_hits_their_caches(run_python, tiny_gguf, engine):
    if engine == "llamacpp":
        pytest.importorskip("xllamacpp")
    with two_workers(run_python, tiny_gguf, engine) as url:
        out = output_of(run_python, "langgraph_agent/agent.py", "--url", url, "What is 6 * 7?", "And 2 + 2?")
    cost = [tuple(map(int, row)) for row in re.findall(r"\[(\d+) tokens of prompt, (\d+) of them", out)]
    assert len(cost) >= 2 and "Traceback" not in out
    assert all(0 < cached < prompt for prompt, cached in cost[1:]), cost
    assert cost[-1][1] >= cost[0][0] - 16, "all of the first prompt but a part of a block"


def test_the_agent_draws_itself(run_python, tmp_path):
    output_of(run_python, "langgraph_agent/agent.py", "--draw", "agent.svg")
    assert "think" in (tmp_path / "agent.svg").read_text()


def test_the_agent_is_a_model_of_the_front_end(tmp_path):
    async def main():
        async def worker(request, context):
            for letter in calling(text_of(request)).encode():
                yield {"token_ids": [letter]}
            yield {"token_ids": [EOS], "finish_reason": "eos"}

        async with stack(tmp_path) as s:
            module = agent_module()
            await s.worker(worker, context_length=16384)
            model = await asyncio.to_thread(module.model_at, s.url)
            runtime = DistributedRuntime(asyncio.get_running_loop(), "mem")
            agent = module.make_agent(model, module.InMemorySaver())
            serving = asyncio.ensure_future(
                module.serve_graph(runtime.endpoint("test.agents.generate"), agent, "agent")
            )
            await s.until(lambda: "agent" in s.front.models.models and s.front.models["agent"].ready)
            answer = await s.client.chat.completions.create(
                model="agent", messages=[{"role": "user", "content": "What is 6 * 7?"}]
            )
            assert answer.choices[0].message.content == "CALL calculate(6 * 7)\n\nANSWER It is 42."
            runtime.shutdown()
            await asyncio.wait_for(serving, 10)

    run(main())


def test_the_agent_joins_a_front_end_as_a_process_of_its_own(run_python, tiny_gguf):
    def post(url, **body):
        request = urllib.request.Request(url, json.dumps(body).encode(), {"Content-Type": "application/json"})
        with urllib.request.urlopen(request, timeout=60) as answer:
            return json.load(answer)

    with two_workers(run_python, tiny_gguf, "mocker", "file") as url:
        agent = run_python(str(ROOT / "examples/langgraph_agent/agent.py"), "--serve", "--url", url)
        line = agent.stdout.readline()
        assert line.startswith("the agent is served"), line + agent.stdout.read()
        end = time.monotonic() + 20
        while "agent" not in json.load(urllib.request.urlopen(f"{url}/health", timeout=5))["models"]:
            assert time.monotonic() < end, "the front end does not see the agent"
            time.sleep(0.05)
        usage = []
        for text in ("What is 6 * 7?", "And 2 + 2?"):
            asked = {"messages": [{"role": "user", "content": text}], "metadata": {"thread_id": "t"}}
            answer = post(f"{url}/v1/chat/completions", model="agent", **asked)
            assert answer["choices"][0]["finish_reason"] == "stop" and answer["choices"][0]["message"]["content"]
            usage.append(answer["usage"])
        assert usage[1]["prompt_tokens"] > usage[0]["prompt_tokens"], "the thread is remembered"
        assert usage[1]["prompt_tokens_details"]["cached_tokens"] > 0
        agent.send_signal(signal.SIGTERM)
        assert agent.wait(20) == 0, agent.stdout.read()
