"""The example programs do what they say."""

import pathlib
import signal

EXAMPLE = pathlib.Path(__file__).resolve().parents[2] / "examples" / "hello_world"


def test_server_and_client(run_python):
    server = run_python(str(EXAMPLE / "server.py"))
    client = run_python(str(EXAMPLE / "client.py"))
    out, _ = client.communicate(timeout=30)
    assert out == "Hello, Ada!\nHello, Grace!\nHello, Barbara!\n"
    server.send_signal(signal.SIGINT)
    assert server.wait(30) == 0
    assert server.stdout.read() == "serving hello.greeter.generate; Ctrl-C stops\n"


def test_both_in_one_process(run_python):
    process = run_python(str(EXAMPLE / "both.py"))
    out, _ = process.communicate(timeout=30)
    assert (process.returncode, out) == (0, "Hello, Ada!\nHello, Grace!\n")
