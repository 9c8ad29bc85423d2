"""DYN_LOG and DYN_LOGGING_*: one level and one form for the lines of C and of Python."""

import json
import re
import subprocess
import sys
import textwrap

import pytest

from dynamo import errors
from dynamo.runtime.logging import levels

# A runtime, then lines of the C library and of Python.
PROGRAM = """
    import asyncio, logging
    {before}
    from dynamo.runtime import DistributedRuntime
    async def main():
        DistributedRuntime(asyncio.get_running_loop(), "mem").shutdown()
    asyncio.run(main())
    from dynamo._core import log_message
    for level in ("debug", "info", "warn", "error"):
        log_message(level, f"c {{level}} \\"quoted\\" ä \\n end", "dynamo.service", "x.rs", 1)
    for name in ("dynamo.router", "dynamo.frontend", "other"):
        for level in ("debug", "info", "warning"):
            getattr(logging.getLogger(name), level)("%s %s", name, level)
    try:
        1 / 0
    except ZeroDivisionError:
        logging.getLogger("dynamo.frontend").exception("it broke")
"""


def lines(run_python, before="", **env):
    process = run_python("-c", textwrap.dedent(PROGRAM.format(before=before)), env=env, stderr=subprocess.PIPE)
    _, said = process.communicate(timeout=60)
    assert process.returncode == 0, said
    return said.splitlines()


def test_one_variable_sets_the_level_of_c_and_python(run_python):
    said = lines(run_python, DYN_LOG="info")
    stamp = r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}Z"
    assert any(re.fullmatch(stamp + r"  INFO dynamo\.router: dynamo\.router info", line) for line in said), said
    assert any(re.match(stamp + r"  INFO dynamo\.service: c info", line) for line in said), said
    assert any("ERROR dynamo.frontend: it broke" in line for line in said)
    assert any("ZeroDivisionError" in line for line in said)
    assert not any("debug" in line or "other info" in line for line in said)


def test_a_part_may_have_a_level_of_its_own(run_python):
    said = "\n".join(lines(run_python, DYN_LOG="error,dynamo.router=debug"))
    assert "DEBUG dynamo.router: dynamo.router debug" in said
    assert "dynamo.frontend warning" not in said and "c warn" not in said and "c error" in said
    assert levels("warn, dynamo_router::queue = trace ,other=off") == {
        "": "warn",
        "dynamo.router.queue": "trace",
        "other": "off",
    }
    with pytest.raises(errors.InvalidArgument, match="DYN_LOG: 'x' is no level; it must be one of trace, debug"):
        levels("info,dynamo=x")


def test_lines_can_be_json_objects(run_python):
    said = lines(run_python, DYN_LOG="info", DYN_LOGGING_JSONL="1")
    assert [line for line in said if line[0] != "{"] == ["other warning"]  # not one of ours
    said = [json.loads(line) for line in said if line[0] == "{"]
    assert {line["target"] for line in said} >= {"dynamo.router", "dynamo.frontend", "dynamo.service"}
    by_c = [line["message"] for line in said if line["target"] == "dynamo.service"]
    assert by_c == [f'c {level} "quoted" ä \n end' for level in ("info", "warn", "error")]
    broke = next(line for line in said if line["message"] == "it broke")
    assert broke["level"] == "ERROR" and "ZeroDivisionError" in broke["traceback"]


def test_times_can_be_local(run_python):
    said = lines(run_python, DYN_LOG="info", DYN_LOG_USE_LOCAL_TZ="yes", TZ="Etc/GMT-3")
    assert said and sum(bool(re.match(r"\S+\.\d{3}\+03:00 ", line)) for line in said) >= 8, said


def test_a_program_with_logging_of_its_own_keeps_it(run_python):
    before = "logging.basicConfig(format='mine %(message)s', level=logging.WARNING)"
    said = lines(run_python, before, DYN_LOG="info")
    assert "mine dynamo.router info" in said  # the level is ours to set, the form is theirs
    assert sum("dynamo.router info" in line for line in said) == 1


def test_without_a_variable_nothing_is_touched(run_python):
    said = lines(run_python)
    assert "dynamo.router warning" in said and not any("info" in line for line in said)


@pytest.mark.skipif(sys.version_info < (3, 11), reason="tomllib came with 3.11")
def test_a_file_can_say_it(run_python, tmp_path):
    file = tmp_path / "logging.toml"
    file.write_text('log_level = "error"\n[log_filters]\n"dynamo_router" = "debug"\n')
    said = "\n".join(lines(run_python, DYN_LOGGING_CONFIG_PATH=str(file)))
    assert "dynamo.router debug" in said and "dynamo.frontend warning" not in said and "c warn" not in said
    said = "\n".join(lines(run_python, DYN_LOGGING_CONFIG_PATH=str(file), DYN_LOG="warn"))
    assert "dynamo.router debug" in said and "dynamo.frontend warning" in said  # the variable wins where both speak
