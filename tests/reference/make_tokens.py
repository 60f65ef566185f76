#!/usr/bin/env python3
"""Writes the golden tokens: what transformers' CLIPTokenizer makes of some two hundred prompts.

    python3 tests/reference/make_tokens.py

Needs transformers. The vocabulary is made from the merges that the engine ships, as OpenAI's tokenizer makes it. Two
tokenizers: `clip-l` pads with <|endoftext|>, `clip-g` (SDXL's second) with `!`. Beside the tokens lies what transformers
writes as tokenizer.json, without vocabulary and merges.
"""

import json
import random
import tempfile
from pathlib import Path

from transformers import CLIPTokenizer

HERE = Path(__file__).resolve().parent
MERGES = HERE.parent.parent / "gpu-worker" / "engine" / "src" / "tokenize" / "clip" / "merges.txt"
FOLDER = HERE / "golden" / "tokens"
MARKS = ["<|startoftext|>", "<|endoftext|>"]

PROMPTS = [
    "", " ", "\n\t ", "a", "A", "a photo of a cat", "a photo of a cat, highly detailed, 8k, artstation",
    "masterpiece, best quality, 1girl, solo, long hair, looking at viewer, blue eyes, smile, outdoors, (depth of field:1.2)",
    "An Astronaut Riding A Horse On Mars", "it's we're I've don't she'd I'm they'll 's 're 've 'm 'll 'd IT'S WE'RE",
    "hello!", "!", "!!", "!!!", "! !", "wow! really ! no!way", "100% 3.14 1,000,000 12345 ½ ² Ⅷ ٣",
    "café cafe\u0301 Ångström A\u030angstro\u0308m naïve Übergröße ß ẞ", "ﬁ ﬂ ﬀ ﬃ ligatures ﬆ",
    "日本語のプロンプト", "漢字と kana かな カナ ﾊﾝｶｸ", "한국어 프롬프트", "русский текст", "ЁЖИК ёжик", "Ελληνικά ΣΊΣΥΦΟΣ σς",
    "العربية نص", "עברית", "ไทย ภาษา", "हिन्दी देवनागरी", "İstanbul I ı i dotless", "ǅ ǆ Ǆ titlecase",
    "😀", "😀😃 emoji 👩‍🚀 👨‍👩‍👧‍👦 🏳️‍🌈 👍🏽 flags 🇫🇷🇯🇵", "❤️ ♥ ☃ ☂ ™ © ® € £ ¥", "\u200bzero\u200bwidth\u200d joiner\ufeff",
    "control \x00 \x01 \x07 \x1b \x7f chars", "a\u00a0b\u2003c\u3000d\u2028e\u2029f", "tab\tnew\nline\r\nreturn", "   leading and trailing   ",
    "many     spaces    inside", "<|startoftext|>", "<|endoftext|>", "<|startoftext|>a cat<|endoftext|>", "a <|endoftext|> b",
    "<|ENDOFTEXT|> <|endoftext|><|endoftext|>", "< |endoftext| >", "<|endoftext", "cat<|startoftext|>dog", "</w>", "a</w> b</w>",
    "x" * 300, "ab" * 200, "supercalifragilisticexpialidocious" * 5, "a" * 76 + " " + "b" * 76, "é" * 100, "😀" * 60,
    "word " * 75, "word " * 76, "word " * 77, "word " * 200, "a,b;c:d.e!f?g(h)i[j]k{l}m|n\\o/p", "(((nested))) [[[x]]] {{{y}}}",
    "\\(escaped\\) (a:1.3) [b] BREAK AND <lora:name:0.8>", "http://example.com/a?b=c&d=e#f", "user@example.org", "C++ C# .NET F#",
    "snake_case camelCase kebab-case __dunder__", "1girl 2boys 3d 4k 8K 16:9 f/1.8 85mm ISO100", "$100 €50 #hashtag @mention ~tilde ^caret `tick`",
    "“curly” ‘quotes’ – — … • ‣", "'single' \"double\" '''triple'''", "don''t 'tis rock'n'roll", "&amp; &lt;tag&gt; <b>bold</b>",
    "\U0001d573\U0001d58a\U0001d591\U0001d591\U0001d594 math", "ＦＵＬＬＷＩＤＴＨ ｔｅｘｔ １２３", "a\u0301\u0302\u0303 stacked", "\u1100\u1161\u11a8 jamo",
    "\U0010ffff \ue000 \ufffd \ufffe", "ⅰⅱⅲ ①②③ ㍿ ㎏", "Ω Ω K K Å Å", "ª º µ μ", "\u0345 \u1fb3 ᾳ", "x\u0305y\u0305",
    "a photo of a sks dog", "portrait of emma, oil on canvas, by greg rutkowski", "trending on artstation", "ugly, blurry, low quality, jpeg artifacts",
]


def random_prompts(count):
    source = random.Random(7)
    words = "cat dog castle Forest NEON light cinematic 4k éclair ünder 東京 мир 🙂 it's end-of-line (x:1.1) !!! 42 <|endoftext|> \u0301 \u200d".split(" ")
    ranges = [(0x20, 0x7e), (0xa0, 0x24f), (0x370, 0x52f), (0x600, 0x6ff), (0x900, 0x97f), (0x2000, 0x2bff), (0x3040, 0x30ff), (0x1f300, 0x1f6ff)]
    prompts = []
    for number in range(count):
        if number % 2:
            prompts.append(" ".join(source.choice(words) for _ in range(source.randint(1, 60))))
        else:
            low, high = source.choice(ranges)
            prompts.append("".join(chr(source.randint(low, high)) for _ in range(source.randint(1, 40))))
    return prompts


def byte_symbols():
    kept = [*range(ord("!"), ord("~") + 1), *range(ord("¡"), ord("¬") + 1), *range(ord("®"), ord("ÿ") + 1)]
    return [chr(byte) for byte in kept] + [chr(256 + number) for number in range(256 - len(kept))]


def vocabulary(merges):
    symbols = byte_symbols()
    words = symbols + [symbol + "</w>" for symbol in symbols] + ["".join(pair) for pair in merges] + MARKS
    return {word: number for number, word in enumerate(words)}


def main():
    merges = [tuple(line.split(" ")) for line in MERGES.read_text().split("\n")[1:] if line]
    vocab = vocabulary(merges)
    assert len(vocab) == 49408
    FOLDER.mkdir(parents=True, exist_ok=True)
    prompts = PROMPTS + random_prompts(110)
    cases = [{"text": prompt} for prompt in prompts]
    for name, pad in [("clip-l", "<|endoftext|>"), ("clip-g", "!")]:
        tokenizer = CLIPTokenizer(vocab=vocab, merges=merges, pad_token=pad, model_max_length=77)
        for case in cases:
            ids = tokenizer(case["text"], add_special_tokens=False)["input_ids"]
            padded = tokenizer(case["text"], padding="max_length", truncation=True, max_length=77)["input_ids"]
            kept = ids[:75]
            assert padded == [49406, *kept, 49407, *[tokenizer.pad_token_id] * (75 - len(kept))], case
            case[name] = ids
            if name == "clip-l":
                case["decoded"] = tokenizer.decode(ids, skip_special_tokens=True)
        with tempfile.TemporaryDirectory() as folder:
            tokenizer.save_pretrained(folder)
            document = json.loads((Path(folder) / "tokenizer.json").read_text())
            document["model"]["vocab"], document["model"]["merges"] = {}, []
            frame = json.dumps(document, indent=1, ensure_ascii=True)
            (FOLDER / f"{name}.json").write_text(frame + "\n")
    for case in cases:
        if case["clip-g"] == case["clip-l"]:
            del case["clip-g"]
    lines = ",\n".join(json.dumps(case, ensure_ascii=True) for case in cases)
    (FOLDER / "cases.json").write_text(f"[\n{lines}\n]\n")
    print(len(cases), "prompts,", sum("clip-g" in case for case in cases), "differ in the second tokenizer")


if __name__ == "__main__":
    main()
