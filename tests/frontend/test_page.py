"""The live page in a real browser: what it shows comes from the state, names of others are only text."""

import asyncio
import json
import shutil

import pytest

from .stack import run, says, stack

HI = [{"role": "user", "content": "hi"}]
NASTY = "m<script>document.title='broken'</script>"


async def browse(url, *more):
    process = await asyncio.create_subprocess_exec(
        shutil.which("chromium") or shutil.which("google-chrome"), "--headless", "--no-sandbox", "--disable-gpu",
        "--disable-dev-shm-usage", "--virtual-time-budget=4000", *more, "--dump-dom", url + "/",
        stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.DEVNULL,
    )  # fmt: skip
    try:
        out, _ = await asyncio.wait_for(process.communicate(), 60)
    finally:
        if process.returncode is None:
            process.kill()
    return out.decode("utf-8", "replace")


@pytest.mark.skipif(not (shutil.which("chromium") or shutil.which("google-chrome")), reason="no headless browser")
def test_the_page_shows_workers_and_requests_and_runs_no_names(tmp_path):
    async def main():
        async with stack(tmp_path, router="kv") as s:
            workers = [await s.worker(says("Hello there"), name=NASTY) for _ in range(2)]
            for _ in range(3):
                await s.client.chat.completions.create(model=NASTY, messages=HI)
            await s.quiet()
            dom = await browse(s.url)
            assert 'data-ready="yes"' in dom and "<title>dynamo</title>" in dom
            for worker in workers:
                assert f"{worker.id:x}" in dom
            assert "m&lt;script&gt;" in dom and NASTY not in dom
            assert "as-predicted" in dom and "KV: " in dom and "cost" in dom

    run(main(), 100)


def test_the_page_is_one_file_and_its_events_are_the_state(tmp_path):
    async def main():
        async with stack(tmp_path) as s:
            page = (await s.http.get("/")).text
            assert "http://" not in page.replace("http://www.w3.org/2000/svg", "") and "https://" not in page
            assert "innerHTML" not in page  # everything goes through text nodes
            await s.worker(says("Hello there"))
            await s.client.chat.completions.create(model="m", messages=HI)
            await s.quiet()
            async with s.http.stream("GET", "/dashboard/events") as events:
                async for line in events.aiter_lines():
                    if line.startswith("data: "):
                        state = json.loads(line[6:])
                        break
            assert state["sums"]["requests"] == 1 and state["requests"][0]["state"] == "done"
            assert state["models"][0]["workers"][0]["state"] == "ready"
            assert state["requests"][0]["worker"] == state["models"][0]["workers"][0]["id"]

    run(main())
