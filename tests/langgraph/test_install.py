"""One module object under two names, in processes of their own: sys.meta_path is for the whole process."""

import subprocess
import sys
import textwrap

import pytest

from ..conftest import ROOT

pytest.importorskip("langgraph.checkpoint.memory", reason="the extra langgraph is not installed")


def run(code, *arguments):
    """Run a program in a fresh interpreter: (exit status, what it printed)."""
    done = subprocess.run(
        [sys.executable, *(arguments or ("-c", textwrap.dedent(code)))],
        capture_output=True,
        text=True,
        cwd=ROOT,
        timeout=60,
    )
    return done.returncode, done.stdout + done.stderr


def test_an_installed_name_gives_our_module():
    status, text = run("""
        import dynamo.langgraph
        dynamo.langgraph.install()
        dynamo.langgraph.install()
        import langgraph.types, langgraph.errors, dynamo.langgraph.types as ours
        assert langgraph.types is ours, ours
        assert ours.__name__ == ours.__spec__.name == "dynamo.langgraph.types"
        assert ours.Send.__module__ == "langgraph.types"
        import pickle
        assert pickle.loads(pickle.dumps(ours.Send("a", 1))) == ours.Send("a", 1)
    """)
    assert status == 0, text


def test_what_we_do_not_have_is_missing_and_never_the_original():
    status, text = run("""
        import dynamo.langgraph
        dynamo.langgraph.install()
        try:
            import langgraph._internal._nothing
        except ModuleNotFoundError as error:
            print(error)
    """)
    assert status == 0 and "langgraph._internal._nothing" in text, text


def test_install_beside_the_original_says_what_came_first(tmp_path):
    (tmp_path / "langgraph/types").mkdir(parents=True)
    (tmp_path / "langgraph/types/__init__.py").write_text("")
    status, text = run(f"""
        import sys
        sys.path.insert(0, {str(tmp_path)!r})
        import langgraph.types
        import dynamo.langgraph
        assert not dynamo.langgraph._install.install_if_free()
        dynamo.langgraph.install()
    """)
    assert status == 1 and "too late: langgraph.types" in text and "python -m dynamo.langgraph" in text, text


def test_savers_are_those_of_their_distribution_under_both_names():
    status, text = run("""
        from dynamo.langgraph.checkpoint.memory import InMemorySaver as ours
        from langgraph.checkpoint.memory import InMemorySaver as theirs
        assert ours is theirs
        import dynamo.langgraph.store.base, langgraph.store.base
        assert dynamo.langgraph.store.base is langgraph.store.base
        try:
            import dynamo.langgraph.checkpoint.nothing
        except ModuleNotFoundError as error:
            print(error)
    """)
    assert status == 0 and "dynamo[langgraph]" in text, text


def test_an_interrupted_run_resumes_without_install():
    status, text = run("""
        import operator
        from typing import Annotated, TypedDict
        from dynamo.langgraph.checkpoint.memory import InMemorySaver
        from dynamo.langgraph.graph import END, START, StateGraph
        from dynamo.langgraph.types import Command, interrupt

        class State(TypedDict):
            log: Annotated[list, operator.add]

        graph = StateGraph(State)
        graph.add_node("ask", lambda state: {"log": [interrupt("go on?")]})
        graph.add_edge(START, "ask")
        graph.add_edge("ask", END)
        app, config = graph.compile(checkpointer=InMemorySaver()), {"configurable": {"thread_id": "1"}}
        print(app.invoke({"log": []}, config)["__interrupt__"][0].value)
        assert app.get_state(config).next == ("ask",)
        assert app.invoke(Command(resume="yes"), config) == {"log": ["yes"]}
    """)
    assert status == 0 and text.strip() == "go on?", text


def test_a_program_runs_unchanged(tmp_path):
    script = tmp_path / "program.py"
    script.write_text(
        "import sys\nfrom langgraph.types import Send\nimport helper\n"
        "print(Send.__module__, sys.argv[1:], __name__, helper.x)\n"
    )
    (tmp_path / "helper.py").write_text("import langgraph.types as t, dynamo.langgraph.types as o\nx = t is o\n")
    status, text = run("", "-m", "dynamo.langgraph", str(script), "--flag", "1")
    assert status == 0 and text.strip() == "langgraph.types ['--flag', '1'] __main__ True", text


def test_the_command_teaches():
    status, text = run("", "-m", "dynamo.langgraph", "--help")
    assert status == 0 and "SCRIPT" in text and "agent.py" in text
    status, text = run("", "-m", "dynamo.langgraph", "nowhere.py")
    assert status == 2 and "nowhere.py" in text
