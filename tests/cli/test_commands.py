"""Commands as a person runs them."""

import json
import re
import signal
import subprocess
import sys

import pytest

from dynamo.cli import COMMANDS

from ..conftest import ROOT


def test_help_names_every_command(dynamo):
    code, text = dynamo("--help")
    assert code == 0
    for name in COMMANDS:
        assert re.search(rf"^    {name} +\w", text, re.M), name
    assert "a first try" in text


@pytest.mark.parametrize("name", COMMANDS)
def test_the_help_of_each_command_teaches_by_example(dynamo, name):
    code, text = dynamo(name, "--help")
    assert code == 0
    assert "examples:" in text and f"  dynamo {name}" in text
    assert all(len(line) <= 120 for line in text.splitlines())


def test_wrong_arguments_end_with_2(dynamo):
    assert dynamo()[0] == 2
    code, text = dynamo("bench", "--requests", "many")
    assert code == 2 and "invalid int value: 'many'" in text
    assert dynamo("juggle")[0] == 2
    code, text = dynamo("bench", "--requests", "0")
    assert code == 2 and "--requests 0: must be above 0" in text


@pytest.mark.parametrize(
    ("variable", "value", "remedy"),
    [
        ("DYN_ROUTER_MODE", "best", "must be one of RoundRobin, Random"),
        ("DYN_ROUTER_TTL_SECS", "-1", "must be 0 to"),
        ("DYN_ROUTER_QUEUE_POLICY", "lifo", "must be one of fcfs"),
        ("DYN_HTTP_BODY_LIMIT_MB", "much", "it must be a number"),
        ("DYN_HTTP_PORT", "http", "must be 0 to 65535 (DYN_HTTP_PORT sets the default)"),
    ],
)
def test_a_wrong_variable_is_named_before_anything_is_started(dynamo, variable, value, remedy):
    for command in (("serve", "--engine", "mocker"), ("frontend",)):
        code, text = dynamo(*command, env={variable: value})
        assert code == 2 and repr(value) in text and variable in text and remedy in text, text
        assert "ready" not in text and "Traceback" not in text


def test_version_shows_the_machine(dynamo):
    code, text = dynamo("--version")
    assert code == 0 and text.startswith("dynamo 0.") and "SIMD level" in text


def test_help_does_not_load_what_only_work_needs():
    code = "import sys; from dynamo.cli import parser; parser().format_help(); print(' '.join(sys.modules))"
    out = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=ROOT, check=True).stdout
    assert not {"numpy", "msgspec", "rich", "dynamo._loop", "dynamo.runtime", "dynamo.llm"} & set(out.split())


# ---- bench -----------------------------------------------------------------------------------------------------------
def test_bench_measures_a_server(dynamo, parrot, tmp_path):
    out = tmp_path / "figures.json"
    code, text = dynamo("bench", "--url", parrot, "-n", 20, "-c", 4, "--words", 6, "--json", out)
    assert code == 0, text
    assert re.search(r"^TTFT( +\d+\.\d\d){6}$", text, re.M) and "requests/s" in text
    figures = json.loads(out.read_text())
    assert figures["requests"] == 20 and figures["failed"] == 0 and figures["model"] == "parrot"
    assert figures["completion_tokens"] == 120 and figures["tokens_are_pieces"]
    assert 0 < figures["ttft_ms"]["p50"] <= figures["ttft_ms"]["p99"] <= figures["latency_ms"]["max"]


def test_bench_writes_figures_for_a_program(dynamo, parrot):
    process = dynamo(
        "bench", "--url", parrot, "-n", 6, "--turns", 3, "--rate", 50, "--json", "-", stderr=subprocess.PIPE
    )
    figures = json.loads(process[1])
    assert figures["requests"] == 6 and figures["ttft_follow_up_ms"]["p50"] > 0


def test_bench_counts_what_fails(dynamo, parrot):
    code, text = dynamo("bench", "--url", parrot, "-n", 4, "--completions")
    assert code == 1
    assert "4 requests failed:" in text and "404" in text


def test_bench_without_a_server_says_so(dynamo):
    code, text = dynamo("bench", "--url", "http://127.0.0.1:9")
    assert code == 1 and "nobody listens there" in text
    assert dynamo("bench", "--url", "ftp://x")[0] == 2


def test_bench_shows_what_it_has_at_ctrl_c(run_python, parrot):
    process = run_python("-m", "dynamo", "bench", "--url", parrot, "--duration", "60", "--words", "3")
    assert "model parrot" in process.stdout.readline()
    assert "requests, " in process.stdout.readline()  # progress: it runs
    process.send_signal(signal.SIGINT)
    text = process.communicate(timeout=20)[0]
    assert process.returncode == 130 and "what was measured until now" in text and "TTFT" in text


# ---- chat ------------------------------------------------------------------------------------------------------------
def test_chat_answers_one_question(dynamo, parrot):
    code, text = dynamo("chat", "--url", parrot, "--once", "one two three")
    assert (code, text) == (0, "one two three \n")


def test_chat_reads_a_pipe(run_python, parrot):
    process = run_python("-m", "dynamo", "chat", "--url", parrot, stdin=subprocess.PIPE)
    text = process.communicate("four five", timeout=30)[0]
    assert (process.returncode, text) == (0, "four five \n")


def test_chat_names_the_models_that_are_there(dynamo, parrot):
    code, text = dynamo("chat", "--url", parrot, "--model", "other", "--once", "x")
    assert code == 1 and "no model 'other'; it has parrot" in text


def test_a_conversation_on_a_terminal(parrot, terminal):
    chat = terminal("chat", "--url", parrot, "--stats")
    prompt = "> $"  # what is typed before it would be echoed twice
    words = " ".join(f"w{i}" for i in range(100))
    chat.until(prompt)
    chat.type("hello world\n")
    chat.until(r"hello world \r\n.*first token after \d+ ms(?s:.*)> $")
    chat.type("/stats\n")
    chat.until("off(?s:.*)> $")
    chat.type(words + "\n")
    chat.until(r"w99\r\n(?s:.*)w3 w4 ")  # the line as it was typed, then the answer
    chat.type("\x03")  # Ctrl-C stops the answer
    chat.until("stopped(?s:.*)> $")
    chat.type("/retry\n")
    chat.until(r"/retry(?s:.*)w3 w4 ")
    chat.type("\x03")
    chat.until("stopped(?s:.*)> $")
    chat.type("/help\n")
    chat.until("/clear(?s:.*)> $")
    chat.type("half a line")
    chat.until("half a line")
    chat.type("\x03")  # at the prompt it drops the line
    chat.until(prompt)
    chat.type("still there\n")
    chat.until(r"still there \r\n(?s:.*)> $")
    chat.type("\x04")
    assert chat.end() == 0


# ---- replay ----------------------------------------------------------------------------------------------------------
def test_replay_compares_routers(dynamo, tmp_path):
    out = tmp_path / "figures.json"
    code, text = dynamo("replay", "synthetic", "--requests", 200, "--router", "kv", "--router", "random", "--json", out)
    assert code == 0, text
    assert re.search(r"^ *router +hit rate %", text, re.M) and re.search(r"^ *kv +\d", text, re.M)
    figures = json.loads(out.read_text())
    assert [r["router"] for r in figures["routers"]] == ["kv", "random"]
    assert sum(figures["routers"][0]["requests_per_worker"]) == 200


def test_replay_reads_a_trace_and_says_what_is_wrong_with_it(dynamo, tmp_path):
    trace = tmp_path / "trace.jsonl"
    trace.write_text('{"timestamp": 0, "input_length": 600, "output_length": 5, "hash_ids": [1, 2]}\n')
    code, text = dynamo("replay", trace, "--json", "-")
    assert code == 0
    trace.write_text("otter\n")
    code, text = dynamo("replay", trace)
    assert code == 2 and "trace.jsonl:1" in text
    assert dynamo("replay", tmp_path / "none")[0] == 2
