"""Owns cross-modal resolution: what a prompt points at in the pictures, and the intent that the two make together.

A label and a question can each be harmless, and what they ask for together is in neither: ``resolve`` writes that down as
prompts to be scored. ``asks_to_follow``, ``empty_items`` and ``orders_to_assistant`` are the three ways in which a picture
comes to give the orders.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass

from vlmguard.perception.obfuscation import decode, substitute, substitutions
from vlmguard.perception.substitution import aligned
from vlmguard.perception.wordlike import WORD, is_word, segment, sense
from vlmguard.rewriters.asking import NOUN_HEADING, hands_over, is_mere_carrier, says_words
from vlmguard.rewriters.orders import orders_to_assistant
from vlmguard.rewriters.pointing import (
    GAP,
    LIST,
    POINTERS,
    UNFINISHED,
    asks_to_follow,
    image_references,
    item_references,
)

__all__ = [
    "PROMPT_CHARACTERS",
    "READ_CHARACTERS",
    "Composed",
    "asks_to_follow",
    "empty_items",
    "orders_to_assistant",
    "resolve",
]


@dataclass(frozen=True, slots=True)
class Composed:
    """An intent that prompt and picture make together, to be scored like a prompt."""

    text: str
    image: int
    """Which picture it draws on, 1-based, in the order of the readings."""
    how: str
    """How the two were joined: ``pointing word``, ``item``, ``list``, ``empty list``, ``instruction``, ``blank``,
    ``unfinished sentence``, ``word table``, ``several images``, ``pairing``."""
    lines: tuple[str, ...] = ()
    """The lines of the picture that went into it."""
    together: tuple[int, ...] = ()
    """The pictures, when it takes several to make it."""


_MOST_PER_IMAGE = 8
_MOST = 24
_LABEL_WORDS = 14
"""A reading of at most so many words is put in place of a pointing word as it is; of a longer one its telling lines."""
_INSTRUCTION_WORDS = 80
_TELLING_LINES = 3
_SAID_CHARACTERS = 1_500
PROMPT_CHARACTERS = 6_000
"""Characters of a prompt that are looked at: of a longer one its beginning and its end, where it points."""
NO_SENSE = 0.3
"""A text with less sense is no words: where a disguise explains it, what is undone is judged in its place."""
READ_CHARACTERS = 20_000
"""Characters of one reading that are looked at."""


def resolve(prompt: str, readings: Sequence[str]) -> tuple[Composed, ...]:
    """The intents that ``prompt`` makes with the words read in its pictures: the most telling first, the plain pairings last.

    ``readings[i]`` is the text read in image ``i + 1``, "" where there was none. Bounded: long readings give their telling
    lines, many pictures a few candidates each. What lies beyond ``PROMPT_CHARACTERS`` and ``READ_CHARACTERS`` is not looked at.
    """
    prompt = prompt.strip()
    if len(prompt) > PROMPT_CHARACTERS:
        prompt = f"{prompt[: PROMPT_CHARACTERS // 2]} {prompt[-PROMPT_CHARACTERS // 2 :]}"
    pages = [_Page(number, _in_words(reading[:READ_CHARACTERS])) for number, reading in enumerate(readings, start=1)]
    pages = [page for page in pages if page.said]
    if not pages:
        return ()
    tables = _tables(prompt, pages)
    found: list[Composed] = []
    found += _across(prompt, pages)
    for page in pages:
        found += _first(_of_page(prompt, page, _pointed_at(prompt, page, readings), tables), _MOST_PER_IMAGE)
    pairings = [
        Composed(f"{prompt}\nThe picture says: {page.said}", page.number, "pairing", page.lines)
        for page in pages[: _MOST // 2]
        if prompt and says_words(page.said) and not is_mere_carrier(prompt)
    ]
    return (*_first(found, _MOST - len(pairings)), *pairings)


def _in_words(reading: str) -> str:
    """A reading, or where that is a mere code, what the code says."""
    if sense(reading) >= NO_SENSE:
        return reading
    return next((view.text for view in decode(reading) if view.hidden), reading)


def _first(composed: Iterable[Composed], most: int) -> list[Composed]:
    """The first ``most`` that differ in their text."""
    different: dict[str, Composed] = {}
    for one in composed:
        different.setdefault(one.text, one)
        if len(different) >= most:
            break
    return list(different.values())


# ---------------------------------------------------------------------------------------------------------------------
# What was read


class _Page:
    """A picture's words, put in order: lines without ragged breaks, items of a list, the whole as one statement."""

    def __init__(self, number: int, reading: str) -> None:
        self.number = number
        self.reading = reading
        self.lines = tuple(spaced for line in reading.splitlines() if (spaced := _spaced(line.strip())))
        self.heading, self.items = _listed(self.lines)
        self.empty = empty_items(reading)
        self.said = self.empty or _statement(self.lines)

    @property
    def is_label(self) -> bool:
        return len(self.said.split()) <= _LABEL_WORDS

    @property
    def labels(self) -> list[str]:
        """What a pointing word can stand for: all of a short reading, the telling lines of a long one."""
        if self.is_label:
            return [self.said]
        return list(_telling(self.lines))


def _spaced(line: str) -> str:
    """A line with the spaces that its reader lost."""
    return re.sub(r"(?<!\S)[A-Za-z]{9,80}(?=$|[\s.,!?:;])", lambda run: _cut(run[0]), line)


def _cut(run: str) -> str:
    if is_word(run):
        return run
    words = segment(run)
    sound = words is not None and len(words) > 2 and all(len(word) > 1 or word in "aAI" for word in words)
    return " ".join(words) if words and sound and all(map(is_word, words)) else run


def _statement(lines: Sequence[str]) -> str:
    """Lines as one text: words divided at a line's end joined, sentences kept apart."""
    text = ""
    for line in lines:
        if text.endswith("-") and line[:1].islower():
            text = text[:-1] + line
        else:
            text += ("" if not text else " ") + line
        if len(text) > _SAID_CHARACTERS:
            break
    return text[:_SAID_CHARACTERS].strip()


_PRICE = re.compile(r"[\d.,:%$€£¥/#*x\s+-]+")


def _telling(lines: Sequence[str]) -> Iterator[str]:
    """The lines that say most: words rather than prices and numbers; the first ones of equals."""

    def weight(line: str) -> float:
        words = WORD.findall(line)
        return sense(line) * min(len(words), 8) - 0.5 * len(_PRICE.findall(line))

    ranked = sorted(range(len(lines)), key=lambda at: (-weight(lines[at]), at))
    for at in sorted(ranked[:_TELLING_LINES]):
        if any(map(str.isalpha, lines[at])):
            yield lines[at][:300]


def _lowered(label: str) -> str:
    """A label as it would stand inside a sentence."""
    label = label.strip().rstrip(".,;:!?。")
    letters = [letter for letter in label if letter.isalpha()]
    if len(letters) > 4 and sum(map(str.isupper, letters)) > 0.8 * len(letters):
        return label.lower()
    return label


# ---------------------------------------------------------------------------------------------------------------------
# Lists

_MARK = re.compile(
    r"\s*(?:\(?(?P<number>\d{1,2})\s*[.):、,]|(?P<circled>[①-⑳])|(?:step|schritt|paso|étape|etape|item|point|चरण|الخطوة|第)\s*"
    r"(?P<step>\d{1,2})\s*(?:[.):步项条-]|\b)|[-•*·▪●○◦■□☐–—]\s)\s*",
    re.IGNORECASE,
)
_EMPTY_LINE = re.compile(r"[\s._…·:;,)(\]\[-]*")
_ONLY_MARKS = re.compile(
    r"\s*(?:(?:\(?[\dlI]{1,2}\s?[.):,、]|[①-⑳]|step\s*\d+\s*:?|[•*▪●○■□☐])[\s._…-]*){1,12}|"
    r"\s*1\W{0,2}2\W{0,2}3(?:\W{0,2}[4-9]){0,6}\W*",
    re.IGNORECASE,
)
_BARE_NUMBER = re.compile(r"\s*\(?([1-9])[.):,]?\s*")
_TRAILING_MARKS = re.compile(r"(?:\s+\(?[1-9][.)]){2,12}[\s._…-]*\Z")


def empty_items(reading: str) -> str | None:
    """The heading of a list whose numbered items are empty and wait to be filled in; ``None`` without such a list.

    At least two empty items with a mark of their own, or bare numbers from 1 upwards that end the text.
    """
    lines = [line.strip() for line in reading[:READ_CHARACTERS].splitlines() if line.strip()]
    if lines and (ending := _TRAILING_MARKS.search(lines[-1])) and ending.start() > 0:
        lines[-1:] = [lines[-1][: ending.start()], "1.", "2."]
    heading = [line for line in lines if not _ONLY_MARKS.fullmatch(line) and not _BARE_NUMBER.fullmatch(line)]
    marked = sum(len(re.findall(r"[\dlI①-⑳]{1,2}|[•*▪●○■□☐]", line)) for line in lines if _ONLY_MARKS.fullmatch(line))
    bare = [match[1] for line in lines if (match := _BARE_NUMBER.fullmatch(line))]
    counted = bare[:2] == ["1", "2"] and [*map(str, range(1, len(bare) + 1))] == bare
    if not (marked >= 2 or (counted and len(bare) >= 3 and lines[-1].startswith(bare[-1]))):
        return None
    # Many other lines are a page with a table or a drawing in it, not a heading.
    text = _statement([_spaced(line) for line in heading[:12]])
    if len(heading) > 12 or (
        sum(len(word) > 1 for word in WORD.findall(text)) < 2
        and not re.search(r"[\u0900-\u097f\u0600-\u06ff\u3040-\u9fff]{3}", text)
    ):
        return None
    return text


def _listed(lines: Sequence[str]) -> tuple[str, dict[int, str]]:
    """(heading, number → item). Lines without a mark go on the item before them; bullets are counted."""
    heading: list[str] = []
    items: dict[int, str] = {}
    current = 0
    for line in lines:
        match = _MARK.match(line)
        if match and match.end():
            number = match["number"] or match["step"]
            current = int(number) if number else ord(match["circled"]) - 0x245F if match["circled"] else current + 1
            items.setdefault(current, line[match.end() :].strip())
        elif current:
            items[current] = f"{items[current]} {line}".strip()
        else:
            heading.append(line)
    items = {number: item for number, item in items.items() if re.search(r"[^\W\d_]", item)}
    return _statement(heading), items


def _request(heading: str) -> str:
    """A heading as the request that filling it in amounts to."""
    heading = heading.rstrip(" :.-")
    return f"Give {heading[:1].lower()}{heading[1:]}" if NOUN_HEADING.match(heading) else heading


# ---------------------------------------------------------------------------------------------------------------------
# The two together


def _pointed_at(prompt: str, page: _Page, readings: Sequence[str]) -> bool:
    """Whether the prompt, where it numbers its pictures, means this one. A prompt that numbers none means all."""
    numbers = {len(readings) if number < 0 else number for _, _, number in image_references(prompt)}
    return not numbers or page.number in numbers


def _of_page(prompt: str, page: _Page, pointed: bool, tables: Mapping[str, str]) -> Iterator[Composed]:
    def made(text: str, how: str, lines: Sequence[str] = page.lines) -> Composed:
        return Composed(" ".join(text.split()), page.number, how, tuple(lines))

    for text in _restored(prompt, page, tables):
        yield made(text, "word table")
    if page.empty:
        yield made(_request(page.empty), "empty list")
    if not prompt:
        return
    yield from (made(instruction, "instruction", [instruction]) for instruction in _instructions(prompt, page))
    yield from (made(text, "item", [line]) for text, line in _with_items(prompt, page))
    yield from (made(text, "blank") for text in _with_gaps_filled(prompt, page))
    if is_mere_carrier(prompt):
        return  # the prompt adds nothing to what stands there
    if page.items and LIST.search(prompt):
        listed = "; ".join(list(page.items.values())[:8])
        yield made(LIST.sub(lambda _: f"{page.heading or 'the list'}: {listed}"[:600], prompt, count=1), "list")
    if pointed:
        yield from (made(text, "pointing word", [label]) for text, label in _with_labels(prompt, page))
    if UNFINISHED.search(prompt) and not GAP.search(prompt):
        for label in page.labels[:1]:
            stem = re.sub(r"[\s:…]*(?:\.{3})?\s*\Z", "", prompt)
            yield made(f"{stem} {_lowered(label)}", "unfinished sentence", [label])
    elif page.is_label and UNFINISHED.search(page.said) and len(prompt.split()) <= 8:
        yield made(f"{page.said.rstrip(' :…-')} {prompt}", "unfinished sentence")
    for view in decode(page.said)[:2]:
        if view.hidden:
            said = _pointings_replaced(prompt, view.text) or [f"{prompt} {view.text}"]
            yield made(said[0], f"{view.method} undone")


def _instructions(prompt: str, page: _Page) -> list[str]:
    """What the picture asks for, where the prompt hands it control."""
    if not hands_over(prompt):
        return []
    return [_request(page.said)] if len(page.said.split()) <= _INSTRUCTION_WORDS else page.labels


def _restored(prompt: str, page: _Page, tables: Mapping[str, str]) -> Iterator[str]:
    """What was read, with the words that a table in the prompt or any picture stands for, and without the table itself; a
    filled list's heading as a request.
    """
    if not tables:
        return
    _, rows = aligned(page.lines, prompt)
    rest = [line for number, line in enumerate(page.lines) if number not in rows and not substitutions(line)]
    said = page.empty or _statement(rest)
    if (replaced := substitute(said, tables)) != said:
        yield _request(replaced) if page.empty else replaced
    in_pictures = {word: meant for word, meant in tables.items() if word not in substitutions(prompt)}
    if (asked := substitute(prompt, in_pictures)) != prompt:
        yield asked


def _tables(prompt: str, pages: Sequence[_Page]) -> dict[str, str]:
    """Word tables, wherever they stand: the prompt's own before those of pictures."""
    tables = dict(substitutions(prompt))
    for page in pages:
        prose = f"{prompt} {' '.join(line for other in pages if other is not page for line in other.lines)}"
        for word, meant in (*substitutions(page.reading).items(), *aligned(page.lines, prose)[0].items()):
            tables.setdefault(word, meant)
    return tables


def _with_items(prompt: str, page: _Page) -> Iterator[tuple[str, str]]:
    """The prompt with each item that it names in place of the name. Without a numbered list, items are lines."""
    references = item_references(prompt)
    if not references:
        return
    items = page.items or dict(enumerate(page.lines, start=1))
    last = max(items, default=0)
    text, end = "", 0
    named: list[str] = []
    for start, stop, number in references:
        item = items.get(last if number < 0 else number)
        if item is None:
            continue
        named.append(item)
        text += f"{prompt[end:start]}{_lowered(item)[:300]}"
        end = stop
    if named:
        heading = f" ({page.heading})" if page.heading and page.items else ""
        yield text + prompt[end:], named[0]
        if heading:
            yield text + prompt[end:] + heading, named[0]


def _with_gaps_filled(prompt: str, page: _Page) -> Iterator[str]:
    """Gaps of the prompt filled from the picture, or gaps of the picture filled with the word that the prompt gives."""
    if GAP.search(prompt):
        for label in page.labels:
            yield GAP.sub(lambda _, label=label: f" {_lowered(label)} ", prompt)  # type: ignore[misc]
    if not page.empty and GAP.search(page.said):
        word = _given_word(prompt)
        if word:
            yield GAP.sub(lambda _: f" {word} ", page.said)


_GIVEN = re.compile(
    r"[\"'“‘«]([^\"'“”‘’«»\n]{2,60})[\"'”’»]|\b(?:with|is|as|be|word|answer|=|:)\s+(\w[\w -]{1,40}?)\s*[.!]?\Z",
    re.IGNORECASE,
)


def _given_word(prompt: str) -> str:
    if match := _GIVEN.search(prompt):
        return (match[1] or match[2] or "").strip()
    return prompt if len(prompt.split()) <= 3 else ""


def _with_labels(prompt: str, page: _Page) -> Iterator[tuple[str, str]]:
    named = [span for span in image_references(prompt) if span[2] == page.number]
    for label in page.labels:
        if named:
            yield f"{prompt[: named[0][0]]}{_lowered(label)}{prompt[named[0][1] :]}", label
            continue
        for replaced in _pointings_replaced(prompt, label):
            yield replaced, label


def _pointings_replaced(prompt: str, label: str) -> list[str]:
    """The prompt with ``label`` in place of its most explicit pointing word, and again of the next one."""
    spans: list[tuple[int, int]] = []
    replaced: list[str] = []
    for pattern in POINTERS:
        for match in pattern.finditer(prompt):
            if all(match.end() <= start or match.start() >= end for start, end in spans):
                spans.append(match.span())
                replaced.append(_put(prompt, match, _lowered(label)))
            if len(replaced) == 2:
                return replaced
    return replaced


_KEPT_NOUN = re.compile(r"\s+(\w+)")


def _put(prompt: str, match: re.Match[str], label: str) -> str:
    """``this`` gives way to the label; of ``this cleaner`` the noun stays, and the label says which."""
    before, after = prompt[: match.start()], prompt[match.end() :]
    alone = match[0].lower() in ("this", "that", "these", "those")
    noun = _KEPT_NOUN.match(after) if alone else None
    if noun and noun[1].isalpha() and noun[1].lower() not in _NO_NOUNS:
        return f"{before}{match[0]}{after[: noun.end()]} ({label}){after[noun.end() :]}"
    glue = " " if after[:1].isascii() and after[:1].isalnum() else ""
    return f"{before}{label}{glue}{after}"


_NO_NOUN_WORDS = (
    "a an the my your his her and or at in on to with for from without by as if so when while into onto over under against safely "
    "quickly together myself yourself work works do does mean be have has can could would should used made better faster using that "
    "which who here there now today again off up out down away effectively than before after because but about of home secretly "
    "legally illegally"
)
_NO_NOUNS = frozenset(_NO_NOUN_WORDS.split())


def _pointings_shared(prompt: str, labels: Sequence[str]) -> str:
    """``this`` and ``that`` as the first and the second picture's labels, in the order of the prompt; "" with fewer than two."""
    spans: list[tuple[int, int]] = []
    for pattern in POINTERS:
        for match in pattern.finditer(prompt):
            if all(match.end() <= start or match.start() >= end for start, end in spans):
                spans.append(match.span())
    spans = sorted(spans)[: len(labels)]
    if len(spans) < 2:
        return ""
    text, end = "", 0
    for (start, stop), label in zip(spans, labels, strict=False):
        text += f"{prompt[end:start]}{_lowered(label)}"
        end = stop
    return text + prompt[end:]


def _across(prompt: str, pages: Sequence[_Page]) -> Iterator[Composed]:
    """Intents that draw on several pictures: each named one put in its place, and all of them after the prompt."""
    if len(pages) < 2:
        return
    by_number = {page.number: page for page in pages}
    last = max(by_number)
    text, end, used = "", 0, []
    for start, stop, number in image_references(prompt):
        page = by_number.get(last if number < 0 else number)
        if page is not None:
            used.append(page)
            text += f"{prompt[end:start]}{_lowered(page.labels[0] if page.labels else page.said)}"
            end = stop
    if len(used) > 1:
        lines = tuple(line for page in used for line in page.lines)
        numbers = tuple(dict.fromkeys(page.number for page in used))
        yield Composed(" ".join((text + prompt[end:]).split()), used[0].number, "several images", lines, numbers)
    short = [page for page in pages if page.is_label][:8]
    if len(short) > 1:
        joined = " ".join(page.said for page in short)
        lines = tuple(line for page in short for line in page.lines)
        numbers = tuple(page.number for page in short)
        if not used and (each := _pointings_shared(prompt, [page.said for page in short])):
            yield Composed(" ".join(each.split()), short[0].number, "several images", lines, numbers)
        replaced = [] if used or not prompt else _pointings_replaced(prompt, joined)
        together = replaced[0] if replaced else f"{prompt} {joined}"
        yield Composed(" ".join(together.split()), short[0].number, "several images", lines, numbers)
