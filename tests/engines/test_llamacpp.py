"""The real engine on a tiny model: what it makes, and that the mirror of its cache never lies."""

import asyncio
import os
import random
import signal
import threading
import time

import pytest

pytest.importorskip("xllamacpp")

from dynamo.engines.llamacpp import LlamaCppEngine, _spellings
from dynamo.errors import DynamoError, EngineShutdown, InvalidArgument, NotFound
from tests import tiny_gguf as tiny
from tests.engines.test_slots import Ledger

GREEDY = {"temperature": 0}


class Context:
    def __init__(self):
        self.stopped = False

    def id(self):
        return "1"

    def is_stopped(self):
        return self.stopped

    is_killed = is_stopped


class Run:
    """An engine and the loop it lives on."""

    def __init__(self, path, **options):
        self.loop = asyncio.new_event_loop()
        self.ledger, self.progress = Ledger(), []
        self.engine = LlamaCppEngine(path, threads=1, **{"slots": 3, "context_length": 512, **options})
        self.do(self.engine.start(self.ledger, lambda what, part: self.progress.append((what, part))))

    def do(self, work, seconds=60):
        return self.loop.run_until_complete(asyncio.wait_for(work, seconds))

    async def items(self, ids, context=None, **sections):
        return [item async for item in self.engine.generate({"token_ids": ids, **sections}, context or Context())]

    def ask(self, ids, max_tokens=8, sampling=None, context=None, output=None, **stop):
        sections = {"stop_conditions": {"max_tokens": max_tokens, **stop}, "sampling_options": sampling or GREEDY}
        items = self.do(self.items(ids, context, output_options=output or {}, **sections))
        assert all("finish_reason" not in item for item in items[:-1])
        return [i for item in items for i in item["token_ids"]], items[-1], items

    def settle(self):
        async def idle():
            while self.engine.stats().running:  # noqa: ASYNC110
                await asyncio.sleep(0.002)

        self.do(idle())

    def check(self):
        """No mirror was wrong, and what was announced is what the slots hold."""
        self.settle()
        counts = self.engine.counts
        assert counts["mirror_wrong_more"] == counts["mirror_wrong_less"] == 0
        assert set(self.ledger.held) == {block for slot in self.engine._slots.slots for block in slot.blocks}

    def close(self):
        self.do(self.engine.shutdown())
        self.loop.close()


@pytest.fixture(scope="module")
def run(tiny_gguf):
    run = Run(tiny_gguf)
    yield run
    run.check()
    run.close()


@pytest.fixture(scope="module", params=["spm", "bpe"])
def noisy(request, tmp_path_factory):
    path = tmp_path_factory.mktemp("noisy") / "noisy.gguf"
    tiny.make(path, request.param, noisy=True)
    run = Run(path)
    yield run
    run.close()


def prompt(seed, size=40):
    pick = random.Random(seed)
    return [1] + [pick.randrange(300, 560) for _ in range(size - 1)]


def test_the_engine_says_what_it_is(run, tiny_gguf):
    info = run.engine.info
    assert (info.model_name, info.context_length, info.block_size, info.max_num_seqs) == ("tiny", 512, 16, 3)
    assert info.total_kv_blocks == 3 * 512 // 16 and 2 in info.eos_token_ids
    assert info.assets == {"model": str(tiny_gguf)}
    assert ("reading the header", None) in run.progress and any(w == "loading the model" for w, _ in run.progress)


def test_the_same_prompt_is_reused_and_gives_the_same_tokens(run):
    first, end, _ = run.ask(prompt(1))
    assert len(first) == 8 and end["finish_reason"] == "length"
    assert end["completion_usage"]["prompt_tokens_details"] == {"cached_tokens": 0}
    again, end, _ = run.ask(prompt(1))
    assert end["completion_usage"] == {
        "prompt_tokens": 40,
        "completion_tokens": 8,
        "total_tokens": 48,
        "prompt_tokens_details": {"cached_tokens": 39},
    }
    _, end, _ = run.ask(prompt(1) + again + prompt(2, 10))
    assert end["completion_usage"]["prompt_tokens_details"]["cached_tokens"] == 47  # the last token was never computed
    run.check()


def test_a_shared_prefix_is_copied_between_slots(run):
    before = run.engine.counts["copied_prefixes"]
    system = prompt(3, 100)
    run.ask(system + prompt(4, 60))
    _, end, _ = run.ask(system + prompt(5, 60))
    assert run.engine.counts["copied_prefixes"] == before + 1
    assert end["completion_usage"]["prompt_tokens_details"]["cached_tokens"] == 101
    _, end, _ = run.ask(system + prompt(4, 60))  # and the first conversation is still there
    assert end["completion_usage"]["prompt_tokens_details"]["cached_tokens"] == 159
    run.check()


def test_the_first_item_already_says_what_the_cache_gave(run):
    ids = prompt(77, 64)
    for first in (True, False):
        _, _, items = run.ask(ids)
        data = items[0]["engine_data"]
        assert data["cached_tokens"] == data["mirror_tokens"]  # a busy machine may put the whole answer into one item
        assert data["cached_tokens"] <= 1 if first else data["cached_tokens"] == 63  # the BOS may be there already
        assert not any("engine_data" in item for item in items[1:])
    run.check()


def test_a_cause_says_why_the_cache_has_not_what_the_router_expected(run):
    system, mine = prompt(78, 96), prompt(79, 30)

    async def beside(busy, ids, expected):
        context = Context()
        first = run.engine.generate({"token_ids": busy, "stop_conditions": {"ignore_eos": True}}, context)
        await first.__anext__()
        request = {"token_ids": ids, "estimated_prefix_hit_num_blocks": expected}
        items = [i async for i in run.engine.generate({**request, "stop_conditions": {"max_tokens": 3}}, Context())]
        context.stopped = True
        async for _ in first:
            pass
        return items[0]["engine_data"]

    run.do(run.items(system + mine, stop_conditions={"max_tokens": 2}))
    data = run.do(beside(system + mine, system + mine + prompt(80, 9), 7))
    assert data["cause"] == "slot-busy" and data["cached_tokens"] == data["mirror_tokens"] < 96
    run.settle()
    fresh = prompt(81, 40)
    assert run.do(beside(prompt(82), fresh, 2))["cause"] == "slot-taken"
    assert run.do(beside(prompt(83), fresh, 1))["cause"] == "stored-since"
    assert "cause" not in run.do(beside(prompt(84), fresh, 2))
    run.check()


def test_who_comes_right_after_a_cancelled_answer_waits_for_its_slot(run):
    async def main():
        ids, context, made = prompt(85, 64), Context(), []
        async for item in run.engine.generate({"token_ids": ids, "stop_conditions": {"ignore_eos": True}}, context):
            made += item["token_ids"]
            if len(made) > 5:
                context.stopped = True
        items = await run.items(ids + made + prompt(86, 5), stop_conditions={"max_tokens": 2})
        return items[0]["engine_data"]

    data = run.do(main())
    assert data["cached_tokens"] >= 64 and data.get("cause", "") in ("", "mirror-knew-less"), data
    run.check()


def test_more_requests_than_slots_wait_their_turn(run):
    async def many():
        tasks = [asyncio.create_task(run.items(prompt(i), stop_conditions={"max_tokens": 5})) for i in range(10, 19)]
        await asyncio.sleep(0)
        await asyncio.sleep(0)
        assert run.engine.stats().running == 3 and run.engine.stats().waiting == 6
        return await asyncio.gather(*tasks)

    answers = run.do(many())
    assert all(sum(len(item["token_ids"]) for item in items) == 5 for items in answers)
    run.check()


def test_conversations_side_by_side_keep_the_mirror_true(run):
    """Several turns each, shared beginnings, some cancelled: every answer's cache_n is compared by the engine."""
    pick = random.Random(9)
    systems = [prompt(50 + i, 64) for i in range(2)]

    async def talk(n):
        history = systems[n % 2] + prompt(60 + n, 10)
        for turn in range(4):
            context = Context()
            if pick.random() < 0.3:
                asyncio.get_running_loop().call_later(pick.random() * 0.02, setattr, context, "stopped", True)
            items = await run.items(history, context, stop_conditions={"max_tokens": pick.randrange(1, 40)})
            history = history + [i for item in items for i in item["token_ids"]] + prompt(100 * n + turn, 8)

    async def all_of_them():
        await asyncio.gather(*(talk(n) for n in range(6)))

    run.do(all_of_them())
    run.check()
    assert run.engine.counts["mirror_agreed"] > 20


def test_stop_tokens_end_an_answer_unless_it_is_too_short(run):
    made, _, _ = run.ask(prompt(20), max_tokens=12)
    at = made.index(made[5])
    short, end, _ = run.ask(prompt(20), max_tokens=12, stop_token_ids=[made[5]])
    assert short == made[: at + 1] and (end["finish_reason"], end["stop_reason"]) == ("stop", made[5])
    held, end, _ = run.ask(prompt(20), max_tokens=12, stop_token_ids=[made[0]], min_tokens=4)
    assert len(held) >= 4 and made[0] not in held[:4]
    run.check()


def test_a_seed_makes_sampling_repeatable(run):
    hot = {"temperature": 1.5, "top_p": 0.95, "top_k": 50, "min_p": 0.01, "seed": 7}
    first, _, _ = run.ask(prompt(21), 20, hot)
    assert run.ask(prompt(21), 20, hot)[0] == first != run.ask(prompt(21), 20, {**hot, "seed": 8})[0]


def test_penalties_change_what_is_said(run):
    plain, _, _ = run.ask(prompt(22), 40)
    varied, _, _ = run.ask(prompt(22), 40, {**GREEDY, "repetition_penalty": 1.5, "frequency_penalty": 2.0})
    assert len(set(varied)) > len(set(plain))


def test_logprobs_come_with_every_token(run):
    made, _, items = run.ask(prompt(23), 6, output={"logprobs": 3})
    log_probs = [p for item in items for p in item.get("log_probs", [])]
    top = [t for item in items for t in item.get("top_logprobs", [])]
    assert len(log_probs) == len(top) == 6
    for token, log_prob, best in zip(made, log_probs, top, strict=True):
        assert [one["rank"] for one in best] == [1, 2, 3] and best[0]["token_id"] == token
        assert best[0]["logprob"] == pytest.approx(log_prob) and log_prob < 0


def test_a_grammar_guides_the_answer(run):
    guided = {**GREEDY, "guided_decoding": {"choice": ["the fox", "a dog"]}}
    made, end, _ = run.ask(prompt(24), 30, guided)
    text = run.engine._tokenizer.decode([i for i in made if i not in run.engine.info.eos_token_ids])
    assert text.strip() in ("the fox", "a dog") and end["finish_reason"] == "eos"
    with pytest.raises(InvalidArgument, match=r"guided_decoding\.regex"):
        run.ask(prompt(24), 5, {"guided_decoding": {"regex": "a*"}})


def test_a_stopped_request_ends_soon_and_leaves_a_true_mirror(run):
    context = Context()

    async def stop_after_some():
        made = 0
        request = {"token_ids": prompt(25), "stop_conditions": {"max_tokens": 400}}
        async for item in run.engine.generate(request, context):
            made += len(item["token_ids"])
            if made >= 10:
                context.stopped = True
        return made, item

    made, end = run.do(stop_after_some())
    assert end["finish_reason"] == "cancelled" and made < 400
    run.settle()
    run.ask(prompt(25), 3)
    run.check()


def test_a_dropped_iterator_frees_its_slot(run):
    async def drop():
        answer = run.engine.generate({"token_ids": prompt(26), "stop_conditions": {"max_tokens": 400}}, Context())
        async for _ in answer:
            break
        await answer.aclose()

    for _ in range(4):
        run.do(drop())
    run.settle()
    run.ask(prompt(26), 3)
    run.check()


def test_a_request_stopped_in_the_queue_never_runs(run):
    async def crowd():
        running = [asyncio.create_task(run.items(prompt(i), stop_conditions={"max_tokens": 200})) for i in range(3)]
        await asyncio.sleep(0.01)
        context = Context()
        waiting = asyncio.create_task(run.items(prompt(5), context))
        await asyncio.sleep(0.01)
        context.stopped = True
        items = await waiting
        dropped = asyncio.create_task(run.items(prompt(6)))
        await asyncio.sleep(0.01)
        dropped.cancel()
        await asyncio.gather(*running)
        return items

    items = run.do(crowd())
    if run.engine.stats().waiting == 0 and items[0]["token_ids"] == []:
        assert items[-1]["finish_reason"] == "cancelled"
    run.check()


@pytest.mark.parametrize(
    "request_, reason",
    [
        ({"token_ids": [1] * 512}, "context of 'tiny' is 512"),
        ({"token_ids": []}, "empty"),
        ({"token_ids": [567]}, "567: the vocabulary has 567 tokens"),
        ({"token_ids": [1], "sampling_options": {"temperature": "hot"}}, "temperature"),
        ({"token_ids": [1], "sampling_options": {"guided_decoding": {"grammar": "root ::= ("}}}, "engine refuses"),
    ],
)
def test_what_cannot_be_served_is_refused(run, request_, reason):
    async def ask():
        return [item async for item in run.engine.generate(request_, Context())]

    with pytest.raises(InvalidArgument, match=reason):
        run.do(ask())
    run.check()


def test_an_answer_may_fill_the_context(run):
    made, end, _ = run.ask(prompt(27, 500), max_tokens=10_000)
    assert len(made) == 12 and end["finish_reason"] == "length"
    run.check()


def test_hidden_halves_of_characters_never_make_the_mirror_lie(noisy):
    """A model that writes broken characters: every text is complete, and nothing unsure is announced."""
    for seed in range(12):
        ids, engine = prompt(200 + seed, 30), noisy.engine  # ids that both vocabularies have
        made, end, _ = noisy.ask(ids, 60, {"temperature": 1.0, "seed": seed}, ignore_eos=True)
        assert len(made) == 60 and end["completion_usage"]["completion_tokens"] == 60
        noisy.ask(ids + made, 4, {"temperature": 1.0, "seed": 1})
        assert engine.counts["mirror_wrong_more"] == engine.counts["mirror_wrong_less"] == 0
    assert engine.counts["tokens_hidden"] > 0


def test_the_bytes_of_a_character_tell_the_hidden_tokens(run):
    tokenizer = run.engine._tokenizer
    for character in "日Å𓀀🎉":  # none of them is a piece of the vocabulary
        ids = tokenizer.encode(character, add_special=False)[1:].tolist()
        assert len(ids) == len(character.encode())
        assert run.engine._hidden(len(ids) - 1, ids[-1:], character, None) == (ids[:-1], True)
        assert run.engine._hidden(len(ids) - 1, ids[-1:], "\ufffd", list(character.encode())) == (ids[:-1], True)
    guess, sure = run.engine._hidden(2, ids[-1:], "\ufffd\ufffd", None)
    assert not sure and len(guess) <= 2


def test_embeddings_come_from_a_second_server(tiny_gguf):
    run = Run(tiny_gguf, embeddings=True, slots=1, context_length=128)
    assert run.engine.info.embeds
    one, two, again = run.do(run.engine.embed({"batch_token_ids": [[1, 300, 301], [1, 310], [1, 300, 301]]}, Context()))
    assert len(one) == 64 and one == again != two and sum(x * x for x in one) == pytest.approx(1, abs=1e-3)
    with pytest.raises(InvalidArgument, match="nothing to embed"):
        run.do(run.engine.embed({"batch_token_ids": []}, Context()))
    with pytest.raises(InvalidArgument, match="128"):
        run.do(run.engine.embed({"batch_token_ids": [[1] * 200]}, Context()))
    run.close()


def test_an_end_token_ends_the_answer(noisy):
    for seed in range(20):
        made, end, _ = noisy.ask(prompt(300 + seed), 300, {"temperature": 1.0, "seed": seed})
        if end["finish_reason"] == "eos":
            assert made[-1] in noisy.engine.info.eos_token_ids
            assert not set(made[:-1]) & set(noisy.engine.info.eos_token_ids)
            break
    else:
        pytest.fail("no answer of twenty ended by itself")
    made, end, _ = noisy.ask(prompt(300 + seed), 300, {"temperature": 1.0, "seed": seed}, ignore_eos=True)
    assert len(made) == 300 and end["finish_reason"] == "length"


def test_loading_and_computing_leave_the_gil_alone(tiny_gguf):
    gaps, done = [], threading.Event()

    def tick():
        last = time.perf_counter()
        while not done.is_set():
            time.sleep(0.001)
            now = time.perf_counter()
            gaps.append(now - last)
            last = now

    ticker = threading.Thread(target=tick)
    ticker.start()
    try:
        run = Run(tiny_gguf)
        run.ask(prompt(1, 400), 50)
        run.close()
    finally:
        done.set()
        ticker.join()
    assert max(gaps) < 1.0  # a machine that runs other tests; a load that holds it takes longer


def test_a_dead_server_is_noticed_and_its_cache_is_cleared(tiny_gguf):
    run = Run(tiny_gguf)
    run.ask(prompt(1), 5)
    assert run.ledger.held

    async def die():
        request = {"token_ids": prompt(2), "stop_conditions": {"max_tokens": 400}}
        answer = run.engine.generate(request, Context())
        async for _ in answer:
            os.kill(run.engine._server._process.pid, signal.SIGKILL)
        return await run.engine.failed()

    with pytest.raises(EngineShutdown):
        run.do(die())
    assert "died" in str(run.do(run.engine.failed()))
    assert run.ledger.held == {}
    with pytest.raises(EngineShutdown, match="died"):
        run.ask(prompt(1), 5)
    run.close()


def test_what_cannot_be_loaded_is_refused_with_its_reason(tmp_path, tiny_gguf):
    def start(path, **options):
        async def work():
            engine = LlamaCppEngine(path, **options)
            try:
                await engine.start()
            finally:
                await engine.shutdown()

        asyncio.run(asyncio.wait_for(work(), 60))

    with pytest.raises(NotFound, match="no such model"):
        start(tmp_path / "none.gguf")
    (tmp_path / "text.gguf").write_text("not a model, but long enough to look")
    with pytest.raises(InvalidArgument, match="does not begin"):
        start(tmp_path / "text.gguf")
    (tmp_path / "cut.gguf").write_bytes(tiny_gguf.read_bytes()[:-200_000])
    with pytest.raises(DynamoError, match=r"cut short|cannot load"):
        start(tmp_path / "cut.gguf")
    with pytest.raises(InvalidArgument, match="at most 8192"):
        start(tiny_gguf, context_length=10_000)
    with pytest.raises(InvalidArgument, match="the engine's own"):
        LlamaCppEngine(tiny_gguf, options={"ctx_shift": True})


def test_spellings_finds_one_two_or_no_way():
    pieces = {b"a": [1], b"b": [2], b"ab": [3], b"\xe2": [4], b"\x82": [5], b"x": [6, 7]}
    assert _spellings(b"\xe2\x82", 2, pieces, 2) == [[4, 5]]
    assert _spellings(b"ab", 1, pieces, 2) == [[3]] and _spellings(b"ab", 2, pieces, 2) == [[1, 2]]
    assert len(_spellings(b"x", 1, pieces, 2)) == 2
    assert _spellings(b"ab", 3, pieces, 2) == [] == _spellings(b"zz", 2, pieces, 2)
    assert _spellings(b"a" * 300, 40, {b"a": [1], b"aa": [2]}, 2) == []
