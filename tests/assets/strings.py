"""A thousand strings in many scripts, always the same."""

import random

RANGES = [
    *[(0x20, 0x7F)] * 6,
    *[(0xA0, 0x250), (0x370, 0x400), (0x400, 0x530), (0x590, 0x600), (0x600, 0x700), (0x900, 0x980), (0xE00, 0xE80)],
    *[(0x1100, 0x1200), (0x3040, 0x3100), (0x4E00, 0x5000), (0xAC00, 0xAD00), (0x1F300, 0x1F650), (0x2000, 0x2100)],
    *[(0x1D400, 0x1D4FF), (0, 0x20), (0x300, 0x370)],
]
TEXT = (
    "the quick brown fox Paris def main ( ) : == 'll 's 'RE don't I'm 12345 1,000 ... ?! x=y; HTTPServer "
    "camelCase <|im_start|> <|im_end|> <|endoftext|> <s> </s> <tool> <unk> <eos> <start_of_turn> [unused] "
    "<0x41> naïve łódź 日本語 東京 привет こんにちは 한국어 สวัสดี नमस्ते שלום مرحبا 🎉 👩‍👩‍👧 é ﷽ aaaaaa ---- ==== ½ ² "
    "ⅷ "
)
WORDS = [
    *TEXT.split(),
    *("\u2581", "\u2581\u2581", "\ufffd", "\x00", "\xa0", "\u3000", "\n\n", "\n", "\t", "\r\n"),
    *(" ", "  ", "   ", "     "),
]


def strings(count: int = 1000) -> list[str]:
    pick = random.Random(7)
    out = ["", " ", "  ", "\n", "Hello world", "a" * 60, " leading", "trailing ", "<s", "s>", "<s></s>"]

    def letters(low: int, high: int, most: int) -> str:
        return "".join(chr(pick.randrange(low, high)) for _ in range(pick.randrange(1, most)))

    while len(out) < count:
        kind = pick.random()
        if kind < 0.5:
            out.append(letters(*pick.choice(RANGES), 30))
        elif kind < 0.9:
            out.append(pick.choice(["", " "]).join(pick.choice(WORDS) for _ in range(pick.randrange(1, 30))))
        else:
            out.append("".join(letters(*pick.choice(RANGES), 2) for _ in range(pick.randrange(1, 100))))
    return out
