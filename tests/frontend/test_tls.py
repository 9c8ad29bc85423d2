"""The front end over https."""

import argparse
import asyncio
import signal
import ssl
import threading

import httpx
import pytest

from dynamo.cli import CommandError
from dynamo.cli.options import add_frontend_options, check_frontend
from dynamo.frontend import Frontend
from dynamo.frontend.settings import Settings
from dynamo.runtime import DistributedRuntime
from tests.quill.authority import Authority


@pytest.fixture(scope="module")
def authority(tmp_path_factory):
    return Authority(tmp_path_factory.mktemp("authority"))


def test_a_front_end_serves_https(authority):
    context = ssl.create_default_context(cafile=authority("ca.pem"))

    async def main():
        runtime = DistributedRuntime(asyncio.get_running_loop(), "mem")
        settings = Settings.from_environment(
            {"DYN_TLS_CERT_PATH": authority("server.pem")}, tls_key_path=authority("server.key")
        )
        front = Frontend(runtime, port=0, settings=settings)
        await front.start()
        assert front.url.startswith("https://")
        async with httpx.AsyncClient(verify=context) as client:
            assert (await client.get(f"{front.url}/v1/models")).json()["data"] == []
        await front.stop(0.5)
        runtime.shutdown()

    asyncio.run(asyncio.wait_for(main(), 30))


@pytest.mark.parametrize("given", [["--tls-cert-path", "server.pem"], ["--tls-key-path", "server.key"]])
def test_half_of_it_is_refused_before_anything_starts(authority, given):
    parser = argparse.ArgumentParser()
    add_frontend_options(parser)
    with pytest.raises(CommandError, match="--tls-cert-path and --tls-key-path"):
        check_frontend(parser.parse_args([given[0], authority(given[1])]))
    with pytest.raises(CommandError, match=r"gone\.pem"):
        check_frontend(parser.parse_args(["--tls-cert-path", "gone.pem", "--tls-key-path", authority("server.key")]))


def test_serve_finds_its_own_front_end_over_https(authority, run_python):
    files = ["--tls-cert-path", authority("stranger.pem"), "--tls-key-path", authority("stranger.key")]
    process = run_python("-m", "dynamo", "serve", "--engine", "echo", "--port", "0", *files)
    late = threading.Timer(60, process.kill)
    late.start()
    said = []
    for line in process.stdout:
        said.append(line)
        if "Ctrl-C stops" in line:
            break
    text = "".join(said)
    assert "OpenAI clients   https://127.0.0.1:" in text
    assert f"curl -s --cacert {authority('stranger.pem')} https://" in text
    process.send_signal(signal.SIGINT)
    assert process.wait(30) == 0
    late.cancel()
