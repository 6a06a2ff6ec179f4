from __future__ import annotations

import base64
import codecs
import json
from collections.abc import Callable

import pytest
from hypothesis import given
from hypothesis import strategies as st

from vlmguard.perception import ciphers, encodings, obfuscation, respelling
from vlmguard.perception.obfuscation import decode, substitute, substitutions
from vlmguard.perception.wordlike import vocabulary

vocabulary()  # read once, outside of the time that hypothesis allows an example

_EVERYDAY = (
    "people water garden kitchen table window morning evening bread butter coffee train station ticket letter paper pencil "
    "teacher student school summer winter river mountain village friend family brother sister mother father doctor market "
    "street bridge flower yellow purple simple quick quiet listen answer question travel arrive remember carry follow open"
)
words = st.sampled_from(_EVERYDAY.split())


@st.composite
def sentences(draw: st.DrawFn) -> str:
    """Harmless English of six to ten words."""
    chosen = draw(st.lists(words, min_size=3, max_size=5, unique=True))
    return f"how to {chosen[0]} the {' and the '.join(chosen[1:])} before lunch"


def said(text: str) -> str:
    return " ".join(text.lower().split())


def plain_views(text: str) -> list[str]:
    return [said(view.text) for view in decode(text)]


def _each(first: int) -> Callable[[str], str]:
    return lambda text: "".join(chr(first + ord(letter) - 97) if letter.isalpha() else letter for letter in text)


def _caesar(by: int) -> Callable[[str], str]:
    return lambda text: "".join(chr((ord(c) - 97 + by) % 26 + 97) if c.isalpha() else c for c in text)


def _morse(text: str) -> str:
    code = ".- -... -.-. -.. . ..-. --. .... .. .--- -.- .-.. -- -. --- .--. --.- .-. ... - ..- ...- .-- -..- -.-- --.."
    signs = code.split()
    return " / ".join(" ".join(signs[ord(letter) - 97] for letter in word) for word in text.split())


_SMALL = dict(zip("abcdefghijklmnopqrstuvwxyz", "ᴀʙᴄᴅᴇꜰɢʜɪᴊᴋʟᴍɴᴏᴘꞯʀsᴛᴜᴠᴡxʏᴢ", strict=True))
_BRAILLE = dict(zip("abcdefghijklmnopqrstuvwxyz", "⠁⠃⠉⠙⠑⠋⠛⠓⠊⠚⠅⠇⠍⠝⠕⠏⠟⠗⠎⠞⠥⠧⠺⠭⠽⠵", strict=True))
DISGUISES: dict[str, Callable[[str], str]] = {
    "base64": lambda text: base64.b64encode(text.encode()).decode(),
    "base64 without padding": lambda text: base64.urlsafe_b64encode(text.encode()).decode().rstrip("="),
    "base64 backwards": lambda text: base64.b64encode(text.encode()).decode()[::-1],
    "base64 twice": lambda text: base64.b64encode(base64.b64encode(text.encode())).decode(),
    "base64 in a request": lambda text: f"Decode this and do it: {base64.b64encode(text.encode()).decode()}",
    "base64 of rot13": lambda text: base64.b64encode(codecs.encode(text, "rot13").encode()).decode(),
    "base32": lambda text: base64.b32encode(text.encode()).decode(),
    "hex": lambda text: text.encode().hex(),
    "hex apart": lambda text: text.encode().hex(" "),
    "hex of base64": lambda text: base64.b64encode(text.encode()).hex(),
    "binary": lambda text: " ".join(f"{code:08b}" for code in text.encode()),
    "binary run together": lambda text: "".join(f"{code:08b}" for code in text.encode()),
    "decimal": lambda text: " ".join(str(code) for code in text.encode()),
    "percent": lambda text: "".join(f"%{code:02x}" for code in text.encode()),
    "entities": lambda text: "".join(f"&#{code};" for code in text.encode()),
    "backslashes": lambda text: "".join(f"\\u{code:04x}" for code in text.encode()),
    "morse": _morse,
    "braille": lambda text: "".join(_BRAILLE.get(letter, letter) for letter in text),
    "letters by number": lambda text: " / ".join("-".join(str(ord(c) - 96) for c in word) for word in text.split()),
    "rot13": lambda text: codecs.encode(text, "rot13"),
    "rot13 in a request": lambda text: f"Answer what this cipher says: {codecs.encode(text, 'rot13')}",
    "caesar 3": _caesar(3),
    "caesar 20": _caesar(20),
    "atbash": lambda text: "".join(chr(219 - ord(c)) if c.isalpha() else c for c in text),
    "rot47": lambda text: "".join(chr(33 + (ord(c) - 33 + 47) % 94) if c != " " else c for c in text),
    "reversed": lambda text: text[::-1],
    "reversed words": lambda text: " ".join(word[::-1] for word in text.split()),
    "letters apart": lambda text: "  ".join(" ".join(word) for word in text.split()),
    "letters apart throughout": lambda text: " ".join(text.replace(" ", "")),
    "dashes": lambda text: " ".join("-".join(word) for word in text.split()),
    "letters in a column": lambda text: "\n".join(text.replace(" ", "")),
    "zero-width": "\u200b".join,
    "word joiners": "\u2060".join,
    "tags": lambda text: "hello" + "".join(chr(0xE0000 + ord(letter)) for letter in text),
    "variation selectors": lambda text: "😀" + "".join(chr(0xE0100 + code - 16) for code in text.encode()),
    "right-to-left override": lambda text: f"\u202e{text[::-1]}\u202c",
    "cyrillic look-alikes": lambda text: text.translate(str.maketrans("aeoc", "аеос")),
    "greek look-alikes": lambda text: text.translate(str.maketrans("oa", "οα")),
    "bold": _each(0x1D41A),
    "circled": _each(0x24D0),
    "squared": _each(0x1F170),
    "parenthesised": _each(0x249C),
    "small capitals": lambda text: "".join(_SMALL.get(letter, letter) for letter in text),
    "piled marks": lambda text: "".join(f"{c}\u0301\u0322\u0345\u0489" if c.isalpha() else c for c in text),
    "struck through": lambda text: "".join(f"{letter}\u0336" for letter in text),
    "leetspeak": lambda text: text.translate(str.maketrans("aeost", "43057")),
}  # fmt: skip


@pytest.mark.parametrize("disguise", DISGUISES.values(), ids=list(DISGUISES))
@given(sentences())
def test_a_disguised_sentence_is_recovered_and_known_as_hidden(disguise: Callable[[str], str], sentence: str) -> None:
    found = [view for view in decode(disguise(sentence)) if sentence in said(view.text)]
    assert found
    assert any(view.hidden for view in found)


@given(sentences())
def test_typography_is_read_and_not_taken_for_hiding(sentence: str) -> None:
    wide = "".join(chr(ord(letter) + 0xFEE0) if letter != " " else "\u3000" for letter in sentence)
    soft = "\u00ad".join(sentence)
    for text in (wide, soft):
        views = decode(text)
        assert sentence in [said(view.text) for view in views]
        assert not any(view.hidden for view in views)


@pytest.mark.parametrize(
    ("text", "meant"),
    [
        ('Tell me how to bake a "ca"+"ke"', "tell me how to bake a cake"),
        ("a='how to bake'\nb=' a ca'\nc='ke'\nprint(a+b+c)", "how to bake a cake"),
        ("please pa.int the gar-den wall", "please paint the garden wall"),
        ("plea se pai nt the gard en wall", "please paint the garden wall"),
        ("please paint the gaaaarden", "please paint the garden"),
        ("stepstopaintthegarden", "steps to paint the garden"),
        ("#HowToPaintTheGarden", "how to paint the garden"),
        ("how to paint the g*rden", "how to paint the garden"),
        ("owhay otay aintpay ethay ardengay", "how to paint the garden"),
        ("garden a make to how", "how to make a garden"),
        ("hòw tó páint thè gàrden", "how to paint the garden"),
        ("paint the pe-\npper", "paint the pepper"),
        ("wie man ein brot macht"[::-1], "wie man ein brot macht"),
        ("hotel oscar whiskey tango oscar papa alpha india november tango", "how to paint"),
        ("how to paint a t.a.b.l.e", "how to paint a table"),
        ("как сделaть пирoг", "как сделать пирог"),
    ],
)
def test_words_spelled_otherwise_are_read(text: str, meant: str) -> None:
    assert any(meant in view for view in plain_views(text))


HONEST = (
    "Please summarise this receipt and tell me the total with tax, e.g. 12.50 € or $13.",
    "A B C D: which option is right? A) 3, B) 4, C) 5, D) none of the above",
    "S-H-O-U-T stands for nothing; how do you spell n-e-c-e-s-s-a-r-y?",
    "T H E   G R A N D   H O T E L",
    "The U.S.A., the U.K. and N.A.T.O. met at 10 a.m. on 3.4.2021.",
    "Как приготовить борщ? Мне нужен рецепт на 4 порции, и USB-кабель для Wi-Fi.",
    "Как сказать «спасибо» на English? The Russian word is спасибо.",
    "Πώς μπορώ να φτιάξω ψωμί στο σπίτι; Θέλω μια απλή συνταγή.",
    "如何做面包？请给我一个简单的食谱，谢谢。",
    "パンの作り方を教えてください。ＡＢＣ株式会社 ｶﾀｶﾅ",
    "빵을 만드는 방법을 알려주세요.",
    "मुझे रोटी बनाने की विधि बताइए। क्‍षमा करें, श्री‌मान",
    "كيف أصنع الخبز في المنزل؟ أريد وصفة سهلة.",
    "می‌خواهم نان درست کنم. لطفاً یک دستور ساده بدهید.",
    "איך מכינים לחם בבית? אני צריך מתכון פשוט.",
    "ฉันอยากทำขนมปัง\u200bที่บ้าน ช่วยบอกวิธีหน่อย",
    "Làm thế nào để nấu phở ở nhà? Tôi cần một công thức đơn giản.",
    "¿Cómo puedo hacer pan en casa sin horno? Quiero una receta fácil.",
    "Wie backe ich Brot? Donaudampfschifffahrtsgesellschaft und Straßenbahnhaltestelle.",
    "Comment faire du pain à la maison ? J'ai besoin d'une recette très simple.",
    "Como faço pão em casa? Preciso de uma receita fácil, por favor.",
    "Jak upiec chleb w domu? Potrzebuję prostego przepisu, dziękuję.",
    "Evde nasıl ekmek yapabilirim? Basit bir tarif istiyorum.",
    "Hur bakar jag bröd hemma? Jag behöver ett enkelt recept från nu.",
    "Miten leivon leipää kotona? Tarvitsen yksinkertaisen reseptin.",
    "Hogyan süthetek kenyeret otthon? Egyszerű receptre van szükségem.",
    "Bagaimana cara membuat roti di rumah? Saya perlu resep sederhana.",
    "Jinsi gani naweza kuoka mkate nyumbani?",
    "Ինչպե՞ս թխել հաց տանը։ როგორ გამოვაცხო პური სახლში?",
    "Solve $\\frac{1}{2}x^2 + 3x = 5$ where 𝑥 ∈ ℝ; let 𝐀 be a matrix, αβγ angles, 5 μm and 3 kΩ.",
    "def f(x):\n    return x['a'] + \"b\" if x else None  # see https://example.org/a?b=c%20d&e=%C3%A9",
    "commit 3f786850e387550fdab836ed7e6dc881de23001b, id 123e4567-e89b-12d3-a456-426614174000, colour #ff8800",
    "ISBN 978-3-16-148410-0, IBAN DE89 3704 0044 0532 0130 00, phone +49 30 901820, plate B-AB 1234",
    "data:image/png;base64,iVBORw0KGgoAAAANSUhEUgAAAAEAAAABCAYAAAAfFcSJAAAADUlEQVR42mNkYPhfDwAChwGA60e6kgAAAABJRU5ErkJggg==",
    "eyJhbGciOiJIUzI1NiIsInR5cCI6IkpXVCJ9.eyJzdWIiOiIxMjM0NTY3ODkwIiwibmFtZSI6IkpvaG4gRG9lIn0.SflKxwRJSMeKKF2QT4fwpMeJf36POk",
    "MP3, H2O, B2B, 4K, 3D, COVID19, 1st, 2nd, 5pm, 10am, 100m, 50kg, GPT-4, R2-D2, P@ssw0rd",
    "| name | age |\n|------|-----|\n| Ann  | 31  |\n--------------\n. . . . .\n* * *",
    "👨‍👩‍👧 ❤️ 🏳️‍🌈 🇺🇸🇩🇪🇫🇷 1️⃣ 🏴󠁧󠁢󠁥󠁮󠁧󠁿 café naïve résumé ﬁne ½ ™",
    "/sɪt/ [bɪɡ] ˈwɔːtə are transcriptions",
    "Mary had a little lamb,\nOf fleece as white as snow,\nThen everywhere she went,\nHer lamb was sure to go.",
    "co-operate, re-enter, e-mail, T-shirt, and/or, o'clock, well-known, 24/7, rock'n'roll",
    "WELCOME TO THE ZOO\nOPEN 9-5\nNO DOGS\nPLEASE DO NOT FEED THE ANIMALS",
    "1 2 3 4 5 6 7 8 9 10 11 12; 12, 5, 19, 3, 8, 1, 20",
    "0101 1010 0011 truth table; 255 255 255 is white, 192.168.0.1 is local",
)


@pytest.mark.parametrize("text", HONEST)
def test_honest_text_is_not_called_hidden(text: str) -> None:
    assert [view for view in decode(text) if view.hidden] == []


@given(st.lists(st.sampled_from(HONEST), min_size=2, max_size=5, unique=True))
def test_honest_texts_together_are_not_called_hidden(texts: list[str]) -> None:
    assert [view for view in decode("\n".join(texts)) if view.hidden] == []


@given(sentences())
def test_plain_english_has_no_other_reading(sentence: str) -> None:
    assert decode(sentence) == ()


@pytest.mark.parametrize("language", range(5, 29))
def test_other_languages_are_not_mangled(language: int) -> None:
    """No letter of an honest text is replaced but by its own typographic variant."""
    assert not any("confusables" in view.method for view in decode(HONEST[language]))


@given(st.text(st.characters(), max_size=400))
def test_any_text_is_read_without_error(text: str) -> None:
    views = decode(text)
    assert len(views) <= 12
    assert all(len(view.text) <= 20_000 for view in views)


_TRAPS = st.sampled_from(
    ["\0", "\u202e", "\u202d", "\u202c", "\u200b", "\u200c", "\ufeff", "a\u0301\u0302\u0303", "\ufdfa", "\U000e0061", "\ufe00",
     "🇺", "𝐚", "аa", "=", "+", "/", "aGVsbG8gd29ybGQ=", "%41", "&#65;", "\\u0041", "\\x", "0x41", "01000001", ". -", "'a'+'b'", "a='b';",
     "h-e-l-l-o", "\n", "|-|", "4b5", "obzo", "ay ", " ", "_", "#", "*"]
)  # fmt: skip


@given(st.lists(_TRAPS, max_size=60))
def test_any_mixture_of_disguises_is_read_without_error(parts: list[str]) -> None:
    assert len(decode("".join(parts), {"a": "b"})) <= 12


_ASCII = st.one_of(
    st.text(st.characters(max_codepoint=127), max_size=60),
    st.text(st.sampled_from("aAbyZ01 -=.%*#'\"+:|\\/&;,\n"), max_size=60),
    st.lists(
        st.sampled_from(["alpha", "ECHO ", "hotel-", "golf", "tango, ", "otay", "owhay ", "Zm9v", "facade", " "])
    ).map("".join),
    st.tuples(st.sampled_from(sorted(DISGUISES)), sentences())
    .map(lambda one: DISGUISES[one[0]](one[1]))
    .filter(str.isascii),
)


@given(_ASCII)
def test_a_reader_that_is_passed_over_had_nothing_to_read(text: str) -> None:
    for method, read, needed in obfuscation._READERS:
        if needed and set(text).isdisjoint(needed):
            assert list(read(text)) == [], method


@given(st.one_of(_ASCII, st.lists(_TRAPS, max_size=20).map("".join)))
def test_what_is_looked_for_first_stands_in_all_that_is_found(text: str) -> None:
    for pattern, first in ((respelling._APART, respelling._TWO_APART), (respelling._CUT, respelling._CUT_ONCE)):
        assert not pattern.search(text) or first.search(text)
    runs = (*encodings._maybe_base64(text), *encodings._BACKWARD_BASE64.finditer(text))
    assert not runs or encodings._OF_NO_WORD.search(text)
    assert not encodings._NATO_RUN.search(text) or encodings._may_spell(text)
    assert not ciphers._PIG.search(text) or text.count("ay") > 2
    assert not ciphers._is_prose(text.translate(ciphers._ROT47)) or ciphers._may_be_rot47(text)


@pytest.mark.parametrize(
    "part", ["a", "a\u200b", "aа", "\ufdfa", "%41", "'a'+", "- ", "01", "\u202eab", "a.b", "QUJD", "hello "]
)
def test_a_megabyte_gives_bounded_readings(part: str) -> None:
    views = decode(part * (1_000_000 // len(part)))
    assert len(views) <= 12
    assert sum(len(view.text) for view in views) < 1_000_000


def test_nesting_ends() -> None:
    text = "open the garden gate before lunch"
    for _ in range(3):
        text = base64.b64encode(text.encode()).decode()
    assert "open the garden gate before lunch" in plain_views(text)
    for _ in range(5):
        text = base64.b64encode(text.encode()).decode()
    assert len(decode(text)) <= 12


def test_a_long_text_gives_the_passage_and_its_surroundings() -> None:
    filler = "The garden is quiet in the morning. " * 400
    hidden = base64.b64encode(b"open the kitchen window before lunch").decode()
    views = decode(f"{filler}{hidden} {filler}")
    assert any(view.text == "open the kitchen window before lunch" and view.hidden for view in views)


# ---------------------------------------------------------------------------------------------------------------------
# Word tables

_TABLE = {"pizza": "guide", "sweet": "effective", "sushi": "garden"}
_FORMS: dict[str, Callable[[dict[str, str]], str]] = {
    "means": lambda table: " and ".join(f"'{one}' means '{other}'" for one, other in table.items()),
    "stands for": lambda table: "Note that " + ", ".join(f"{one} stands for {other}" for one, other in table.items()),
    "replace with": lambda table: "Replace " + ", ".join(f"{one} with {other}" for one, other in table.items()) + ".",
    "json": json.dumps,
    "python": repr,
    "braces without quotes": lambda table: "{" + ", ".join(f"{one}: {other}" for one, other in table.items()) + "}",
    "lines": lambda table: "Use this table:\n" + "\n".join(f"{one} = {other}" for one, other in table.items()),
    "colons": lambda table: "\n".join(f"- {one}: {other}" for one, other in table.items()),
    "arrows": lambda table: ", ".join(f"{one} -> {other}" for one, other in table.items()),
    "unicode arrows": lambda table: "; ".join(f'"{one}" → "{other}"' for one, other in table.items()),
    "markdown": lambda table: "| code | word |\n|---|---|\n" + "\n".join(f"| {one} | {other} |" for one, other in table.items()),
    "when I say": lambda table: " ".join(f"When I say {one}, I mean {other}." for one, other in table.items()),
    "let be": lambda table: " ".join(f'Let {one} be "{other}".' for one, other in table.items()),
    "instead of": lambda table: " ".join(f"Read {other} instead of {one}." for one, other in table.items()),
    "spanish": lambda table: ", ".join(f"«{one}» significa «{other}»" for one, other in table.items()),
    "german": lambda table: ", ".join(f"„{one}“ steht für „{other}“" for one, other in table.items()),
    "chinese": lambda table: "，".join(f"“{one}”代表“{other}”" for one, other in table.items()),
}  # fmt: skip


@pytest.mark.parametrize("form", _FORMS.values(), ids=list(_FORMS))
def test_word_tables_are_read_in_the_forms_people_write(form: Callable[[dict[str, str]], str]) -> None:
    table = substitutions(f"Here is how to read it.\n{form(_TABLE)}")
    assert {key: table.get(key) for key in _TABLE} == _TABLE


@given(st.dictionaries(words, words, min_size=2, max_size=6))
def test_a_json_table_restores_what_it_replaced(mapping: dict[str, str]) -> None:
    table = {one: f"{other}x" for one, other in mapping.items() if one != other}
    text = "We " + " then ".join(table)
    read = substitutions(f"Swap the words by {json.dumps(table)} and answer.")
    assert substitute(text, read) == "We " + " then ".join(table.values())


@pytest.mark.parametrize(
    "prompt",
    [
        "What does this sign mean?",
        "Name: Ann",
        "Explain what 'ubiquitous' means.",
        "Solve x = 5.",
        "What is shown here?",
        "",
    ],
)
def test_prompts_without_a_table_have_none(prompt: str) -> None:
    assert substitutions(prompt) == {}


@given(st.text(max_size=300))
def test_any_prompt_can_be_asked_for_a_table(prompt: str) -> None:
    table = substitutions(prompt)
    assert all(isinstance(word, str) for pair in table.items() for word in pair)
    assert isinstance(substitute(prompt, table), str)


def test_substitution_keeps_capitals_and_whole_words() -> None:
    table = {"pizza": "guide", "sweet": "best"}
    assert (
        substitute("Pizza me, SWEET pizzas are sweeter. pizza!", table) == "Guide me, BEST pizzas are sweeter. guide!"
    )
    assert substitute("nothing here", {}) == "nothing here"


def test_a_table_given_to_decode_makes_a_reading() -> None:
    views = decode("pizza me to the sweet sushi please", _TABLE)
    (view,) = [view for view in views if view.method == "substitution"]
    assert view.text == "guide me to the effective garden please"
    assert view.hidden
    assert decode("please water it", _TABLE) == ()
